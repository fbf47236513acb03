// Our own layout: a QuantizedMatrix as it is, whatever its format, and all that runs around it.
// Where P is the module's name with ".weight" added:
//   P.codes          U8 [rows, padded columns / 2]
//   P.scales         [rows, groups] or, positive and negative, [rows, groups, 2], in the format's
//                    scale type; U8 where scales are codes themselves, and for e4m3x480
//   P.shape          I64: StoredLayer's. Missing in early files, whose rows are whole groups or
//                    whose reader knows better
//   P.zero_points    U8 [rows, groups], formats with zero points only
//   P.offsets        as scales, or U8 in super-blocks: formats with offsets only
//   P.nested_scales  F32 [blocks], P.nested_offset F32 [1]: double quantization
//   P.nested_scales, P.nested_offsets F32 [rows, super-blocks]: super-blocks, whose scales are I8
//   P.tensor_scale   F32 [2]: scale and largest value; [3] with the divisor of TensorScale. Formats
//                    with a tensor scale only
//   P.input_scale    the same of the layer's input, where there is one
//   P.channel_scale  F32 [columns], P.permutation U32 [columns], P.hadamard_signs F32 [columns]
//   P.low_rank_a     F32 [rank, columns], P.low_rank_b F32 [rows, rank]
//   P.sparse_row_start U32 [rows + 1], P.sparse_column U32 [entries], P.sparse_value F32 [entries]
// and __metadata__ says nybble.version, P.format (nybble.format for those layers that have none),
// P.hadamard_block, and P.detail.NAME for each of StoredLayer::details.

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "src/io/checked.h"
#include "src/io/layout/stored_tensors.h"

namespace nybble::io {

namespace {

using Shape = std::vector<std::size_t>;

constexpr const char* kVersionKey = "nybble.version";
constexpr const char* kFormatKey = "nybble.format";
constexpr const char* kVersion = "1";
constexpr const char* kCodes = ".weight.codes";
/// The detail of a layer whose file has no shape of it.
constexpr const char* kNoShape = "nybble.no_shape";
/// Before the name of a detail, in metadata.
constexpr const char* kDetail = "detail.";

TensorType scales_type(const FormatInfo& info) {
  if (info.double_quantized) return TensorType::u8;
  if (info.super_block != 0) return TensorType::i8;
  switch (info.scale_type) {
    case ScaleType::f32:
      return TensorType::f32;
    case ScaleType::f16:
      return TensorType::f16;
    case ScaleType::bf16:
      return TensorType::bf16;
    case ScaleType::e8m0:
      return TensorType::f8_e8m0;
    case ScaleType::e4m3:
      return TensorType::f8_e4m3;
    case ScaleType::e5m2:
      return TensorType::f8_e5m2;
    case ScaleType::e4m3x480:
      break;
  }
  return TensorType::u8;
}

Shape scales_shape(const QuantizedMatrix& matrix) {
  if (matrix.format.info().layout == ScaleLayout::sign_split) {
    return {matrix.rows, matrix.groups, 2};
  }
  return {matrix.rows, matrix.groups};
}

TensorType offsets_type(const FormatInfo& info) {
  return info.super_block != 0 ? TensorType::u8 : scales_type(info);
}

/// Of the numbers that super-blocks share.
Shape nested_shape(const QuantizedMatrix& matrix) {
  return {matrix.rows, matrix.nested_scales.size() / matrix.rows};
}

const std::string* find_metadata(const TensorSource& source, const std::string& key) {
  const auto found = source.metadata().find(key);
  return found == source.metadata().end() ? nullptr : &found->second;
}

const std::string* find_format(const TensorSource& source, const std::string& module) {
  const std::string* own = find_metadata(source, module + ".weight.format");
  return own != nullptr ? own : find_metadata(source, kFormatKey);
}

/// The tensors of one layer.
class Reader {
 public:
  Reader(const TensorSource& source, const std::string& module)
      : source_(source), prefix_(fmt::format("{}.weight.", module)) {}

