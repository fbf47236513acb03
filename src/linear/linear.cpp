#include "nybble/linear/linear.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <functional>

#include "kernels/registry.h"
#include "nybble/error.h"
#include "nybble/kernels.h"
#include "nybble/tensor/packed_matrix.h"
#include "src/linear/activations.h"
#include "src/tensor/aligned_buffer.h"
#include "src/tensor/integer_levels.h"
#include "src/transform/apply.h"

namespace nybble {

Path parse_path(std::string_view name) {
  for (const Path path : {Path::a8, Path::a16, Path::a32, Path::a4}) {
    if (name == path_name(path)) return path;
  }
  throw Error(ErrorCode::bad_option,
              fmt::format("unknown path '{}', expected a8, a16, a32 or a4", name));
}

const char* path_name(Path path) {
  switch (path) {
    case Path::a8:
      return "a8";
    case Path::a16:
      return "a16";
    case Path::a32:
      return "a32";
    case Path::a4:
      return "a4";
  }
  return "?";
}

struct Workspace::Buffer {
  AlignedBuffer memory;
};
Workspace::Workspace() = default;
Workspace::~Workspace() = default;
Workspace::Workspace(Workspace&&) noexcept = default;
Workspace& Workspace::operator=(Workspace&&) noexcept = default;
void Workspace::reserve(std::size_t bytes) {
  if (bytes > size()) buffer_ = std::make_unique<Buffer>(Buffer{AlignedBuffer(bytes)});
}
std::size_t Workspace::size() const noexcept { return buffer_ ? buffer_->memory.size() : 0; }
std::byte* Workspace::data() noexcept {
  return buffer_ ? reinterpret_cast<std::byte*>(buffer_->memory.data()) : nullptr;
}

namespace {

/// Significant bits of a format's products level x scale at most; bf16 holds 8.
int product_bits(const FormatInfo& info) {
  const auto significant = [](float x) {
    const std::uint32_t mantissa = (std::bit_cast<std::uint32_t>(x) & 0x7FFFFFU) | 0x800000U;
    return x == 0 ? 0 : 24 - std::countr_zero(mantissa);
  };
  int level_bits = 0;
  for (const float level : info.levels) level_bits = std::max(level_bits, significant(level));
  switch (info.double_quantized ? ScaleType::f32 : info.scale_type) {
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

}  // namespace

struct QuantizedLinear::Plan {
  LinearOptions options;
  FormatInfo weight_info;
  kernels::Selected target;
  std::string slot;
  std::string reason;
  ActivationKind kind = ActivationKind::int8;  // after reason, which choosing it sets
  PackedMatrix weight;
  ActivationPacker packer;
  kernels::gemm_a32_fn gemm = nullptr;
  Transforms transforms;

  Plan(const QuantizedMatrix& matrix, const LinearOptions& linear_options, Executor& executor)
      : options(linear_options),
        weight_info(matrix.format.info()),
        target(kernels::select(options.target)),
        kind(choose_kind(matrix)),
        weight(matrix, executor, dot_group_limit()) {
    weight.set_dot_limit(target.table->dot_limit);
    const bool integers = kind == ActivationKind::int8 || kind == ActivationKind::format_integers;
    const bool bf16 = kind == ActivationKind::bf16 || kind == ActivationKind::format_bf16;
    if (integers) {
      switch (weight_info.layout) {
        case ScaleLayout::symmetric:
          slot = "gemm_a8_symmetric";
          gemm = target.table->gemm_a8_symmetric;
          break;
        case ScaleLayout::zero_point:
          slot = "gemm_a8_zero_point";
          gemm = target.table->gemm_a8_zero_point;
          break;
        case ScaleLayout::sign_split:
          slot = "gemm_a8_sign_split";
          gemm = target.table->gemm_a8_sign_split;
          break;
      }
    } else {
      slot = bf16 ? "gemm_a16" : "gemm_a32";
      gemm = bf16 ? target.table->gemm_a16 : target.table->gemm_a32;
    }
    const std::size_t scale_group = options.scale_per_row ? 0 : weight.panels().group;
    packer = ActivationPacker(*target.table, weight.panels(), kind, matrix.cols,
                              options.path == Path::a4 ? options.activations : std::nullopt,
                              scale_group);
  }

  ActivationKind choose_kind(const QuantizedMatrix& matrix) {
    switch (options.path) {
      case Path::a8:
        reason = "path a8: int8 activations, integer dots";
        return ActivationKind::int8;
      case Path::a16:
        reason = "path a16: bf16 activations";
        return ActivationKind::bf16;
      case Path::a32:
        reason = "path a32: f32 activations";
        return ActivationKind::f32;
      case Path::a4:
        break;
    }
    if (!options.activations) options.activations = matrix.format;
    const FormatInfo& x = options.activations->info();
    if (x.double_quantized) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("activations '{}': double quantization is for weights", x.spec));
    }
    const bool integers = weight_info.layout != ScaleLayout::sign_split &&
                          x.layout != ScaleLayout::sign_split &&
                          integer_levels(weight_info.levels).exact &&
                          integer_levels(x.levels).exact && (x.group == 0 || x.group % 16 == 0);
    if (integers) {
      reason = "path a4: both codebooks are integers times a step, so the integer dot is exact";
      return ActivationKind::format_integers;
    }
    if (exact_in_bf16(weight_info) && exact_in_bf16(x) && !x.tensor_scale) {
      reason =
          "path a4: weights and activations are exact in bf16; the only error of its dot is "
          "f32 accumulation (where the CPU has one, it takes denormals as zero)";
      return ActivationKind::format_bf16;
    }
    reason = "path a4: not all products are exact in int8 or bf16, so f32";
    return ActivationKind::format_f32;
  }

