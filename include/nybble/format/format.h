#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

namespace nybble {

/// How the scale of a group is stored. Every one of them is exact in f32.
enum class ScaleType : std::uint8_t {
  f32,
  f16,
  bf16,
  e8m0,      ///< power of two 2^(byte-127), 0xFF = NaN (OCP MX)
  e4m3,      ///< OCP FP8 E4M3: at most 448, 0x7F = NaN
  e4m3x480,  ///< MX-QLLM's E4M3: 0x7F is the number 480, there is no NaN
  e5m2,      ///< OCP FP8 E5M2
};

/// How a group's scale acts on a code.
enum class ScaleLayout : std::uint8_t {
  symmetric,   ///< level[code] * scale
  zero_point,  ///< (code - zero) * scale, levels are 0..15
  /// level[code] * (level[code] < 0 ? negative : positive). -0 is negative, which matters where the
  /// scale of one sign alone is NaN; kernels may take either, for such a group's product is NaN.
  sign_split,
};

/// Largest and smallest value of a group. A group that holds an Inf or a NaN has max = NaN.
struct GroupRange {
  float max = 0;
  float min = 0;
};

/// A group's scale, decoded. Symmetric layouts have positive == negative.
struct GroupScale {
  float positive = 0;
  float negative = 0;
  float zero = 0;    ///< an integer 0..15; 0 unless the layout is zero_point
  float offset = 0;  ///< added to the product; 0 unless the format has offsets
};

/// The second level of two-level formats: one number a tensor, always a multiplier.
struct TensorScale {
  float scale = 1;
  /// The tensor's largest |x|, for formats that decode through it (Four Over Six); 0 = not known.
  float amax = 0;
  /// Where a file holds 1 / scale (compressed-tensors): that number, so that it is written again as
  /// it was. 0 = none.
  float divisor = 0;
};

/// A scale as chosen for a group: what is stored, and what x is divided by (or multiplied with, see
/// EncodeTable::reciprocal) before its code is looked up. The two differ where a format's reference
/// rounds on the way, which decides ties.
struct ScaleChoice {
  GroupScale scale;
  float encode_positive = 1;
  float encode_negative = 1;
};

/// Any codebook with any tie rule, as a sorted list of thresholds: the code of z is
/// code[count of thresholds t with z > t]. A tie that belongs to the upper neighbour has its
/// threshold one f32 lower, so `>` alone decides.
struct EncodeTable {
  std::array<float, 15> threshold{};    ///< ascending
  std::array<std::uint8_t, 16> code{};  ///< by rank of the level
  std::array<float, 16> level{};        ///< by code
  bool reciprocal = false;              ///< z = x * encode_scale instead of x / encode_scale
  /// The zero-point layout needs no table: code = clamp(round_to_even(x / scale) + zero, 0, 15).
  ScaleLayout layout = ScaleLayout::symmetric;
};

/// Everything about a format that is data: what the CLI prints, files record and kernels need.
struct FormatInfo {
  std::string name;  ///< the family, e.g. "amxfp4"
  std::string spec;  ///< name and every option: parses back to this format
  std::array<float, 16> levels{};
  ScaleLayout layout = ScaleLayout::symmetric;
  ScaleType scale_type = ScaleType::f32;
  std::size_t group = 32;             ///< values of K that share a scale; 0 = the whole row
  bool tensor_scale = false;          ///< two-level
  bool double_quantized = false;      ///< scales are 8-bit codes themselves (bitsandbytes' nested)
  bool propagates_nonfinite = false;  ///< an Inf or NaN makes its group NaN; else it is refused
  bool flattened_blocks = false;      ///< its reference runs blocks across row ends (bitsandbytes)
  bool offsets = false;  ///< level * scale + the group's offset, levels 0..15 (GGUF's Q4_1, Q4_K)
  /// Groups whose scales and offsets are small integers times numbers they share (GGUF's
  /// super-blocks); 0 = none.
  std::size_t super_block = 0;
  bool imported = false;  ///< for weights that other tools quantized; cannot be quantized to

