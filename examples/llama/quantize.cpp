#include "quantize.h"

#include <fmt/format.h>

#include <chrono>
#include <initializer_list>
#include <optional>
#include <utility>

#include "nybble/error.h"
#include "progress.h"

namespace llama {
namespace {

/// Pushes the calibration windows through the blocks, one block at a time, and quantizes layers as
/// the windows reach them.
class BlockQuantizer {
 public:
  BlockQuantizer(const BlockSource& source, const QuantizeSettings& settings,
                 const ModelSettings& model, const Windows* windows, Executor& executor)
      : source_(source),
        settings_(settings),
        model_(model),
        executor_(executor),
        windows_(settings.method->calibrated() ? windows : nullptr),
        runner_(source.config, model, windows_ == nullptr ? 1 : windows_->size, executor),
        cache_(source.config, model, windows_ == nullptr ? 1 : windows_->size),
        progress_("quantizing", source.config.layers * kLinearCount) {
    if (model.linear.path == nybble::Path::a4) {
      activations_ = model.linear.activations.value_or(settings.format);
    }
    if (windows_ == nullptr) return;
    hidden_.resize(windows_->tokens.size() * source.config.hidden_size);
    for (std::size_t w = 0; w < windows_->count(); ++w) {
      embed(windows_->window(w), source.embedding, hidden(w));
    }
  }

  std::vector<nybble::QuantizedLayer> quantize(std::size_t index) {
    index_ = index;
    weights_ = source_.block(index);
    block_ = {&weights_, {}};
    for (const LinearWeights& linear : weights_.linear) block_.linear.emplace_back(linear);
    layers_.clear();

    // Inputs are computed twice, once for the statistics and once behind the layers they gave:
    // keeping them would take more memory than the hidden states.
    const auto attention_input = [&](std::size_t w) {
      return runner_.attention_input(block_, hidden(w));
    };
    const auto attended = [&](std::size_t w) {
      cache_.clear();
      return runner_.attend(block_, cache_, attention_input(w), 0);
    };
    const auto mlp_input = [&](std::size_t w) { return runner_.mlp_input(block_, hidden(w)); };
    const auto gated = [&](std::size_t w) { return runner_.gated(block_, mlp_input(w)); };

    quantize({kQ, kK, kV}, attention_input);
    quantize({kO}, attended);
    for_windows([&](std::size_t w) { runner_.finish_attention(block_, attended(w), hidden(w)); });
    quantize({kGate, kUp}, mlp_input);
    quantize({kDown}, gated);
    for_windows([&](std::size_t w) { runner_.finish_mlp(block_, gated(w), hidden(w)); });
    return std::move(layers_);
  }

 private:
  template <class F>
  void for_windows(const F& function) {
    if (windows_ == nullptr) return;
    for (std::size_t w = 0; w < windows_->count(); ++w) function(w);
  }

  /// Quantizes the layers that share the input `input(window)`.
  template <class F>
  void quantize(std::initializer_list<LinearIndex> shared, const F& input) {
    const std::string name = linear_name(index_, *shared.begin());
    std::optional<nybble::Calibration> calibration;
    if (windows_ != nullptr) calibration.emplace(weights_.linear[*shared.begin()].weight.cols);
    for_windows([&](std::size_t w) { calibration->add(input(w), executor_, name + " input"); });
    for (const LinearIndex i : shared) {
      const LinearWeights& linear = weights_.linear[i];
      nybble::QuantizedLayer layer =
          nybble::quantize_layer(linear.weight.view(), settings_.format, *settings_.method,
                                 calibration ? &*calibration : nullptr, executor_,
                                 {linear_name(index_, i) + ".weight", activations_});
      if (windows_ != nullptr && !settings_.full_precision_inputs) {
        block_.linear[i] = LinearLayer(linear, layer, model_.linear, executor_);
      }
      layers_.push_back(std::move(layer));
      progress_.advance();
    }
  }

  MutableMatrixView hidden(std::size_t window) {
    const std::size_t cols = source_.config.hidden_size;
    return {&hidden_[window * windows_->size * cols], windows_->size, cols};
  }

  const BlockSource& source_;
  const QuantizeSettings& settings_;
  const ModelSettings& model_;
  Executor& executor_;
  const Windows* windows_;
  BlockRunner runner_;
  BlockCache cache_;
  Progress progress_;
  std::optional<nybble::AnyFormat> activations_;
  std::vector<float> hidden_;  // of all windows, before the current block
  std::size_t index_ = 0;
  BlockWeights weights_;
  Block block_{nullptr, {}};
  std::vector<nybble::QuantizedLayer> layers_;
};

}  // namespace

QuantizedWeights quantize_weights(const BlockSource& source, const QuantizeSettings& settings,
                                  const ModelSettings& model, const Windows* windows,
                                  Executor& executor) {
  const auto begun = std::chrono::steady_clock::now();
  BlockQuantizer quantizer(source, settings, model, windows, executor);
  QuantizedWeights out{
      settings.format, settings.method->spec(), model.linear.path, model.linear.activations, {}, 0};
  for (std::size_t i = 0; i < source.config.layers; ++i) {
    out.blocks.push_back(quantizer.quantize(i));
  }
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  return out;
}

std::shared_ptr<const QuantizedWeights> quantize_weights(const Weights& weights,
                                                         const QuantizeSettings& settings,
                                                         const ModelSettings& model,
                                                         const Windows* windows,
                                                         Executor& executor) {
  const BlockSource source{weights.config, weights.embedding,
                           [&](std::size_t index) { return weights.blocks[index]; }};
  return std::make_shared<const QuantizedWeights>(
      quantize_weights(source, settings, model, windows, executor));
}

}  // namespace llama
