#include "src/io/quantization_config.h"

#include <fmt/format.h>

#include "nybble/error.h"
#include "src/io/layout/config_claims.h"
#include "src/io/layout/json_members.h"
#include "src/io/model_files.h"
#include "src/io/python_json.h"
#include "src/io/strict_json.h"

namespace nybble::io {

namespace {

using nlohmann::json;

/// The second is what compressed-tensors called it first.
constexpr const char* kMainKeys[] = {"quantization_config", "compression_config"};

json read_main_config(const std::filesystem::path& path) {
  const json config = read_python_json(path);
  for (const char* key : kMainKeys) {
    const json& said = member(config, key);
    if (said.is_null()) continue;
    if (!said.is_object()) {
      throw Error(ErrorCode::bad_file, fmt::format("{}: {} is {}, expected an object",
                                                   path.string(), key, said.type_name()));
    }
    return said;
  }
  return json::object();
}

/// What a file beside config.json says, in the words of that.
json read_side_config(const std::filesystem::path& path) {
  json parsed = read_python_json(path);
  if (path.filename() == kAwqConfig) {
    parsed["quant_method"] = "awq";
    return parsed;
  }
  const json& inner = member(parsed, "quantization");  // ModelOpt's
  if (!inner.is_object()) return parsed;
  json result = inner;
  result["quant_method"] = "modelopt";
  return result;
}

/// "quant_method \"gptq\""; "no quant_method" where there is none.
std::string method_text(const json& said) {
  const json& method = member(said, "quant_method");
  return method.is_null() ? "no quant_method" : "quant_method " + show_json(method);
}

/// "text_config.quantization_config, quant_method \"modelopt\"" of the first one in the object or
/// in an object inside it; empty: there is none.
std::string find_main_claim(const json& object, const std::string& prefix) {
  for (const char* key : kMainKeys) {
    const json& said = member(object, key);
    if (!said.is_null()) return fmt::format("{}{}, {}", prefix, key, method_text(said));
  }
  for (const auto& [key, value] : object.items()) {
    if (!value.is_object()) continue;
    std::string found = find_main_claim(value, fmt::format("{}{}.", prefix, key));
    if (!found.empty()) return found;
  }
  return {};
}

}  // namespace

std::filesystem::path config_folder(const std::filesystem::path& checkpoint) {
  return std::filesystem::is_directory(checkpoint) ? checkpoint : checkpoint.parent_path();
}

json read_quantization_config(const std::filesystem::path& checkpoint) {
  const std::filesystem::path folder = config_folder(checkpoint);
  json config = json::object();
  std::string name;
  const std::filesystem::path model = folder / kConfigName;
  if (std::filesystem::exists(model)) {
    config = read_main_config(model);
    name = model.string();
  }
  for (const char* side : kSideConfigs) {
    const std::filesystem::path path = folder / side;
    if (!std::filesystem::exists(path)) continue;
    json said = read_side_config(path);
    config = config.empty() ? std::move(said) : merge_configs(config, name, said, path.string());
    name = path.string();
  }
  return config;
}

std::string find_quantization_claim(const std::filesystem::path& checkpoint) {
  const std::filesystem::path folder = config_folder(checkpoint);
  if (const std::filesystem::path path = folder / kConfigName; std::filesystem::exists(path)) {
    const std::string found = find_main_claim(read_python_json(path), "");
    if (!found.empty()) return fmt::format("{} ({})", kConfigName, found);
  }
  for (const char* side : kSideConfigs) {
    const std::filesystem::path path = folder / side;
    if (!std::filesystem::exists(path)) continue;
    const json parsed = read_python_json(path);
    const json& inner = member(parsed, "quantization");  // ModelOpt's: of a KV cache alone, perhaps
    const bool says = inner.is_object() ? !member(inner, "quant_algo").is_null() : !parsed.empty();
    if (says) return side;
  }
  return {};
}

}  // namespace nybble::io
