#include "src/io/layout/e2m1_tensors.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <limits>

#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/numeric/e2m1.h"
#include "src/io/checked.h"

namespace nybble::io {

namespace {

constexpr std::uint8_t kE4m3Sign = 0x80;
constexpr std::uint8_t kE4m3Nan = 0x7F;

/// Index of the first E4M3 byte that no block scale can be; the count where there is none.
std::size_t first_bad_scale(std::span<const std::byte> bytes) {
  const auto bad = std::find_if(bytes.begin(), bytes.end(), [](std::byte b) {
    return std::to_integer<std::uint8_t>(b) >= kE4m3Nan;  // a NaN, or the sign bit
  });
  return static_cast<std::size_t>(bad - bytes.begin());
}

std::string scale_text(std::byte byte) {
  const auto bits = std::to_integer<std::uint8_t>(byte);
  return fmt::format("0x{:02x} ({})", bits,
                     (bits & kE4m3Nan) == kE4m3Nan ? "NaN" : "its sign bit is set");
}

/// The one divisor that stands for `scale`, whose f32 reciprocal it is; 0 where there is none.
/// Where the nearest to 1 / scale is not it, none of its neighbours is.
float exact_divisor(float scale) {
  const float nearest = 1 / scale;
  return std::isfinite(nearest) && 1 / nearest == scale ? nearest : 0;
}

void check_tensor_scale(const TensorScale& tensor, const std::string& what) {
  const bool sound = std::isfinite(tensor.scale) && tensor.scale > 0 &&
                     (tensor.divisor == 0 || 1 / tensor.divisor == tensor.scale);
  if (sound) return;
  throw Error(ErrorCode::bad_value,
              fmt::format("{}: tensor scale {} with divisor {}, expected a finite scale above 0 "
                          "that is 1 / divisor where there is one",
                          what, tensor.scale, tensor.divisor));
}

/// `ratio`: what would be read again to what should be.
[[noreturn]] void refuse_to_round(const std::string& what, const char* held, float value,
                                  const char* as, double ratio) {
  throw Error(ErrorCode::unsupported,
              fmt::format("{}: {} {} cannot be held exactly as a {}: the nearest is off by {:.1e} "
                          "of it, which would be to requantize",
                          what, held, value, as, std::abs(ratio - 1)));
}

std::vector<std::size_t> scale_shape(bool vector) {
  if (vector) return {1};
  return {};
}

}  // namespace

bool is_e2m1(const FormatInfo& info, ScaleType type, std::size_t group, bool tensor_scale) {
  return info.levels == kE2M1Levels && info.layout == ScaleLayout::symmetric &&
         info.scale_type == type && info.group == group && info.tensor_scale == tensor_scale &&
         !info.double_quantized;
}

std::size_t whole_groups(const TensorSource& source, const TensorView& packed, std::size_t cols,
                         std::size_t group) {
  if (cols % group == 0) return cols / group;
  throw bad_tensor(source, packed.name,
                   fmt::format("has {} codes a row, expected a multiple of {}", cols, group));
}

QuantizedMatrix e2m1_matrix(const char* format, std::size_t rows, std::size_t cols,
                            const TensorView& packed, const TensorView& scales) {
  QuantizedMatrix matrix(parse_format(format), rows, cols);
  matrix.codes = elements<std::uint8_t>(packed);
  matrix.scales = elements<std::uint8_t>(scales);
  matrix.check();
  return matrix;
}

void check_block_scales(const TensorSource& source, const TensorView& scales) {
  const std::size_t at = first_bad_scale(scales.bytes);
  if (at == scales.bytes.size()) return;
  const std::size_t groups = scales.shape.back();
  throw bad_tensor(source, scales.name,
                   fmt::format("has {} at [{}, {}], expected a scale from 0 to 448",
                               scale_text(scales.bytes[at]), at / groups, at % groups));
}

void check_block_scales(const StoredLayer& layer) {
  const auto bytes = std::as_bytes(std::span(layer.weight.scales));
  const std::size_t at = first_bad_scale(bytes);
  if (at == bytes.size()) return;
  throw Error(
      ErrorCode::unsupported,
      fmt::format("{}: block scale {} of row {}, group {}: expected one from 0 to 448", layer.name,
                  scale_text(bytes[at]), at / layer.weight.groups, at % layer.weight.groups));
}

void judge_block_scales(const TensorSource& source, std::span<const Module> modules,
                        const char* suffix, Evidence& evidence) {
  const bool unsigned_numbers =
      first_bytes_hold(source, modules, suffix, [](unsigned byte) { return byte < kE4m3Sign; });
  // Where they are not, reading says so and where: the rest of the file may be sound.
  if (!unsigned_numbers) return;
  evidence.data = Evidence::Verdict::in_favour;
  evidence.data_says = fmt::format("no *{} has a sign bit set", suffix);
}

void judge_exponents(const TensorSource& source, std::span<const Module> modules,
                     const char* suffix, Evidence& evidence) {
  constexpr unsigned kLowest = 100, kHighest = 140;
  if (!first_bytes_hold(source, modules, suffix,
                        [](unsigned byte) { return byte >= kLowest && byte <= kHighest; })) {
    return;
  }
  evidence.data = Evidence::Verdict::in_favour;
  evidence.data_says = fmt::format("all *{} are {} to {}", suffix, kLowest, kHighest);
}

void judge_tensor_scales(const TensorSource& source, std::span<const Module> modules,
                         const char* suffix, bool divisor, Evidence& evidence) {
  // A weight whose largest value is 2688 has the scale 1; ten times past that is nobody's.
  constexpr float kSuspicious = 10;
  std::string suspicion;
  bool throughout = true;
  for (const Module& module : modules) {
    const TensorView* tensor = source.find(module.name + suffix);
    if (tensor == nullptr || tensor->type != TensorType::f32 || tensor->bytes.size() != 4) continue;
    const float value = elements<float>(*tensor)[0];
    const bool plausible = divisor ? value >= 1 / kSuspicious : value <= kSuspicious;
    throughout = throughout && !plausible;
    if (plausible || !suspicion.empty()) continue;
    suspicion = fmt::format("{} is {}, suspicious of a {}", quote(tensor->name), value,
                            divisor ? "divisor (a multiplier?)" : "multiplier (a divisor?)");
  }
  if (suspicion.empty()) return;
  if (throughout) {
    evidence.data = Evidence::Verdict::against;
    evidence.data_says = suspicion + ", and so are all";
    return;
  }
  evidence.data_says += (evidence.data_says.empty() ? "" : "; ") + suspicion;
}

TensorScale tensor_scale_from(const TensorSource& source, const std::string& tensor, float stored,
                              bool divisor) {
  if (!divisor) return {stored, 0, 0};
  const float scale = 1 / stored;
  if (!std::isfinite(scale)) {
    throw bad_tensor(source, tensor,
                     fmt::format("is {}, expected a divisor with a finite reciprocal", stored));
  }
  return {scale, 0, stored};
}

float divisor_of(const TensorScale& tensor, const std::string& what) {
  check_tensor_scale(tensor, what);
  if (tensor.divisor != 0) return tensor.divisor;
  const float divisor = exact_divisor(tensor.scale);
  if (divisor != 0) return divisor;
  const float nearest = 1 / std::min(1 / tensor.scale, std::numeric_limits<float>::max());
  refuse_to_round(what, "tensor scale", tensor.scale, "divisor",
                  static_cast<double>(nearest) / tensor.scale);
}

float multiplier_of(const TensorScale& tensor, const std::string& what) {
  check_tensor_scale(tensor, what);
  if (tensor.divisor == 0 || exact_divisor(tensor.scale) == tensor.divisor) return tensor.scale;
  refuse_to_round(what, "tensor divisor", tensor.divisor, "multiplier",
                  static_cast<double>(tensor.scale) * tensor.divisor);
}

StoredLayer read_nvfp4(const TensorSource& source, const Module& module, const Nvfp4Parts& parts) {
  constexpr std::size_t kGroup = 16;
  const TensorView& packed = expect_rank(source, module.name + parts.codes, TensorType::u8, 2, 2);
  const std::size_t rows = packed.shape[0];
  const std::size_t cols = packed.shape[1] * 2;
  const TensorView& scales =
      source.expect(module.name + parts.scales, TensorType::f8_e4m3,
                    std::array{rows, whole_groups(source, packed, cols, kGroup)});
  QuantizedMatrix weight = e2m1_matrix("nvfp4", rows, cols, packed, scales);
  check_block_scales(source, scales);
  std::map<std::string, std::string> details;
  const auto tensor_scale = [&](const char* suffix) {
    const std::string name = module.name + suffix;
    std::vector<std::size_t> shape = scale_shape(parts.scales_are_vectors);
    const std::vector<std::size_t> other = scale_shape(!parts.scales_are_vectors);
    const TensorView* tensor = source.find(name);
    if (tensor != nullptr && tensor->shape == other) {
      shape = other;
      details[parts.layout + std::string(suffix)] = shape_text(other);
    }
    return tensor_scale_from(source, name, expect_positive(source, name, shape), parts.divisor);
  };
  weight.tensor = tensor_scale(parts.tensor_scale);
  StoredLayer layer{module.name, {rows, cols}, std::move(weight), {}};
  if (source.find(module.name + parts.input_scale) != nullptr) {
    layer.input_scale = tensor_scale(parts.input_scale);
  }
  layer.details = std::move(details);
  return layer;
}

WrittenLayer write_nvfp4(const StoredLayer& layer, const Nvfp4Parts& parts) {
  check_block_scales(layer);
  const QuantizedMatrix& weight = layer.weight;
  WrittenLayer out;
  const auto add_scale = [&](const char* suffix, const TensorScale& scale) {
    const std::string name = layer.name + suffix;
    const float stored = parts.divisor ? divisor_of(scale, name) : multiplier_of(scale, name);
    const bool as_usual = detail(layer, parts.layout + std::string(suffix)).empty();
    out.tensors.push_back(owned_tensor(name, TensorType::f32,
                                       scale_shape(parts.scales_are_vectors == as_usual),
                                       std::vector{stored}));
  };
  out.tensors.push_back(owned_tensor(layer.name + parts.codes, TensorType::u8,
                                     {weight.rows, weight.cols / 2}, weight.codes));
  out.tensors.push_back(owned_tensor(layer.name + parts.scales, TensorType::f8_e4m3,
                                     {weight.rows, weight.groups}, weight.scales));
  add_scale(parts.tensor_scale, weight.tensor);
  if (layer.input_scale) add_scale(parts.input_scale, *layer.input_scale);
  return out;
}

std::string e2m1_shape_refusal(std::span<const std::size_t> shape, std::size_t group) {
  if (shape.size() == 2 && shape[1] % group == 0) return {};
  return fmt::format("shape {}, expected [N, K] with K a multiple of {}", shape_text(shape), group);
}

}  // namespace nybble::io
