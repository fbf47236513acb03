// AutoAWQ's two layouts of int4 with f16 scales and zero points as they are; facts from
// ecosystem.md section 1.3. Groups are whole.
//   gemm  NAME.qweight I32 [K, N/8], eight columns in a word in the order 0 2 4 6 1 3 5 7;
//         NAME.qzeros I32 [G, N/8] in the same order; NAME.scales F16 [G, N]
//   gemv  NAME.qweight I32 [N, K/8], eight k in a word, the first lowest; NAME.qzeros I32 [N, Z]
//         with eight groups in a word, NAME.scales F16 [N, 8 Z]; both padded with zeros

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/layout/packing.h"
#include "src/io/layout/qweight.h"
#include "src/io/layout/stored_tensors.h"

namespace nybble::io {

namespace {

constexpr std::array kWord = {TensorType::i32};
constexpr std::array kHalf = {TensorType::f16};
constexpr std::size_t kHalfBytes = 2;

/// What both have in common.
class AwqLayout : public Layout {
 public:
  [[nodiscard]] Evidence judge(const TensorSource& source,
                               std::span<const Module> /*modules*/) const override {
    return judge_qweight_config(source.config(), name());
  }
  [[nodiscard]] nlohmann::ordered_json config(const AnyFormat& format,
                                              std::span<const std::string> plain) const override {
    const FormatInfo& info = format.info();
    nlohmann::ordered_json out;
    out["quant_method"] = "awq";
    out["bits"] = 4;
    out["group_size"] = info.group == 0 ? -1 : static_cast<int>(info.group);
    out["zero_point"] = info.layout == ScaleLayout::zero_point;
    out["version"] = version();
    out["modules_to_not_convert"] = std::vector<std::string>(plain.begin(), plain.end());
    return out;
  }
  void amend(nlohmann::ordered_json& config, const StoredLayer& layer) const override {
    if (!layer.weight.zero_points.empty()) config["zero_point"] = true;
  }

 protected:
  [[nodiscard]] virtual const char* version() const = 0;

  /// What both refuse.
  void check_common(const AnyFormat& format, std::span<const std::size_t> shape) const {
    const FormatInfo& info = format.info();
    check_int4_matrix(name(), info, shape);
    if (info.scale_type != ScaleType::f16) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("layout {} has f16 scales, found format '{}'", name(), info.spec));
    }
    check_multiple(name(), "N", shape[0], kCodesPerWord);
    if (info.group != 0) check_multiple(name(), "K", shape[1], info.group);
  }
};

/// Groups are of neighbouring columns.
void refuse_group_index(const TensorSource& source, const Module& module) {
  const std::string name = module.name + ".g_idx";
  if (source.find(name) == nullptr) return;
  throw Error(ErrorCode::bad_file, fmt::format("{}: found tensor {}, which AutoAWQ's layouts lack",
                                               source.where(), quote(name)));
}

class AwqGemmLayout final : public AwqLayout {
 public:
  [[nodiscard]] std::string name() const override { return "awq_gemm"; }
  [[nodiscard]] std::string summary() const override {
    return "AutoAWQ's version gemm: int4 with zero points";
  }
  [[nodiscard]] std::vector<Module> find(const TensorSource& source) const override {
    return find_qweight_modules(source, QweightKind::awq_gemm);
  }
  [[nodiscard]] StoredLayer read(const TensorSource& source, const Module& module) const override;
  void check(const AnyFormat& format, std::span<const std::size_t> shape) const override {
    check_common(format, shape);
  }
  [[nodiscard]] WrittenLayer write(const StoredLayer& layer) const override;

 private:
  [[nodiscard]] const char* version() const override { return "gemm"; }
};

StoredLayer AwqGemmLayout::read(const TensorSource& source, const Module& module) const {
  refuse_group_index(source, module);
  const TensorView& qweight =
      expect_matrix(source, module.name + ".qweight", kWord, "I32 [K, N/8]");
  const std::size_t cols = qweight.shape[0];
  const std::size_t words = qweight.shape[1];
  const std::size_t rows = words * kCodesPerWord;
  const TensorView& scales =
      expect_matrix(source, module.name + ".scales", kHalf, fmt::format("F16 [G, {}]", rows));
  const std::size_t groups = scales.shape[0];
  if (scales.shape[1] != rows || cols % groups != 0) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: tensor {} is {} beside a qweight of {}, expected [G, {}] with a G "
                            "that divides {}",
                            source.where(), quote(scales.name), shape_text(scales.shape),
                            shape_text(qweight.shape), rows, cols));
  }
  const TensorView& qzeros =
      source.expect(module.name + ".qzeros", TensorType::i32, std::array{groups, words});
  const std::size_t group = groups == 1 ? single_group(source.config(), cols) : cols / groups;
  QuantizedMatrix matrix = make_int4(layer_text(source, module), group, ScaleType::f16, rows, cols,
                                     unpack_zero_points(qzeros.bytes, rows, groups, kAwqOrder, 0));
  transpose({scales.bytes.data(), groups, rows, rows * kHalfBytes}, kHalfBytes,
            matrix.scales.data(), groups * kHalfBytes);
  unpack_row_words(qweight.bytes, kAwqOrder, matrix);
  fill_int4_padding(matrix);
  return {module.name, {rows, cols}, std::move(matrix), {}};
}

