#include "nybble/io/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <type_traits>

#include "nybble/error.h"
#include "nybble/io/sharded_writer.h"
#include "src/io/checked.h"
#include "src/io/convert_config.h"
#include "src/io/convert_layer.h"
#include "src/io/orphans.h"

namespace nybble {

namespace {

namespace fs = std::filesystem;

using LayerEntry = QuantizedCheckpoint::LayerEntry;
using TensorEntry = QuantizedCheckpoint::TensorEntry;

/// A layer or another tensor, in the order of the files.
struct Item {
  const LayerEntry* layer = nullptr;
  const TensorEntry* tensor = nullptr;
};

std::vector<Item> in_file_order(const QuantizedCheckpoint& checkpoint,
                                const io::SourceFiles& files) {
  std::map<std::string_view, Item> owners;
  for (const LayerEntry& layer : checkpoint.layers()) {
    for (const std::string& name : layer.tensors) owners[name] = {&layer, nullptr};
  }
  for (const TensorEntry& tensor : checkpoint.tensors()) owners[tensor.name] = {nullptr, &tensor};
  std::vector<Item> out;
  std::set<const LayerEntry*> seen;
  for (const std::string& name : files.names()) {
    const Item& item = owners.at(name);
    if (item.layer == nullptr || seen.insert(item.layer).second) out.push_back(item);
  }
  return out;
}

[[noreturn]] void refuse_tensor(const std::string& tensor, const std::string& why) {
  throw Error(ErrorCode::unsupported, fmt::format("tensor {}: {}", io::quote(tensor), why));
}

GgufType gguf_type(const TensorView& tensor) {
  constexpr std::pair<TensorType, GgufType> kTypes[] = {
      {TensorType::f32, GgufType::f32},   {TensorType::f16, GgufType::f16},
      {TensorType::bf16, GgufType::bf16}, {TensorType::f64, GgufType::f64},
      {TensorType::i8, GgufType::i8},     {TensorType::i16, GgufType::i16},
      {TensorType::i32, GgufType::i32},   {TensorType::i64, GgufType::i64}};
  for (const auto& [from, to] : kTypes) {
    if (from == tensor.type) return to;
  }
  refuse_tensor(tensor.name, fmt::format("GGUF has no type {}", tensor_type_name(tensor)));
}

class Conversion {
 public:
  Conversion(const fs::path& source, const fs::path& out, const ConvertOptions& options,
             Executor& executor)
      : source_(source),
        out_(out),
        options_(options),
        checkpoint_(source, options.source_layout),
        files_(source),
        converter_(checkpoint_, files_, options_, executor),
        items_(in_file_order(checkpoint_, files_)) {
    if (checkpoint_.layers().empty()) {
      throw Error(ErrorCode::bad_option,
                  fmt::format("{}: has no quantized layers, expected some", source.string()));
    }
    for (const Finding& finding : io::find_orphans(checkpoint_)) {
      if (finding.severity == Severity::error) throw Error(ErrorCode::bad_file, finding.text());
    }
    std::error_code ignored;
    if (fs::equivalent(source, out, ignored)) {
      throw Error(ErrorCode::bad_option,
                  fmt::format("{}: is the checkpoint that is read", out.string()));
    }
  }

  ConvertReport run() {
    report_.layers = checkpoint_.layers().size();
    report_.tensors = checkpoint_.tensors().size();
    if (converter_.to_gguf()) {
      write_gguf();
    } else {
      write_folder();
    }
    return report_;
  }

 private:
  void check_cancelled() const {
    if (options_.cancel == nullptr || !options_.cancel->load()) return;
    throw Error(ErrorCode::cancelled,
                fmt::format("interrupted: {} was not written", out_.string()));
  }

  // --- a folder of safetensors

  void write_folder() {
    ShardPlan plan = plan_folder();
    ShardedWriter writer(out_, std::move(plan));
    std::size_t next = 0;
    for (const Item& item : items_) {
      check_cancelled();
      if (item.layer != nullptr) {
        const io::WrittenLayer written = converter_.target().write(converter_.layer(*item.layer));
        for (const io::OwnedTensor& tensor : written.tensors) {
          writer.write(next++, 0, tensor.bytes);
        }
      } else {
        std::vector<float> storage;
        writer.write(next++, 0, checkpoint_.raw(item.tensor->name, storage).bytes);
      }
    }
    writer.flush();
    // Weights without the config that says what they are would be worse than none: it comes first.
    for (const io::ModelFile& file : config_->files()) {
      io::write_model_file(file, out_, out_);
    }
    writer.finish();
  }

  /// Converts every layer once, to know that all can be and what they take.
  ShardPlan plan_folder() {
    config_.emplace(source_, checkpoint_, options_, converter_.target());
    std::vector<TensorToWrite> tensors;
    std::map<std::string, std::string> metadata = source_metadata();
    for (const Item& item : items_) {
      check_cancelled();
      if (item.tensor != nullptr) {
        tensors.push_back(plan_tensor(*item.tensor));
        continue;
      }
      const StoredLayer layer = converter_.layer(*item.layer);
      io::WrittenLayer written = converter_.target().write(layer);
      converter_.prove(*item.layer, layer, &written);
      config_->add(layer);
      for (const auto& [key, value] : converter_.own_metadata(*item.layer, layer)) {
        metadata.erase(key);
      }
      for (io::OwnedTensor& tensor : written.tensors) {
        report_.bytes += tensor.bytes.size();
        tensors.push_back({std::move(tensor.name), tensor.type, std::move(tensor.shape),
                           std::exchange(written.metadata, {})});
      }
    }
    if (!options_.drop_details) config_->expect_nothing_lost();
    return plan_shards(tensors, metadata, options_.shard_bytes);
  }

