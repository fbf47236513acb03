// One layer or tensor at a time; validate_checkpoint.cpp has what is between them.

#include "nybble/io/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "nybble/error.h"
#include "nybble/format/iq4_nl.h"
#include "src/concurrency.h"
#include "src/io/checked.h"

namespace nybble {

namespace {

// What a scale of trained weights may be: 2^(byte - 127).
constexpr std::uint8_t kSmallestE8m0 = 100;
constexpr std::uint8_t kLargestE8m0 = 140;

/// Kinds of trouble inside a matrix.
enum Kind { nonfinite, sign_bit, negative, zero_scale, far_scale, zero_range, padding, kinds };

struct KindText {
  Severity severity;
  const char* tensor;
  const char* expected;
};
constexpr auto kKindTexts = std::to_array<KindText>({
    {Severity::error, "scales", "a finite number"},
    {Severity::error, "scales", "a byte without sign bit"},
    {Severity::warning, "scales", "a positive number"},
    {Severity::warning, "scales", "a positive number, for its codes are not zero"},
    {Severity::warning, "scales", "2^-27 to 2^13, as weights have"},
    {Severity::error, "zero_points", "0 to 15"},
    {Severity::warning, "codes", "a zero, for it is padding"},
});
static_assert(kKindTexts.size() == kinds);

/// The places of one kind in some rows.
struct Places {
  std::size_t count = 0;
  std::size_t row = 0, col = 0;
  std::string found;

  template <class Describe>
  void add(std::size_t at_row, std::size_t at_col, Describe describe) {
    if (count++ != 0) return;
    row = at_row;
    col = at_col;
    found = describe();
  }
};
using AllPlaces = std::array<Places, kinds>;

bool is_fp8(ScaleType type) {
  return type == ScaleType::e4m3 || type == ScaleType::e4m3x480 || type == ScaleType::e5m2;
}

class MatrixCheck {
 public:
  MatrixCheck(const QuantizedMatrix& matrix, bool signed_scales)
      : matrix_(matrix),
        info_(matrix.format.info()),
        signed_scales_(signed_scales || info_.name == Iq4NlLevels::kName) {
    const auto magnitude = [](float a, float b) { return std::fabs(a) < std::fabs(b); };
    least_ = *std::min_element(info_.levels.begin(), info_.levels.end(), magnitude);
  }

  void check_row(std::size_t row, AllPlaces& places) const {
    for (std::size_t group = 0; group < matrix_.groups; ++group) {
      if (!matrix_.zero_points.empty()) {
        const std::uint8_t zero = matrix_.zero_points[row * matrix_.groups + group];
        if (zero > 15) places[zero_range].add(row, group, [&] { return fmt::format("{}", zero); });
      }
      const GroupScale scale = matrix_.scale(row, group);
      check_scale(row, group, scale.positive, 0, places);
      if (info_.layout == ScaleLayout::sign_split) {
        check_scale(row, group, scale.negative, 1, places);
      }
    }
    for (std::size_t col = matrix_.cols; col < matrix_.padded_cols; ++col) {
      const std::uint8_t code = matrix_.code(row, col);
      if (is_zero(row, col / matrix_.group, code)) continue;
      places[padding].add(row, col, [&] { return fmt::format("code {}", code); });
    }
  }

  /// Whether all codes are zeros.
  [[nodiscard]] bool all_zero() const {
    for (std::size_t row = 0; row < matrix_.rows; ++row) {
      for (std::size_t group = 0; group < matrix_.groups; ++group) {
        if (!is_empty(row, group, Side::both)) return false;
      }
    }
    return true;
  }

 private:
  enum class Side { positive, negative, both };