  [[nodiscard]] StoredLayer read(const std::string& module) const {
    const AnyFormat format = read_format(module);
    const TensorView& codes = expect_rank(source_, prefix_ + "codes", TensorType::u8, 2, 2);
    const Shape shape = stored_shape(codes);
    // Before there is memory for them: a group may be far larger than what the file has.
    const std::size_t group =
        format.info().group == 0 ? shape.back() + shape.back() % 2 : format.info().group;
    const std::size_t padded_cols = (shape.back() + group - 1) / group * group;
    std::vector<std::uint8_t> code_bytes;
    copy("codes", TensorType::u8, {codes.shape[0], padded_cols / 2}, code_bytes);
    QuantizedMatrix matrix(format, codes.shape[0], shape.back());
    matrix.codes = std::move(code_bytes);
    copy("scales", scales_type(format.info()), scales_shape(matrix), matrix.scales);
    if (!matrix.zero_points.empty()) {
      copy("zero_points", TensorType::u8, {matrix.rows, matrix.groups}, matrix.zero_points);
      expect_all(matrix.zero_points, "zero_points", "numbers from 0 to 15",
                 [](std::uint8_t zero) { return zero < 16; });
    }
    if (format.info().double_quantized) {
      read_floats("nested_scales", {matrix.nested_scales.size()}, matrix.nested_scales);
      std::vector<float> offset;
      read_floats("nested_offset", {1}, offset);
      matrix.nested_offset = offset[0];
    }
    if (!matrix.offsets.empty()) {
      copy("offsets", offsets_type(format.info()), scales_shape(matrix), matrix.offsets);
    }
    if (format.info().super_block != 0) {
      const Shape nested = nested_shape(matrix);
      copy("nested_scales", TensorType::f32, nested, matrix.nested_scales);
      if (!matrix.nested_offsets.empty()) {
        copy("nested_offsets", TensorType::f32, nested, matrix.nested_offsets);
      }
    }
    if (format.info().tensor_scale) matrix.tensor = read_tensor_scale("tensor_scale");
    expect_no_others(matrix);
    StoredLayer layer{module, shape, std::move(matrix), read_transforms(shape.back())};
    read_details(layer);
    if (has("input_scale")) layer.input_scale = read_tensor_scale("input_scale");
    read_side_branches(layer);
    try {
      check_stored_shape(layer);
    } catch (const Error& error) {
      throw Error(ErrorCode::bad_file,
                  fmt::format("{}: layer {}: {}", source_.where(), quote(module), error.what()));
    }
    return layer;
  }

  /// StoredLayer's, as far as the codes' own can tell. Throws bad_file where they do not agree.
  [[nodiscard]] Shape stored_shape(const TensorView& codes) const {
    const std::size_t rows = codes.shape[0];
    const std::size_t padded_cols = codes.shape[1] * 2;
    const std::string name = prefix_ + "shape";
    const TensorView* stored = source_.find(name);
    if (stored == nullptr) return {rows, early_cols(padded_cols)};
    if (stored->shape.size() != 1 || stored->shape[0] < 2 || stored->shape[0] > kMostDimensions) {
      throw wrong("shape", fmt::format("has shape {}, expected 2 to {} numbers",
                                       shape_text(stored->shape), kMostDimensions));
    }
    const TensorView& tensor = source_.expect(name, TensorType::i64, stored->shape);
    Shape shape;
    std::size_t left = rows;
    for (const std::uint64_t size : elements<std::uint64_t>(tensor)) shape.push_back(size);
    for (std::size_t i = 0; i + 1 < shape.size(); ++i) {
      left = shape[i] != 0 && left % shape[i] == 0 ? left / shape[i] : 0;
    }
    if (left == 1 && shape.back() > 0 && shape.back() <= padded_cols) return shape;
    throw wrong("shape", fmt::format("is {}, expected that of codes {}", shape_text(shape),
                                     shape_text(codes.shape)));
  }

