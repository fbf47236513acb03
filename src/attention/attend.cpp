#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "nybble/error.h"
#include "src/attention/kv_data.h"
#include "src/concurrency.h"
#include "src/linear/gemm_scratch.h"
#include "src/linear/plan.h"
#include "src/owned.h"
#include "src/tensor/carver.h"
#include "src/tensor/integer_levels.h"
#include "src/tensor/separate.h"

namespace nybble {

using kernels::kChunk;
using kernels::kPanelRows;
using kernels::PackedPanels;

namespace {

/// One scale of 1 for all values of a panel: what values take whose own scales belong to tokens.
alignas(64) constexpr float kOnes[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/// Rows of queries (positions times heads that share a kv head) that run together.
constexpr std::size_t kRowBlock = 48;
}  // namespace

std::size_t KvCache::Data::product_bytes(const PackedPanels& panels, std::size_t cols,
                                         std::size_t rows) const {
  const ActivationPacker packer(*target.table, panels, kind, cols, std::nullopt, panels.group);
  // Packing is done when the product begins: they share the rest.
  return packer.packed_bytes(rows) +
         std::max(round_to_cache_line(packer.scratch_bytes()),
                  gemm_scratch_bytes(gemm_slot(*target.table, kind, panels.layout).function, panels,
                                     packer.has_group_scales(), rows));
}

/// y = x w' for panels of w.
template <class Row>
void KvCache::Data::product(const PackedPanels& panels, std::size_t panel_begin,
                            std::size_t panel_end, std::size_t cols, std::size_t rows, const Row& x,
                            float* y, std::size_t y_stride, std::byte* scratch) const {
  const ActivationPacker packer(*target.table, panels, kind, cols, std::nullopt, panels.group);
  const PackedActivations packed = packer.place(scratch, rows);
  std::byte* rest = scratch + packer.packed_bytes(rows);
  for (std::size_t row = 0; row < rows; ++row) packer.pack(x(row), row, rows, rest, packed);
  kernels::GemmArgs args = packer.gemm_args(panels, rows, packed, y, y_stride);
  args.scratch = rest;
  args.panel_begin = panel_begin;
  args.panel_end = panel_end;
  gemm_slot(*target.table, kind, panels.layout).function(args);
}

/// scores = q k', not yet scaled.
void KvCache::Data::score(const Block& block, std::size_t head, std::size_t panel_begin,
                          std::size_t panel_end, std::byte* scratch) const {
  const PackedPanels panels =
      keys.panels(head, block.visible, round_up(head_dim, kChunk) / dot_group(key_group));
  const auto query = [&](std::size_t row) {
    return block.q.row(row / block.shared) + (head * block.shared + row % block.shared) * head_dim;
  };
  product(panels, panel_begin, panel_end, head_dim, block.rows, query,
          block.scores + head * block.rows * block.stride, block.stride, scratch);
}

/// The scores of row `row` of all heads' rows become weights, 0 for tokens that come later.
void KvCache::Data::weigh(const Block& block, std::size_t row) const {
  float* weights = block.scores + row * block.stride;
  const std::size_t count = block.first + row % block.rows / block.shared + 1;
  target.table->softmax_weights({weights, count, block.scale, block.sums + row});
  std::fill(weights + count, weights + block.stride, 0.0F);
}

/// results = weights v, values in groups along tokens.
void KvCache::Data::combine_tokens(const Block& block, std::size_t head, std::size_t panel_begin,
                                   std::size_t panel_end, std::byte* scratch) const {
  const float* weights = block.scores + head * block.rows * block.stride;
  float* results = block.results + head * block.rows * block.result_stride;
  const std::size_t begin = panel_begin * kPanelRows;
  const std::size_t end = std::min(head_dim, panel_end * kPanelRows);
  const std::size_t tokens = std::min(coded(), round_up(block.visible, unit));
  if (tokens != 0) {
    const PackedPanels panels = values.panels(head, head_dim, tokens / dot_group(value_group));
    product(
        panels, panel_begin, panel_end, tokens, block.rows,
        [&](std::size_t row) { return weights + row * block.stride; }, results, block.result_stride,
        scratch);
  }
  for (std::size_t row = 0; row < block.rows; ++row) {
    float* y = results + row * block.result_stride;
    if (tokens == 0) std::fill(y + begin, y + end, 0.0F);
    for (std::size_t t = tokens; t < block.visible; ++t) {
      const float weight = weights[row * block.stride + t];
      const float* v = &tail[(head * unit + t % unit) * head_dim];
      for (std::size_t i = begin; i < end; ++i) y[i] += weight * v[i];
    }
  }
  finish(block, head, begin, end);
}

/// The codes of values as a matrix whose scales are all 1; side 1: negative levels alone, side 0:
/// the others, where they have scales of their own.
PackedPanels KvCache::Data::unscaled_values(std::size_t head, std::size_t tokens, int side) const {
  PackedPanels panels = values.panels(head, head_dim, (tokens + kChunk - 1) / kChunk);
  const ScaleLayout layout = panels.layout;
  std::array<float, 16> levels{};
  for (std::size_t i = 0; i < 16; ++i) {
    const float level = panels.levels[i];
    levels[i] = layout == ScaleLayout::zero_point ? level - kernels::kMiddleLevel
                : layout == ScaleLayout::symmetric || (level < 0) == (side == 1) ? level
                                                                                 : 0;
  }
  set_levels(panels, levels, ScaleLayout::symmetric, *target.table);
  panels.scales = reinterpret_cast<const std::uint8_t*>(kOnes);
  panels.scale_stride = 0;
  panels.scale_type = ScaleType::f32;
  panels.scale_size = sizeof(float);
  panels.groups_per_scale = panels.groups;
  return panels;
}

/// results = weights v for one group of values along head_dim: its scales go into the weights.
void KvCache::Data::combine_slice(const Block& block, std::size_t head, std::size_t slice,
                                  std::byte* scratch) const {
  const ScaleLayout layout = options.values.info().layout;
  const float* weights = block.scores + head * block.rows * block.stride;
  float* results = block.results + head * block.rows * block.result_stride;
  const std::size_t begin = slice * value_group;
  const std::size_t end = std::min(head_dim, begin + value_group);
  Carver carver(scratch);
  auto* scales = carver.take<float>(block.stride).data();
  auto* scaled = carver.take<float>(block.rows * block.stride).data();
  auto* zero_sums = carver.take<float>(block.rows).data();
  auto* negative = carver.take<float>(block.rows * block.result_stride).data();
  std::byte* rest = carver.rest();
  const PackedPanels tokens = token_scales.panels(head, block.visible, value_slices());
  const auto run_side = [&](int side, float* y) {
    target.table->scale_weights({.tokens = &tokens,
                                 .group = slice,
                                 .side = static_cast<std::size_t>(side),
                                 .count = block.visible,
                                 .rows = block.rows,
                                 .x = weights,
                                 .x_stride = block.stride,
                                 .scales = scales,
                                 .y = scaled,
                                 .y_stride = block.stride,
                                 .zero_sums = zero_sums});
    product(
        unscaled_values(head, block.visible, side), begin / kPanelRows,
        (end + kPanelRows - 1) / kPanelRows, block.visible, block.rows,
        [&](std::size_t row) { return scaled + row * block.stride; }, y, block.result_stride, rest);
  };
  run_side(0, results);
  if (layout == ScaleLayout::sign_split) run_side(1, negative);
  for (std::size_t row = 0; row < block.rows; ++row) {
    float* y = results + row * block.result_stride;
    for (std::size_t i = begin; i < end; ++i) {
      if (layout == ScaleLayout::zero_point) y[i] -= zero_sums[row];
      if (layout == ScaleLayout::sign_split) y[i] += negative[row * block.result_stride + i];
    }
  }
  finish(block, head, begin, end);
}

/// Divides channels begin to end by the sums of weights and puts them where they belong.
void KvCache::Data::finish(const Block& block, std::size_t head, std::size_t begin,
                           std::size_t end) const {
  for (std::size_t row = 0; row < block.rows; ++row) {
    const std::size_t at = head * block.rows + row;
    const float inverse = 1.0F / block.sums[at];
    const float* from = block.results + at * block.result_stride;
    float* to =
        block.out.row(row / block.shared) + (head * block.shared + row % block.shared) * head_dim;
    for (std::size_t i = begin; i < end; ++i) to[i] = from[i] * inverse;
  }
}

KvCache::Data::Block KvCache::Data::lay_out(std::size_t rows, std::size_t tasks, std::byte* memory,
                                            std::size_t* bytes) const {
  Block block{};
  block.rows = rows;
  block.stride = round_up(size, std::max(unit, kChunk));
  block.result_stride = round_up(head_dim, kPanelRows);
  Carver carver(memory);
  block.scores = carver.take<float>(heads * rows * block.stride).data();
  block.sums = carver.take<float>(heads * rows).data();
  block.results = carver.take<float>(heads * rows * block.result_stride).data();
  Carver task(nullptr);
  if (unit == 0) {
    task.take<float>((rows + 1) * block.stride);
    task.take<float>(rows + 16);
    task.take<float>(rows * block.result_stride);
  }
  task.take<std::byte>(std::max(
      product_bytes(keys.panels(0, size, round_up(head_dim, kChunk) / dot_group(key_group)),
                    head_dim, rows),
      product_bytes(unit == 0 ? unscaled_values(0, block.stride, 0)
                              : values.panels(0, head_dim, block.stride / dot_group(value_group)),
                    block.stride, rows)));
  block.task_bytes = task.used() + 256;
  block.tasks = carver.take<std::byte>(tasks * block.task_bytes).data();
  if (bytes != nullptr) *bytes = carver.used();
  return block;
}

void KvCache::Data::run(const Block& block, std::size_t concurrency, Executor& executor) const {
  /// Units of work over tasks, each with scratch of its own.
  const auto spread = [&](std::size_t units, const auto& work) {
    const std::size_t tasks = std::min(units, concurrency);
    executor.parallel_for(tasks, [&](std::size_t task) {
      std::byte* scratch = block.tasks + task * block.task_bytes;
      for (std::size_t i = units * task / tasks; i < units * (task + 1) / tasks; ++i) {
        work(i, scratch);
      }
    });
  };
  const std::size_t key_panels = (block.visible + kPanelRows - 1) / kPanelRows;
  const std::size_t key_parts = std::min(key_panels, (2 * concurrency + heads - 1) / heads);
  spread(heads * key_parts, [&](std::size_t i, std::byte* scratch) {
    const std::size_t part = i % key_parts;
    score(block, i / key_parts, key_panels * part / key_parts, key_panels * (part + 1) / key_parts,
          scratch);
  });
  spread(heads * block.rows, [&](std::size_t row, std::byte*) { weigh(block, row); });
  if (unit == 0) {
    spread(heads * value_slices(), [&](std::size_t i, std::byte* scratch) {
      combine_slice(block, i / value_slices(), i % value_slices(), scratch);
    });
    return;
  }
  // Each part turns the weights of its head into activations again, so no more parts than needed.
  const std::size_t parts = std::min(value_panels(), (concurrency + heads - 1) / heads);
  spread(heads * parts, [&](std::size_t i, std::byte* scratch) {
    const std::size_t part = i % parts;
    combine_tokens(block, i / parts, value_panels() * part / parts,
                   value_panels() * (part + 1) / parts, scratch);
  });
}

void KvCache::attend(MatrixView q, MutableMatrixView out, float scale, Workspace& workspace,
                     Executor& executor) const {
  const Data& d = owned(data_, "kv cache");
  check_rows(q, "kv cache: q");
  check_rows(out, "kv cache: out");
  const std::size_t kv_cols = d.heads * d.head_dim;
  if (q.cols == 0 || q.cols % kv_cols != 0 || q.rows != out.rows || q.cols != out.cols ||
      q.rows > d.size) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("kv cache: q is {} x {} and out {} x {}, expected both M x a multiple "
                            "of {} with M at most {}, the tokens stored",
                            q.rows, q.cols, out.rows, out.cols, kv_cols, d.size));
  }
  check_separate(q, out, "kv cache: q and out");
  if (!std::isfinite(scale)) {
    throw Error(ErrorCode::bad_value,
                fmt::format("kv cache: scale {}, expected a finite number", scale));
  }
  if (q.rows == 0) return;
  SerialExecutor serial;
  Executor& chosen = 2 * q.rows * q.cols * d.size < kWorthThreads ? serial : executor;
  const std::size_t concurrency = concurrency_of(chosen);
  const std::size_t shared = q.cols / kv_cols;
  const std::size_t positions = std::min(q.rows, std::max<std::size_t>(1, kRowBlock / shared));
  std::size_t bytes = 0;
  static_cast<void>(d.lay_out(positions * shared, concurrency, nullptr, &bytes));
  workspace.reserve(bytes);
  for (std::size_t begin = 0; begin < q.rows; begin += positions) {
    const std::size_t rows = std::min(positions, q.rows - begin);
    Data::Block block = d.lay_out(rows * shared, concurrency, workspace.data(), nullptr);
    block.q = {q.row(begin), rows, q.cols, q.stride};
    block.out = {out.row(begin), rows, out.cols, out.stride};
    block.scale = scale;
    block.shared = shared;
    block.first = d.size - q.rows + begin;
    block.visible = block.first + rows;
    d.run(block, concurrency, chosen);
  }
}

}  // namespace nybble
