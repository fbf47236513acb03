// compressed-tensors' pack-quantized int4: 8 codes a little-endian word along K, which are the
// bytes of canonical codes; zero points packed along N. Stored are value + 8, for codes and zero
// points alike, so both are ours as they are: (code - 8) * scale, or (code - zero) * scale. What
// fills up a last word is 0.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cmath>
#include <numeric>

#include "nybble/error.h"
#include "nybble/format/int4.h"
#include "nybble/format/registry.h"
#include "src/io/checked.h"
#include "src/io/layout/compressed_tensors_config.h"
#include "src/io/layout/other_widths.h"
#include "src/io/layout/stored_tensors.h"

namespace nybble::io {

namespace {

using Shape = std::vector<std::size_t>;
using nlohmann::ordered_json;

constexpr const char* kPacked = ".weight_packed";
constexpr const char* kScale = ".weight_scale";
constexpr const char* kShape = ".weight_shape";
constexpr const char* kZeroPoint = ".weight_zero_point";
constexpr const char* kGroupIndex = ".weight_g_idx";
/// Of a layer whose g_idx is there, but says nothing: -1 throughout, columns as they come.
constexpr const char* kGroupIndexDetail = "compressed_tensors.g_idx";
constexpr const char* kNoOrder = "-1";
/// Of a layer whose g_idx is not I32.
constexpr const char* kGroupIndexType = "compressed_tensors.g_idx_type";
constexpr std::size_t kPerWord = 8;
/// The code of 0 without zero points.
constexpr std::uint8_t kMiddle = 8;

std::size_t divide_up(std::size_t a, std::size_t b) { return a / b + (a % b != 0 ? 1 : 0); }

std::uint8_t nibble(const std::uint8_t* bytes, std::size_t index) {
  return index % 2 == 0 ? bytes[index / 2] & 15 : bytes[index / 2] >> 4;
}

/// Over a nibble that is 0.
void set_nibble(std::uint8_t* bytes, std::size_t index, std::uint8_t code) {
  bytes[index / 2] |= static_cast<std::uint8_t>(index % 2 == 0 ? code : code << 4);
}

/// weight_shape, or nothing where it is missing or not one of `packed`'s.
std::optional<Shape> logical_shape(const TensorSource& source, const std::string& module,
                                   const TensorView& packed) {
  const TensorView* tensor = source.find(module + kShape);
  if (tensor == nullptr || tensor->type != TensorType::i64 || tensor->shape != Shape{2}) return {};
  const auto sizes = elements<std::uint64_t>(*tensor);  // of a negative: far too many
  if (sizes[0] != packed.shape[0] || divide_up(sizes[1], kPerWord) != packed.shape[1]) return {};
  return Shape{sizes[0], sizes[1]};
}

/// Whether its file says which group each column is in, or that they come in their order.
bool has_group_index(const StoredLayer& layer) {
  return !layer.transforms.permutation.source.empty() ||
         detail(layer, kGroupIndexDetail) == kNoOrder;
}

class Int4Packed final : public RefusingLayout {
 public:
  [[nodiscard]] std::string name() const override { return "compressed_tensors"; }
  [[nodiscard]] std::string summary() const override {
    return "compressed-tensors pack-quantized (llm-compressor, vLLM): int4 a group or a row, with "
           "or without zero points and g_idx";
  }
  [[nodiscard]] std::vector<Module> find(const TensorSource& source) const override;
  [[nodiscard]] Evidence judge(const TensorSource& source,
                               std::span<const Module> modules) const override;
  [[nodiscard]] StoredLayer read(const TensorSource& source, const Module& module) const override;
  [[nodiscard]] WrittenLayer write(const StoredLayer& layer) const override;
  [[nodiscard]] ordered_json config(const AnyFormat& format,
                                    std::span<const std::string> plain) const override {
    const FormatInfo& info = format.info();
    const bool row = info.group == 0;
    return compressed_tensors_config(
        kFormat,
        {{"num_bits", 4},
         {"type", "int"},
         {"symmetric", info.layout == ScaleLayout::symmetric},
         {"strategy", row ? "channel" : "group"},
         {"group_size", row ? ordered_json(nullptr) : ordered_json(info.group)},
         {"dynamic", false},
         {"actorder", nullptr}},
        plain);
  }

  void amend(ordered_json& config, const StoredLayer& layer) const override {
    if (!has_group_index(layer)) return;
    config["config_groups"]["group_0"]["weights"]["actorder"] = "group";
  }