WrittenLayer AwqGemmLayout::write(const StoredLayer& layer) const {
  check_write(*this, layer, {});
  const QuantizedMatrix& matrix = layer.weight;
  const std::size_t rows = matrix.rows;
  const std::size_t groups = matrix.groups;
  const std::size_t words = rows / kCodesPerWord;
  const std::vector<std::uint8_t> zeros = int4_zero_points("layer " + quote(layer.name), matrix);
  std::vector<std::byte> scales(matrix.scales.size());
  transpose({matrix.scales.data(), rows, groups, groups * kHalfBytes}, kHalfBytes, scales.data(),
            rows * kHalfBytes);
  WrittenLayer out;
  out.tensors = {{layer.name + ".qweight",
                  TensorType::i32,
                  {matrix.cols, words},
                  pack_row_words(matrix, kAwqOrder)},
                 {layer.name + ".qzeros",
                  TensorType::i32,
                  {groups, words},
                  pack_zero_points(zeros, rows, groups, kAwqOrder, 0)},
                 {layer.name + ".scales", TensorType::f16, {groups, rows}, std::move(scales)}};
  return out;
}

/// The words of zero points a row of `cols` has, AutoAWQ's calculate_zeros_width; 0 for a group
/// that it does not know.
std::size_t zeros_width(std::size_t cols, std::size_t group) {
  const std::size_t multiple = group >= 128 ? 1 : group == 64 ? 2 : group == 32 ? 4 : 0;
  if (multiple == 0) return 0;
  const std::size_t words = (cols / group + kCodesPerWord - 1) / kCodesPerWord;
  return (words + multiple - 1) / multiple * multiple;
}

class AwqGemvLayout final : public AwqLayout {
 public:
  [[nodiscard]] std::string name() const override { return "awq_gemv"; }
  [[nodiscard]] std::string summary() const override {
    return "AutoAWQ's version gemv: int4 with zero points, rows along K";
  }
  [[nodiscard]] std::vector<Module> find(const TensorSource& source) const override {
    return find_qweight_modules(source, QweightKind::awq_gemv);
  }
  [[nodiscard]] StoredLayer read(const TensorSource& source, const Module& module) const override;
  void check(const AnyFormat& format, std::span<const std::size_t> shape) const override;
  [[nodiscard]] WrittenLayer write(const StoredLayer& layer) const override;

 private:
  [[nodiscard]] const char* version() const override { return "gemv"; }
};

/// The last group of a row with a scale that is not 0, plus one: the most over all rows.
std::size_t used_groups(const TensorView& scales) {
  const std::size_t width = scales.shape[1];
  std::size_t used = 0;
  for (std::size_t row = 0; row < scales.shape[0]; ++row) {
    for (std::size_t g = width; g > used; --g) {
      const std::byte* at = scales.bytes.data() + (row * width + g - 1) * kHalfBytes;
      if (at[0] == std::byte{0} && at[1] == std::byte{0}) continue;
      used = g;
      break;
    }
  }
  return used;
}

/// Padding hides how many groups there are: of the sizes that make rows of `width` words of zero
/// points, the one that config says or else the one whose groups all have scales. 0 = the row.
std::size_t gemv_group(const TensorSource& source, const Module& module, std::size_t cols,
                       std::size_t width, const TensorView& scales) {
  std::vector<std::size_t> fitting;
  for (const std::size_t group : kInt4Groups) {
    if (cols % group == 0 && zeros_width(cols, group) == width) fitting.push_back(group);
  }
  if (zeros_width(cols, cols) == width) fitting.push_back(0);
  if (fitting.size() == 1) return fitting.front();
  const std::optional<std::size_t> said = config_group(source.config());
  if (said && std::find(fitting.begin(), fitting.end(), *said) != fitting.end()) return *said;
  const std::size_t used = used_groups(scales);
  for (const std::size_t group : fitting) {
    if ((group == 0 ? 1 : cols / group) == used) return group;
  }
  throw Error(ErrorCode::bad_file,
              fmt::format("{}: qzeros {} wide and scales in {} columns fit no group for K {}, "
                          "expected one of {} (0 = the row)",
                          layer_text(source, module), width, used, cols, fitting));
}

