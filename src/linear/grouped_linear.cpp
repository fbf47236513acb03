#include "nybble/linear/grouped_linear.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "nybble/error.h"
#include "src/concurrency.h"
#include "src/linear/plan.h"
#include "src/owned.h"
#include "src/tensor/aligned_buffer.h"
#include "src/tensor/carver.h"
#include "src/tensor/saturating.h"
#include "src/tensor/separate.h"

namespace nybble {

using kernels::kPanelRows;

namespace {

/// Reading a panel's weights from memory takes as long as computing with them for about this many
/// rows.
constexpr std::size_t kReadingRows = 4;

/// Tasks per thread: slices of equal work still take unequal time when a thread loses its CPU.
constexpr std::size_t kTasksPerThread = 4;

/// The rows of routes sorted by expert, in workspace memory: expert e has order[starts[e]] ...
/// order[starts[e + 1] - 1], ascending; kNoExpert counts as expert E.
struct SortedRoutes {
  std::span<std::uint32_t> starts;  ///< E + 3 while sorting, then E + 2 in use
  std::span<std::uint32_t> order;   ///< R

  [[nodiscard]] std::size_t count(std::size_t e) const { return starts[e + 1] - starts[e]; }

  void sort(std::span<const std::uint32_t> expert_of) const {
    const std::size_t none = starts.size() - 3;
    const auto bucket = [&](std::uint32_t expert) { return expert == kNoExpert ? none : expert; };
    std::fill(starts.begin(), starts.end(), 0U);
    for (const std::uint32_t expert : expert_of) ++starts[bucket(expert) + 2];
    for (std::size_t e = 1; e < starts.size(); ++e) starts[e] += starts[e - 1];
    // starts[e + 1] is now where e begins, and where it ends once all its routes are placed.
    for (std::size_t r = 0; r < expert_of.size(); ++r) {
      order[starts[bucket(expert_of[r]) + 1]++] = static_cast<std::uint32_t>(r);
    }
  }
};

/// All panels of all experts that have routes, in a line measured in work, for cutting it into
/// slices of equal work.
struct WorkLine {
  std::span<std::size_t> begins;  ///< E + 1
  std::size_t panels;             ///< per expert

  struct Place {
    std::size_t expert, panel;
  };
  static std::size_t of_panel(std::size_t rows) { return rows == 0 ? 0 : rows + kReadingRows; }

  void measure(const SortedRoutes& routes) const {
    begins[0] = 0;
    for (std::size_t e = 0; e + 1 < begins.size(); ++e) {
      begins[e + 1] = begins[e] + panels * of_panel(routes.count(e));
    }
  }
  [[nodiscard]] std::size_t total() const { return begins.back(); }
  [[nodiscard]] Place at(std::size_t work) const {
    const auto after = std::upper_bound(begins.begin(), begins.end(), work);
    const auto e = static_cast<std::size_t>(after - begins.begin()) - 1;
    if (e + 1 == begins.size()) return {e, 0};
    return {e, (work - begins[e]) * panels / (begins[e + 1] - begins[e])};
  }
};

/// Packed activations from row `first` on: tiles lie one after the other, whatever their size.
PackedActivations rows_from(PackedActivations x, std::size_t first, std::size_t dwords,
                            std::size_t groups) {
  x.x += first * dwords;
  if (x.x_start != nullptr) x.x_start += first * groups;
  if (x.x_magic != nullptr) x.x_magic += first * groups;
  if (x.x_bias != nullptr) x.x_bias += first * groups;
  if (x.x_scales != nullptr) x.x_scales += first * groups;
  if (x.row_scales != nullptr) x.row_scales += first;
  return x;
}

}  // namespace

struct GroupedLinear::Plan {
  LinearPlan chosen;
  std::vector<PlannedWeight> experts;
  std::vector<float> bias;  ///< E x N, or empty

  [[nodiscard]] const PackedMatrix& first() const { return experts.front().matrix; }
  [[nodiscard]] std::size_t rows() const { return first().rows(); }
  [[nodiscard]] std::size_t panels() const { return (rows() + kPanelRows - 1) / kPanelRows; }