 private:
  static constexpr const char* kFormat = "pack-quantized";

  [[nodiscard]] std::string refusal(const AnyFormat& format,
                                    std::span<const std::size_t> shape) const override;
};

std::vector<Module> Int4Packed::find(const TensorSource& source) const {
  std::vector<Module> modules;
  for (const std::string& name : source.names()) {
    const std::optional<std::string> module = module_of(name, kPacked);
    if (!module) continue;
    const TensorView& packed = *source.find(name);
    if (packed.type != TensorType::i32 || !has_rank(packed, 2)) continue;
    const std::optional<Shape> shape = logical_shape(source, *module, packed);
    if (!shape && other_packed_width(source, *module) != 0) continue;
    modules.push_back(
        {*module, shape.value_or(Shape{packed.shape[0], packed.shape[1] * kPerWord}),
         existing_tensors(source, *module, {kPacked, kScale, kShape, kZeroPoint, kGroupIndex})});
  }
  return modules;
}

Evidence Int4Packed::judge(const TensorSource& source, std::span<const Module> modules) const {
  Evidence evidence;
  judge_compressed_tensors(source.config(), kFormat, evidence);
  const bool fit = std::all_of(modules.begin(), modules.end(), [&](const Module& module) {
    return logical_shape(source, module.name, *source.find(module.name + kPacked)).has_value();
  });
  if (fit) {
    evidence.data = Evidence::Verdict::in_favour;
    evidence.data_says = fmt::format("every *{} is that of 4-bit codes", kShape);
  }
  return evidence;
}

/// The group of K columns in `groups` groups: 0 for one a row, unless the config says that it is
/// one larger than K. Throws bad_file.
std::size_t group_size(const TensorSource& source, const TensorView& scales, std::size_t cols) {
  const std::size_t groups = scales.shape[1];
  const nlohmann::json said = weights_option(source.config(), "group_size");
  for (const std::size_t group : kInt4Groups) {
    if (divide_up(cols, group) == groups && (groups > 1 || said == group)) return group;
  }
  if (groups == 1) return 0;
  throw bad_tensor(source, scales.name,
                   fmt::format("has {} scales a row of {} codes, expected one a group of {}, or 1",
                               groups, cols, fmt::join(kInt4Groups, ", ")));
}

/// Throws bad_file at the first scale that is no number.
void check_finite(const TensorSource& source, const TensorView& scales, const QuantizedMatrix& m) {
  for (std::size_t row = 0; row < m.rows; ++row) {
    for (std::size_t g = 0; g < m.groups; ++g) {
      const float scale = m.scale(row, g).positive;
      if (std::isfinite(scale)) continue;
      throw bad_tensor(source, scales.name,
                       fmt::format("is {} at [{}, {}], expected a finite scale", scale, row, g));
    }
  }
}

/// Zero points from words of 8 rows.
void read_zero_points(const TensorSource& source, const TensorView& tensor, QuantizedMatrix& m) {
  const auto words = elements<std::uint32_t>(tensor);
  for (std::size_t row = 0; row < divide_up(m.rows, kPerWord) * kPerWord; ++row) {
    for (std::size_t g = 0; g < m.groups; ++g) {
      const std::uint32_t word = words[row / kPerWord * m.groups + g];
      const auto zero = static_cast<std::uint8_t>(word >> (4 * (row % kPerWord)) & 15);
      if (row < m.rows) {
        m.zero_points[row * m.groups + g] = zero;
      } else if (zero != 0) {
        throw bad_tensor(
            source, tensor.name,
            fmt::format("has {} at [{}, {}], past its last row, expected 0", zero, row, g));
      }
    }
  }
}

/// Columns by group, in each as they were: codes of a group then lie together. None where all are
/// -1. Throws bad_file for a group there is not, unsupported where groups are not of the same size.
Permutation read_group_index(const TensorSource& source, const TensorView& tensor,
                             const QuantizedMatrix& m) {
  const std::vector<std::int64_t> index = index_elements(tensor);
  if (std::all_of(index.begin(), index.end(), [](auto group) { return group == -1; })) return {};
  for (std::size_t k = 0; k < index.size(); ++k) {
    if (index[k] >= 0 && static_cast<std::size_t>(index[k]) < m.groups) continue;
    throw bad_tensor(source, tensor.name,
                     fmt::format("is {} at [{}], expected a group from 0 to {}, or -1 for all",
                                 index[k], k, m.groups - 1));
  }
  Permutation permutation;
  permutation.source.resize(index.size());
  std::iota(permutation.source.begin(), permutation.source.end(), 0U);
  std::stable_sort(permutation.source.begin(), permutation.source.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return index[a] < index[b]; });
  for (std::size_t j = 0; j < index.size(); ++j) {
    const auto group = static_cast<std::size_t>(index[permutation.source[j]]);
    if (group == j / m.group) continue;
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: tensor {} does not have {} columns in each group, expected that",
                            source.where(), quote(tensor.name), m.group));
  }
  return permutation;
}