 private:
  [[nodiscard]] AnyFormat read_format(const std::string& module) const {
    const std::string* version = find_metadata(source_, kVersionKey);
    if (version == nullptr) throw metadata_error(kVersionKey, "is missing");
    if (*version != kVersion) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{}: quantized checkpoint of version {}, expected \"{}\"",
                              source_.where(), quote(*version), kVersion));
    }
    const std::string* spec = find_format(source_, module);
    if (spec == nullptr) throw metadata_error(kFormatKey, "is missing");
    // In a file, a format that is not understood is the file's fault, not an option's.
    try {
      return parse_format(*spec);
    } catch (const Error& error) {
      throw metadata_error(
          find_metadata(source_, prefix_ + "format") == nullptr ? kFormatKey : prefix_ + "format",
          error.what());
    }
  }

  /// Early files have no shape; where anything is stored a column, it tells.
  [[nodiscard]] std::size_t early_cols(std::size_t padded_cols) const {
    for (const char* part : {"channel_scale", "permutation", "hadamard_signs"}) {
      const TensorView* tensor = source_.find(prefix_ + part);
      if (tensor == nullptr || !has_rank(*tensor, 1)) continue;
      if (tensor->shape[0] <= padded_cols) return tensor->shape[0];
    }
    return padded_cols;
  }

  /// Throws bad_file for a tensor that a weight of this format does not have: nobody knows what it
  /// would mean, and it would be lost.
  void expect_no_others(const QuantizedMatrix& matrix) const {
    const FormatInfo& info = matrix.format.info();
    const auto refuse = [&](const char* part, bool used) {
      if (used || !has(part)) return;
      throw wrong(part, fmt::format("is there, expected none with format {}", quote(info.spec)));
    };
    refuse("zero_points", !matrix.zero_points.empty());
    refuse("offsets", info.offsets);
    refuse("nested_scales", info.nested());
    refuse("nested_offset", info.double_quantized);
    refuse("nested_offsets", info.super_block != 0 && info.offsets);
    refuse("tensor_scale", info.tensor_scale);
  }

  [[nodiscard]] TensorScale read_tensor_scale(const char* part) const {
    const TensorView* tensor = source_.find(prefix_ + part);
    const bool divided = tensor != nullptr && tensor->shape == Shape{3};
    std::vector<float> values;
    read_floats(part, {divided ? std::size_t{3} : std::size_t{2}}, values);
    if (divided && values[2] == 0) throw wrong(part, "has a divisor of 0, expected another");
    return {values[0], values[1], divided ? values[2] : 0};
  }

  [[nodiscard]] Transforms read_transforms(std::size_t cols) const {
    Transforms transforms;
    if (has("channel_scale")) read_floats("channel_scale", {cols}, transforms.channel_scale.scale);
    if (has("permutation")) {
      copy("permutation", TensorType::u32, {cols}, transforms.permutation.source);
    }
    const std::string* block = find_metadata(source_, prefix_ + "hadamard_block");
    if (has("hadamard_signs") != (block != nullptr)) {
      throw wrong("hadamard_signs",
                  fmt::format("is {} the metadata's hadamard_block, expected both or neither",
                              block == nullptr ? "without" : "missing beside"));
    }
    if (block == nullptr) return transforms;
    const char* end = block->data() + block->size();
    const auto [stop, error] = std::from_chars(block->data(), end, transforms.hadamard.block);
    if (error != std::errc() || stop != end || transforms.hadamard.block == 0) {
      throw metadata_error(prefix_ + "hadamard_block",
                           fmt::format("is {}, expected a positive number", quote(*block)));
    }
    copy("hadamard_signs", TensorType::f32, {cols}, transforms.hadamard.signs);
    expect_all(transforms.hadamard.signs, "hadamard_signs", "1 and -1",
               [](float sign) { return sign == 1.0F || sign == -1.0F; });
    return transforms;
  }

  void read_side_branches(StoredLayer& layer) const {
    const std::size_t rows = layer.weight.rows;
    if (has("low_rank_a") || has("low_rank_b")) {
      LowRank& branch = layer.transforms.low_rank;
      branch.rank = expect_rank(source_, prefix_ + "low_rank_a", TensorType::f32, 2, 2).shape[0];
      read_floats("low_rank_a", {branch.rank, layer.weight.cols}, branch.a);
      read_floats("low_rank_b", {rows, branch.rank}, branch.b);
    }
    if (has("sparse_row_start") || has("sparse_column") || has("sparse_value")) {
      SparseOutliers& sparse = layer.transforms.sparse;
      copy("sparse_row_start", TensorType::u32, {rows + 1}, sparse.row_start);
      const Shape entries = {sparse.row_start.back()};
      copy("sparse_column", TensorType::u32, entries, sparse.column);
      read_floats("sparse_value", entries, sparse.value);
    }
  }

  void read_details(StoredLayer& layer) const {
    if (!has("shape")) layer.details[kNoShape] = "";
    const std::string prefix = prefix_ + kDetail;
    const auto& metadata = source_.metadata();
    for (auto at = metadata.lower_bound(prefix); at != metadata.end(); ++at) {
      if (!at->first.starts_with(prefix)) break;
      layer.details[at->first.substr(prefix.size())] = at->second;
    }
  }

  [[nodiscard]] bool has(const char* part) const { return source_.find(prefix_ + part) != nullptr; }
  [[nodiscard]] Error wrong(const char* part, const std::string& found) const {
    return bad_tensor(source_, prefix_ + part, found);
  }
  [[nodiscard]] Error metadata_error(const std::string& key, const std::string& found) const {
    return {ErrorCode::bad_file,
            fmt::format("{}: metadata {} {}", source_.where(), quote(key), found)};
  }

  template <class T>
  void copy(const char* part, TensorType type, const Shape& shape, std::vector<T>& out) const {
    out = elements<T>(source_.expect(prefix_ + part, type, shape));
  }
  void read_floats(const char* part, const Shape& shape, std::vector<float>& out) const {
    copy(part, TensorType::f32, shape, out);
    expect_all(out, part, "finite numbers", [](float value) { return std::isfinite(value); });
  }
  template <class T, class Holds>
  void expect_all(const std::vector<T>& values, const char* part, const char* expected,
                  Holds holds) const {
    const auto bad = std::find_if_not(values.begin(), values.end(), holds);
    if (bad == values.end()) return;
    throw wrong(part,
                fmt::format("is {} at {}, expected {}", *bad, bad - values.begin(), expected));
  }

  static constexpr std::size_t kMostDimensions = 8;
  const TensorSource& source_;
  std::string prefix_;
};