  /// `side` counts the scales of a group.
  void check_scale(std::size_t row, std::size_t group, float scale, std::size_t side,
                   AllPlaces& places) const {
    const bool split = info_.layout == ScaleLayout::sign_split;
    const Side of = !split ? Side::both : side == 0 ? Side::positive : Side::negative;
    const auto value = [&] { return fmt::format("{}", scale); };
    if (!std::isfinite(scale)) {
      places[nonfinite].add(row, group, value);
      return;
    }
    const std::uint8_t byte =
        matrix_.scales[((row * matrix_.groups + group) * (split ? 2 : 1) + side) *
                       (info_.nested() ? 1 : scale_bytes(info_.scale_type))];
    if (!info_.double_quantized && is_fp8(info_.scale_type)) {
      if (byte >= 128) {
        places[sign_bit].add(row, group, [&] { return fmt::format("{} (0x{:02x})", scale, byte); });
      }
    } else if (scale < 0 && !signed_scales_) {
      places[negative].add(row, group, value);
    }
    // A tensor scale moves all of them.
    const bool e8m0 = info_.scale_type == ScaleType::e8m0 && !info_.tensor_scale;
    const bool far = e8m0 && (byte < kSmallestE8m0 || byte > kLargestE8m0);
    if ((scale != 0 && !far) || is_empty(row, group, of)) return;
    if (far) {
      places[far_scale].add(row, group,
                            [&] { return fmt::format("2^{}", static_cast<int>(byte) - 127); });
    } else {
      places[zero_scale].add(row, group, value);
    }
  }

  /// Whether a code stands for zero, or for what is nearest to it.
  [[nodiscard]] bool is_zero(std::size_t row, std::size_t group, std::uint8_t code) const {
    if (info_.layout == ScaleLayout::zero_point) {
      return code == matrix_.zero_points[row * matrix_.groups + group];
    }
    return std::fabs(info_.levels[code]) == std::fabs(least_);
  }

  /// Whether a group holds nothing but zeros (of one sign's codes) or nobody wrote its codes.
  [[nodiscard]] bool is_empty(std::size_t row, std::size_t group, Side side) const {
    bool zeros = true;
    bool unwritten = true;
    const std::size_t end = std::min(matrix_.cols, (group + 1) * matrix_.group);
    for (std::size_t col = group * matrix_.group; col < end && (zeros || unwritten); ++col) {
      const std::uint8_t code = matrix_.code(row, col);
      unwritten = unwritten && code == 0;
      if (side == Side::positive && info_.levels[code] < 0) continue;
      if (side == Side::negative && info_.levels[code] > 0) continue;
      zeros = zeros && is_zero(row, group, code);
    }
    return zeros || unwritten;
  }