  static std::size_t panel_tasks(std::size_t concurrency) {
    return concurrency == 1 ? 1 : concurrency * kTasksPerThread;
  }
  /// Where things lie in a workspace, for R routes and `tasks` parallel tasks.
  struct Layout {
    std::size_t order, work, packed, scratch, row_stride, panel_stride, results, total;
  };
  [[nodiscard]] Layout layout(std::size_t routes, std::size_t tasks) const;
  void check(MatrixView x, std::span<const std::uint32_t> expert_of, MatrixView y) const;
  void run(MatrixView x, std::span<const std::uint32_t> expert_of, MutableMatrixView y,
           std::byte* memory, Executor& executor, std::size_t concurrency) const;
  void multiply(std::size_t expert, std::size_t panel_begin, std::size_t panel_end,
                std::span<const std::uint32_t> y_rows, const PackedActivations& x,
                MutableMatrixView y, std::byte* scratch) const noexcept;
};

GroupedLinear::Plan::Layout GroupedLinear::Plan::layout(std::size_t routes,
                                                        std::size_t tasks) const {
  const ActivationPacker& packer = experts.front().largest_packer();  // for all experts
  Layout out{};
  Carver carver(nullptr);
  const auto behind = [&](auto type, std::size_t rows, std::size_t cols) {
    carver.take<decltype(type)>(rows, cols);
    return carver.used();
  };
  out.order = behind(std::uint32_t{}, experts.size() + 3, 1);
  out.work = behind(std::uint32_t{}, routes, 1);
  out.packed = behind(std::size_t{}, experts.size() + 1, 1);
  out.scratch = behind(std::byte{}, packer.packed_bytes(routes), 1);
  out.row_stride = round_to_cache_line(packer.scratch_bytes());
  for (const PlannedGemm& gemm : experts.front().gemms) {
    out.panel_stride = std::max(out.panel_stride, gemm.scratch_bytes(routes));
  }
  // Tasks of rows and tasks of panels, one kind after the other.
  out.results = behind(std::byte{},
                       std::max(saturating_multiply(std::min(routes, tasks), out.row_stride),
                                saturating_multiply(panel_tasks(tasks), out.panel_stride)),
                       1);
  out.total = behind(float{}, routes, this->rows());
  return out;
}

void GroupedLinear::Plan::check(MatrixView x, std::span<const std::uint32_t> expert_of,
                                MatrixView y) const {
  check_rows(x, "x");
  check_rows(y, "y");
  const std::size_t routes = expert_of.size();
  // No rows go with no routes, and with nothing else.
  const auto divides = [&](std::size_t count) {
    return count == 0 || routes == 0 ? count == routes : routes % count == 0;
  };
  if (x.cols != first().cols() || y.cols != rows() || routes > kNoExpert || !divides(x.rows) ||
      !divides(y.rows)) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("grouped linear: x is {} x {}, y {} x {} with {} routes, expected "
                            "{} and {} columns and rows that divide the routes",
                            x.rows, x.cols, y.rows, y.cols, routes, first().cols(), rows()));
  }
  for (std::size_t r = 0; r < routes; ++r) {
    if (expert_of[r] < experts.size() || expert_of[r] == kNoExpert) continue;
    throw Error(ErrorCode::bad_shape,
                fmt::format("grouped linear: expert {} of route {}, expected less than {}",
                            expert_of[r], r, experts.size()));
  }
  check_separate(x, y, "grouped linear: x and y");
}

