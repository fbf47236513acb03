#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "src/io/layout/layout.h"

/// GPTQ and AutoAWQ both call their tensors NAME.qweight, NAME.qzeros and NAME.scales: what tells
/// them apart, and what they have in common.
namespace nybble::io {

enum class QweightKind { gptq, awq_gemm, awq_gemv };

/// The modules that are of `kind` by the shapes of qweight and scales, and those that are of none:
/// reading these says what is wrong with them.
std::vector<Module> find_qweight_modules(const TensorSource& source, QweightKind kind);

/// What quantization_config says for or against the layout "gptq", "gptq_v2", "awq_gemm" or
/// "awq_gemv"; also AutoRound's, which writes all four.
Evidence judge_qweight_config(const nlohmann::json& config, std::string_view layout);

/// A tensor of two dimensions, none of them 0. Throws bad_file; `expected` says what it should be.
const TensorView& expect_matrix(const TensorSource& source, const std::string& name,
                                std::span<const TensorType> types, std::string_view expected);

/// "FILE: layer NAME", how messages about a layer begin.
std::string layer_text(const TensorSource& source, const Module& module);

/// group_size of config where it is a group size: 0 stands for -1, the whole row.
std::optional<std::size_t> config_group(const nlohmann::json& config);

/// The group of a row of `cols` that has one scale: the row's length is a group size too, which
/// config decides.
std::size_t single_group(const nlohmann::json& config, std::size_t cols);

/// Throws unsupported unless `format` is int4 and `shape` one of two dimensions.
void check_int4_matrix(std::string_view layout, const FormatInfo& format,
                       std::span<const std::size_t> shape);
/// Throws unsupported unless divisor divides value.
void check_multiple(std::string_view layout, const char* what, std::size_t value,
                    std::size_t divisor);

}  // namespace nybble::io
