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

/// The calibration windows on their way through one version of the model, one block at a time.
/// Inputs of layers are computed anew whenever they are asked for: keeping them would take more
/// memory than the hidden states.
class Stream {
 public:
  Stream(const Config& config, const ModelSettings& model, const Windows& windows,
         const Tensor& embedding, Executor& executor)
      : windows_(windows),
        cols_(config.hidden_size),
        runner_(config, model, windows.size, executor),
        cache_(config, model, windows.size),
        hidden_(windows.tokens.size() * cols_) {
    for (std::size_t w = 0; w < windows.count(); ++w) {
      embed(windows.window(w), embedding, hidden(w));
    }
  }

  /// The next block, its layers as trained.
  void enter(const BlockWeights& weights) {
    block_ = {&weights, {}};
    for (const LinearWeights& linear : weights.linear) block_.linear.emplace_back(linear);
  }
  void replace(LinearIndex index, LinearLayer layer) { block_.linear[index] = std::move(layer); }

  /// The inputs of layers for one window, valid until the next call.
  MatrixView attention_input(std::size_t w) { return runner_.attention_input(block_, hidden(w)); }
  MatrixView attended(std::size_t w) {
    cache_.clear();
    return runner_.attend(block_, cache_, attention_input(w), 0);
  }
  MatrixView mlp_input(std::size_t w) { return runner_.mlp_input(block_, hidden(w)); }
  MatrixView gated(std::size_t w) { return runner_.gated(block_, mlp_input(w)); }

  void finish_attention() {
    for (std::size_t w = 0; w < windows_.count(); ++w) {
      runner_.finish_attention(block_, attended(w), hidden(w));
    }
  }
  void finish_mlp() {
    for (std::size_t w = 0; w < windows_.count(); ++w) {
      runner_.finish_mlp(block_, gated(w), hidden(w));
    }
  }

 private:
  MutableMatrixView hidden(std::size_t window) {
    return {&hidden_[window * windows_.size * cols_], windows_.size, cols_};
  }

  const Windows& windows_;
  std::size_t cols_;
  BlockRunner runner_;
  BlockCache cache_;
  std::vector<float> hidden_;  // of all windows
  Block block_{nullptr, {}};
};

/// Quantizes layers as the calibration windows reach them.
class BlockQuantizer {
 public:
  BlockQuantizer(const BlockSource& source, const QuantizeSettings& settings,
                 const ModelSettings& model, const Windows* windows, Executor& executor)
      : source_(source),
        settings_(settings),
        model_(model),
        executor_(executor),
        windows_(settings.method->calibrated() ? windows : nullptr),
        progress_("quantizing", source.config.layers * kLinearCount) {
    if (model.linear.path == nybble::Path::a4) {
      activations_ = model.linear.activations.value_or(settings.format);
    }
    if (windows_ == nullptr) return;
    stream_.emplace(source.config, model, *windows_, source.embedding, executor);
    if (settings.method->needs_originals()) {
      original_.emplace(source.config, f32_, *windows_, source.embedding, executor);
    }
  }

  std::vector<nybble::QuantizedLayer> quantize(std::size_t index) {
    index_ = index;
    weights_ = source_.block(index);
    layers_.clear();
    for_streams([&](Stream& stream) { stream.enter(weights_); });
    quantize({kQ, kK, kV}, &Stream::attention_input);
    quantize({kO}, &Stream::attended);
    for_streams([](Stream& stream) { stream.finish_attention(); });
    quantize({kGate, kUp}, &Stream::mlp_input);
    quantize({kDown}, &Stream::gated);
    for_streams([](Stream& stream) { stream.finish_mlp(); });
    return std::move(layers_);
  }

 private:
  template <class F>
  void for_streams(const F& function) {
    if (stream_) function(*stream_);
    if (original_) function(*original_);
  }

  /// Quantizes the layers that share an input.
  void quantize(std::initializer_list<LinearIndex> shared,
                MatrixView (Stream::*input)(std::size_t window)) {
    std::optional<nybble::Calibration> calibration;
    if (stream_) calibration = calibrate(*shared.begin(), input);
    for (const LinearIndex i : shared) {
      const LinearWeights& linear = weights_.linear[i];
      nybble::QuantizedLayer layer =
          nybble::quantize_layer(linear.weight.view(), settings_.format, *settings_.method,
                                 calibration ? &*calibration : nullptr, executor_,
                                 {linear_name(index_, i) + ".weight", activations_});
      if (stream_ && !settings_.full_precision_inputs) {
        stream_->replace(i, LinearLayer(linear, layer, model_.linear, executor_));
      }
      layers_.push_back(std::move(layer));
      progress_.advance();
    }
  }

  nybble::Calibration calibrate(LinearIndex first,
                                MatrixView (Stream::*input)(std::size_t window)) {
    const std::string name = linear_name(index_, first) + " input";
    nybble::Calibration calibration(weights_.linear[first].weight.cols);
    for (std::size_t w = 0; w < windows_->count(); ++w) {
      const MatrixView x = ((*stream_).*input)(w);
      if (original_) {
        calibration.add(x, ((*original_).*input)(w), executor_, name);
      } else {
        calibration.add(x, executor_, name);
      }
    }
    return calibration;
  }

  const BlockSource& source_;
  const QuantizeSettings& settings_;
  const ModelSettings& model_;
  Executor& executor_;
  const Windows* windows_;
  const ModelSettings f32_;
  std::optional<Stream> stream_;    // the model quantized so far; none without calibration
  std::optional<Stream> original_;  // as trained, for methods that compare the two
  Progress progress_;
  std::optional<nybble::AnyFormat> activations_;
  std::size_t index_ = 0;
  BlockWeights weights_;
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
    std::vector<nybble::QuantizedLayer> layers = quantizer.quantize(i);
    auto& block = out.blocks.emplace_back();
    for (nybble::QuantizedLayer& layer : layers) block.emplace_back(std::move(layer));
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