/// The tensors and metadata of one layer, in the order in which they are added.
class Writer {
 public:
  explicit Writer(const StoredLayer& layer)
      : layer_(layer), prefix_(fmt::format("{}.weight.", layer.name)) {}

  WrittenLayer write() {
    const QuantizedMatrix& m = layer_.weight;
    const FormatInfo& info = m.format.info();
    out_.metadata.emplace(kVersionKey, kVersion);
    out_.metadata[prefix_ + "format"] = info.spec;
    add("codes", TensorType::u8, {m.rows, m.padded_cols / 2}, m.codes);
    add("scales", scales_type(info), scales_shape(m), m.scales);
    if (!layer_.details.contains(kNoShape)) {
      add("shape", TensorType::i64, {layer_.shape.size()},
          std::vector<std::uint64_t>(layer_.shape.begin(), layer_.shape.end()));
    }
    if (!m.zero_points.empty()) {
      add("zero_points", TensorType::u8, {m.rows, m.groups}, m.zero_points);
    }
    if (info.double_quantized) {
      add("nested_scales", TensorType::f32, {m.nested_scales.size()}, m.nested_scales);
      add("nested_offset", TensorType::f32, {1}, std::vector{m.nested_offset});
    }
    if (info.offsets) add("offsets", offsets_type(info), scales_shape(m), m.offsets);
    if (info.super_block != 0) {
      add("nested_scales", TensorType::f32, nested_shape(m), m.nested_scales);
      if (info.offsets) add("nested_offsets", TensorType::f32, nested_shape(m), m.nested_offsets);
    }
    if (info.tensor_scale) add_tensor_scale("tensor_scale", m.tensor);
    if (layer_.input_scale) add_tensor_scale("input_scale", *layer_.input_scale);
    add_transforms();
    add_side_branches();
    for (const auto& [name, value] : layer_.details) {
      if (name != kNoShape) out_.metadata[prefix_ + kDetail + name] = value;
    }
    return std::move(out_);
  }