  /// Dot groups may not span two activation scales.
  [[nodiscard]] std::size_t dot_group_limit() const {
    const bool own_scales =
        kind == ActivationKind::format_integers && options.activations->info().group != 0;
    return own_scales ? options.activations->info().group : 256;
  }

  /// Where things lie in a workspace, for m rows and `tasks` parallel tasks.
  struct Layout {
    std::size_t scratch, scratch_stride, total;
  };
  [[nodiscard]] Layout layout(std::size_t m, std::size_t tasks) const {
    Layout out{};
    out.scratch = packer.packed_bytes(m);
    out.scratch_stride = round_to_cache_line(weight.cols() * 4) +
                         round_to_cache_line(packer.scratch_bytes()) +
                         round_to_cache_line(transforms.low_rank.rank * 4);
    out.total = out.scratch + tasks * out.scratch_stride;
    return out;
  }
};

QuantizedLinear::QuantizedLinear(const QuantizedMatrix& weight, const LinearOptions& options,
                                 Executor& executor, Transforms transforms) {
  weight.check();
  transforms.check(weight.rows, weight.cols);
  if (options.activations && options.path != Path::a4) {
    throw Error(ErrorCode::bad_option,
                fmt::format("activations '{}' go with path a4, not {}",
                            options.activations->info().spec, path_name(options.path)));
  }
  if (options.scale_per_row && options.path != Path::a8) {
    throw Error(ErrorCode::bad_option,
                fmt::format("scale_per_row goes with path a8, not {}", path_name(options.path)));
  }
  plan_ = std::make_unique<Plan>(weight, options, executor);
  plan_->transforms = std::move(transforms);
}

QuantizedLinear::~QuantizedLinear() = default;
QuantizedLinear::QuantizedLinear(QuantizedLinear&&) noexcept = default;
QuantizedLinear& QuantizedLinear::operator=(QuantizedLinear&&) noexcept = default;

std::size_t QuantizedLinear::rows() const noexcept { return plan_->weight.rows(); }
std::size_t QuantizedLinear::cols() const noexcept { return plan_->weight.cols(); }
std::size_t QuantizedLinear::packed_bytes() const noexcept { return plan_->weight.bytes(); }

std::size_t QuantizedLinear::workspace_bytes(std::size_t m,
                                             std::size_t concurrency) const noexcept {
  return plan_->layout(m, std::min(m, concurrency)).total;
}

void QuantizedLinear::run(MatrixView x, MutableMatrixView y, Workspace& workspace,
                          Executor& executor) const {
  check_view(x, "x");
  check_view(MatrixView(y), "y");
  if (x.cols != cols() || y.cols != rows() || x.rows != y.rows) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("linear: x is {} x {} and y {} x {}, expected M x {} and M x {}",
                            x.rows, x.cols, y.rows, y.cols, cols(), rows()));
  }
  const std::less<const float*> before;
  const float* x_end = x.row(x.rows - 1) + x.cols;
  const float* y_end = y.row(y.rows - 1) + y.cols;
  if (before(x.data, y_end) && before(y.data, x_end)) {
    throw Error(ErrorCode::bad_shape, "linear: x and y overlap in memory, expected two buffers");
  }
  workspace.reserve(workspace_bytes(x.rows, executor.concurrency()));
  run_unchecked(x, y, workspace, executor);
}

