#include "src/io/orphans.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string_view>

#include "src/io/checked.h"

namespace nybble::io {

namespace {

using TensorEntry = QuantizedCheckpoint::TensorEntry;

/// Names that end in the first belong to quantized layers of some tool, beside one in the second.
struct Part {
  std::string_view suffix, partner;
};
constexpr Part kParts[] = {{".qweight", ".scales"},
                           {".qzeros", ".qweight"},
                           {".g_idx", ".qweight"},
                           {".weight.codes", ".weight.scales"},
                           {".weight.scales", ".weight.codes"},
                           {".weight.nested_scales", ".weight.codes"},
                           {".weight.tensor_scale", ".weight.codes"},
                           {".scales", ".qweight"},
                           {".weight_packed", ".weight_scale"},
                           {".weight_shape", ".weight_packed"},
                           {".weight_zero_point", ".weight_packed"},
                           {".weight_global_scale", ".weight_packed"},
                           {".weight_g_idx", ".weight_packed"},
                           {".weight_scale_2", ".weight_scale"},
                           {".weight.absmax", ".weight"},
                           {".weight.quant_map", ".weight.absmax"},
                           {".weight.nested_absmax", ".weight.absmax"},
                           {".weight.nested_quant_map", ".weight.absmax"}};
/// Weights of 8 bits have scales of this name, too.
constexpr Part kScale = {".weight_scale", ".weight"};
/// gpt-oss' experts.
constexpr Part kExpertParts[] = {{"_blocks", "_scales"}, {"_scales", "_blocks"}};

using Others = std::map<std::string, const TensorEntry*, std::less<>>;

Others others_of(const QuantizedCheckpoint& checkpoint) {
  Others out;
  for (const TensorEntry& tensor : checkpoint.tensors()) out.emplace(tensor.name, &tensor);
  return out;
}

std::string partner_of(const std::string& name, const Part& part) {
  return name.substr(0, name.size() - part.suffix.size()) + std::string(part.partner);
}

/// What must be beside the tensor if it is part of a quantized layer; empty: it is none.
std::string partner_of(const std::string& name, const Others& others) {
  for (const Part& part : kParts) {
    if (name.ends_with(part.suffix)) return partner_of(name, part);
  }
  for (const Part& part : kExpertParts) {
    const bool expert = name.find("experts.") != std::string::npos;
    if (expert && name.ends_with(part.suffix)) return partner_of(name, part);
  }
  if (!name.ends_with(kScale.suffix)) return {};
  const auto weight = others.find(partner_of(name, kScale));
  const bool of_bytes = weight != others.end() &&
                        (weight->second->type.starts_with("F8") || weight->second->type == "I8");
  return of_bytes ? std::string() : partner_of(name, {kScale.suffix, ".weight_packed"});
}

/// Whether a tensor is part of a layer of QuantizedCheckpoint::other_widths().
bool is_of_other_width(const std::string& name, const QuantizedCheckpoint& checkpoint) {
  const auto ends_a_layer = [&](const Part& part) {
    return name.ends_with(part.suffix) &&
           checkpoint.other_widths().contains(name.substr(0, name.size() - part.suffix.size()));
  };
  return ends_a_layer(kScale) || std::any_of(std::begin(kParts), std::end(kParts), ends_a_layer);
}

}  // namespace

std::vector<Finding> find_orphans(const QuantizedCheckpoint& checkpoint) {
  const Others others = others_of(checkpoint);
  std::vector<Finding> out;
  for (const auto& [layer, bits] : checkpoint.other_widths()) {
    out.push_back({Severity::note, layer, "width", fmt::format("{} bits", bits),
                   "4: its tensors are not checked"});
  }
  for (const TensorEntry& tensor : checkpoint.tensors()) {
    const std::string partner = partner_of(tensor.name, others);
    if (partner.empty() || is_of_other_width(tensor.name, checkpoint)) continue;
    const std::string found =
        fmt::format("{} {} of no layer", tensor.type, shape_text(tensor.shape));
    if (others.contains(partner)) {
      out.push_back({Severity::warning, tensor.name, "tensor", found, "a layout known here"});
    } else {
      out.push_back({Severity::error, tensor.name, "tensor", found, quote(partner) + " beside it"});
    }
  }
  return out;
}

std::vector<Finding> find_misfits(const QuantizedCheckpoint& checkpoint) {
  const Others others = others_of(checkpoint);
  std::vector<Finding> out;
  for (const QuantizedCheckpoint::LayerEntry& layer : checkpoint.layers()) {
    if (layer.shape.size() != 2) continue;
    const auto bias = others.find(layer.name + ".bias");
    if (bias != others.end() && bias->second->shape != std::vector{layer.shape[0]}) {
      out.push_back({Severity::error, bias->second->name, "shape", shape_text(bias->second->shape),
                     fmt::format("one number for each of {} outputs", layer.shape[0])});
    }
    const auto weight = others.find(layer.name + ".weight");
    if (weight == others.end()) continue;
    out.push_back({Severity::warning, weight->second->name, "tensor",
                   fmt::format("{} beside a quantized layer of its name", weight->second->type),
                   "one of the two"});
  }
  return out;
}

}  // namespace nybble::io
