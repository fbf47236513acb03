#pragma once

#include <atomic>
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "nybble/executor.h"

namespace nybble {

struct ConvertOptions {
  std::string layout = {};         ///< to convert to: one of layout_names(), or "gguf"
  std::string source_layout = {};  ///< to read in; empty: found out
  /// Another format and how to quantize to it (a method without calibration): no conversion then,
  /// weights change. Empty: as they are.
  std::string format = {}, method = "rtn";
  /// Leave out what no weight depends on and `layout` has no place for, instead of refusing: a
  /// largest value beside a scale, GGUF's keys that are not text, ...
  bool drop_details = false;
  std::size_t shard_bytes = 5'000'000'000;
  /// Set by another thread or a signal: convert_checkpoint throws cancelled before the next tensor.
  const std::atomic<bool>* cancel = nullptr;
};

struct ConvertReport {
  std::size_t layers = 0;
  std::size_t tensors = 0;  ///< copied as they are
  std::size_t bytes = 0;    ///< of tensors written
};

/// Writes a quantized checkpoint in another layout: a folder (model.safetensors or shards and their
/// index, config.json with the new quantization_config, the tokenizer and other small files of the
/// source), or, for the layout "gguf", a file. One layer in memory at a time.
///
/// Without loss or not at all: for each layer, what is written is read again, and written again in
/// the layout it came from, which must give the same bytes. All that is done before anything is
/// written. Throws unsupported naming the first layer (in the order of the files) or tensor that
/// `layout` cannot hold, and why; bad_option for an unknown layout, without quantized layers, and
/// where `out` is the source, has other weights or is a file that is there; cancelled, with nothing
/// left behind but an empty folder; what reading and writing throw.
ConvertReport convert_checkpoint(const std::filesystem::path& source,
                                 const std::filesystem::path& out, const ConvertOptions& options,
                                 Executor& executor);

/// layout_names() and "gguf".
std::vector<std::string> convert_layout_names();

}  // namespace nybble
