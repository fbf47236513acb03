// GPTQ: NAME.qweight I32 [K/8, N] with eight k of a column in a word, the first lowest;
// NAME.qzeros I32 [G, N/8] with eight columns in a word, NAME.scales [G, N], NAME.g_idx I32 [K]
// with the group of each k. AutoGPTQ and GPTQModel; facts from ecosystem.md section 1.2.
//
// v1 stores zero points minus one, for which the writers subtract 0x11111111 from whole words: a
// zero point of 0 borrows from its neighbour. v2 stores them as they are.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/layout/packing.h"
#include "src/io/layout/qweight.h"
#include "src/io/layout/stored_tensors.h"

namespace nybble::io {

namespace {

constexpr std::uint32_t kOnes = 0x11111111;
constexpr std::uint32_t kEights = 0x88888888;
constexpr std::size_t kJudgedModules = 64;
constexpr const char* kGroupIndexDetail = "gptq.g_idx";
/// Of a layer whose g_idx is not I32.
constexpr const char* kGroupIndexType = "gptq.g_idx_type";
constexpr std::array kScaleTypes = {TensorType::f16, TensorType::bf16, TensorType::f32};

ScaleType scale_type(TensorType type) {
  if (type == TensorType::f16) return ScaleType::f16;
  return type == TensorType::bf16 ? ScaleType::bf16 : ScaleType::f32;
}
TensorType tensor_type(ScaleType type) {
  if (type == ScaleType::f16) return TensorType::f16;
  return type == ScaleType::bf16 ? TensorType::bf16 : TensorType::f32;
}

/// Which columns share scales.
struct Grouping {
  std::size_t group = 0;                   ///< 0 = the whole row
  std::vector<std::uint32_t> permutation;  ///< columns by group, as they come; empty = as stored
};

[[noreturn]] void refuse_group(const std::string& layer, const std::string& what) {
  throw Error(ErrorCode::unsupported,
              fmt::format("{}: {}, expected groups of 16, 32, 64, 128, 256, 512, 1024 or the whole "
                          "row",
                          layer, what));
}

/// From shapes alone. Where the last group is smaller, group sizes that are powers of two leave one
/// possibility.
std::size_t group_from_shape(const TensorSource& source, const std::string& layer, std::size_t cols,
                             std::size_t groups) {
  if (groups == 1) return single_group(source.config(), cols);
  const auto fits = [&](std::size_t group) { return (cols + group - 1) / group == groups; };
  const std::size_t said = config_group(source.config()).value_or(0);
  if (said != 0 && said <= cols && fits(said)) return said;
  if (cols % groups == 0) return cols / groups;
  for (std::size_t group = 16; group <= 1024; group *= 2) {
    if (fits(group)) return group;
  }
  refuse_group(layer, fmt::format("{} columns have {} groups", cols, groups));
}

Grouping read_group_index(const TensorSource& source, const std::string& layer,
                          const TensorView& tensor, std::size_t groups) {
  const std::size_t cols = tensor.shape[0];
  const std::vector<std::int64_t> group_of = index_elements(tensor);
  std::vector<std::size_t> counts(groups);
  for (std::size_t k = 0; k < cols; ++k) {
    const auto group = static_cast<std::size_t>(group_of[k]);  // of a negative: far too many
    if (group >= groups) {
      throw Error(ErrorCode::bad_file,
                  fmt::format("{}: tensor {} has {} at {}, expected 0 to {}", source.where(),
                              quote(tensor.name), group_of[k], k, groups - 1));
    }
    ++counts[group];
  }
  Grouping out;
  out.group = groups == 1 ? single_group(source.config(), cols) : counts[0];
  for (std::size_t g = 0; g < groups; ++g) {
    const bool last = g + 1 == groups;
    if (counts[g] == counts[0] || (last && counts[g] != 0 && counts[g] < counts[0])) continue;
    refuse_group(layer, fmt::format("g_idx gives group 0 {} columns and group {} {}", counts[0], g,
                                    counts[g]));
  }
  if (!std::is_sorted(group_of.begin(), group_of.end())) {
    out.permutation.resize(cols);
    std::iota(out.permutation.begin(), out.permutation.end(), 0U);
    std::stable_sort(out.permutation.begin(), out.permutation.end(),
                     [&](std::uint32_t a, std::uint32_t b) { return group_of[a] < group_of[b]; });
  }
  return out;
}

void permute_rows(QuantizedMatrix& matrix, std::span<const std::uint32_t> source) {
  const std::size_t stride = matrix.padded_cols / 2;
  std::vector<std::uint8_t> before(stride);
  for (std::size_t row = 0; row < matrix.rows; ++row) {
    const std::span<std::uint8_t> codes = std::span(matrix.codes).subspan(row * stride, stride);
    std::copy(codes.begin(), codes.end(), before.begin());
    permute_codes(before, source, codes);
  }
}

OwnedTensor make_tensor(std::string name, TensorType type, std::vector<std::size_t> shape) {
  const std::size_t bytes = byte_count(shape, tensor_type_bits(type)).value();
  return {std::move(name), type, std::move(shape), std::vector<std::byte>(bytes)};
}

bool is_embedding_or_head(std::string_view module) {
  const std::string_view last = module.substr(module.rfind('.') + 1);
  return last == "lm_head" || last == "wte" || last == "wpe" ||
         last.find("embed") != std::string_view::npos;
}

/// For a regular expression.
std::string escaped(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (c == '.') out += '\\';
    out += c;
  }
  return out;
}

class GptqLayout final : public Layout {
 public:
  explicit GptqLayout(bool v2) : v2_(v2) {}