/// Codes from the file's rows, in the order of `source_columns` (none: their own), with the
/// padding that canonical rows have.
void read_codes(const TensorSource& source, const TensorView& tensor,
                const std::vector<std::uint32_t>& source_columns, QuantizedMatrix& m) {
  const auto bytes = elements<std::uint8_t>(tensor);
  const std::size_t words = tensor.shape[1];
  for (std::size_t row = 0; row < m.rows; ++row) {
    const std::uint8_t* from = &bytes[row * words * 4];
    std::uint8_t* to = &m.codes[row * (m.padded_cols / 2)];
    for (std::size_t k = 0; k < m.cols; ++k) {
      set_nibble(to, k, nibble(from, source_columns.empty() ? k : source_columns[k]));
    }
    for (std::size_t k = m.cols; k < words * kPerWord; ++k) {
      if (nibble(from, k) == 0) continue;
      throw bad_tensor(source, tensor.name,
                       fmt::format("has code {} at [{}, {}], past its last column, expected 0",
                                   nibble(from, k), row, k));
    }
    const std::uint8_t padding =
        m.zero_points.empty() ? kMiddle : m.zero_points[row * m.groups + m.groups - 1];
    for (std::size_t k = m.cols; k < m.padded_cols; ++k) set_nibble(to, k, padding);
  }
}

StoredLayer Int4Packed::read(const TensorSource& source, const Module& module) const {
  refuse_transform_config(source);
  const std::string& name = module.name;
  const TensorView& packed = expect_rank(source, name + kPacked, TensorType::i32, 2, 2);
  const TensorView& shape_tensor = source.expect(name + kShape, TensorType::i64, Shape{2});
  const std::optional<Shape> shape = logical_shape(source, name, packed);
  if (!shape) {
    const auto sizes = elements<std::int64_t>(shape_tensor);
    throw bad_tensor(source, shape_tensor.name,
                     fmt::format("is [{}, {}], expected that of 4-bit codes in {} I32 {}", sizes[0],
                                 sizes[1], quote(packed.name), shape_text(packed.shape)));
  }
  const auto [rows, cols] = std::pair((*shape)[0], (*shape)[1]);
  const TensorView* found_scale = source.find(name + kScale);
  const bool has_groups = found_scale != nullptr && has_rank(*found_scale, 2);
  const std::size_t groups = has_groups ? found_scale->shape[1] : 1;
  const TensorView& scales =
      expect_any(source, name + kScale, {TensorType::bf16, TensorType::f16, TensorType::f32},
                 Shape{rows, groups});
  const bool zero_point = source.find(name + kZeroPoint) != nullptr;
  if (!zero_point && weights_option(source.config(), "symmetric") == false) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: no tensor {}, expected one as quantization_config says symmetric "
                            "is false",
                            source.where(), quote(name + kZeroPoint)));
  }
  const std::size_t group = group_size(source, scales, cols);
  const std::string spec = fmt::format("int4:group={},zero_point={},scale={}",
                                       group == 0 ? "row" : std::to_string(group), zero_point,
                                       scales.type == TensorType::bf16  ? "bf16"
                                       : scales.type == TensorType::f16 ? "f16"
                                                                        : "f32");
  QuantizedMatrix weight(parse_format(spec), rows, cols);
  weight.scales = elements<std::uint8_t>(scales);
  weight.check();
  check_finite(source, scales, weight);
  if (zero_point) {
    const Shape zero_shape = {divide_up(rows, kPerWord), groups};
    read_zero_points(source, source.expect(name + kZeroPoint, TensorType::i32, zero_shape), weight);
  }
  StoredLayer layer{name, *shape, std::move(weight), {}};
  std::vector<std::uint32_t>& columns = layer.transforms.permutation.source;
  if (source.find(name + kGroupIndex) != nullptr) {
    const TensorView& index =
        expect_any(source, name + kGroupIndex, {TensorType::i32, TensorType::i64}, Shape{cols});
    columns = read_group_index(source, index, layer.weight).source;
    if (columns.empty()) layer.details[kGroupIndexDetail] = kNoOrder;
    if (index.type == TensorType::i64) layer.details[kGroupIndexType] = kWideIndex;
  }
  read_codes(source, packed, columns, layer.weight);
  return layer;
}