StoredLayer AwqGemvLayout::read(const TensorSource& source, const Module& module) const {
  refuse_group_index(source, module);
  const TensorView& qweight =
      expect_matrix(source, module.name + ".qweight", kWord, "I32 [N, K/8]");
  const std::size_t rows = qweight.shape[0];
  const std::size_t row_bytes = qweight.shape[1] * sizeof(std::uint32_t);
  const std::size_t cols = qweight.shape[1] * kCodesPerWord;
  if (rows % kCodesPerWord != 0) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: tensor {} is {}, expected a multiple of 8 rows", source.where(),
                            quote(qweight.name), shape_text(qweight.shape)));
  }
  const std::size_t width =
      expect_matrix(source, module.name + ".qzeros", kWord, fmt::format("I32 [{}, Z]", rows))
          .shape[1];
  const TensorView& qzeros =
      source.expect(module.name + ".qzeros", TensorType::i32, std::array{rows, width});
  const TensorView& scales = source.expect(module.name + ".scales", TensorType::f16,
                                           std::array{rows, width * kCodesPerWord});
  const std::size_t group = gemv_group(source, module, cols, width, scales);
  const std::size_t groups = group == 0 ? 1 : cols / group;

  const auto zero_at = [&](std::size_t row, std::size_t g) {
    const std::uint32_t word = load_word(qzeros.bytes, row * width + g / kCodesPerWord);
    return static_cast<std::uint8_t>(word >> (4 * (g % kCodesPerWord)) & 15);
  };
  std::vector<std::uint8_t> zeros(rows * groups);
  std::vector<std::uint8_t> kept_scales(rows * groups * kHalfBytes);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t g = 0; g < groups; ++g) zeros[row * groups + g] = zero_at(row, g);
    const std::byte* from = scales.bytes.data() + row * width * kCodesPerWord * kHalfBytes;
    std::memcpy(&kept_scales[row * groups * kHalfBytes], from, groups * kHalfBytes);
    for (std::size_t g = groups; g < width * kCodesPerWord; ++g) {
      const bool scale =
          from[g * kHalfBytes] != std::byte{0} || from[g * kHalfBytes + 1] != std::byte{0};
      if (!scale && zero_at(row, g) == 0) continue;
      throw Error(
          ErrorCode::bad_file,
          fmt::format("{}: tensor {} has a value at [{}, {}], expected 0 after {} groups",
                      source.where(), quote(scale ? scales.name : qzeros.name), row, g, groups));
    }
  }
  QuantizedMatrix matrix =
      make_int4(layer_text(source, module), group, ScaleType::f16, rows, cols, std::move(zeros));
  matrix.scales = std::move(kept_scales);
  std::memcpy(matrix.codes.data(), qweight.bytes.data(), rows * row_bytes);
  return {module.name, {rows, cols}, std::move(matrix), {}};
}

void AwqGemvLayout::check(const AnyFormat& format, std::span<const std::size_t> shape) const {
  check_common(format, shape);
  check_multiple(name(), "K", shape[1], kCodesPerWord);
  const std::size_t group = format.info().group == 0 ? shape[1] : format.info().group;
  if (zeros_width(shape[1], group) == 0) {
    throw Error(ErrorCode::unsupported,
                fmt::format("layout {}: group {}, expected 32, 64 or at least 128", name(), group));
  }
}

WrittenLayer AwqGemvLayout::write(const StoredLayer& layer) const {
  check_write(*this, layer, {});
  const QuantizedMatrix& matrix = layer.weight;
  const std::size_t rows = matrix.rows;
  const std::size_t groups = matrix.groups;
  const std::size_t width = zeros_width(matrix.cols, matrix.group);
  const std::vector<std::uint8_t> zeros = int4_zero_points("layer " + quote(layer.name), matrix);
  std::vector<std::byte> qzeros(rows * width * sizeof(std::uint32_t));
  std::vector<std::byte> scales(rows * width * kCodesPerWord * kHalfBytes);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t g = 0; g < groups; ++g) {
      std::byte& byte = qzeros[row * width * sizeof(std::uint32_t) + g / 2];
      byte |= std::byte{zeros[row * groups + g]} << (g % 2 * 4);
    }
    std::memcpy(&scales[row * width * kCodesPerWord * kHalfBytes],
                &matrix.scales[row * groups * kHalfBytes], groups * kHalfBytes);
  }
  const auto codes = std::as_bytes(std::span(matrix.codes));
  WrittenLayer out;
  out.tensors = {
      {layer.name + ".qweight",
       TensorType::i32,
       {rows, matrix.cols / kCodesPerWord},
       {codes.begin(), codes.end()}},
      {layer.name + ".qzeros", TensorType::i32, {rows, width}, std::move(qzeros)},
      {layer.name + ".scales", TensorType::f16, {rows, width * kCodesPerWord}, std::move(scales)}};
  return out;
}

}  // namespace

std::unique_ptr<Layout> make_awq_gemm_layout() { return std::make_unique<AwqGemmLayout>(); }
std::unique_ptr<Layout> make_awq_gemv_layout() { return std::make_unique<AwqGemvLayout>(); }

}  // namespace nybble::io
