#include <fmt/format.h>

#include <filesystem>

#include "commands.h"
#include "gguf_checkpoint.h"
#include "gguf_model.h"
#include "nybble/error.h"
#include "quantized_checkpoint.h"

namespace llama {
namespace {

double megabytes(const nybble::Checkpoint& checkpoint) {
  double bytes = 0;
  for (const nybble::SafetensorsFile& shard : checkpoint.shards()) {
    for (const nybble::TensorView& tensor : shard.tensors()) {
      bytes += static_cast<double>(tensor.bytes.size());
    }
  }
  return bytes * 1e-6;
}

double megabytes(const nybble::GgufFile& file) {
  double bytes = 0;
  for (const nybble::GgufTensor& tensor : file.tensors()) {
    bytes += static_cast<double>(tensor.bytes.size());
  }
  return bytes * 1e-6;
}

double bits_per_weight(const QuantizedWeights& quantized) {
  double bits = 0;
  double count = 0;
  for (const auto& block : quantized.blocks) {
    for (const auto& layer : block) {
      const double weights = static_cast<double>(layer->weight.rows * layer->weight.cols);
      bits += layer->weight.bits_per_element() * weights;
      count += weights;
    }
  }
  return bits / count;
}

}  // namespace

void run_quantize(const QuantizeOptions& options, Executor& executor) {
  check_calibration(options.calibration, *options.quantize.method);
  if (is_gguf(options.model)) {
    throw nybble::Error(
        nybble::ErrorCode::unsupported,
        fmt::format("--model {}: expected a folder with config.json and safetensors",
                    options.model.string()));
  }
  const WeightsReader reader(options.model);
  if (reader.quantized()) {
    throw nybble::Error(nybble::ErrorCode::bad_option,
                        fmt::format("--model {}: is quantized already", options.model.string()));
  }
  const nybble::Checkpoint source_checkpoint(options.model);
  std::optional<GgufCheckpointWriter> gguf;
  std::optional<QuantizedCheckpointWriter> folder;
  if (is_gguf(options.out)) {
    gguf.emplace(options.out);
  } else {
    folder.emplace(options.out, options.model);
  }
  std::optional<Windows> windows;
  if (options.quantize.method->calibrated()) {
    windows = load_calibration(
        options.calibration, options.window, reader.config(),
        [&] { return load_weights(options.model); }, executor);
  }
  const Tensor embedding = reader.embedding();
  const BlockSource source{reader.config(), embedding,
                           [&](std::size_t index) { return reader.block(index); }};
  QuantizedWeights quantized = quantize_weights(source, options.quantize, options.settings,
                                                windows ? &*windows : nullptr, executor);
  const double bits = bits_per_weight(quantized);
  if (gguf) {
    gguf->finish(source_checkpoint, reader.config(), quantized);
  } else {
    folder->finish(source_checkpoint, quantized);
  }

  fmt::print("format            {}\n", quantized.format.info().spec);
  fmt::print("method            {}\n", quantized.method);
  fmt::print("path              {}\n", nybble::path_name(quantized.path));
  if (quantized.activations) {
    fmt::print("activations       {}\n", quantized.activations->info().spec);
  }
  if (windows) {
    fmt::print("calibration       {} windows of {} tokens\n", windows->count(), windows->size);
  }
  fmt::print("bits per weight   {:.3f}\n", bits);
  fmt::print("seconds           {:.1f}\n", quantized.seconds);
  fmt::print(
      "tensors           {:.2f} MB, were {:.2f} MB\n",
      gguf ? megabytes(nybble::GgufFile(options.out)) : megabytes(nybble::Checkpoint(options.out)),
      megabytes(source_checkpoint));
}

}  // namespace llama