  [[nodiscard]] std::string name() const override { return v2_ ? "gptq_v2" : "gptq"; }
  [[nodiscard]] std::string summary() const override {
    return v2_ ? "GPTQModel's checkpoint_format gptq_v2: int4, zero points as they are"
               : "AutoGPTQ and GPTQModel: int4, zero points stored minus one";
  }
  [[nodiscard]] std::vector<Module> find(const TensorSource& source) const override {
    return find_qweight_modules(source, QweightKind::gptq);
  }
  [[nodiscard]] Evidence judge(const TensorSource& source,
                               std::span<const Module> modules) const override;
  [[nodiscard]] StoredLayer read(const TensorSource& source, const Module& module) const override;
  void check(const AnyFormat& format, std::span<const std::size_t> shape) const override;
  [[nodiscard]] WrittenLayer write(const StoredLayer& layer) const override;
  [[nodiscard]] nlohmann::ordered_json config(const AnyFormat& format,
                                              std::span<const std::string> plain) const override;
  void amend(nlohmann::ordered_json& config, const StoredLayer& layer) const override;

 private:
  /// What a word of qzeros lacks to hold the zero points themselves.
  [[nodiscard]] std::uint32_t missing() const { return v2_ ? 0 : kOnes; }

  bool v2_;
};

/// Symmetric layers have zero points of 8: 0x77777777 in v1, 0x88888888 in v2.
Evidence GptqLayout::judge(const TensorSource& source, std::span<const Module> modules) const {
  Evidence evidence = judge_qweight_config(source.config(), name());
  const auto said = source.config().find("sym");
  const bool symmetric = said == source.config().end() || *said == true;
  std::size_t words = 0;
  std::size_t ours = 0;
  std::size_t others = 0;
  std::string example;
  for (const Module& module : modules.first(std::min(modules.size(), kJudgedModules))) {
    const TensorView* zeros = source.find(module.name + ".qzeros");
    if (zeros == nullptr || zeros->type != TensorType::i32) continue;
    if (example.empty()) example = zeros->name;
    const std::size_t count = zeros->bytes.size() / sizeof(std::uint32_t);
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint32_t word = load_word(zeros->bytes, i);
      ours += word == kEights - missing() ? 1 : 0;
      others += word == kEights - (kOnes - missing()) ? 1 : 0;
    }
    words += count;
  }
  if (words == 0 || !symmetric) return evidence;
  const auto throughout = [&](std::uint32_t word) {
    return fmt::format("{} is 0x{:08x} throughout, zero points of {}", quote(example), word,
                       (word + missing()) & 15);
  };
  if (ours == words) {
    evidence.data = Evidence::Verdict::in_favour;
    evidence.data_says = throughout(kEights - missing());
  } else if (others == words) {
    evidence.data = Evidence::Verdict::against;
    evidence.data_says = throughout(kEights - (kOnes - missing()));
  } else if (said != source.config().end()) {
    evidence.data_says = "sym is true, but zero points differ";
  }
  return evidence;
}

StoredLayer GptqLayout::read(const TensorSource& source, const Module& module) const {
  const std::string layer = layer_text(source, module);
  const TensorView& qweight =
      expect_matrix(source, module.name + ".qweight", std::array{TensorType::i32}, "I32 [K/8, N]");
  const std::size_t rows = qweight.shape[1];
  const std::size_t cols = qweight.shape[0] * kCodesPerWord;
  const TensorView& scales = expect_matrix(source, module.name + ".scales", kScaleTypes,
                                           fmt::format("F16, BF16 or F32 [G, {}]", rows));
  const std::size_t groups = scales.shape[0];
  if (scales.shape[1] != rows || rows % kCodesPerWord != 0 || groups > cols) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: tensor {} is {} beside a qweight of {}, expected [G, N] with N a "
                            "multiple of 8 and G at most {}",
                            source.where(), quote(scales.name), shape_text(scales.shape),
                            shape_text(qweight.shape), cols));
  }
  const TensorView& qzeros = source.expect(module.name + ".qzeros", TensorType::i32,
                                           std::array{groups, rows / kCodesPerWord});
  const std::string index_name = module.name + ".g_idx";
  const TensorView* const index =
      source.find(index_name) == nullptr
          ? nullptr
          : &expect_any(source, index_name, {TensorType::i32, TensorType::i64}, std::array{cols});
  const Grouping grouping = index != nullptr
                                ? read_group_index(source, layer, *index, groups)
                                : Grouping{group_from_shape(source, layer, cols, groups), {}};

  const ScaleType type = scale_type(scales.type);
  QuantizedMatrix matrix =
      make_int4(layer, grouping.group, type, rows, cols,
                unpack_zero_points(qzeros.bytes, rows, groups, kSequential, missing()));
  const std::size_t scale_size = scale_bytes(type);
  transpose({scales.bytes.data(), groups, rows, rows * scale_size}, scale_size,
            matrix.scales.data(), groups * scale_size);
  // A word is four bytes of canonical codes.
  transpose({qweight.bytes.data(), qweight.shape[0], rows, rows * sizeof(std::uint32_t)},
            sizeof(std::uint32_t), matrix.codes.data(), matrix.padded_cols / 2);
  if (!grouping.permutation.empty()) permute_rows(matrix, grouping.permutation);
  fill_int4_padding(matrix);

  StoredLayer out{module.name, {rows, cols}, std::move(matrix), {}};
  out.transforms.permutation.source = grouping.permutation;
  if (index == nullptr) {
    out.details[kGroupIndexDetail] = "none";
  } else if (index->type == TensorType::i64) {
    out.details[kGroupIndexType] = kWideIndex;
  }
  return out;
}

