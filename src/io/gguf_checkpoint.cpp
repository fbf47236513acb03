// A GGUF file as QuantizedCheckpoint reads it, and its layers as GgufWriter writes them.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <type_traits>

#include "nybble/error.h"
#include "nybble/io/gguf.h"
#include "src/io/checked.h"
#include "src/io/checkpoint_source.h"
#include "src/io/gguf_blocks.h"
#include "src/io/gguf_model.h"

namespace nybble {
namespace io {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kScale = ".scale";
constexpr std::string_view kInputScale = ".input_scale";

std::string where_of(const GgufModel& file, std::string_view tensor) {
  return fmt::format("{}: tensor {}", file.name(), quote(tensor));
}

/// The name of the module that a tensor is the 4-bit weight of, or nothing.
std::optional<std::string> module_of(const GgufTensor& tensor) {
  const bool layer = is_four_bit(tensor.type) && tensor.name.ends_with(kWeight) &&
                     (tensor.shape.size() == 2 || tensor.shape.size() == 3);
  if (!layer) return std::nullopt;
  return tensor.name.substr(0, tensor.name.size() - kWeight.size());
}

/// The number in a tensor beside a layer's weight; nothing where there is no such tensor.
std::optional<float> read_number(const GgufModel& file, const std::string& name) {
  const GgufTensor* const tensor = file.find(name);
  if (tensor == nullptr) return std::nullopt;
  const std::string where = where_of(file, name);
  if (tensor->type != GgufType::f32) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{} is {}, expected F32", where, gguf_type_name(tensor->type)));
  }
  if (tensor->bytes.size() != sizeof(float)) {
    throw Error(ErrorCode::unsupported, fmt::format("{} has shape {}, one number can be held",
                                                    where, shape_text(tensor->shape)));
  }
  float number = 0;
  std::memcpy(&number, tensor->bytes.data(), sizeof(float));
  if (!(number > 0) || !std::isfinite(number)) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{} is {}, expected a positive number", where, number));
  }
  return number;
}

/// Strings and numbers as text; nothing for arrays.
std::optional<std::string> value_text(const GgufValue& value) {
  return std::visit(
      [](const auto& element) -> std::optional<std::string> {
        using T = std::decay_t<decltype(element)>;
        if constexpr (std::is_same_v<T, GgufArray>) {
          return std::nullopt;
        } else {
          return fmt::format("{}", element);
        }
      },
      value);
}

/// "Q4_0 12, Q4_K 3", in the order of first appearance.
class TypeCounts {
 public:
  void add(GgufType type) {
    const auto found = std::find_if(counts_.begin(), counts_.end(),
                                    [&](const auto& count) { return count.first == type; });
    if (found == counts_.end()) {
      counts_.emplace_back(type, 1);
    } else {
      ++found->second;
    }
  }
  [[nodiscard]] std::string text() const {
    std::string out;
    for (const auto& [type, count] : counts_) {
      out += fmt::format("{}{} {}", out.empty() ? "" : ", ", gguf_type_name(type), count);
    }
    return out.empty() ? "none" : out;
  }

 private:
  std::vector<std::pair<GgufType, std::size_t>> counts_;
};

/// The same type in safetensors, where it has one.
std::optional<TensorType> plain_type(GgufType type) {
  switch (type) {
    case GgufType::f32:
      return TensorType::f32;
    case GgufType::f16:
      return TensorType::f16;
    case GgufType::bf16:
      return TensorType::bf16;
    case GgufType::f64:
      return TensorType::f64;
    case GgufType::i8:
      return TensorType::i8;
    case GgufType::i16:
      return TensorType::i16;
    case GgufType::i32:
      return TensorType::i32;
    case GgufType::i64:
      return TensorType::i64;
    default:
      return std::nullopt;
  }
}

class GgufSource final : public QuantizedCheckpoint::Source {
 public:
  explicit GgufSource(const std::filesystem::path& path) : file_(path) {
    for (const GgufFile& file : file_.files()) files.emplace_back(file.name());
    for (const auto& [key, value] : file_.values()) {
      if (auto text = value_text(value)) metadata.emplace(key, std::move(*text));
    }
    std::set<std::string> taken;
    TypeCounts layer_types;
    for (const GgufTensor& tensor : file_.tensors()) {
      const auto module = module_of(tensor);
      if (!module) continue;
      QuantizedCheckpoint::LayerEntry entry{*module, "gguf", tensor.shape, {tensor.name}};
      if (tensor.type == GgufType::nvfp4) {
        for (const std::string_view suffix : {kScale, kInputScale}) {
          const std::string name = fmt::format("{}{}", *module, suffix);
          if (file_.find(name) != nullptr) entry.tensors.push_back(name);
        }
      }
      taken.insert(entry.tensors.begin(), entry.tensors.end());
      layers.push_back(std::move(entry));
      layer_types.add(tensor.type);
    }
    std::sort(layers.begin(), layers.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    TypeCounts other_types;
    for (const GgufTensor& tensor : file_.tensors()) {
      if (taken.contains(tensor.name)) continue;
      tensors.push_back({tensor.name, std::string(gguf_type_name(tensor.type)), tensor.shape});
      other_types.add(tensor.type);
    }
    const auto architecture = metadata.find("general.architecture");
    reasons.push_back(
        fmt::format("gguf: version {}, architecture {}{}", file_.version(),
                    architecture == metadata.end() ? "not given" : quote(architecture->second),
                    file_.is_split() ? fmt::format(", {} parts", file_.files().size()) : ""));
    reasons.push_back(fmt::format("gguf: {} layers ({})", layers.size(), layer_types.text()));
    reasons.push_back(
        fmt::format("gguf: {} other tensors ({})", tensors.size(), other_types.text()));
  }

  [[nodiscard]] StoredLayer read(std::size_t layer) const override {
    const QuantizedCheckpoint::LayerEntry& entry = layers[layer];
    const GgufTensor& tensor = file_.at(entry.tensors[0]);
    StoredLayer out{entry.name, entry.shape, read_blocks(tensor, where_of(file_, tensor.name)), {}};
    // Beside other types, .scale is the model's own and an ordinary tensor.
    if (tensor.type != GgufType::nvfp4) return out;
    if (const auto scale = read_number(file_, fmt::format("{}{}", entry.name, kScale))) {
      out.weight.tensor.scale = *scale;
      // A file that says 1 is not one that says nothing.
      if (*scale == 1) out.weight.tensor.divisor = 1;
    }
    if (const auto scale = read_number(file_, fmt::format("{}{}", entry.name, kInputScale))) {
      out.input_scale = TensorScale{*scale};
    }
    return out;
  }
  [[nodiscard]] std::vector<float> read_f32(std::size_t tensor) const override {
    const GgufTensor& found = file_.at(tensors[tensor].name);
    return decode_gguf(found, where_of(file_, found.name));
  }
  [[nodiscard]] std::span<const std::byte> bytes(std::size_t tensor) const override {
    return file_.at(tensors[tensor].name).bytes;
  }
  [[nodiscard]] TensorView raw(std::size_t tensor, std::vector<float>& storage) const override {
    const GgufTensor& found = file_.at(tensors[tensor].name);
    if (const auto type = plain_type(found.type)) {
      return {found.name, *type, found.shape, found.bytes};
    }
    storage = decode_gguf(found, where_of(file_, found.name));
    return {found.name, TensorType::f32, found.shape, std::as_bytes(std::span(storage))};
  }

 private:
  GgufModel file_;
};

}  // namespace

