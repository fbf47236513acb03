#include "src/quantize/tensor_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "src/io/decode_floats.h"

namespace nybble {

namespace {

constexpr std::string_view kWeight = ".weight";

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

template <class... Names>
bool is_one_of(std::string_view text, Names... names) {
  return ((text == names) || ...);
}

/// Whether a module is inside one of a list of blocks: "layers.3.mlp".
bool in_block(std::string_view module) {
  for (std::size_t end = module.find('.'); end != std::string_view::npos; end = module.find('.')) {
    if (end != 0 && module.find_first_not_of("0123456789") == end) return true;
    module.remove_prefix(end + 1);
  }
  return false;
}

/// By the last two components of its name. Blocks of diffusion models have layers of the names that
/// elsewhere are the model's last.
bool is_head(std::string_view module, std::string_view parent, std::string_view last) {
  if (module == "output" || is_one_of(last, "lm_head", "head", "score", "classifier")) return true;
  if (in_block(module)) return false;
  return is_one_of(last, "output_layer", "proj_out") ||
         is_one_of(parent, "lm_head", "score", "classifier");
}

/// What is known to lose more from 4 bits than it saves, by the names in use: Hugging Face's, and
/// the original ones of Llama, GPT-2, Mixtral, RWKV and others.
std::string known_role(std::string_view module) {
  const std::size_t dot = module.rfind('.');
  const std::string_view last = module.substr(dot + 1);
  const std::string_view before = dot == std::string_view::npos ? "" : module.substr(0, dot);
  const std::string_view parent = before.substr(before.rfind('.') + 1);
  if (contains(last, "embed") ||
      is_one_of(last, "wte", "wpe", "shared", "emb", "relative_attention_bias")) {
    return "embedding";
  }
  if (is_head(module, parent, last)) return "output head";
  if (contains(last, "norm") || last.starts_with("ln_")) return "norm";
  if (contains(module, "router") || last == "gate" ||
      (parent == "gate" && is_one_of(last, "wg", "linear"))) {
    return "router";
  }
  return {};
}

}  // namespace

std::string module_name(std::string_view tensor) {
  if (tensor.ends_with(kWeight)) tensor.remove_suffix(kWeight.size());
  return std::string(tensor);
}

bool can_quantize(const TensorInfo& tensor) {
  return io::is_float(tensor.type) && tensor.shape.size() >= 2 && tensor.bytes != 0;
}

std::string too_small() { return fmt::format("fewer than {} rows or columns", kSmallestMatrix); }

std::string reason_to_copy(const TensorInfo& tensor) {
  if (!io::is_float(tensor.type)) return "not of floats";
  if (tensor.shape.size() != 2) return fmt::format("{}-D", tensor.shape.size());
  if (!tensor.name.ends_with(kWeight)) return "not a weight";
  std::string role = known_role(module_name(tensor.name));
  if (!role.empty()) return role;
  if (std::min(tensor.shape[0], tensor.shape[1]) < kSmallestMatrix) {
    return too_small();
  }
  return {};
}

}  // namespace nybble