std::string Int4Packed::refusal(const AnyFormat& format, std::span<const std::size_t> shape) const {
  const FormatInfo& info = format.info();
  const bool levels = info.layout == ScaleLayout::zero_point ||
                      (info.layout == ScaleLayout::symmetric && info.levels == Int4Levels::kLevels);
  const bool scale = info.scale_type == ScaleType::f16 || info.scale_type == ScaleType::bf16 ||
                     info.scale_type == ScaleType::f32;
  const bool group = info.group == 0 || std::find(kInt4Groups.begin(), kInt4Groups.end(),
                                                  info.group) != kInt4Groups.end();
  if (!levels || !scale || !group || info.tensor_scale || info.double_quantized) {
    return fmt::format("format '{}', expected int4", info.spec);
  }
  if (shape.size() == 2) return {};
  return fmt::format("shape {}, expected [N, K]", shape_text(shape));
}

OwnedTensor packed_codes(const StoredLayer& layer) {
  const QuantizedMatrix& m = layer.weight;
  const std::vector<std::uint32_t>& columns = layer.transforms.permutation.source;
  const std::size_t words = divide_up(m.cols, kPerWord);
  std::vector<std::uint8_t> packed(m.rows * words * 4);
  for (std::size_t row = 0; row < m.rows; ++row) {
    const std::uint8_t* from = &m.codes[row * (m.padded_cols / 2)];
    for (std::size_t k = 0; k < m.cols; ++k) {
      set_nibble(&packed[row * words * 4], columns.empty() ? k : columns[k], nibble(from, k));
    }
  }
  return owned_tensor(layer.name + kPacked, TensorType::i32, {m.rows, words}, packed);
}

OwnedTensor packed_zero_points(const StoredLayer& layer) {
  const QuantizedMatrix& m = layer.weight;
  std::vector<std::uint32_t> words(divide_up(m.rows, kPerWord) * m.groups);
  for (std::size_t row = 0; row < m.rows; ++row) {
    for (std::size_t g = 0; g < m.groups; ++g) {
      const std::uint32_t zero = m.zero_points[row * m.groups + g];
      if (zero > 15) {
        throw Error(ErrorCode::bad_value,
                    fmt::format("{}: zero point {} of row {}, group {}, expected 0 to 15",
                                layer.name, zero, row, g));
      }
      words[row / kPerWord * m.groups + g] |= zero << (4 * (row % kPerWord));
    }
  }
  return owned_tensor(layer.name + kZeroPoint, TensorType::i32,
                      {divide_up(m.rows, kPerWord), m.groups}, words);
}

OwnedTensor group_index(const StoredLayer& layer) {
  const QuantizedMatrix& m = layer.weight;
  const std::vector<std::uint32_t>& columns = layer.transforms.permutation.source;
  std::vector<std::int64_t> index(m.cols, -1);
  for (std::size_t j = 0; j < columns.size(); ++j) {
    index[columns[j]] = static_cast<std::int64_t>(j / m.group);
  }
  return index_tensor(layer.name + kGroupIndex, detail(layer, kGroupIndexType), index);
}

WrittenLayer Int4Packed::write(const StoredLayer& layer) const {
  check_write(*this, layer, {.permutation = true});
  const QuantizedMatrix& m = layer.weight;
  const ScaleType type = m.format.info().scale_type;
  const TensorType scale_type = type == ScaleType::bf16  ? TensorType::bf16
                                : type == ScaleType::f16 ? TensorType::f16
                                                         : TensorType::f32;
  WrittenLayer out;
  out.tensors.push_back(packed_codes(layer));
  out.tensors.push_back(
      owned_tensor(layer.name + kScale, scale_type, {m.rows, m.groups}, m.scales));
  out.tensors.push_back(owned_tensor(layer.name + kShape, TensorType::i64, {2},
                                     std::vector<std::uint64_t>{m.rows, m.cols}));
  if (!m.zero_points.empty()) out.tensors.push_back(packed_zero_points(layer));
  if (has_group_index(layer)) out.tensors.push_back(group_index(layer));
  return out;
}

}  // namespace

std::unique_ptr<Layout> make_compressed_tensors_int4_layout() {
  return std::make_unique<Int4Packed>();
}

}  // namespace nybble::io
