#include "nybble/linear/linear.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "nybble/error.h"
#include "src/concurrency.h"
#include "src/linear/group_offsets.h"
#include "src/linear/plan.h"
#include "src/owned.h"
#include "src/tensor/aligned_buffer.h"
#include "src/tensor/carver.h"
#include "src/tensor/saturating.h"
#include "src/tensor/separate.h"
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

struct QuantizedLinear::Plan {
  LinearPlan chosen;
  PlannedWeight weight;
  GroupOffsets offsets;
  Transforms transforms;

  [[nodiscard]] std::size_t panel_count() const {
    return (weight.matrix.rows() + kernels::kPanelRows - 1) / kernels::kPanelRows;
  }
  /// Where things lie in a workspace, for m rows. What tasks need of their own, first those of
  /// rows, then those of panels, begins at `scratch`.
  struct Layout {
    std::size_t group_sums, scratch, row_stride, panel_stride;

    [[nodiscard]] std::size_t bytes(std::size_t row_tasks, std::size_t panel_tasks) const {
      return saturating_add(scratch, std::max(saturating_multiply(row_tasks, row_stride),
                                              saturating_multiply(panel_tasks, panel_stride)));
    }
  };
  [[nodiscard]] Layout layout(std::size_t m) const {
    const PlannedGemm& gemm = weight.for_rows(m);
    Layout out{};
    Carver carver(nullptr);
    carver.take<std::byte>(gemm.packer.packed_bytes(m));
    out.group_sums = carver.used();
    carver.take<float>(m, offsets.groups());
    out.scratch = carver.used();
    out.row_stride = round_to_cache_line(weight.matrix.cols() * 4) +
                     round_to_cache_line(gemm.packer.scratch_bytes()) +
                     round_to_cache_line(transforms.low_rank.rank * 4);
    out.panel_stride = gemm.scratch_bytes(m);
    return out;
  }
};

QuantizedLinear::QuantizedLinear(const QuantizedMatrix& weight, const LinearOptions& options,
                                 Executor& executor, Transforms transforms) {
  weight.check();
  transforms.check(weight.rows, weight.cols);
  LinearPlan chosen(weight.format, options);
  PlannedWeight planned = chosen.pack(weight, executor);
  plan_ = std::make_unique<Plan>(
      Plan{std::move(chosen), std::move(planned), GroupOffsets(weight), std::move(transforms)});
}

QuantizedLinear::~QuantizedLinear() = default;
QuantizedLinear::QuantizedLinear(QuantizedLinear&&) noexcept = default;
QuantizedLinear& QuantizedLinear::operator=(QuantizedLinear&&) noexcept = default;

std::size_t QuantizedLinear::rows() const noexcept {
  return plan_ ? plan_->weight.matrix.rows() : 0;
}
std::size_t QuantizedLinear::cols() const noexcept {
  return plan_ ? plan_->weight.matrix.cols() : 0;
}
std::size_t QuantizedLinear::packed_bytes() const noexcept {
  return plan_ ? plan_->weight.matrix.bytes() + plan_->offsets.bytes() : 0;
}

std::size_t QuantizedLinear::workspace_bytes(std::size_t m,
                                             std::size_t concurrency) const noexcept {
  if (!plan_ || m == 0) return 0;
  const std::size_t tasks = sane_concurrency(concurrency);
  const std::size_t panel_tasks = std::min(plan_->panel_count(), tasks);
  std::size_t most = 0;
  plan_->weight.for_each_kernel(m, [&](std::size_t rows) {
    most = std::max(most, plan_->layout(rows).bytes(std::min(rows, tasks), panel_tasks));
  });
  return most;
}

void QuantizedLinear::run(MatrixView x, MutableMatrixView y, Workspace& workspace,
                          Executor& executor) const {
  owned(plan_, "linear");
  check_rows(x, "x");
  check_rows(y, "y");
  if (x.cols != cols() || y.cols != rows() || x.rows != y.rows) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("linear: x is {} x {} and y {} x {}, expected M x {} and M x {}",
                            x.rows, x.cols, y.rows, y.cols, cols(), rows()));
  }
  workspace.reserve(workspace_bytes(x.rows, concurrency_of(executor)));
  check_separate(x, y, "linear: x and y");
  compute(x, y, workspace, executor);
}

void QuantizedLinear::run_unchecked(MatrixView x, MutableMatrixView y, Workspace& workspace,
                                    Executor& executor) const noexcept {
  compute(x, y, workspace, executor);
}

void QuantizedLinear::compute(MatrixView x, MutableMatrixView y, Workspace& workspace,
                              Executor& executor) const {
  if (!plan_ || x.rows == 0) return;
  const Plan& plan = *plan_;
  const Transforms& transforms = plan.transforms;
  const std::size_t m = x.rows;
  const PlannedGemm& gemm = plan.weight.for_rows(m);
  const ActivationPacker& packer = gemm.packer;
  // Asked once: an engine's pool may grow between here and when the workspace was sized.
  const std::size_t concurrency = concurrency_of(executor);
  const Plan::Layout at = plan.layout(m);
  const std::size_t room = workspace.size() - at.scratch;
  const std::size_t row_tasks = std::min({m, concurrency, room / at.row_stride});
  std::byte* memory = workspace.data();
  const PackedActivations packed = packer.place(memory, m);
  auto* const group_sums = reinterpret_cast<float*>(memory + at.group_sums);

  executor.parallel_for(row_tasks, [&](std::size_t task) {
    std::byte* scratch = memory + at.scratch + task * at.row_stride;
    auto* transformed = reinterpret_cast<float*>(scratch);
    for (std::size_t row = m * task / row_tasks; row < m * (task + 1) / row_tasks; ++row) {
      const float* from = x.row(row);
      if (transforms.changes_input()) {
        apply_input(transforms, from, x.cols, transformed);
        from = transformed;
      }
      packer.pack(from, row, m, scratch + round_to_cache_line(x.cols * 4), packed);
      plan.offsets.sum_groups({from, x.cols}, group_sums + row * plan.offsets.groups());
    }
  });

  // A contiguous run of panels each: at M = 1 every task reads one sequential stream.
  const kernels::GemmArgs product = packer.gemm_args(gemm.panels, m, packed, y.data, y.stride);
  const std::size_t panel_count = product.panel_end;
  const std::size_t tasks = std::min({panel_count, concurrency, room / at.panel_stride});
  executor.parallel_for(tasks, [&](std::size_t task) {
    kernels::GemmArgs args = product;
    args.scratch = memory + at.scratch + task * at.panel_stride;
    args.panel_begin = panel_count * task / tasks;
    args.panel_end = panel_count * (task + 1) / tasks;
    gemm.function(args);
    plan.offsets.add(group_sums, args.panel_begin * kernels::kPanelRows,
                     args.panel_end * kernels::kPanelRows, y);
  });

  if (!transforms.has_side_branch()) return;
  executor.parallel_for(row_tasks, [&](std::size_t task) {
    std::byte* scratch = memory + at.scratch + task * at.row_stride;
    for (std::size_t row = m * task / row_tasks; row < m * (task + 1) / row_tasks; ++row) {
      add_side_branches(transforms, x.row(row), y.cols, x.cols, reinterpret_cast<float*>(scratch),
                        y.row(row));
    }
  });
}

std::string QuantizedLinear::kernel(std::size_t m) const {
  return owned(plan_, "linear").weight.for_rows(m).kernel;
}
std::string QuantizedLinear::explain() const {
  return owned(plan_, "linear").chosen.explain(plan_->weight);
}

}  // namespace nybble