void GptqLayout::check(const AnyFormat& format, std::span<const std::size_t> shape) const {
  check_int4_matrix(name(), format.info(), shape);
  check_multiple(name(), "N", shape[0], kCodesPerWord);
  check_multiple(name(), "K", shape[1], kCodesPerWord);
}

WrittenLayer GptqLayout::write(const StoredLayer& layer) const {
  check_write(*this, layer, {.permutation = true});
  QuantizedMatrix matrix = layer.weight;
  const std::size_t rows = matrix.rows;
  const std::size_t words = matrix.cols / kCodesPerWord;
  const std::vector<std::uint32_t>& permutation = layer.transforms.permutation.source;

  std::vector<std::int64_t> group_index(matrix.cols);
  std::vector<std::uint32_t> stored_at(permutation.size());
  for (std::size_t k = 0; k < matrix.cols; ++k) {
    const std::size_t column = permutation.empty() ? k : permutation[k];
    group_index[column] = static_cast<std::int64_t>(k / matrix.group);
    if (!permutation.empty()) stored_at[column] = static_cast<std::uint32_t>(k);
  }
  if (!permutation.empty()) permute_rows(matrix, stored_at);

  OwnedTensor qweight = make_tensor(layer.name + ".qweight", TensorType::i32, {words, rows});
  transpose({matrix.codes.data(), rows, words, matrix.padded_cols / 2}, sizeof(std::uint32_t),
            qweight.bytes.data(), rows * sizeof(std::uint32_t));
  OwnedTensor qzeros{layer.name + ".qzeros",
                     TensorType::i32,
                     {matrix.groups, rows / kCodesPerWord},
                     pack_zero_points(int4_zero_points("layer " + quote(layer.name), matrix), rows,
                                      matrix.groups, kSequential, 0U - missing())};
  const ScaleType type = matrix.format.info().scale_type;
  const std::size_t scale_size = scale_bytes(type);
  OwnedTensor scales =
      make_tensor(layer.name + ".scales", tensor_type(type), {matrix.groups, rows});
  transpose({matrix.scales.data(), rows, matrix.groups, matrix.groups * scale_size}, scale_size,
            scales.bytes.data(), rows * scale_size);

  WrittenLayer out;
  if (!permutation.empty() || detail(layer, kGroupIndexDetail) != "none") {
    out.tensors.push_back(
        index_tensor(layer.name + ".g_idx", detail(layer, kGroupIndexType), group_index));
  }
  out.tensors.push_back(std::move(qweight));
  out.tensors.push_back(std::move(qzeros));
  out.tensors.push_back(std::move(scales));
  return out;
}

nlohmann::ordered_json GptqLayout::config(const AnyFormat& format,
                                          std::span<const std::string> plain) const {
  const FormatInfo& info = format.info();
  nlohmann::ordered_json out;
  out["quant_method"] = "gptq";
  out["bits"] = 4;
  out["group_size"] = info.group == 0 ? -1 : static_cast<int>(info.group);
  out["desc_act"] = false;
  out["sym"] = info.layout == ScaleLayout::symmetric;
  out["checkpoint_format"] = name();
  out["pack_dtype"] = "int32";
  out["lm_head"] = false;
  // Embeddings and the head are left alone by all readers; others have to be named.
  for (const std::string& module : plain) {
    if (is_embedding_or_head(module)) continue;
    out["dynamic"][fmt::format("-:^{}$", escaped(module))] = nlohmann::ordered_json::object();
  }
  return out;
}

void GptqLayout::amend(nlohmann::ordered_json& config, const StoredLayer& layer) const {
  if (!layer.transforms.permutation.source.empty()) config["desc_act"] = true;
  if (!layer.weight.zero_points.empty()) config["sym"] = false;
  if (layer.name == "lm_head" || layer.name.ends_with(".lm_head")) config["lm_head"] = true;
}

}  // namespace

std::unique_ptr<Layout> make_gptq_layout(bool v2) { return std::make_unique<GptqLayout>(v2); }

}  // namespace nybble::io
