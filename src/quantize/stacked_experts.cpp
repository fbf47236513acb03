#include "src/quantize/stacked_experts.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "src/io/decode_floats.h"
#include "src/io/model_files.h"
#include "src/quantize/tensor_choice.h"

namespace nybble {

namespace {

/// Projections from the hidden size, and to it.
constexpr std::array<std::string_view, 7> kFromHidden = {
    "gate_up_proj", "gate_proj", "up_proj", "w1", "w3", "gate_up", "input_linear"};
constexpr std::array<std::string_view, 4> kToHidden = {"down_proj", "w2", "down", "output_linear"};

enum class Order { unknown, rows_first, columns_first };

struct Name {
  std::string_view parent, last;
};

Name split(std::string_view module) {
  const std::size_t dot = module.rfind('.');
  if (dot == std::string_view::npos) return {{}, module};
  return {module.substr(0, dot), module.substr(dot + 1)};
}

template <std::size_t N>
bool is_in(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Order order_of(std::string_view last, const std::vector<std::size_t>& shape,
               std::size_t hidden_size) {
  const std::size_t inputs_of_rows = is_in(kFromHidden, last) ? 2 : 1;
  const bool rows = shape[inputs_of_rows] == hidden_size;
  const bool columns = shape[3 - inputs_of_rows] == hidden_size;
  if (rows == columns) return Order::unknown;
  return rows ? Order::rows_first : Order::columns_first;
}

}  // namespace

StackedExperts::StackedExperts(const TensorFiles& source, const std::filesystem::path& path)
    : source_(source) {
  const nlohmann::ordered_json config = io::read_model_config(path);
  for (const char* part : {"", "text_config"}) {
    const auto inner = config.find(part);
    const nlohmann::ordered_json& model = inner == config.end() ? config : *inner;
    const auto size = model.find("hidden_size");
    if (size != model.end() && size->is_number_unsigned()) hidden_size_ = size->get<std::size_t>();
  }
}

bool StackedExperts::is_one(const TensorInfo& tensor) {
  const std::string module = module_name(tensor.name);
  const Name name = split(module);
  const std::string_view owner = split(name.parent).last;
  const bool known = is_in(kFromHidden, name.last) || is_in(kToHidden, name.last);
  // GraniteMoe and JetMoe have no "experts" in their names.
  const bool linear = name.last == "input_linear" || name.last == "output_linear";
  return io::is_float(tensor.type) && tensor.shape.size() == 3 && tensor.bytes != 0 && known &&
         (linear || owner == "experts");
}

std::string StackedExperts::reason_to_copy(const TensorInfo& tensor) const {
  if (hidden_size_ == 0) return "3-D experts, no hidden_size";
  const std::string module = module_name(tensor.name);
  const Name name = split(module);
  Order order = order_of(name.last, tensor.shape, hidden_size_);
  // Where all axes are as long, what is beside it may tell.
  for (const TensorFiles::Entry& entry : source_.tensors()) {
    if (order != Order::unknown) break;
    const std::string other_module = module_name(entry.tensor->name);
    const Name other = split(other_module);
    if (other.parent != name.parent || !is_one(*entry.tensor)) continue;
    order = order_of(other.last, entry.tensor->shape, hidden_size_);
  }
  if (order == Order::unknown) return "3-D experts, inputs or outputs last";
  if (order == Order::columns_first) return "3-D experts of [K, N]";
  if (std::min(tensor.shape[1], tensor.shape[2]) < kSmallestMatrix) {
    return too_small();
  }
  return {};
}

}  // namespace nybble