void QuantizedLinear::run_unchecked(MatrixView x, MutableMatrixView y, Workspace& workspace,
                                    Executor& executor) const noexcept {
  const Plan& plan = *plan_;
  const Transforms& transforms = plan.transforms;
  const std::size_t m = x.rows;
  // Asked once: an engine's pool may grow between here and when the workspace was sized.
  const std::size_t concurrency = executor.concurrency();
  const Plan::Layout at = plan.layout(m, 0);
  const std::size_t room = (workspace.size() - at.scratch) / at.scratch_stride;
  const std::size_t row_tasks = std::min({m, concurrency, room});
  std::byte* memory = workspace.data();
  const PackedActivations packed = plan.packer.place(memory, m);

  executor.parallel_for(row_tasks, [&](std::size_t task) {
    std::byte* scratch = memory + at.scratch + task * at.scratch_stride;
    auto* transformed = reinterpret_cast<float*>(scratch);
    for (std::size_t row = m * task / row_tasks; row < m * (task + 1) / row_tasks; ++row) {
      const float* from = x.row(row);
      if (transforms.changes_input()) {
        apply_input(transforms, from, x.cols, transformed);
        from = transformed;
      }
      plan.packer.pack(from, row, m, scratch + round_to_cache_line(x.cols * 4), packed);
    }
  });

  // A contiguous run of panels each: at M = 1 every task reads one sequential stream.
  const kernels::PackedPanels& panels = plan.weight.panels();
  const std::size_t panel_count = (panels.rows + kernels::kPanelRows - 1) / kernels::kPanelRows;
  const std::size_t tasks = std::min(panel_count, concurrency);
  executor.parallel_for(tasks, [&](std::size_t task) {
    plan.gemm({&panels, panel_count * task / tasks, panel_count * (task + 1) / tasks, m, packed.x,
               plan.packer.dwords(), packed.x_start, packed.x_magic, packed.x_bias,
               packed.x_scales, packed.row_scales, y.data, y.stride});
  });

  if (!transforms.has_side_branch()) return;
  executor.parallel_for(row_tasks, [&](std::size_t task) {
    std::byte* scratch = memory + at.scratch + task * at.scratch_stride;
    for (std::size_t row = m * task / row_tasks; row < m * (task + 1) / row_tasks; ++row) {
      add_side_branches(transforms, x.row(row), y.cols, x.cols, reinterpret_cast<float*>(scratch),
                        y.row(row));
    }
  });
}

std::string QuantizedLinear::kernel() const {
  return fmt::format("{}_{}", plan_->slot, kernels::provider(plan_->target.target, plan_->slot));
}

std::string QuantizedLinear::explain() const {
  const Plan& plan = *plan_;
  const kernels::PackedPanels& panels = plan.weight.panels();
  std::string out = fmt::format("kernel    {}\n", kernel());
  out += fmt::format("target    {} ({})\n", plan.target.target, plan.target.why);
  out += fmt::format("why       {}\n", plan.reason);
  out += fmt::format("weights   {} {} x {}, {} per dot group, scales {}{}\n", plan.weight_info.spec,
                     rows(), cols(), panels.group, scale_type_name(panels.scale_type),
                     plan.packer.has_scales() && !integer_levels(plan.weight_info.levels).exact
                         ? ", levels rounded to integers (at most peak / 254 each)"
                         : "");
  if (plan.options.path == Path::a4) {
    out += fmt::format("inputs    {}\n", plan.options.activations->info().spec);
  }
  return out;
}

}  // namespace nybble
