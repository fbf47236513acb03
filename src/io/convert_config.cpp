#include "src/io/convert_config.h"

#include <fmt/format.h>

#include <algorithm>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/convert_layer.h"
#include "src/io/layout/json_members.h"

namespace nybble::io {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr const char* kQuantization = "quantization_config";
constexpr const char* kOldQuantization = "compression_config";  // compressed-tensors' first name
/// In config.json of layout nybble: the layout it was converted from, and its quantization_config.
constexpr const char* kOriginal = "nybble_original";

std::vector<std::string> plain_modules(const QuantizedCheckpoint& checkpoint) {
  constexpr std::string_view kWeight = ".weight";
  std::vector<std::string> out;
  for (const QuantizedCheckpoint::TensorEntry& tensor : checkpoint.tensors()) {
    if (tensor.shape.size() != 2 || !tensor.name.ends_with(kWeight)) continue;
    out.push_back(tensor.name.substr(0, tensor.name.size() - kWeight.size()));
  }
  return out;
}

/// The one layout of all layers; empty: there are several.
std::string layout_of(const QuantizedCheckpoint& checkpoint) {
  const std::string& first = checkpoint.layers().front().layout;
  const bool same = std::all_of(checkpoint.layers().begin(), checkpoint.layers().end(),
                                [&](const auto& layer) { return layer.layout == first; });
  return same ? first : std::string();
}

/// What of a quantization_config is about something else than the weights of the layers that are
/// converted; empty: nothing.
std::string beyond_weights(const json& config, bool holds_activations) {
  for (const char* key : {"kv_cache_scheme", "kv_cache_quant_algo"}) {
    if (!member(config, key).is_null()) return key;
  }
  const json& groups = member(config, "config_groups");
  if (groups.size() > 1) return "several config_groups";
  for (const json& group : groups) {
    for (const char* key : {"input_activations", "output_activations"}) {
      if (!member(group, key).is_null() && !holds_activations) return key;
    }
  }
  const json& dynamic = member(config, "dynamic");
  for (const auto& [key, value] : dynamic.items()) {
    if (!key.starts_with("-:")) return "dynamic";
  }
  return {};
}

}  // namespace

void refuse_other_widths(const QuantizedCheckpoint& checkpoint, const std::string& layout) {
  if (checkpoint.other_widths().empty()) return;
  const auto& [layer, bits] = *checkpoint.other_widths().begin();
  throw Error(ErrorCode::unsupported,
              fmt::format("layer {} has {} bits: layout {} cannot say so, expected layout nybble "
                          "and no other format, which keeps such layers as they are",
                          quote(layer), bits, layout));
}

ConvertedConfig::ConvertedConfig(const std::filesystem::path& source,
                                 const QuantizedCheckpoint& checkpoint,
                                 const ConvertOptions& options, const Layout& target)
    : source_(source), checkpoint_(checkpoint), plain_(plain_modules(checkpoint)) {
  target_.layout = &target;
  const std::string layout = layout_of(checkpoint);
  kept_ = options.format.empty() && layout == target.name();
  if (kept_) return;
  const ordered_json config = read_model_config(source);
  const auto key_of = [&](const char* key) {
    return config.contains(key) ? config[key] : ordered_json();
  };
  const ordered_json before = key_of(kOriginal);
  old_config_ = key_of(config.contains(kQuantization) ? kQuantization : kOldQuantization);
  if (before.is_object() && before.contains(kQuantization)) old_config_ = before[kQuantization];
  if (options.format.empty() && old_config_.is_object()) {
    if (target.name() == "nybble") {
      if (!layout.empty()) old_.layout = &find_layout(layout);
      return;
    }
    if (before.is_object() && before.contains("layout") && before["layout"] == target.name()) {
      restored_ = old_config_;
      return;
    }
  }
  loses_ = true;
  if (target.name() != "nybble" || !options.format.empty()) {
    refuse_other_widths(checkpoint, target.name());
  }
}

void ConvertedConfig::expect_nothing_lost() const {
  if (!loses_) return;
  const std::string target = target_.layout->name();
  const bool holds_activations = target.ends_with("nvfp4");
  const std::string lost = beyond_weights(json(old_config_), holds_activations);
  if (!lost.empty()) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: quantization_config has {}, which that of layout {} would not "
                            "({})",
                            source_.string(), lost, target, kDropDetails));
  }
  for (const QuantizedCheckpoint::TensorEntry& tensor : checkpoint_.tensors()) {
    if (!tensor.type.starts_with("F8") || !tensor.name.ends_with(".weight")) continue;
    throw Error(ErrorCode::unsupported,
                fmt::format("tensor {}: weights of type {}, which quantization_config of layout {} "
                            "cannot describe beside its own",
                            quote(tensor.name), tensor.type, target));
  }
}

void ConvertedConfig::Described::add(const StoredLayer& layer, std::span<const std::string> plain) {
  const ordered_json of_format = layout->config(layer.weight.format, plain);
  if (first_format.empty()) {
    config = of_format;
    first = of_format;
    first_format = layer.weight.format.info().spec;
  } else {
    one_for_all = one_for_all && of_format == first;
  }
  if (config.is_object()) layout->amend(config, layer);
}

void ConvertedConfig::add(const StoredLayer& layer) {
  if (kept_ || restored_.is_object()) return;
  if (old_.layout != nullptr) old_.add(layer, plain_);
  target_.add(layer, plain_);
  if (target_.one_for_all) return;
  throw Error(ErrorCode::unsupported,
              fmt::format("layer {}: format '{}' after layers of '{}', layout {} has one "
                          "quantization_config for all",
                          quote(layer.name), layer.weight.format.info().spec, target_.first_format,
                          target_.layout->name()));
}

std::vector<ModelFile> ConvertedConfig::files() const {
  if (kept_) return plan_model_files(source_, {}).files;
  ordered_json original;
  if (target_.layout->name() == "nybble" && old_config_.is_object() &&
      (!old_.one_for_all || old_.config != old_config_)) {
    original = {{"layout", old_.layout == nullptr ? "" : old_.layout->name()},
                {kQuantization, old_config_}};
  }
  return plan_model_files(source_,
                          {{kQuantization, restored_.is_null() ? target_.config : restored_},
                           {kOldQuantization, nullptr},
                           {kOriginal, original}})
      .files;
}

}  // namespace nybble::io