 private:
  template <class T>
  void add(const char* part, TensorType type, Shape shape, const std::vector<T>& values) {
    out_.tensors.push_back(owned_tensor(prefix_ + part, type, std::move(shape), values));
  }
  void add_tensor_scale(const char* part, const TensorScale& tensor) {
    std::vector<float> values = {tensor.scale, tensor.amax};
    if (tensor.divisor != 0) values.push_back(tensor.divisor);
    add(part, TensorType::f32, {values.size()}, values);
  }
  void add_transforms() {
    const Transforms& t = layer_.transforms;
    const std::size_t cols = layer_.weight.cols;
    if (!t.channel_scale.scale.empty()) {
      add("channel_scale", TensorType::f32, {cols}, t.channel_scale.scale);
    }
    if (!t.permutation.source.empty()) {
      add("permutation", TensorType::u32, {cols}, t.permutation.source);
    }
    if (t.hadamard.block == 0) return;
    out_.metadata[prefix_ + "hadamard_block"] = std::to_string(t.hadamard.block);
    // A rotation without random signs is one whose signs are all 1.
    std::vector<float> signs = t.hadamard.signs;
    if (signs.empty()) signs.assign(cols, 1.0F);
    add("hadamard_signs", TensorType::f32, {cols}, signs);
  }
  void add_side_branches() {
    const LowRank& low_rank = layer_.transforms.low_rank;
    const SparseOutliers& sparse = layer_.transforms.sparse;
    if (low_rank.rank != 0) {
      add("low_rank_a", TensorType::f32, {low_rank.rank, layer_.weight.cols}, low_rank.a);
      add("low_rank_b", TensorType::f32, {layer_.weight.rows, low_rank.rank}, low_rank.b);
    }
    if (sparse.row_start.empty()) return;
    add("sparse_row_start", TensorType::u32, {sparse.row_start.size()}, sparse.row_start);
    add("sparse_column", TensorType::u32, {sparse.column.size()}, sparse.column);
    add("sparse_value", TensorType::f32, {sparse.value.size()}, sparse.value);
  }

  const StoredLayer& layer_;
  std::string prefix_;
  WrittenLayer out_;
};

class Nybble final : public Layout {
 public:
  [[nodiscard]] std::string name() const override { return "nybble"; }
  [[nodiscard]] std::string summary() const override {
    return "nybble's own: every format, with the transforms around the layer";
  }
  [[nodiscard]] std::vector<Module> find(const TensorSource& source) const override {
    std::vector<Module> modules;
    for (const std::string& name : source.names()) {
      const std::optional<std::string> module = module_of(name, kCodes);
      if (!module || find_format(source, *module) == nullptr) continue;
      const TensorView& codes = *source.find(name);
      if (codes.type != TensorType::u8 || !has_rank(codes, 2)) continue;
      modules.push_back({*module, shape_of(source, *module, codes), parts(source, *module)});
    }
    return modules;
  }
  [[nodiscard]] Evidence judge(const TensorSource& source,
                               std::span<const Module> modules) const override {
    Evidence evidence;
    evidence.config = Evidence::Verdict::in_favour;
    evidence.config_says =
        fmt::format("metadata has the format {}", quote(*find_format(source, modules[0].name)));
    return evidence;
  }
  [[nodiscard]] StoredLayer read(const TensorSource& source, const Module& module) const override {
    return Reader(source, module.name).read(module.name);
  }
  void check(const AnyFormat& /*format*/, std::span<const std::size_t> /*shape*/) const override {}
  [[nodiscard]] WrittenLayer write(const StoredLayer& layer) const override {
    check_stored_shape(layer);
    if (!layer.transforms.bias.empty()) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{}: cannot be held by layout nybble: it has no place for a bias, "
                              "which is a tensor of its own",
                              layer.name));
    }
    return Writer(layer).write();
  }
  [[nodiscard]] nlohmann::ordered_json config(
      const AnyFormat& /*format*/, std::span<const std::string> /*plain*/) const override {
    return nullptr;  // metadata says all
  }

 private:
  /// As far as it can be told: read() checks.
  static Shape shape_of(const TensorSource& source, const std::string& module,
                        const TensorView& codes) {
    try {
      return Reader(source, module).stored_shape(codes);
    } catch (const Error&) {
      return {codes.shape[0], codes.shape[1] * 2};
    }
  }
  static std::vector<std::string> parts(const TensorSource& source, const std::string& module) {
    return existing_tensors(
        source, module + ".weight",
        {".codes", ".scales", ".shape", ".zero_points", ".offsets", ".nested_scales",
         ".nested_offset", ".nested_offsets", ".tensor_scale", ".input_scale", ".channel_scale",
         ".permutation", ".hadamard_signs", ".low_rank_a", ".low_rank_b", ".sparse_row_start",
         ".sparse_column", ".sparse_value"});
  }
};

}  // namespace

std::unique_ptr<Layout> make_nybble_layout() { return std::make_unique<Nybble>(); }

}  // namespace nybble::io