void GroupedLinear::Plan::run(MatrixView x, std::span<const std::uint32_t> expert_of,
                              MutableMatrixView y, std::byte* memory, Executor& executor,
                              std::size_t concurrency) const {
  const std::size_t route_count = expert_of.size();
  const std::size_t row_tasks = std::min(route_count, concurrency);
  const Layout at = layout(route_count, concurrency);
  const SortedRoutes routes{{reinterpret_cast<std::uint32_t*>(memory), experts.size() + 3},
                            {reinterpret_cast<std::uint32_t*>(memory + at.order), route_count}};
  routes.sort(expert_of);
  const ActivationPacker& largest = experts.front().largest_packer();
  const PackedActivations packed = largest.place(memory + at.packed, route_count);
  const std::size_t dwords = largest.dwords();
  const std::size_t groups = first().panels().groups;
  const auto packed_of = [&](std::size_t expert) {
    return rows_from(packed, routes.starts[expert], dwords, groups);
  };

  const std::size_t shared = route_count / x.rows;
  executor.parallel_for(row_tasks, [&](std::size_t task) {
    std::byte* scratch = memory + at.scratch + task * at.row_stride;
    std::size_t expert = 0;
    for (std::size_t i = route_count * task / row_tasks; i < route_count * (task + 1) / row_tasks;
         ++i) {
      while (routes.starts[expert + 1] <= i) ++expert;
      const std::size_t route = routes.order[i];
      if (expert == experts.size()) {
        std::fill_n(y.row(route), y.cols, 0.0F);
        continue;
      }
      const std::size_t count = routes.count(expert);
      experts[expert].for_rows(count).packer.pack(x.row(route / shared), i - routes.starts[expert],
                                                  count, scratch, packed_of(expert));
    }
  });

  const WorkLine line{{reinterpret_cast<std::size_t*>(memory + at.work), experts.size() + 1},
                      panels()};
  line.measure(routes);
  const std::size_t tasks = panel_tasks(concurrency);
  executor.parallel_for(tasks, [&](std::size_t task) {
    const WorkLine::Place begin = line.at(line.total() * task / tasks);
    const WorkLine::Place end = line.at(line.total() * (task + 1) / tasks);
    for (std::size_t e = begin.expert; e <= end.expert && e < experts.size(); ++e) {
      const std::size_t panel_begin = e == begin.expert ? begin.panel : 0;
      const std::size_t panel_end = e == end.expert ? end.panel : line.panels;
      if (routes.count(e) == 0 || panel_begin == panel_end) continue;
      multiply(e, panel_begin, panel_end, routes.order.subspan(routes.starts[e], routes.count(e)),
               packed_of(e), y, memory + at.scratch + task * at.panel_stride);
    }
  });
}

void GroupedLinear::Plan::multiply(std::size_t expert, std::size_t panel_begin,
                                   std::size_t panel_end, std::span<const std::uint32_t> y_rows,
                                   const PackedActivations& x, MutableMatrixView y,
                                   std::byte* scratch) const noexcept {
  const PlannedGemm& gemm = experts[expert].for_rows(y_rows.size());
  kernels::GemmArgs args = gemm.packer.gemm_args(gemm.panels, y_rows.size(), x, y.data, y.stride);
  args.panel_begin = panel_begin;
  args.panel_end = panel_end;
  args.y_rows = y_rows.data();
  args.scratch = scratch;
  gemm.function(args);
  if (bias.empty()) return;
  const float* add = bias.data() + expert * y.cols;
  for (const std::uint32_t row : y_rows) {
    float* to = y.row(row);
    const std::size_t end = std::min(y.cols, panel_end * kPanelRows);
    for (std::size_t n = panel_begin * kPanelRows; n < end; ++n) to[n] += add[n];
  }
}

GroupedLinear::GroupedLinear(std::span<const QuantizedMatrix> experts, const LinearOptions& options,
                             Executor& executor, MatrixView bias) {
  if (experts.empty()) {
    throw Error(ErrorCode::bad_shape, "grouped linear: no experts, expected at least one");
  }
  const QuantizedMatrix& first = experts.front();
  first.check();
  if (first.format.info().offsets) {
    throw Error(ErrorCode::unsupported,
                fmt::format("grouped linear: format '{}' has offsets, which QuantizedLinear alone "
                            "adds",
                            first.format.info().spec));
  }
  if (bias.data != nullptr || bias.rows != 0) {
    check_view(bias, "bias");
    if (bias.rows != experts.size() || bias.cols != first.rows) {
      throw Error(ErrorCode::bad_shape,
                  fmt::format("grouped linear: bias is {} x {}, expected {} x {}", bias.rows,
                              bias.cols, experts.size(), first.rows));
    }
  }
  plan_ = std::make_unique<Plan>(Plan{LinearPlan(first.format, options), {}, {}});
  const std::string& spec = first.format.info().spec;
  for (std::size_t e = 0; e < experts.size(); ++e) {
    const QuantizedMatrix& expert = experts[e];
    if (expert.format.info().spec != spec) {
      throw Error(ErrorCode::bad_option,
                  fmt::format("grouped linear: expert {} is '{}', expected '{}' as expert 0", e,
                              expert.format.info().spec, spec));
    }
    if (expert.rows != first.rows || expert.cols != first.cols) {
      throw Error(ErrorCode::bad_shape,
                  fmt::format("grouped linear: expert {} is {} x {}, expected {} x {} as expert 0",
                              e, expert.rows, expert.cols, first.rows, first.cols));
    }
    plan_->experts.push_back(plan_->chosen.pack(expert, executor));
  }
  for (std::size_t e = 0; e < bias.rows; ++e) {
    plan_->bias.insert(plan_->bias.end(), bias.row(e), bias.row(e) + bias.cols);
  }
}