  /// Whether a stored scale is one byte that means something only together with nested_scales.
  [[nodiscard]] bool nested() const { return double_quantized || super_block != 0; }
};

/// What every format offers, as a compile-time contract. BlockFormat (block_format.h) makes one
/// from a codebook and a scale rule; AnyFormat holds any of them at run time and is one itself, so
/// a quantizer written against this concept runs on both.
template <class F>
concept Format = requires(const F& format, GroupRange range, TensorScale tensor, ScaleChoice choice,
                          float value, std::uint8_t code) {
  { format.info() } -> std::convertible_to<const FormatInfo&>;
  { format.encode_table() } -> std::convertible_to<const EncodeTable&>;
  { format.tensor_scale(value) } -> std::same_as<TensorScale>;
  { format.choose(range, tensor, value) } -> std::same_as<ScaleChoice>;
  { format.candidate_count() } -> std::same_as<int>;
  { format.candidate(range, tensor, int{}) } -> std::same_as<ScaleChoice>;
  { format.decode(code, choice.scale, tensor) } -> std::same_as<float>;
};

/// A format chosen at run time: a shared, immutable handle, cheap to copy.
class AnyFormat {
 public:
  /// Wraps any Format.
  template <Format F>
  requires(!std::same_as<F, AnyFormat>)
      AnyFormat(F format)  // implicit: a concrete format goes wherever any format does
      : model_(std::make_shared<Model<F>>(std::move(format))) {}
  AnyFormat(const AnyFormat&) = default;
  AnyFormat& operator=(const AnyFormat&) = default;
  // Copies, too: what is left of a format is still that format.
  AnyFormat(AnyFormat&& other) noexcept { *this = static_cast<const AnyFormat&>(other); }
  AnyFormat& operator=(AnyFormat&& other) noexcept {
    return *this = static_cast<const AnyFormat&>(other);
  }
  ~AnyFormat() = default;

  [[nodiscard]] const FormatInfo& info() const { return model_->info(); }
  [[nodiscard]] const EncodeTable& encode_table() const { return model_->encode_table(); }
  /// The tensor-level scale for a tensor whose largest finite |x| is `amax`.
  [[nodiscard]] TensorScale tensor_scale(float amax) const { return model_->tensor_scale(amax); }
  /// The scale of a group, its range first multiplied by `shrink` (1 = round to nearest's own).
  [[nodiscard]] ScaleChoice choose(GroupRange range, TensorScale tensor, float shrink) const {
    ScaleChoice out;
    model_->choose({&range, 1}, tensor, shrink, &out);
    return out;
  }
  /// choose() for a run of groups at the price of one virtual call.
  void choose(std::span<const GroupRange> ranges, TensorScale tensor, float shrink,
              ScaleChoice* out) const {
    model_->choose(ranges, tensor, shrink, out);
  }
  /// How many scales the format's own search tries per group; 1 = it has none.
  [[nodiscard]] int candidate_count() const { return model_->candidate_count(); }
  [[nodiscard]] ScaleChoice candidate(GroupRange range, TensorScale tensor, int index) const {
    return model_->candidate(range, tensor, index);
  }
  [[nodiscard]] float decode(std::uint8_t code, const GroupScale& scale, TensorScale tensor) const {
    return model_->decode(code, scale, tensor);
  }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual const FormatInfo& info() const = 0;
    virtual const EncodeTable& encode_table() const = 0;
    virtual TensorScale tensor_scale(float amax) const = 0;
    virtual void choose(std::span<const GroupRange> ranges, TensorScale tensor, float shrink,
                        ScaleChoice* out) const = 0;
    virtual int candidate_count() const = 0;
    virtual ScaleChoice candidate(GroupRange range, TensorScale tensor, int index) const = 0;
    virtual float decode(std::uint8_t code, const GroupScale& scale, TensorScale tensor) const = 0;
  };
  template <class F>
  struct Model final : Interface {
    explicit Model(F value) : format(std::move(value)) {}
    const FormatInfo& info() const override { return format.info(); }
    const EncodeTable& encode_table() const override { return format.encode_table(); }
    TensorScale tensor_scale(float amax) const override { return format.tensor_scale(amax); }
    void choose(std::span<const GroupRange> ranges, TensorScale tensor, float shrink,
                ScaleChoice* out) const override {
      for (std::size_t i = 0; i < ranges.size(); ++i) {
        out[i] = format.choose(ranges[i], tensor, shrink);
      }
    }
    int candidate_count() const override { return format.candidate_count(); }
    ScaleChoice candidate(GroupRange range, TensorScale tensor, int index) const override {
      return format.candidate(range, tensor, index);
    }
    float decode(std::uint8_t code, const GroupScale& scale, TensorScale tensor) const override {
      return format.decode(code, scale, tensor);
    }
    F format;
  };
  std::shared_ptr<const Interface> model_;
};

}  // namespace nybble
