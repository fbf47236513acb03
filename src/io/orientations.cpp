#include "src/io/orientations.h"

#include <algorithm>
#include <utility>

#include "src/io/layout/json_members.h"
#include "src/io/model_files.h"
#include "src/io/quantization_config.h"

namespace nybble::io {

namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kConv1dModels[] = {"gpt2", "openai-gpt", "imagegpt",
                                              "decision_transformer"};
constexpr std::string_view kConv1dModules[] = {
    "attn.c_attn",           "attn.q_attn",           "attn.c_proj", "crossattention.c_attn",
    "crossattention.q_attn", "crossattention.c_proj", "mlp.c_fc",    "mlp.c_proj"};

/// Whether the object, or one inside it (a decoder of its own), is the config of such a model.
bool has_conv1d(const nlohmann::json& config) {
  const std::string type = text_member(config, "model_type");
  if (std::find(std::begin(kConv1dModels), std::end(kConv1dModels), type) !=
      std::end(kConv1dModels)) {
    return true;
  }
  return std::any_of(config.begin(), config.end(), [](const nlohmann::json& value) {
    return value.is_object() && has_conv1d(value);
  });
}

bool is_conv1d(std::string_view module) {
  return std::any_of(std::begin(kConv1dModules), std::end(kConv1dModules), [&](auto name) {
    return module == name ||
           (module.ends_with(name) && module[module.size() - name.size() - 1] == '.');
  });
}

}  // namespace

std::map<std::string, Orientation> find_orientations(const std::filesystem::path& checkpoint,
                                                     const TensorShapes& tensors) {
  const std::filesystem::path config = config_folder(checkpoint) / kConfigName;
  const bool conv1d_model = std::filesystem::exists(config) && has_conv1d(read_python_json(config));
  std::map<std::string, Orientation> out;
  std::vector<std::string> open;
  bool any_bias_turned = false;
  for (const auto& [name, shape] : tensors) {
    if (shape->size() != 2 || !name.ends_with(kWeight)) continue;
    const std::string module(name.substr(0, name.size() - kWeight.size()));
    const auto bias = tensors.find(module + ".bias");
    const auto fits = [&](std::size_t outputs) {
      return bias != tensors.end() && *bias->second == std::vector{outputs};
    };
    const bool straight = fits((*shape)[0]);
    const bool turned = fits((*shape)[1]);
    if (straight != turned) {
      if (turned) out.emplace(name, Orientation::in_out);
      any_bias_turned = any_bias_turned || turned;
    } else if (!conv1d_model) {
      open.emplace_back(name);
    } else if (is_conv1d(module)) {
      out.emplace(name, Orientation::in_out);
    }
  }
  if (!any_bias_turned) return out;
  for (std::string& name : open) out.emplace(std::move(name), Orientation::unknown);
  return out;
}

std::vector<std::size_t> transposed_shape(std::vector<std::size_t> shape) {
  std::swap(shape[shape.size() - 2], shape[shape.size() - 1]);
  return shape;
}

}  // namespace nybble::io