GroupedLinear::~GroupedLinear() = default;
GroupedLinear::GroupedLinear(GroupedLinear&&) noexcept = default;
GroupedLinear& GroupedLinear::operator=(GroupedLinear&&) noexcept = default;

std::size_t GroupedLinear::experts() const noexcept { return plan_ ? plan_->experts.size() : 0; }
std::size_t GroupedLinear::rows() const noexcept { return plan_ ? plan_->rows() : 0; }
std::size_t GroupedLinear::cols() const noexcept { return plan_ ? plan_->first().cols() : 0; }

std::size_t GroupedLinear::packed_bytes() const noexcept {
  std::size_t out = 0;
  if (!plan_) return out;
  for (const PlannedWeight& expert : plan_->experts) out += expert.matrix.bytes();
  return out;
}

std::size_t GroupedLinear::workspace_bytes(std::size_t routes,
                                           std::size_t concurrency) const noexcept {
  if (!plan_ || routes == 0) return 0;
  return plan_->layout(routes, sane_concurrency(concurrency)).results;
}

std::size_t GroupedLinear::summed_workspace_bytes(std::size_t routes,
                                                  std::size_t concurrency) const noexcept {
  if (!plan_ || routes == 0) return 0;
  return plan_->layout(routes, sane_concurrency(concurrency)).total;
}

void GroupedLinear::run(MatrixView x, std::span<const std::uint32_t> expert_of, MutableMatrixView y,
                        Workspace& workspace, Executor& executor) const {
  owned(plan_, "grouped linear").check(x, expert_of, y);
  if (y.rows != expert_of.size()) {
    throw Error(ErrorCode::bad_shape, fmt::format("grouped linear: y has {} rows, expected {} (one "
                                                  "a route)",
                                                  y.rows, expert_of.size()));
  }
  if (expert_of.empty()) return;
  // Asked once: an engine's pool may grow between here and when the tasks begin.
  const std::size_t concurrency = concurrency_of(executor);
  workspace.reserve(workspace_bytes(expert_of.size(), concurrency));
  plan_->run(x, expert_of, y, workspace.data(), executor, concurrency);
}

void GroupedLinear::run_summed(MatrixView x, std::span<const std::uint32_t> expert_of,
                               std::span<const float> weight_of, MutableMatrixView y,
                               Workspace& workspace, Executor& executor) const {
  owned(plan_, "grouped linear").check(x, expert_of, y);
  const std::size_t routes = expert_of.size();
  if (weight_of.size() != routes) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("grouped linear: {} weights for {} routes", weight_of.size(), routes));
  }
  if (routes == 0) return;
  const std::size_t concurrency = concurrency_of(executor);
  workspace.reserve(summed_workspace_bytes(routes, concurrency));
  std::byte* memory = workspace.data();
  auto* results = reinterpret_cast<float*>(memory + plan_->layout(routes, concurrency).results);
  const MutableMatrixView terms(results, routes, rows());
  plan_->run(x, expert_of, terms, memory, executor, concurrency);

  const std::size_t each = routes / y.rows;
  const std::size_t tasks = std::min(y.rows, concurrency);
  executor.parallel_for(tasks, [&](std::size_t task) {
    for (std::size_t m = y.rows * task / tasks; m < y.rows * (task + 1) / tasks; ++m) {
      float* to = y.row(m);
      std::fill_n(to, y.cols, 0.0F);
      for (std::size_t r = m * each; r < (m + 1) * each; ++r) {
        if (expert_of[r] == kNoExpert) continue;
        const float* term = terms.row(r);
        const float weight = weight_of[r];
        for (std::size_t n = 0; n < y.cols; ++n) to[n] += weight * term[n];
      }
    }
  });
}

std::string GroupedLinear::kernel(std::size_t m) const {
  return owned(plan_, "grouped linear").experts.front().for_rows(m).kernel;
}
std::string GroupedLinear::explain() const {
  const Plan& plan = owned(plan_, "grouped linear");
  return plan.chosen.explain(plan.experts.front()) + fmt::format("experts   {}\n", experts());
}

}  // namespace nybble
