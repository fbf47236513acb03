#include "model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace llama {
namespace {

using nybble::Error;
using nybble::ErrorCode;

std::array<const LinearLayer*, 7> layers(const Model::Block& block) {
  return {&block.q, &block.k, &block.v, &block.o, &block.gate, &block.up, &block.down};
}

}  // namespace

Model::Model(std::shared_ptr<const Weights> weights, ModelSettings settings, Executor& executor)
    : weights_(std::move(weights)), settings_(std::move(settings)) {
  const auto layer = [&](const LinearWeights& linear) {
    return LinearLayer(linear, settings_.linear, executor);
  };
  blocks_.reserve(weights_->blocks.size());
  for (const BlockWeights& block : weights_->blocks) {
    blocks_.push_back({&block, layer(block.q), layer(block.k), layer(block.v), layer(block.o),
                       layer(block.gate), layer(block.up), layer(block.down)});
  }
}

std::string Model::format_name() const {
  return settings_.linear.format ? settings_.linear.format->info().spec : "f32";
}

std::string Model::path_name() const {
  return settings_.linear.format ? nybble::path_name(settings_.linear.options.path) : "f32";
}

double Model::bits_per_weight() const {
  double bits = 0;
  for (const Block& block : blocks_) {
    for (const LinearLayer* layer : layers(block)) {
      bits += layer->bits_per_weight() * static_cast<double>(layer->elements());
    }
  }
  return bits / static_cast<double>(linear_weights());
}

std::size_t Model::linear_weights() const {
  std::size_t count = 0;
  for (const Block& block : blocks_) {
    for (const LinearLayer* layer : layers(block)) count += layer->elements();
  }
  return count;
}

std::string Model::kernels() const {
  std::vector<std::string> names;
  for (const Block& block : blocks_) {
    for (const LinearLayer* layer : layers(block)) {
      std::string name = layer->kernel();
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

Session::Session(const Model& model, std::size_t capacity, Executor& executor)
    : model_(model),
      executor_(executor),
      capacity_(capacity),
      rope_(std::min(capacity, model.config().max_positions), model.config().head_dim,
            model.config().rope_theta),
      attention_(model.config(), model.settings().attention_cast) {
  if (capacity > model.config().max_positions) {
    throw Error(ErrorCode::bad_option,
                fmt::format("text of {} tokens: the model has positions for {}", capacity,
                            model.config().max_positions));
  }
  const Config& config = model.config();
  if (!model.settings().kv) {
    caches_.assign(config.layers, KvCache(config, capacity));
    return;
  }
  for (std::size_t i = 0; i < config.layers; ++i) {
    kv_caches_.emplace_back(config.kv_heads, config.head_dim, capacity, *model.settings().kv);
  }
}

void Session::reset() {
  length_ = 0;
  for (nybble::KvCache& cache : kv_caches_) cache.clear();
}

MatrixView Session::forward(std::span<const Token> tokens, Logits which) {
  const Config& config = model_.config();
  if (tokens.empty() || tokens.size() > capacity_ - length_) {
    throw Error(ErrorCode::bad_shape, fmt::format("{} tokens after {}: expected 1 to {}",
                                                  tokens.size(), length_, capacity_ - length_));
  }
  const MutableMatrixView x = x_.view(tokens.size(), config.hidden_size);
  const MatrixView embedding = model_.weights().embedding.view();
  for (std::size_t m = 0; m < tokens.size(); ++m) {
    if (tokens[m] >= config.vocab_size) {
      throw Error(ErrorCode::bad_value,
                  fmt::format("token {}: the vocabulary has {}", tokens[m], config.vocab_size));
    }
    std::copy_n(embedding.row(tokens[m]), config.hidden_size, x.row(m));
  }
  for (std::size_t block = 0; block < config.layers; ++block) run_block(block, x);
  length_ += tokens.size();

  const std::size_t rows = which == Logits::all ? tokens.size() : 1;
  const MatrixView tail(x.row(x.rows - rows), rows, x.cols);
  const MutableMatrixView normed = normed_.view(rows, x.cols);
  rms_norm(tail, model_.weights().final_norm, config.rms_norm_eps, normed, executor_);
  const MutableMatrixView logits = logits_.view(rows, config.vocab_size);
  matmul(normed, model_.weights().head().view(), logits, executor_);
  return logits;
}

void Session::center_keys(nybble::KvCache& cache, MatrixView k) {
  mean_key_.assign(k.cols, 0);
  for (std::size_t m = 0; m < k.rows; ++m) {
    for (std::size_t i = 0; i < k.cols; ++i) mean_key_[i] += k.at(m, i);
  }
  for (float& value : mean_key_) value /= static_cast<float>(k.rows);
  cache.set_key_offset(mean_key_);
}

void Session::run_block(std::size_t index, MutableMatrixView x) {
  const Config& config = model_.config();
  const Model::Block& block = model_.blocks()[index];
  const auto run = [&](const LinearLayer& layer, MatrixView in, Buffer& buffer) {
    const MutableMatrixView out = buffer.view(x.rows, layer.rows());
    layer.run(in, out, workspace_, executor_);
    return out;
  };
  const MutableMatrixView normed = normed_.view(x.rows, x.cols);

  rms_norm(x, block.weights->attention_norm, config.rms_norm_eps, normed, executor_);
  const MutableMatrixView q = run(block.q, normed, q_);
  const MutableMatrixView k = run(block.k, normed, k_);
  const MutableMatrixView v = run(block.v, normed, v_);
  rope_.apply(q, length_, executor_);
  rope_.apply(k, length_, executor_);
  const MutableMatrixView attended = attended_.view(x.rows, q.cols);
  if (kv_caches_.empty()) {
    caches_[index].store(k, v, length_);
    attention_.run(q, caches_[index], length_, attended, executor_);
  } else {
    const float scale = 1 / std::sqrt(static_cast<float>(config.head_dim));
    if (length_ == 0 && model_.settings().kv_center) center_keys(kv_caches_[index], k);
    kv_caches_[index].append(k, v, executor_);
    kv_caches_[index].attend(q, attended, scale, workspace_, executor_);
  }
  add(x, run(block.o, attended, delta_), executor_);

  rms_norm(x, block.weights->mlp_norm, config.rms_norm_eps, normed, executor_);
  const MutableMatrixView gate = run(block.gate, normed, gate_);
  silu_multiply(gate, run(block.up, normed, up_), executor_);
  add(x, run(block.down, gate, delta_), executor_);
}

}  // namespace llama