std::unique_ptr<const QuantizedCheckpoint::Source> open_gguf_checkpoint(
    const std::filesystem::path& path, const std::string& layout) {
  if (!layout.empty() && layout != "gguf") {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: layout '{}', a GGUF file has only 'gguf'", path.string(), layout));
  }
  return std::make_unique<GgufSource>(path);
}

}  // namespace io

namespace {

/// Throws unsupported unless the layer's tensors say all of it; returns the type of the weight's.
GgufType check_layer(const StoredLayer& layer, std::optional<GgufType> expected) {
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::unsupported, fmt::format("layer {}: {}", io::quote(layer.name), why));
  };
  if (layer.transforms.changes_input() || layer.transforms.has_side_branch()) {
    refuse(
        "GGUF has no place for what goes on around the weight (a permutation, a channel scale, "
        "a rotation, ...)");
  }
  std::size_t rows = 1;
  for (std::size_t i = 0; i + 1 < layer.shape.size(); ++i) rows *= layer.shape[i];
  if (layer.shape.size() < 2 || layer.shape.size() > 3 || rows != layer.weight.rows ||
      layer.shape.back() != layer.weight.cols) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("layer {}: shape {} of a weight of {} x {}, expected [N, K] or "
                            "[experts, N, K]",
                            io::quote(layer.name), io::shape_text(layer.shape), layer.weight.rows,
                            layer.weight.cols));
  }
  GgufType type{};
  try {
    type = gguf_type_for(layer.weight.format, layer.shape);
  } catch (const Error& error) {
    refuse(error.what());
  }
  if (expected && *expected != type) {
    refuse(fmt::format("{} cannot hold '{}', that is {}", gguf_type_name(*expected),
                       layer.weight.format.info().spec, gguf_type_name(type)));
  }
  if (layer.input_scale && type != GgufType::nvfp4) refuse("an input scale goes only with NVFP4");
  return type;
}

/// A one-number tensor beside a layer's weight.
void add_number(GgufWriter& writer, const std::string& name, float number) {
  const std::vector<std::size_t> shape = {1};
  writer.add(name, GgufType::f32, shape, [number] {
    const auto bytes = std::as_bytes(std::span(&number, 1));
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  });
}

/// Appends the tensors of `layer`, whose blocks `make_blocks` will make.
void add_tensors(GgufWriter& writer, const StoredLayer& layer, GgufType type,
                 std::function<std::vector<std::byte>()> make_blocks) {
  writer.add(fmt::format("{}{}", layer.name, io::kWeight), type, layer.shape,
             std::move(make_blocks));
  if (type != GgufType::nvfp4) return;
  const TensorScale& tensor = layer.weight.tensor;
  if (tensor.scale != 1 || tensor.divisor != 0) {
    add_number(writer, fmt::format("{}{}", layer.name, io::kScale), tensor.scale);
  }
  if (layer.input_scale) {
    add_number(writer, fmt::format("{}{}", layer.name, io::kInputScale), layer.input_scale->scale);
  }
}

std::vector<std::byte> blocks_of(const StoredLayer& layer, GgufType type) {
  return io::write_blocks(layer.weight, type, fmt::format("layer {}", io::quote(layer.name)));
}

}  // namespace

void add_layer(GgufWriter& writer, const StoredLayer& layer, std::optional<GgufType> type) {
  const GgufType found = check_layer(layer, type);
  add_tensors(writer, layer, found, [&layer, found] { return blocks_of(layer, found); });
}

void add_layer(GgufWriter& writer, std::function<StoredLayer()> read,
               std::optional<GgufType> type) {
  const StoredLayer layer = read();
  const GgufType found = check_layer(layer, type);
  add_tensors(writer, layer, found,
              [read = std::move(read), found] { return blocks_of(read(), found); });
}

}  // namespace nybble