  const QuantizedMatrix& matrix_;
  const FormatInfo& info_;
  bool signed_scales_;
  float least_ = 0;  ///< the level nearest to zero
};

/// Adds what is wrong inside a matrix, in the order of kinds.
void check_matrix(const std::string& name, const QuantizedMatrix& matrix, const MatrixCheck& check,
                  Executor& executor, std::vector<Finding>& out) {
  const std::size_t tasks = std::min(matrix.rows, concurrency_of(executor) * 4);
  std::vector<AllPlaces> parts(tasks);
  executor.parallel_for(tasks, [&](std::size_t task) {
    for (std::size_t row = matrix.rows * task / tasks; row < matrix.rows * (task + 1) / tasks;
         ++row) {
      check.check_row(row, parts[task]);
    }
  });
  for (std::size_t kind = 0; kind < kinds; ++kind) {
    Places all;
    for (const AllPlaces& part : parts) {
      const Places& places = part[kind];
      if (places.count == 0) continue;
      const std::size_t before = all.count;
      if (before == 0) all = places;
      all.count = before + places.count;
    }
    if (all.count == 0) continue;
    const KindText& text = kKindTexts[kind];
    out.push_back({text.severity, name, fmt::format("{}[{}, {}]", text.tensor, all.row, all.col),
                   all.found, text.expected, all.count});
  }
}

/// Symmetric layers have zero points of 8; other conventions, misread, are one off.
void check_zero_points(const std::string& name, const QuantizedMatrix& matrix,
                       std::vector<Finding>& out) {
  constexpr std::size_t kEnough = 32;
  const std::vector<std::uint8_t>& zeros = matrix.zero_points;
  if (zeros.size() < kEnough || (zeros.front() != 7 && zeros.front() != 9)) return;
  if (!std::all_of(zeros.begin(), zeros.end(), [&](auto zero) { return zero == zeros.front(); })) {
    return;
  }
  out.push_back({Severity::warning, name, "zero_points", fmt::format("{} throughout", zeros[0]),
                 "8, as symmetric layers have: off by one?", zeros.size()});
}

bool is_positive(float value) { return std::isfinite(value) && value > 0; }

void check_transforms(const StoredLayer& layer, std::vector<Finding>& out) {
  try {
    layer.transforms.check(layer.weight.rows, layer.weight.cols);
  } catch (const Error& error) {
    out.push_back({Severity::error, layer.name, "transforms", fmt::format("({})", error.what()),
                   "ones that fit the layer"});
    return;
  }
  const std::vector<float>& scale = layer.transforms.channel_scale.scale;
  for (const bool finite : {true, false}) {
    const auto wrong = [&](float value) { return finite ? !std::isfinite(value) : value == 0; };
    const auto first = std::find_if(scale.begin(), scale.end(), wrong);
    if (first == scale.end()) continue;
    out.push_back({finite ? Severity::error : Severity::warning, layer.name,
                   fmt::format("channel_scale[{}]", first - scale.begin()),
                   fmt::format("{}", *first), finite ? "a finite number" : "a number that is not 0",
                   static_cast<std::size_t>(std::count_if(first, scale.end(), wrong))});
  }
}

}  // namespace

const char* severity_name(Severity severity) {
  switch (severity) {
    case Severity::note:
      return "note";
    case Severity::warning:
      return "warning";
    case Severity::error:
      return "error";
  }
  return "?";
}

std::string Finding::text() const {
  std::string out = fmt::format("{}: {} is {}, expected {}", name, place, found, expected);
  if (count > 1) out += fmt::format(" (the first of {})", count);
  return out;
}

std::vector<Finding> validate(const StoredLayer& layer, bool signed_scales, Executor& executor) {
  const QuantizedMatrix& matrix = layer.weight;
  matrix.check();
  std::vector<Finding> out;
  const std::size_t elements =
      std::accumulate(layer.shape.begin(), layer.shape.end(), std::size_t{1}, std::multiplies<>());
  if (layer.shape.size() < 2 || elements != matrix.rows * matrix.cols) {
    out.push_back({Severity::error, layer.name, "shape", io::shape_text(layer.shape),
                   fmt::format("that of {} x {} codes", matrix.rows, matrix.cols)});
  }
  const MatrixCheck check(matrix, signed_scales);
  check_matrix(layer.name, matrix, check, executor, out);
  check_zero_points(layer.name, matrix, out);
  if (matrix.format.info().tensor_scale) {
    const TensorScale& tensor = matrix.tensor;
    if (!is_positive(tensor.scale)) {
      out.push_back({Severity::error, layer.name, "tensor scale", fmt::format("{}", tensor.scale),
                     "a positive number"});
    } else if (tensor.scale == 1 && tensor.amax == 0 && !check.all_zero()) {
      out.push_back({Severity::note, layer.name, "tensor scale", "1",
                     "one chosen for the tensor: is it missing?"});
    }
  }
  if (layer.input_scale && !is_positive(layer.input_scale->scale)) {
    out.push_back({Severity::error, layer.name, "input scale",
                   fmt::format("{}", layer.input_scale->scale), "a positive number"});
  }
  check_transforms(layer, out);
  return out;
}

std::vector<Finding> validate(const std::string& name, std::span<const std::size_t> shape,
                              std::span<const float> values, Executor& executor) {
  const std::size_t tasks = std::min(values.size(), concurrency_of(executor) * 4);
  std::vector<std::size_t> counts(tasks);
  executor.parallel_for(tasks, [&](std::size_t task) {
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(values.size() * task / tasks);
    const auto end =
        values.begin() + static_cast<std::ptrdiff_t>(values.size() * (task + 1) / tasks);
    counts[task] = static_cast<std::size_t>(
        std::count_if(begin, end, [](float value) { return !std::isfinite(value); }));
  });
  const std::size_t count = std::accumulate(counts.begin(), counts.end(), std::size_t{0});
  if (count == 0) return {};
  const auto first =
      std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
  auto index = static_cast<std::size_t>(first - values.begin());
  std::vector<std::size_t> place(shape.size());
  for (std::size_t axis = shape.size(); axis-- > 0; index /= shape[axis]) {
    place[axis] = index % shape[axis];
  }
  return {{Severity::error, name, "value" + io::shape_text(place), fmt::format("{}", *first),
           "a finite number", count}};
}

}  // namespace nybble
