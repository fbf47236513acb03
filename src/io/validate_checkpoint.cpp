#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "nybble/error.h"
#include "nybble/io/validate.h"
#include "src/io/checked.h"
#include "src/io/orphans.h"
#include "src/io/python_json.h"

namespace nybble {

namespace {

std::size_t size_in(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_unsigned() ? found->get<std::size_t>() : 0;
}

std::size_t size_in(const std::map<std::string, std::string>& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return 0;
  std::size_t size = 0;
  const char* end = found->second.data() + found->second.size();
  const auto [stop, error] = std::from_chars(found->second.data(), end, size);
  return error == std::errc() && stop == end ? size : 0;
}

/// One name for each projection of Llama-like models, as checkpoints and GGUF files call them.
enum class Projection { none, query_key_value, output, gate_up, down };

Projection projection_of(std::string_view module) {
  constexpr std::pair<std::string_view, Projection> kNames[] = {
      {"q_proj", Projection::query_key_value}, {"k_proj", Projection::query_key_value},
      {"v_proj", Projection::query_key_value}, {"attn_q", Projection::query_key_value},
      {"attn_k", Projection::query_key_value}, {"attn_v", Projection::query_key_value},
      {"o_proj", Projection::output},          {"attn_output", Projection::output},
      {"gate_proj", Projection::gate_up},      {"up_proj", Projection::gate_up},
      {"ffn_gate", Projection::gate_up},       {"ffn_up", Projection::gate_up},
      {"down_proj", Projection::down},         {"ffn_down", Projection::down}};
  const std::string_view last = module.substr(module.rfind('.') + 1);
  const auto* found = std::find_if(std::begin(kNames), std::end(kNames),
                                   [&](const auto& row) { return row.first == last; });
  return found == std::end(kNames) ? Projection::none : found->second;
}

/// Towers beside the language model have sizes of their own.
bool is_text_model(std::string_view module) {
  constexpr std::string_view kOthers[] = {"vision", "visual", "audio", "mm_", "v.blk", "a.blk"};
  return std::none_of(std::begin(kOthers), std::end(kOthers), [&](std::string_view other) {
    return module.find(other) != std::string_view::npos;
  });
}

void check_shape(const QuantizedCheckpoint::LayerEntry& layer, const ModelShape& model,
                 const std::function<void(const Finding&)>& report) {
  if (layer.shape.size() < 2 || !is_text_model(layer.name)) return;
  const Projection projection = projection_of(layer.name);
  // Experts have an intermediate size of their own.
  const bool expert = layer.name.find("expert") != std::string::npos;
  const std::size_t intermediate = expert ? 0 : model.intermediate_size;
  std::size_t outputs = 0;
  std::size_t inputs = 0;
  switch (projection) {
    case Projection::none:
      return;
    case Projection::query_key_value:
      inputs = model.hidden_size;
      break;
    case Projection::output:
      outputs = model.hidden_size;
      break;
    case Projection::gate_up:
      inputs = model.hidden_size;
      outputs = intermediate;
      break;
    case Projection::down:
      inputs = intermediate;
      outputs = model.hidden_size;
      break;
  }
  const std::size_t n = layer.shape[layer.shape.size() - 2];
  const std::size_t k = layer.shape.back();
  const auto expect = [&](const char* what, std::size_t found, std::size_t expected) {
    if (expected == 0 || found == expected) return;
    report({Severity::error, layer.name, what, fmt::format("{}", found),
            fmt::format("{}, as the model's config says", expected)});
  };
  expect("number of outputs", n, outputs);
  expect("number of inputs", k, inputs);
}

/// Layout gptq stores zero points minus one, so 0 as 15. Writers take 0x11111111 from a whole word,
/// which borrows from the next; kernels add one to each of its eight, modulo 16 or not.
void check_stored_zeros(const StoredLayer& layer,
                        const std::function<void(const Finding&)>& report) {
  const std::vector<std::uint8_t>& zeros = layer.weight.zero_points;
  const auto first = std::find(zeros.begin(), zeros.end(), 0);
  if (first == zeros.end()) return;
  const auto index = static_cast<std::size_t>(first - zeros.begin());
  report(
      {Severity::warning, layer.name,
       fmt::format("zero_points[{}, {}]", index / layer.weight.groups, index % layer.weight.groups),
       "0, which layout gptq stores as 15", "1 to 15: kernels disagree, gptq_v2 holds 0",
       static_cast<std::size_t>(std::count(first, zeros.end(), 0))});
}

/// Layers that engines fuse, by their common input: "PREFIX.{q,k,v}" and "PREFIX.{gate,up}".
class FusedScales {
 public:
  void add(const StoredLayer& layer) {
    if (!layer.weight.format.info().tensor_scale) return;
    const Projection projection = projection_of(layer.name);
    if (projection != Projection::query_key_value && projection != Projection::gate_up) return;
    const std::string module = layer.name.substr(0, layer.name.rfind('.') + 1);
    siblings_[{module, projection}].push_back({layer.name, layer.weight.tensor.scale});
  }
  void report_differing(const std::function<void(const Finding&)>& report) const {
    for (const auto& [key, layers] : siblings_) {
      const float first = layers.front().second;
      std::vector<std::string> others;
      for (const auto& [name, scale] : layers) {
        if (scale != first) others.push_back(fmt::format("{} of {}", scale, name));
      }
      if (others.empty()) continue;
      report({Severity::note, layers.front().first, "tensor scale", fmt::format("{}", first),
              fmt::format("{}: engines that fuse these layers assume one",
                          fmt::join(others, " and "))});
    }
  }

