#include "src/io/layout/config_claims.h"

#include <fmt/format.h>

#include <algorithm>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/layout/json_members.h"
#include "src/io/strict_json.h"

namespace nybble::io {

namespace {

using nlohmann::json;

/// What one config, or one group of one, says of the weights of a layer. Null: nothing.
struct Claims {
  json bits, group_size, symmetric;
};

/// The first of the names that the object has.
const json& any_member(const json& object, std::initializer_list<const char*> keys) {
  static const json null;
  for (const char* key : keys) {
    if (!member(object, key).is_null()) return member(object, key);
  }
  return null;
}

/// "GEMM" in one file is "gemm" in another.
bool same_setting(const json& a, const json& b) {
  return a == b || (a.is_string() && b.is_string() &&
                    lower_case(a.get<std::string>()) == lower_case(b.get<std::string>()));
}

/// compressed-tensors tells groups of layers apart: one of them has to be the layer's.
std::vector<Claims> claims_of(const json& config) {
  std::vector<Claims> out;
  for (const json& group : member(config, "config_groups")) {
    const json& weights = member(group, "weights");
    if (!weights.is_object()) continue;
    Claims claims{member(weights, "num_bits"), member(weights, "group_size"),
                  member(weights, "symmetric")};
    if (text_member(weights, "strategy") == "channel") claims.group_size = -1;
    out.push_back(std::move(claims));
  }
  if (!out.empty()) return out;
  return {{any_member(config, {"bits", "w_bit"}),
           any_member(config, {"group_size", "q_group_size"}), member(config, "sym")}};
}

/// What the layer's tensors contradict; empty: nothing.
std::string contradiction(const Claims& claims, const QuantizedMatrix& weight) {
  const FormatInfo& info = weight.format.info();
  if (claims.bits.is_number() && claims.bits != 4) {
    return fmt::format("{} bits, its codes have 4", show_json(claims.bits));
  }
  if (claims.group_size.is_number_integer()) {
    const auto size = claims.group_size.get<std::int64_t>();
    const std::size_t group = size > 0 ? static_cast<std::size_t>(size) : weight.cols;
    const std::size_t groups = (weight.cols - 1) / group + 1;
    if (groups != weight.groups) {
      return fmt::format("a group size of {}, its {} columns have {} groups", size, weight.cols,
                         weight.groups);
    }
  }
  if (claims.symmetric == true && info.layout == ScaleLayout::zero_point) {
    return "symmetric codes, its zero points are not 8 throughout";
  }
  return {};
}

std::string bitsandbytes_contradiction(const json& config, const FormatInfo& info) {
  if (text_member(config, "quant_method") != "bitsandbytes") return {};
  if (member(config, "load_in_8bit") == true) return "8 bits, its codes have 4";
  const std::string type = text_member(config, "bnb_4bit_quant_type");
  const std::string found = info.name == "fp4_bnb" ? "fp4" : info.name;
  if (type.empty() || type == found) return {};
  return fmt::format("{}, its tensors {}", type, found);
}

/// Whether it is on a list of modules to leave alone, by its very name.
bool is_left_alone(const json& config, const std::string& layer) {
  for (const char* key : {"ignore", "exclude_modules", "modules_to_not_convert"}) {
    const json& names = member(config, key);
    if (names.is_array() && std::find(names.begin(), names.end(), json(layer)) != names.end()) {
      return true;
    }
  }
  return false;
}

}  // namespace

bool tells_apart(const json& config) {
  const json& dynamic = member(config, "dynamic");
  if (!dynamic.is_object()) return !member(config, "extra_config").empty();
  for (const auto& [key, value] : dynamic.items()) {
    if (!key.starts_with("-:")) return true;
  }
  return !member(config, "extra_config").empty();
}

void check_config_claims(const TensorSource& source, const StoredLayer& layer) {
  const json& config = source.config();
  if (tells_apart(config)) return;
  std::string wrong;
  for (const Claims& claims : claims_of(config)) {
    wrong = contradiction(claims, layer.weight);
    if (wrong.empty()) break;
  }
  if (wrong.empty()) wrong = bitsandbytes_contradiction(config, layer.weight.format.info());
  if (wrong.empty() && is_left_alone(config, layer.name)) {
    wrong = "not quantized, its tensors are";
  }
  if (wrong.empty()) return;
  throw Error(ErrorCode::bad_file,
              fmt::format("{}: layer {}: quantization_config says {}; expected them to agree, "
                          "--layout reads the tensors whatever it says",
                          source.where(), quote(layer.name), wrong));
}

json merge_configs(const json& config, const std::string& config_name, const json& other,
                   const std::string& other_name) {
  json out = config;
  for (const auto& [key, value] : other.items()) {
    const json& known = member(config, key.c_str());
    if (known.is_null()) {
      out[key] = value;
      continue;
    }
    const bool decides = key == "quant_method" || key == "checkpoint_format" || key == "format" ||
                         key == "bits" || key == "group_size" || key == "sym" ||
                         key == "quant_algo" || key == "version";
    if (!decides || same_setting(known, value)) continue;
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: {} is {}, in {} it is {}; expected them to agree", config_name,
                            quote(key), show_json(known), other_name, show_json(value)));
  }
  return out;
}

}  // namespace nybble::io
