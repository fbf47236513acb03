#include "src/linear/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "nybble/error.h"
#include "src/check_enum.h"
#include "src/tensor/integer_levels.h"

namespace nybble {

namespace {

/// Significant bits of a format's products level x scale at most; bf16 holds 8.
int product_bits(const FormatInfo& info) {
  const auto significant = [](float x) {
    const std::uint32_t mantissa = (std::bit_cast<std::uint32_t>(x) & 0x7FFFFFU) | 0x800000U;
    return x == 0 ? 0 : 24 - std::countr_zero(mantissa);
  };
  int level_bits = 0;
  for (const float level : info.levels) level_bits = std::max(level_bits, significant(level));
  switch (info.nested() ? ScaleType::f32 : info.scale_type) {
    case ScaleType::e8m0:
      return level_bits;
    case ScaleType::e5m2:
      return level_bits + 3;
    case ScaleType::e4m3:
    case ScaleType::e4m3x480:
      return level_bits + 4;
    case ScaleType::bf16:
      return level_bits + 8;
    case ScaleType::f16:
      return level_bits + 11;
    default:
      return level_bits + 24;
  }
}

bool exact_in_bf16(const FormatInfo& info) { return product_bits(info) <= 8; }

const LinearOptions& checked(const LinearOptions& options) {
  check_enum(options.path, Path::a4, "linear: path");
  if (options.activations && options.path != Path::a4) {
    throw Error(ErrorCode::bad_option,
                fmt::format("activations '{}' go with path a4, not {}",
                            options.activations->info().spec, path_name(options.path)));
  }
  if (options.scale_per_row && options.path != Path::a8) {
    throw Error(ErrorCode::bad_option,
                fmt::format("scale_per_row goes with path a8, not {}", path_name(options.path)));
  }
  return options;
}

}  // namespace

LinearPlan::LinearPlan(const AnyFormat& weight, const LinearOptions& linear_options)
    : options(checked(linear_options)),
      weight_info(weight.info()),
      target(kernels::select(options.target)) {
  choose_kind(weight);
}

void LinearPlan::choose_kind(const AnyFormat& weight) {
  const auto choose = [&](ActivationKind chosen, const char* why) {
    kind = chosen;
    reason = why;
  };
  switch (options.path) {
    case Path::a8:
      return choose(ActivationKind::int8, "path a8: int8 activations, integer dots");
    case Path::a16:
      return choose(ActivationKind::bf16, "path a16: bf16 activations");
    case Path::a32:
      return choose(ActivationKind::f32, "path a32: f32 activations");
    case Path::a4:
      break;
  }
  if (!options.activations) options.activations = weight;
  const FormatInfo& x = options.activations->info();
  if (x.double_quantized) {
    throw Error(ErrorCode::unsupported,
                fmt::format("activations '{}': double quantization is for weights", x.spec));
  }
  if (x.imported || weight_info.offsets) {
    throw Error(ErrorCode::unsupported,
                fmt::format("path a4 with weights '{}' and activations '{}': {}, expected a8, a16 "
                            "or a32",
                            weight_info.spec, x.spec,
                            weight_info.offsets ? "offsets need activations as they are"
                                                : "nothing can be quantized to those"));
  }
  const bool integers = weight_info.layout != ScaleLayout::sign_split &&
                        x.layout != ScaleLayout::sign_split &&
                        integer_levels(weight_info.levels).exact &&
                        integer_levels(x.levels).exact && (x.group == 0 || x.group % 16 == 0);
  if (integers) {
    return choose(ActivationKind::format_integers,
                  "path a4: both codebooks are integers times a step, so the integer dot is exact");
  }
  if (exact_in_bf16(weight_info) && exact_in_bf16(x) && !x.tensor_scale) {
    return choose(ActivationKind::format_bf16,
                  "path a4: weights and activations are exact in bf16; the only error of its dot "
                  "is f32 accumulation (where the CPU has one, it takes denormals as zero)");
  }
  choose(ActivationKind::format_f32, "path a4: not all products are exact in int8 or bf16, so f32");
}

GemmSlot gemm_slot(const kernels::KernelTable& table, ActivationKind kind, ScaleLayout layout) {
  switch (kind) {
    case ActivationKind::bf16:
    case ActivationKind::format_bf16:
      return {kernels::Slot::gemm_a16, table.gemm_a16};
    case ActivationKind::f32:
    case ActivationKind::format_f32:
      return {kernels::Slot::gemm_a32, table.gemm_a32};
    case ActivationKind::int8:
    case ActivationKind::format_integers:
      break;
  }
  switch (layout) {
    case ScaleLayout::symmetric:
      return {kernels::Slot::gemm_a8_symmetric, table.gemm_a8_symmetric};
    case ScaleLayout::zero_point:
      return {kernels::Slot::gemm_a8_zero_point, table.gemm_a8_zero_point};
    case ScaleLayout::sign_split:
      break;
  }
  return {kernels::Slot::gemm_a8_sign_split, table.gemm_a8_sign_split};
}

std::string kernel_name(const kernels::Selected& target, kernels::Slot slot) {
  return fmt::format("{}_{}", kernels::slot_name(slot),
                     kernels::target_name(kernels::provider(target.id, slot)));
}

PlannedWeight LinearPlan::pack(const QuantizedMatrix& matrix, Executor& executor) const {
  // Dot groups may not span two activation scales.
  const bool own_scales =
      kind == ActivationKind::format_integers && options.activations->info().group != 0;
  const std::size_t dot_group_limit = own_scales ? options.activations->info().group : 256;
  PlannedWeight out{PackedMatrix(matrix, executor, dot_group_limit), {}};
  const kernels::Slot slot = gemm_slot(*target.table, kind, weight_info.layout).slot;
  for (const kernels::GemmChoice& choice :
       kernels::choose_gemm(target, slot, out.matrix.panels().group)) {
    const kernels::KernelTable& table = *choice.selected.table;
    const kernels::PackedPanels panels = out.matrix.panels_for(table);
    out.gemms.push_back(
        {choice.from_rows, kernel_name(choice.selected, slot), choice.selected.why,
         gemm_slot(table, kind, weight_info.layout).function, panels,
         ActivationPacker(table, panels, kind, matrix.cols,
                          options.path == Path::a4 ? options.activations : std::nullopt,
                          options.scale_per_row ? 0 : panels.group)});
  }
  return out;
}

std::string LinearPlan::explain(const PlannedWeight& weight) const {
  const kernels::PackedPanels& panels = weight.matrix.panels();
  std::string out;
  for (const PlannedGemm& gemm : weight.gemms) {
    out += fmt::format("kernel    {}", gemm.kernel);
    out += weight.gemms.size() == 1 ? "\n"
                                    : fmt::format(" from {} row{} on ({})\n", gemm.from_rows,
                                                  gemm.from_rows == 1 ? "" : "s", gemm.why);
  }
  out += fmt::format("target    {} ({})\n", target.target, target.why);
  out += fmt::format("why       {}\n", reason);
  out += fmt::format(
      "weights   {} {} x {}, {} per dot group, scales {}{}\n", weight_info.spec,
      weight.matrix.rows(), weight.matrix.cols(), panels.group, scale_type_name(panels.scale_type),
      weight.gemms.front().packer.has_scales() && !integer_levels(weight_info.levels).exact
          ? ", levels rounded to integers (at most peak / 254 each)"
          : "");
  if (options.path == Path::a4) {
    out += fmt::format("inputs    {}\n", options.activations->info().spec);
  }
  return out;
}

}  // namespace nybble