 private:
  std::map<std::pair<std::string, Projection>, std::vector<std::pair<std::string, float>>>
      siblings_;
};

}  // namespace

ModelShape read_model_shape(const std::filesystem::path& path,
                            const QuantizedCheckpoint& checkpoint) {
  const std::map<std::string, std::string>& metadata = checkpoint.metadata();
  if (const auto architecture = metadata.find("general.architecture");
      architecture != metadata.end()) {
    return {size_in(metadata, architecture->second + ".embedding_length"),
            size_in(metadata, architecture->second + ".feed_forward_length")};
  }
  const std::filesystem::path folder =
      std::filesystem::is_directory(path) ? path : path.parent_path();
  const std::filesystem::path config = folder / "config.json";
  if (!std::filesystem::exists(config)) return {};
  const nlohmann::json whole = io::read_python_json(config);
  const auto text = whole.find("text_config");
  const nlohmann::json& model = text != whole.end() && text->is_object() ? *text : whole;
  return {size_in(model, "hidden_size"), size_in(model, "intermediate_size")};
}

std::map<std::string, std::size_t> validate(const QuantizedCheckpoint& checkpoint,
                                            const ModelShape& shape,
                                            const std::function<void(const Finding&)>& report,
                                            Executor& executor) {
  if (checkpoint.layers().empty() && !checkpoint.claimed_method().empty()) {
    report({Severity::error, "quantization_config", "quant_method",
            io::quote(checkpoint.claimed_method()), "that of a layer in a layout known here"});
  }
  FusedScales fused;
  for (const QuantizedCheckpoint::LayerEntry& entry : checkpoint.layers()) {
    check_shape(entry, shape, report);
    const StoredLayer layer = checkpoint.read(entry.name);
    for (const Finding& finding : validate(layer, entry.layout == "gguf", executor)) {
      report(finding);
    }
    if (entry.layout == "gptq") check_stored_zeros(layer, report);
    fused.add(layer);
  }
  fused.report_differing(report);
  for (const Finding& finding : io::find_orphans(checkpoint)) report(finding);
  for (const Finding& finding : io::find_misfits(checkpoint)) report(finding);
  std::map<std::string, std::size_t> not_checked;
  for (const QuantizedCheckpoint::TensorEntry& entry : checkpoint.tensors()) {
    std::vector<float> values;
    try {
      values = checkpoint.read_f32(entry.name);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unsupported) throw;
      ++not_checked[entry.type];
      continue;
    }
    for (const Finding& finding : validate(entry.name, entry.shape, values, executor)) {
      report(finding);
    }
  }
  return not_checked;
}

}  // namespace nybble
