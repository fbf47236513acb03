#include "src/io/layout/qweight.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <optional>
#include <set>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/layout/config_claims.h"
#include "src/io/layout/json_members.h"
#include "src/io/layout/other_widths.h"
#include "src/io/strict_json.h"

namespace nybble::io {

namespace {

using nlohmann::json;

constexpr std::string_view kQweight = ".qweight";
constexpr std::size_t kSmallestGroup = 16;

bool is_matrix(const TensorView* tensor) {
  return tensor != nullptr && tensor->shape.size() == 2 && tensor->shape[0] != 0 &&
         tensor->shape[1] != 0;
}

/// Whether `groups` groups of at least the smallest size there is fit a row of `cols`. Without it a
/// small layer of one kind has the shapes of a layer of another kind with groups of 8 or 1.
bool plausible(std::size_t cols, std::size_t groups) {
  return (groups - 1) * kSmallestGroup < cols;
}

std::optional<QweightKind> kind_of(const TensorSource& source, const std::string& module) {
  const TensorView* qweight = source.find(module + ".qweight");
  const TensorView* scales = source.find(module + ".scales");
  if (!is_matrix(qweight) || !is_matrix(scales) || qweight->type != TensorType::i32) {
    return std::nullopt;
  }
  const std::size_t rows = qweight->shape[0];
  const std::size_t cols = qweight->shape[1];
  const std::size_t scale_rows = scales->shape[0];
  const std::size_t scale_cols = scales->shape[1];
  const bool has_group_index = source.find(module + ".g_idx") != nullptr;
  if (cols == scale_cols && (has_group_index || plausible(8 * rows, scale_rows))) {
    return QweightKind::gptq;
  }
  if (has_group_index || scale_cols % 8 != 0) return std::nullopt;
  if (cols == scale_cols / 8 && plausible(rows, scale_rows)) return QweightKind::awq_gemm;
  if (rows == scale_rows) return QweightKind::awq_gemv;
  return std::nullopt;
}

std::vector<std::size_t> shape_as(QweightKind kind, const TensorView& qweight) {
  if (!is_matrix(&qweight) || qweight.type != TensorType::i32) return {};
  const std::size_t rows = qweight.shape[0];
  const std::size_t cols = qweight.shape[1];
  if (kind == QweightKind::gptq) return {cols, 8 * rows};
  if (kind == QweightKind::awq_gemm) return {8 * cols, rows};
  return {rows, 8 * cols};
}

/// In lower case; empty unless it is a string.
std::string text_of(const json& config, const char* key) {
  return lower_case(text_member(config, key));
}

/// The layout that a config names. Empty: it says nothing; "another": none of the four.
struct NamedLayout {
  std::string name;
  std::string says;
};

NamedLayout named_layout(const json& config) {
  std::string method = text_of(config, "quant_method");
  // quantize_config.json of old versions of AutoGPTQ.
  if (method.empty() && config.contains("desc_act")) method = "gptq";
  if (method.empty()) return {};
  std::string says = fmt::format("quant_method is {}", quote(method));
  const auto bits = config.find("bits");
  if (bits != config.end() && *bits != 4 && !tells_apart(config)) {
    return {"another", fmt::format("{}, bits is {}", says, show_json(*bits))};
  }
  const auto also = [&](const char* key, const std::string& value) {
    says += value.empty() ? fmt::format(", no {}", key) : fmt::format(", {} {}", key, quote(value));
  };
  std::string name = "another";
  if (method == "gptq") {
    // GPTQModel writes the one or the other.
    const std::string other = text_of(config, "format");
    std::string format = text_of(config, "checkpoint_format");
    also("checkpoint_format", format);
    if (!other.empty()) also("format", other);
    if (!other.empty() && !format.empty() && other != format) return {"another", says};
    if (format.empty()) format = other;
    if (format.empty() || format == "gptq") name = "gptq";
    if (format == "gptq_v2") name = "gptq_v2";
  } else if (method == "awq") {
    const char* key = config.contains("version") ? "version" : "checkpoint_format";
    const std::string version = text_of(config, key);
    also(key, version);
    if (version.empty() || version == "gemm") name = "awq_gemm";
    if (version == "gemv") name = "awq_gemv";
  } else if (method == "auto-round" || method == "intel/auto-round") {
    const std::string packing = text_of(config, "packing_format");
    also("packing_format", packing);
    if (packing.empty()) name.clear();
    if (packing == "auto_round:auto_gptq") name = "gptq";
    if (packing == "auto_round" || packing == "auto_round:gptqmodel") name = "gptq_v2";
    if (packing == "auto_round:auto_awq") name = "awq_gemm";
  }
  return {name, says};
}

}  // namespace

std::vector<Module> find_qweight_modules(const TensorSource& source, QweightKind kind) {
  std::vector<Module> modules;
  for (const std::string& tensor : source.names()) {
    if (!tensor.ends_with(kQweight)) continue;
    const std::string name = tensor.substr(0, tensor.size() - kQweight.size());
    if (kind_of(source, name).value_or(kind) != kind) continue;
    if (other_qweight_width(source, name) != 0) continue;
    Module module{name, shape_as(kind, *source.find(tensor)), {}};
    for (const char* part : {".g_idx", ".qweight", ".qzeros", ".scales"}) {
      if (source.find(name + part) != nullptr) module.tensors.push_back(name + part);
    }
    modules.push_back(std::move(module));
  }
  return modules;
}

Evidence judge_qweight_config(const json& config, std::string_view layout) {
  const NamedLayout named = named_layout(config);
  Evidence evidence;
  evidence.config_says = named.says;
  if (!named.name.empty()) {
    evidence.config =
        named.name == layout ? Evidence::Verdict::in_favour : Evidence::Verdict::against;
  }
  return evidence;
}

const TensorView& expect_matrix(const TensorSource& source, const std::string& name,
                                std::span<const TensorType> types, std::string_view expected) {
  const TensorView* tensor = source.find(name);
  if (tensor == nullptr) {
    throw Error(ErrorCode::bad_file, fmt::format("{}: no tensor {}, expected {}", source.where(),
                                                 quote(name), expected));
  }
  if (!is_matrix(tensor) || std::find(types.begin(), types.end(), tensor->type) == types.end()) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: tensor {} is {} {}, expected {}", source.where(), quote(name),
                            tensor_type_name(*tensor), shape_text(tensor->shape), expected));
  }
  return *tensor;
}

