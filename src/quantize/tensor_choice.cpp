#include "src/quantize/tensor_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "src/io/decode_floats.h"

namespace nybble {

namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::size_t kSmallest = 32;

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

/// What is known to lose more from 4 bits than it saves, by the names in use: Hugging Face's, and
/// the original ones of Llama, GPT-2 and Mixtral.
std::string known_role(const std::string& module) {
  const std::string_view last = std::string_view(module).substr(module.rfind('.') + 1);
  const auto is_one_of = [&](auto... names) { return ((last == names) || ...); };
  if (contains(last, "embed") || is_one_of("wte", "wpe", "shared")) return "embedding";
  if (is_one_of("lm_head") || module == "output") return "output head";
  if (contains(last, "norm") || last.starts_with("ln_")) return "norm";
  if (contains(module, "router") || last == "gate") return "router";
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

std::string reason_to_copy(const TensorInfo& tensor) {
  if (!io::is_float(tensor.type)) return "not of floats";
  if (tensor.shape.size() != 2) return fmt::format("{}-D", tensor.shape.size());
  if (!tensor.name.ends_with(kWeight)) return "not a weight";
  std::string role = known_role(module_name(tensor.name));
  if (!role.empty()) return role;
  if (std::min(tensor.shape[0], tensor.shape[1]) < kSmallest) {
    return fmt::format("fewer than {} rows or columns", kSmallest);
  }
  return {};
}

}  // namespace nybble
