#include "src/io/layout/compressed_tensors_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/layout/json_members.h"

namespace nybble::io {

using nlohmann::json;
using nlohmann::ordered_json;

namespace {

constexpr const char* kMethod = "compressed-tensors";

/// All formats it names: its own and, in files with several, that of each group.
std::vector<std::string> formats_in(const json& config) {
  std::vector<std::string> formats = {text_member(config, "format")};
  for (const json& group : member(config, "config_groups")) {
    formats.push_back(text_member(group, "format"));
  }
  std::erase(formats, "");
  return formats;
}

}  // namespace

void judge_compressed_tensors(const json& config, const std::string& format, Evidence& evidence) {
  const std::string method = text_member(config, "quant_method");
  if (method.empty()) return;
  evidence.config_says = fmt::format("quant_method is {}", quote(method));
  if (method != kMethod) {
    evidence.config = Evidence::Verdict::against;
    return;
  }
  const std::vector<std::string> formats = formats_in(config);
  for (const std::string& named : formats) {
    evidence.config_says += fmt::format(", format {}", quote(named));
  }
  if (std::find(formats.begin(), formats.end(), format) != formats.end()) {
    evidence.config = Evidence::Verdict::in_favour;
  } else if (!formats.empty()) {
    evidence.config = Evidence::Verdict::against;
  }
}

json weights_option(const json& config, const char* key) {
  json result;
  bool first = true;
  for (const json& group : member(config, "config_groups")) {
    const json& value = member(member(group, "weights"), key);
    if (!first && value != result) return nullptr;
    result = value;
    first = false;
  }
  return result;
}

void refuse_transform_config(const TensorSource& source) {
  const json& config = member(source.config(), "transform_config");
  if (config.is_null() || (config.is_object() && member(config, "config_groups").empty())) return;
  throw Error(
      ErrorCode::unsupported,
      fmt::format("{}: quantization_config has a transform_config: rotations of activations "
                  "that the runtime must apply, expected none",
                  source.where()));
}

ordered_json compressed_tensors_config(const std::string& format, const ordered_json& weights,
                                       std::span<const std::string> plain) {
  ordered_json group = {{"targets", {"Linear"}},
                        {"weights", weights},
                        {"input_activations", nullptr},
                        {"output_activations", nullptr}};
  ordered_json ignore = ordered_json::array();
  for (const std::string& module : plain) ignore.push_back(module);
  return {{"quant_method", kMethod},
          {"format", format},
          {"quantization_status", "compressed"},
          {"config_groups", {{"group_0", group}}},
          {"ignore", ignore},
          {"kv_cache_scheme", nullptr}};
}

}  // namespace nybble::io
