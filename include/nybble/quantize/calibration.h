#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nybble/executor.h"
#include "nybble/matrix.h"
#include "nybble/transform/transform.h"

namespace nybble {

struct CalibrationOptions {
  /// Rows of x kept as they are, a uniform sample of all seen (for methods that need more than
  /// moments). 0 = none.
  std::size_t sample_rows = 1024;
  /// Tells several streams of one layer apart whose calibrations are merged later: each its own.
  std::uint64_t stream = 0;
};

/// What a linear layer's inputs look like: statistics of any number of tokens in memory that does
/// not grow with them, about 8 K^2 bytes (12 with a cross moment) and the sample. A quarter of the
/// tokens, in runs of 16, is kept apart: quantizers fit on three quarters and choose their options
/// by the error on the rest.
class Calibration {
 public:
  static constexpr std::size_t kRun = 16;   ///< consecutive tokens on one side of the split
  static constexpr std::size_t kParts = 4;  ///< every fourth run is held out

  explicit Calibration(std::size_t channels, const CalibrationOptions& options = {});

  /// Adds inputs of the layer: x is tokens x K. Throws bad_shape (not K columns), bad_value (Inf or
  /// NaN, naming the place); then nothing was added. What the executor throws comes through; this
  /// is then of no use any more.
  void add(MatrixView x, Executor& executor, const std::string& name = "calibration");
  /// The same where earlier layers are quantized already: x is what they give, `original` (of the
  /// same shape) what they gave before. Also gathers cross_moment(). All tokens of a calibration
  /// come with their originals or none does (bad_option).
  void add(MatrixView x, MatrixView original, Executor& executor,
           const std::string& name = "calibration");
  /// Adds what `other` saw of the same layer. Throws bad_shape, bad_option (the same stream).
  void merge(const Calibration& other);

  [[nodiscard]] std::size_t channels() const { return channels_; }
  [[nodiscard]] std::size_t tokens() const { return tokens_[0] + tokens_[1]; }
  [[nodiscard]] std::size_t held_out_tokens() const { return tokens_[1]; }

  /// Sums of x^T x, K x K, symmetric: over three quarters of the tokens, over the rest.
  [[nodiscard]] MatrixView fit_moment() const { return view(0); }
  [[nodiscard]] MatrixView held_out_moment() const { return view(1); }
  /// Their sum: the H of GPTQ, up to a factor.
  [[nodiscard]] std::vector<float> second_moment() const;

  /// Sum of original^T x over all tokens, K x K; empty without originals. transformed() drops it.
  [[nodiscard]] MatrixView cross_moment() const {
    return cross_.empty() ? MatrixView() : MatrixView(cross_.data(), channels_, channels_);
  }

  /// Per channel, over all tokens.
  [[nodiscard]] std::span<const float> max() const { return max_; }
  [[nodiscard]] std::span<const float> min() const { return min_; }
  [[nodiscard]] std::vector<float> max_abs() const;
  [[nodiscard]] std::vector<float> mean_abs() const;
  /// The sample: its order is the tokens' order within each stream.
  [[nodiscard]] MatrixView samples() const { return {samples_.data(), keys_.size(), channels_}; }

  /// The same for inputs T(x). Exact but for max and min under a Hadamard transform, which are the
  /// sample's, and the mean of |x|, too.
  [[nodiscard]] Calibration transformed(const Transforms& transforms, Executor& executor) const;

  /// As a safetensors file. Throws io.
  void save(const std::filesystem::path& path) const;
  /// Throws io, bad_file.
  static Calibration load(const std::filesystem::path& path);

 private:
  /// A count of what lies in vectors: 0 where a move emptied them.
  struct Count {
    std::size_t value = 0;

    Count() = default;
    Count(std::size_t count) : value(count) {}
    Count(const Count&) = default;
    Count(Count&& other) noexcept : value(std::exchange(other.value, 0)) {}
    Count& operator=(const Count&) = default;
    Count& operator=(Count&& other) noexcept {
      value = std::exchange(other.value, 0);
      return *this;
    }
    operator std::size_t() const { return value; }
  };
  /// A token's place in a random order of all tokens: the sample is the first ones of it.
  struct Key {
    std::uint64_t hash, stream, token;
  };
  [[nodiscard]] MatrixView view(std::size_t part) const {
    return {moment_[part].data(), channels_, channels_};
  }
  void check_inputs(MatrixView x, const std::string& name) const;
  void add_checked(MatrixView x, Executor& executor);
  void keep_sample(std::vector<Key> keys, std::vector<const float*> rows);

  Count channels_;
  CalibrationOptions options_;
  std::array<Count, 2> tokens_{};
  std::array<std::vector<float>, 2> moment_;
  std::vector<float> cross_;
  std::vector<float> max_, min_;
  std::vector<double> sum_abs_;
  std::vector<std::uint64_t> streams_;
  std::uint64_t next_token_ = 0;
  std::vector<Key> keys_;
  std::vector<float> samples_;
};

}  // namespace nybble
