#include "model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "nybble/error.h"

namespace llama {

using nybble::Error;
using nybble::ErrorCode;

Model::Model(std::shared_ptr<const Weights> weights,
             std::shared_ptr<const QuantizedWeights> quantized, ModelSettings settings,
             Executor& executor)
    : weights_(std::move(weights)), settings_(std::move(settings)) {
  if (quantized) {
    format_ = quantized->format.info().spec;
    method_ = quantized->method;
    quantize_seconds_ = quantized->seconds;
  }
  blocks_.reserve(weights_->blocks.size());
  for (std::size_t b = 0; b < weights_->blocks.size(); ++b) {
    const BlockWeights& from = weights_->blocks[b];
    Block& block = blocks_.emplace_back(Block{&from, {}});
    for (std::size_t i = 0; i < kLinearCount; ++i) {
      const bool in_four_bits = quantized && quantized->blocks[b][i].has_value();
      block.linear.push_back(in_four_bits ? LinearLayer(from.linear[i], *quantized->blocks[b][i],
                                                        settings_.linear, executor)
                                          : LinearLayer(from.linear[i]));
    }
  }
}

std::string Model::format_name() const { return format_; }
std::string Model::method_name() const { return method_; }

std::string Model::path_name() const {
  return format_ == "f32" ? "f32" : nybble::path_name(settings_.linear.path);
}

double Model::bits_per_weight() const {
  double bits = 0;
  for (const Block& block : blocks_) {
    for (const LinearLayer& layer : block.linear) {
      bits += layer.bits_per_weight() * static_cast<double>(layer.elements());
    }
  }
  return bits / static_cast<double>(linear_weights());
}

std::size_t Model::linear_weights() const {
  std::size_t count = 0;
  for (const Block& block : blocks_) {
    for (const LinearLayer& layer : block.linear) count += layer.elements();
  }
  return count;
}

std::string Model::kernels() const {
  std::vector<std::string> names;
  for (const Block& block : blocks_) {
    for (const LinearLayer& layer : block.linear) {
      std::string name = layer.kernel();
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

void embed(std::span<const Token> tokens, const Tensor& embedding, MutableMatrixView x) {
  for (std::size_t m = 0; m < tokens.size(); ++m) {
    if (tokens[m] >= embedding.rows) {
      throw Error(ErrorCode::bad_value,
                  fmt::format("token {}: the vocabulary has {}", tokens[m], embedding.rows));
    }
    std::copy_n(embedding.view().row(tokens[m]), embedding.cols, x.row(m));
  }
}

Session::Session(const Model& model, std::size_t capacity, Executor& executor)
    : model_(model),
      executor_(executor),
      capacity_(capacity),
      runner_(model.config(), model.settings(), capacity, executor) {
  for (std::size_t i = 0; i < model.config().layers; ++i) {
    caches_.emplace_back(model.config(), model.settings(), capacity);
  }
}

void Session::reset() {
  length_ = 0;
  for (BlockCache& cache : caches_) cache.clear();
}

MatrixView Session::forward(std::span<const Token> tokens, Logits which) {
  const Config& config = model_.config();
  if (tokens.empty() || tokens.size() > capacity_ - length_) {
    throw Error(ErrorCode::bad_shape, fmt::format("{} tokens after {}: expected 1 to {}",
                                                  tokens.size(), length_, capacity_ - length_));
  }
  const MutableMatrixView x = x_.view(tokens.size(), config.hidden_size);
  embed(tokens, model_.weights().embedding, x);
  for (std::size_t i = 0; i < config.layers; ++i) {
    runner_.run(model_.blocks()[i], caches_[i], x, length_);
  }
  length_ += tokens.size();

  const std::size_t rows = which == Logits::all ? tokens.size() : 1;
  const MatrixView tail(x.row(x.rows - rows), rows, x.cols);
  const MutableMatrixView normed = normed_.view(rows, x.cols);
  rms_norm(tail, model_.weights().final_norm, config.rms_norm_eps, normed, executor_);
  const MutableMatrixView logits = logits_.view(rows, config.vocab_size);
  matmul(normed, model_.weights().head().view(), logits, executor_);
  return logits;
}

}  // namespace llama
