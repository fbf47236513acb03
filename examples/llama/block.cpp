#include "block.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "nybble/error.h"

namespace llama {
namespace {

std::vector<float> mean_row(MatrixView x) {
  std::vector<float> mean(x.cols);
  for (std::size_t m = 0; m < x.rows; ++m) {
    for (std::size_t i = 0; i < x.cols; ++i) mean[i] += x.at(m, i);
  }
  for (float& value : mean) value /= static_cast<float>(x.rows);
  return mean;
}

}  // namespace

BlockCache::BlockCache(const Config& config, const ModelSettings& settings, std::size_t capacity)
    : center_(settings.kv_center), head_dim_(config.head_dim) {
  if (settings.kv) {
    quantized_.emplace(config.kv_heads, config.head_dim, capacity, *settings.kv);
  } else {
    plain_.emplace(config, capacity);
  }
}

void BlockCache::clear() {
  if (quantized_) quantized_->clear();
}

void BlockCache::attend(MatrixView q, MatrixView k, MatrixView v, std::size_t first,
                        MutableMatrixView out, Attention& attention, nybble::Workspace& workspace,
                        Executor& executor) {
  if (plain_) {
    plain_->store(k, v, first);
    return attention.run(q, *plain_, first, out, executor);
  }
  if (first == 0 && center_) quantized_->set_key_offset(mean_row(k));
  quantized_->append(k, v, executor);
  const float scale = 1 / std::sqrt(static_cast<float>(head_dim_));
  quantized_->attend(q, out, scale, workspace, executor);
}

BlockRunner::BlockRunner(const Config& config, const ModelSettings& settings, std::size_t capacity,
                         Executor& executor)
    : config_(config),
      executor_(executor),
      rope_(std::min(capacity, config.max_positions), config.head_dim, config.rope_theta),
      attention_(config, settings.attention_cast) {
  if (capacity > config.max_positions) {
    throw nybble::Error(nybble::ErrorCode::bad_option,
                        fmt::format("text of {} tokens: the model has positions for {}", capacity,
                                    config.max_positions));
  }
}

MutableMatrixView BlockRunner::run_layer(const LinearLayer& layer, MatrixView in, Buffer& out) {
  const MutableMatrixView view = out.view(in.rows, layer.rows());
  layer.run(in, view, workspace_, executor_);
  return view;
}

MatrixView BlockRunner::norm(MatrixView x, std::span<const float> gain) {
  const MutableMatrixView out = normed_.view(x.rows, x.cols);
  rms_norm(x, gain, config_.rms_norm_eps, out, executor_);
  return out;
}

MatrixView BlockRunner::attention_input(const Block& block, MatrixView x) {
  return norm(x, block.weights->attention_norm);
}

MatrixView BlockRunner::attend(const Block& block, BlockCache& cache, MatrixView input,
                               std::size_t first) {
  const MutableMatrixView q = run_layer(block.linear[kQ], input, q_);
  const MutableMatrixView k = run_layer(block.linear[kK], input, k_);
  const MutableMatrixView v = run_layer(block.linear[kV], input, v_);
  rope_.apply(q, first, executor_);
  rope_.apply(k, first, executor_);
  const MutableMatrixView attended = attended_.view(q.rows, q.cols);
  cache.attend(q, k, v, first, attended, attention_, workspace_, executor_);
  return attended;
}

void BlockRunner::finish_attention(const Block& block, MatrixView attended, MutableMatrixView x) {
  add(x, run_layer(block.linear[kO], attended, delta_), executor_);
}

MatrixView BlockRunner::mlp_input(const Block& block, MatrixView x) {
  return norm(x, block.weights->mlp_norm);
}

MatrixView BlockRunner::gated(const Block& block, MatrixView input) {
  const MutableMatrixView gate = run_layer(block.linear[kGate], input, gate_);
  silu_multiply(gate, run_layer(block.linear[kUp], input, up_), executor_);
  return gate;
}

void BlockRunner::finish_mlp(const Block& block, MatrixView gated, MutableMatrixView x) {
  add(x, run_layer(block.linear[kDown], gated, delta_), executor_);
}

void BlockRunner::run(const Block& block, BlockCache& cache, MutableMatrixView x,
                      std::size_t first) {
  finish_attention(block, attend(block, cache, attention_input(block, x), first), x);
  finish_mlp(block, gated(block, mlp_input(block, x)), x);
}

}  // namespace llama