std::string layer_text(const TensorSource& source, const Module& module) {
  return fmt::format("{}: layer {}", source.where(), quote(module.name));
}

std::optional<std::size_t> config_group(const json& config) {
  const auto found = config.find("group_size");
  if (found == config.end()) return std::nullopt;
  if (*found == -1) return 0;
  if (!found->is_number_integer() || *found < 1) return std::nullopt;
  return found->get<std::size_t>();
}

std::size_t single_group(const json& config, std::size_t cols) {
  const bool a_group_size = cols >= kSmallestGroup && cols <= 1024 && (cols & (cols - 1)) == 0;
  return a_group_size && config_group(config) != 0 ? cols : 0;
}

void check_int4_matrix(std::string_view layout, const FormatInfo& format,
                       std::span<const std::size_t> shape) {
  if (format.name != "int4") {
    throw Error(ErrorCode::unsupported,
                fmt::format("layout {} holds int4, found format '{}'", layout, format.spec));
  }
  if (shape.size() != 2) {
    throw Error(ErrorCode::unsupported,
                fmt::format("layout {} holds matrices, found shape {}", layout, shape_text(shape)));
  }
}

void check_multiple(std::string_view layout, const char* what, std::size_t value,
                    std::size_t divisor) {
  if (value % divisor == 0) return;
  throw Error(ErrorCode::unsupported, fmt::format("layout {}: {} is {}, expected a multiple of {}",
                                                  layout, what, value, divisor));
}

}  // namespace nybble::io