  TensorToWrite plan_tensor(const TensorEntry& entry) {
    std::vector<float> storage;
    const TensorView tensor = checkpoint_.raw(entry.name, storage);
    if (tensor_type_name(tensor) != entry.type && !options_.drop_details) {
      refuse_tensor(entry.name, fmt::format("safetensors has no type {}; --drop-details "
                                            "(ConvertOptions::drop_details) makes it {}",
                                            entry.type, tensor_type_name(tensor)));
    }
    report_.bytes += tensor.bytes.size();
    return {entry.name, tensor.type, tensor.shape, {}, tensor.dtype, tensor.bytes.size()};
  }

  /// __metadata__ for the new files. What layers say there is theirs to write again.
  std::map<std::string, std::string> source_metadata() {
    if (!files_.gguf) return checkpoint_.metadata();
    std::map<std::string, std::string> out;
    std::string last;
    for (const auto& [key, value] : files_.gguf->values()) {
      const std::string* text = std::get_if<std::string>(&value);
      if ((text == nullptr || key < last) && !options_.drop_details) {
        throw Error(
            ErrorCode::unsupported,
            fmt::format("{}: key {} {}, which safetensors has no place for ({})", source_.string(),
                        io::quote(key), text == nullptr ? "is not a text" : "is not in order",
                        io::kDropDetails));
      }
      if (text != nullptr) out[key] = *text;
      last = key;
    }
    if ((files_.gguf->version() != 3 || files_.gguf->ends_unpadded()) && !options_.drop_details) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{}: is of version {}{}, which safetensors has no place for ({})",
                              source_.string(), files_.gguf->version(),
                              files_.gguf->ends_unpadded() ? " without padding at its end" : "",
                              io::kDropDetails));
    }
    return out;
  }

  // --- a GGUF file

  void write_gguf() {
    if (fs::exists(out_)) {
      throw Error(ErrorCode::bad_option,
                  fmt::format("{}: is there already, expected a new file", out_.string()));
    }
    io::refuse_other_widths(checkpoint_, "gguf");
    GgufWriterOptions options;
    if (files_.gguf) options = {files_.gguf->version(), files_.gguf->ends_unpadded()};
    GgufWriter writer(out_, options);
    std::map<std::string, std::string> metadata;
    if (!files_.gguf) metadata = checkpoint_.metadata();
    std::vector<std::function<void()>> additions;
    for (const Item& item : items_) {
      check_cancelled();
      if (item.tensor != nullptr) {
        additions.emplace_back(
            [this, &writer, entry = item.tensor] { add_tensor(writer, *entry); });
        continue;
      }
      const LayerEntry& entry = *item.layer;
      {
        const StoredLayer layer = converter_.layer(entry);
        for (const auto& [key, value] : converter_.own_metadata(entry, layer)) metadata.erase(key);
      }
      additions.emplace_back([this, &writer, &entry] {
        add_layer(writer, [this, &entry] {
          check_cancelled();
          return converter_.layer(entry);
        });
        converter_.prove(entry, converter_.layer(entry), nullptr);
      });
    }
    // Keys come first in the file, those of the layers' own are known only now.
    if (files_.gguf) {
      for (const auto& [key, value] : files_.gguf->values()) writer.set(key, value);
    }
    for (const auto& [key, value] : metadata) writer.set(key, value);
    for (const auto& add : additions) add();
    writer.finish();
    report_.bytes = static_cast<std::size_t>(fs::file_size(out_));
  }

  void add_tensor(GgufWriter& writer, const TensorEntry& entry) {
    if (files_.gguf) {
      const GgufTensor& tensor = files_.gguf->at(entry.name);
      writer.add(tensor.name, tensor.type, tensor.shape, tensor.bytes);
      return;
    }
    const TensorView& tensor = files_.safetensors->at(entry.name);
    writer.add(tensor.name, gguf_type(tensor), tensor.shape, tensor.bytes);
  }

  fs::path source_, out_;
  const ConvertOptions& options_;
  QuantizedCheckpoint checkpoint_;
  io::SourceFiles files_;
  io::LayerConverter converter_;
  std::vector<Item> items_;
  std::optional<io::ConvertedConfig> config_;  ///< not for GGUF
  ConvertReport report_;
};

}  // namespace

ConvertReport convert_checkpoint(const std::filesystem::path& source,
                                 const std::filesystem::path& out, const ConvertOptions& options,
                                 Executor& executor) {
  return Conversion(source, out, options, executor).run();
}

std::vector<std::string> convert_layout_names() {
  std::vector<std::string> names = layout_names();
  names.emplace_back("gguf");
  return names;
}

}  // namespace nybble
