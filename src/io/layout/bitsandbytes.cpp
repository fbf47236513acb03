// bitsandbytes' 4-bit weights, NF4 and its own FP4; facts from ecosystem.md section 1.4 and
// formats.md section 9.
//   NAME.weight            U8 [N*K/2, 1], the first of two codes in the high nibble; another type
//                          of the same bytes where quant_storage was set
//   NAME.weight.absmax     F32, one a block of the flattened tensor; U8 where it is quantized again
//   NAME.weight.quant_map  F32 [16], the table
//   NAME.weight.nested_absmax F32, NAME.weight.nested_quant_map F32 [256]: of the absmax
//   NAME.weight.quant_state.bitsandbytes__nf4 (or __fp4)  U8, the rest as JSON text

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>

#include "nybble/error.h"
#include "nybble/format/nf4.h"
#include "nybble/format/registry.h"
#include "src/io/checked.h"
#include "src/io/layout/packing.h"
#include "src/io/layout/stored_tensors.h"
#include "src/io/safetensors_format.h"
#include "src/io/strict_json.h"

namespace nybble::io {

namespace {

using nlohmann::json;

constexpr std::string_view kAbsmax = ".weight.absmax";
constexpr std::string_view kState = ".weight.quant_state.bitsandbytes__";
constexpr std::array kTypes = {"nf4", "fp4"};
constexpr const char* kStateDetail = "bitsandbytes.quant_state";
constexpr const char* kStorageDetail = "bitsandbytes.quant_storage";
constexpr std::size_t kJsonDepth = 4;

bool is_block_size(std::size_t block) {
  return block >= 32 && block <= 4096 && std::has_single_bit(block);
}

/// What the JSON text says.
struct State {
  std::string type;  ///< "nf4" or "fp4"
  std::size_t block = 64;
  std::string dtype = "bfloat16";
  std::vector<std::size_t> shape;
  bool nested = false;
  float nested_offset = 0;

  bool operator==(const State&) const = default;
};

/// A number as Python's json writes it: the shortest text that gives it again.
std::string python_number(float value) {
  std::string text = fmt::format("{}", static_cast<double>(value));
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

/// The text that bitsandbytes writes.
std::string state_text(const State& state) {
  std::string text =
      fmt::format(R"({{"quant_type": "{}", "blocksize": {}, "dtype": "{}", "shape": [{}])",
                  state.type, state.block, state.dtype, fmt::join(state.shape, ", "));
  if (state.nested) {
    text +=
        fmt::format(R"(, "nested_blocksize": {}, "nested_dtype": "float32", "nested_offset": {})",
                    kNestedBlock, python_number(state.nested_offset));
  }
  return text + "}";
}

/// What is written of a layer that did not come with a text of its own.
State state_of(const StoredLayer& layer) {
  const FormatInfo& info = layer.weight.format.info();
  return {info.name == "nf4" ? "nf4" : "fp4",
          layer.weight.group,
          "bfloat16",
          layer.shape,
          info.double_quantized,
          layer.weight.nested_offset};
}

/// Reads members of the JSON, with errors that name it.
class StateReader {
 public:
  StateReader(std::span<const std::byte> text, std::string where)
      : where_(std::move(where)), json_(parse_strict_json(text, where_, kJsonDepth)) {}

  /// `type` is the one in the tensor's name.
  [[nodiscard]] State read(std::string_view type) const {
    State state;
    state.type = string("quant_type");
    if (state.type != type) refuse(ErrorCode::bad_file, "quant_type", quote(type));
    const json& block = member("blocksize");
    if (!block.is_number_unsigned() || !is_block_size(block)) {
      refuse(ErrorCode::bad_file, "blocksize", "a power of two from 32 to 4096");
    }
    state.block = block;
    state.dtype = string("dtype");
    const json& shape = member("shape");
    const bool counts = shape.is_array() && std::all_of(shape.begin(), shape.end(), [](auto& n) {
                          return n.is_number_unsigned() && n != 0U;
                        });
    if (!counts) refuse(ErrorCode::bad_file, "shape", "a list of numbers above 0");
    state.shape = shape.get<std::vector<std::size_t>>();
    if (!json_.contains("nested_blocksize")) return state;
    state.nested = true;
    if (member("nested_blocksize") != kNestedBlock) {
      refuse(ErrorCode::unsupported, "nested_blocksize", fmt::format("{}", kNestedBlock));
    }
    if (member("nested_dtype") != "float32") {
      refuse(ErrorCode::unsupported, "nested_dtype", "\"float32\"");
    }
    const json& offset = member("nested_offset");
    if (!offset.is_number()) refuse(ErrorCode::bad_file, "nested_offset", "a number");
    const double value = offset;
    state.nested_offset = static_cast<float>(value);
    if (state.nested_offset != value) {
      refuse(ErrorCode::unsupported, "nested_offset", "a number that is one of f32");
    }
    return state;
  }

 private:
  [[nodiscard]] const json& member(const char* key) const {
    const auto found = json_.find(key);
    if (found == json_.end()) {
      throw Error(ErrorCode::bad_file, fmt::format("{}: no {}", where_, key));
    }
    return *found;
  }
  [[nodiscard]] std::string string(const char* key) const {
    const json& value = member(key);
    if (!value.is_string()) refuse(ErrorCode::bad_file, key, "a string");
    return value;
  }
  [[noreturn]] void refuse(ErrorCode code, const char* key, const std::string& expected) const {
    throw Error(code, fmt::format("{}: {} is {}, expected {}", where_, key, show_json(member(key)),
                                  expected));
  }

  std::string where_;
  json json_;
};

/// bitsandbytes' table of a type as it is in files: its -0 is +0 there.
std::array<float, 16> file_table(const FormatInfo& info) {
  std::array<float, 16> table = info.levels;
  for (float& level : table) level += 0.0F;
  return table;
}

std::vector<std::byte> bytes_of(std::span<const float> values) {
  const auto bytes = std::as_bytes(values);
  return {bytes.begin(), bytes.end()};
}

class BitsandbytesLayout final : public Layout {
 public:
  [[nodiscard]] std::string name() const override { return "bitsandbytes"; }
  [[nodiscard]] std::string summary() const override {
    return "bitsandbytes: nf4 and its fp4, absmax of blocks, quantized again or not";
  }
  [[nodiscard]] std::vector<Module> find(const TensorSource& source) const override;
  [[nodiscard]] Evidence judge(const TensorSource& source,
                               std::span<const Module> modules) const override;
  [[nodiscard]] StoredLayer read(const TensorSource& source, const Module& module) const override;
  void check(const AnyFormat& format, std::span<const std::size_t> shape) const override;
  [[nodiscard]] bool sizes_vary(const AnyFormat& format) const override {
    return format.info().double_quantized;  // nested_offset is in the JSON
  }
  [[nodiscard]] WrittenLayer write(const StoredLayer& layer) const override;
  [[nodiscard]] nlohmann::ordered_json config(const AnyFormat& format,
                                              std::span<const std::string> plain) const override;
};

/// The state's tensor; null where there is none or the module has two.
const TensorView* find_state(const TensorSource& source, const std::string& module) {
  const TensorView* found = nullptr;
  for (const char* type : kTypes) {
    const TensorView* tensor = source.find(fmt::format("{}{}{}", module, kState, type));
    if (tensor == nullptr) continue;
    if (found != nullptr) return nullptr;
    found = tensor;
  }
  return found;
}

State read_state(const TensorSource& source, const TensorView& tensor) {
  if (tensor.type != TensorType::u8 || tensor.shape.size() != 1) {
    throw Error(
        ErrorCode::bad_file,
        fmt::format("{}: tensor {} is {} {}, expected U8 [length of its text]", source.where(),
                    quote(tensor.name), tensor_type_name(tensor), shape_text(tensor.shape)));
  }
  const std::string type = tensor.name.substr(tensor.name.size() - 3);
  return StateReader(tensor.bytes, fmt::format("{}: tensor {}", source.where(), quote(tensor.name)))
      .read(type);
}

std::vector<Module> BitsandbytesLayout::find(const TensorSource& source) const {
  std::set<std::string> names;
  for (const std::string& tensor : source.names()) {
    if (tensor.ends_with(kAbsmax)) names.insert(tensor.substr(0, tensor.size() - kAbsmax.size()));
    for (const char* type : kTypes) {
      const std::string suffix = fmt::format("{}{}", kState, type);
      if (tensor.ends_with(suffix)) names.insert(tensor.substr(0, tensor.size() - suffix.size()));
    }
  }
  std::vector<Module> modules;
  for (const std::string& name : names) {
    Module module{name, {}, {}};
    for (const char* part : {"", ".absmax", ".nested_absmax", ".nested_quant_map", ".quant_map",
                             ".quant_state.bitsandbytes__fp4", ".quant_state.bitsandbytes__nf4"}) {
      const std::string tensor = name + ".weight" + part;
      if (source.find(tensor) != nullptr) module.tensors.push_back(tensor);
    }
    try {
      if (const TensorView* state = find_state(source, name)) {
        module.shape = read_state(source, *state).shape;
      }
    } catch (const Error&) {
      module.shape.clear();  // read() will say what is wrong
    }
    modules.push_back(std::move(module));
  }
  return modules;
}

Evidence BitsandbytesLayout::judge(const TensorSource& source,
                                   std::span<const Module> /*modules*/) const {
  Evidence evidence;
  const auto method = source.config().find("quant_method");
  if (method == source.config().end() || !method->is_string()) return evidence;
  const std::string text = *method;
  evidence.config_says = fmt::format("quant_method is {}", quote(text));
  evidence.config =
      text == "bitsandbytes" ? Evidence::Verdict::in_favour : Evidence::Verdict::against;
  return evidence;
}

/// The weight's bytes, checked against the shape that the state says.
const TensorView& expect_codes(const TensorSource& source, const std::string& name,
                               const State& state) {
  const auto bytes = byte_count(state.shape, 4);
  const TensorView* tensor = source.find(name);
  const std::string expected =
      fmt::format("[bytes of {} codes, 1] of a whole-byte type", shape_text(state.shape));
  if (tensor == nullptr) {
    throw Error(ErrorCode::bad_file, fmt::format("{}: no tensor {}, expected {}", source.where(),
                                                 quote(name), expected));
  }
  const std::size_t bits = tensor_type_bits(tensor->type);
  if (tensor->shape.size() != 2 || tensor->shape[1] != 1 || bytes != tensor->bytes.size() ||
      bits == 0 || bits % 8 != 0) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: tensor {} is {} {}, expected {}", source.where(), quote(name),
                            tensor_type_name(*tensor), shape_text(tensor->shape), expected));
  }
  return *tensor;
}

/// Throws `code` unless the tensor is `table`, bit for bit.
void expect_table(const TensorSource& source, const std::string& name, std::span<const float> table,
                  ErrorCode code) {
  const TensorView& tensor = source.expect(name, TensorType::f32, std::array{table.size()});
  for (std::size_t i = 0; i < table.size(); ++i) {
    float value = 0;
    std::memcpy(&value, tensor.bytes.data() + i * sizeof value, sizeof value);
    if (std::bit_cast<std::uint32_t>(value) == std::bit_cast<std::uint32_t>(table[i])) continue;
    throw Error(code, fmt::format("{}: tensor {} is {} at {}, expected bitsandbytes' own table: {}",
                                  source.where(), quote(name), value, i, table[i]));
  }
}

/// Blocks are cut into `parts` groups each: element i of `to`, of `size` bytes, is element i /
/// parts of `from`.
void spread(std::span<const std::byte> from, std::size_t size, std::size_t parts,
            std::span<std::byte> to) {
  for (std::size_t i = 0; i < to.size() / size; ++i) {
    std::memcpy(&to[i * size], &from[i / parts * size], size);
  }
}

StoredLayer BitsandbytesLayout::read(const TensorSource& source, const Module& module) const {
  const std::string weight = module.name + ".weight";
  const std::string layer = fmt::format("{}: layer {}", source.where(), quote(module.name));
  const TensorView* state_tensor = find_state(source, module.name);
  if (state_tensor == nullptr) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: no tensor {} or __fp4, or both, expected one", source.where(),
                            quote(weight + ".quant_state.bitsandbytes__nf4")));
  }
  const State state = read_state(source, *state_tensor);
  if (state.shape.size() < 2 || state.shape.back() % 2 != 0) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: shape {}, expected two dimensions or more, the last one even: a "
                            "row of codes is whole bytes",
                            layer, shape_text(state.shape)));
  }
  const TensorView& codes = expect_codes(source, weight, state);
  const std::size_t cols = state.shape.back();
  const std::size_t rows = codes.bytes.size() * 2 / cols;
  const std::size_t blocks = (rows * cols + state.block - 1) / state.block;
  // Blocks that run across row ends are cut where rows end: all parts are multiples of this.
  const std::size_t group = std::gcd(state.block, cols);
  const std::size_t parts = state.block / group;
  QuantizedMatrix matrix(
      parse_format(fmt::format("{}:block={},double={}", state.type == "nf4" ? "nf4" : "fp4_bnb",
                               group, state.nested)),
      rows, cols);
  expect_table(source, weight + ".quant_map", file_table(matrix.format.info()),
               ErrorCode::bad_file);
  const TensorView& absmax = source.expect(
      weight + ".absmax", state.nested ? TensorType::u8 : TensorType::f32, std::array{blocks});
  spread(absmax.bytes, state.nested ? 1 : sizeof(float), parts,
         std::as_writable_bytes(std::span(matrix.scales)));
  if (state.nested) {
    expect_table(source, weight + ".nested_quant_map", nested_table(), ErrorCode::unsupported);
    const TensorView& nested =
        source.expect(weight + ".nested_absmax", TensorType::f32,
                      std::array{(blocks + kNestedBlock - 1) / kNestedBlock});
    // One is that of 256 blocks, so of 256 * parts groups: canonical matrices have `parts` of it.
    spread(nested.bytes, sizeof(float), parts,
           std::as_writable_bytes(std::span(matrix.nested_scales)));
    matrix.nested_offset = state.nested_offset;
  }
  swap_nibbles(codes.bytes, matrix.codes.data());

  StoredLayer out{module.name, state.shape, std::move(matrix), {}};
  const std::string text(reinterpret_cast<const char*>(state_tensor->bytes.data()),
                         state_tensor->bytes.size());
  if (text != state_text(state_of(out))) out.details[kStateDetail] = text;
  if (codes.type != TensorType::u8) {
    out.details[kStorageDetail] = std::string(tensor_type_name(codes.type));
  }
  return out;
}

void BitsandbytesLayout::check(const AnyFormat& format, std::span<const std::size_t> shape) const {
  const FormatInfo& info = format.info();
  if (info.name != "nf4" && info.name != "fp4_bnb") {
    throw Error(
        ErrorCode::unsupported,
        fmt::format("layout {} holds nf4 and fp4_bnb, found format '{}'", name(), info.spec));
  }
  if (info.scale_type != ScaleType::f32) {
    throw Error(ErrorCode::unsupported,
                fmt::format("layout {} has f32 scales, found format '{}'", name(), info.spec));
  }
  if (shape.size() < 2 || shape.back() % info.group != 0) {
    throw Error(
        ErrorCode::unsupported,
        fmt::format("layout {}: shape {}, expected at least two dimensions and the last one "
                    "a multiple of the block {}: its blocks do not end with a row",
                    name(), shape_text(shape), info.group));
  }
}

/// What spread() made `from` of. Throws unsupported, naming the layer, where the parts of one
/// differ; `what` they are and how many `codes` have one in common are for the error.
std::vector<std::byte> join(const StoredLayer& layer, std::span<const std::byte> from,
                            std::size_t size, std::size_t parts, const char* what,
                            std::size_t codes) {
  const std::size_t count = from.size() / size;
  std::vector<std::byte> out((count + parts - 1) / parts * size);
  for (std::size_t i = 0; i < count; ++i) {
    std::byte* to = &out[i / parts * size];
    if (i % parts == 0) std::memcpy(to, &from[i * size], size);
    if (std::memcmp(to, &from[i * size], size) == 0) continue;
    throw Error(ErrorCode::unsupported,
                fmt::format("layer {}: {} differ within block {} of {} codes", quote(layer.name),
                            what, i / parts, codes));
  }
  return out;
}

WrittenLayer BitsandbytesLayout::write(const StoredLayer& layer) const {
  check_write(*this, layer, {});
  const QuantizedMatrix& matrix = layer.weight;
  const std::string weight = layer.name + ".weight";

  // The text the layer came with, as long as it says the same.
  State state = state_of(layer);
  std::string text;
  const std::string& kept = detail(layer, kStateDetail);
  if (kept.find(fmt::format("\"{}\"", state.type)) != std::string::npos) {
    const std::string where = fmt::format("layer {}: {}", quote(layer.name), kStateDetail);
    const State before = StateReader(std::as_bytes(std::span(kept)), where).read(state.type);
    state.dtype = before.dtype;
    if (std::gcd(before.block, matrix.cols) == matrix.group) state.block = before.block;
    if (before == state) text = kept;
  }
  if (!is_block_size(state.block)) {
    throw Error(ErrorCode::unsupported,
                fmt::format("layer {}: blocks of {}, expected a power of two from 32 to 4096",
                            quote(layer.name), state.block));
  }
  if (!std::isfinite(matrix.nested_offset)) {
    throw Error(ErrorCode::unsupported, fmt::format("layer {}: nested offset {}, expected a number",
                                                    quote(layer.name), matrix.nested_offset));
  }
  if (text.empty()) text = state_text(state);

  const std::string& storage = detail(layer, kStorageDetail);
  TensorType type = tensor_type_from_name(storage).value_or(TensorType::u8);
  std::size_t size = tensor_type_bits(type) / 8;
  if (size == 0 || matrix.codes.size() % size != 0) {
    type = TensorType::u8;
    size = 1;
  }
  std::vector<std::byte> codes(matrix.codes.size());
  swap_nibbles(std::as_bytes(std::span(matrix.codes)),
               reinterpret_cast<std::uint8_t*>(codes.data()));
  const TensorType absmax_type = state.nested ? TensorType::u8 : TensorType::f32;
  const std::size_t absmax_size = tensor_type_bits(absmax_type) / 8;
  const std::size_t parts = state.block / matrix.group;
  std::vector<std::byte> absmax = join(layer, std::as_bytes(std::span(matrix.scales)), absmax_size,
                                       parts, "scales", state.block);
  std::vector<std::byte> nested =
      join(layer, std::as_bytes(std::span(matrix.nested_scales)), sizeof(float), parts,
           "nested scales", state.block * kNestedBlock);
  const auto state_bytes = std::as_bytes(std::span(text));

  WrittenLayer out;
  out.tensors.push_back({weight, type, {codes.size() / size, 1}, std::move(codes)});
  const std::size_t blocks = absmax.size() / absmax_size;
  out.tensors.push_back({weight + ".absmax", absmax_type, {blocks}, std::move(absmax)});
  if (state.nested) {
    out.tensors.push_back({weight + ".nested_absmax",
                           TensorType::f32,
                           {nested.size() / sizeof(float)},
                           std::move(nested)});
    out.tensors.push_back(
        {weight + ".nested_quant_map", TensorType::f32, {256}, bytes_of(nested_table())});
  }
  out.tensors.push_back(
      {weight + ".quant_map", TensorType::f32, {16}, bytes_of(file_table(matrix.format.info()))});
  out.tensors.push_back({weight + ".quant_state.bitsandbytes__" + state.type,
                         TensorType::u8,
                         {text.size()},
                         {state_bytes.begin(), state_bytes.end()}});
  return out;
}

nlohmann::ordered_json BitsandbytesLayout::config(const AnyFormat& format,
                                                  std::span<const std::string> plain) const {
  const FormatInfo& info = format.info();
  nlohmann::ordered_json out;
  out["quant_method"] = "bitsandbytes";
  out["_load_in_4bit"] = true;
  out["_load_in_8bit"] = false;
  out["load_in_4bit"] = true;
  out["load_in_8bit"] = false;
  out["bnb_4bit_quant_type"] = info.name == "nf4" ? "nf4" : "fp4";
  out["bnb_4bit_use_double_quant"] = info.double_quantized;
  out["bnb_4bit_compute_dtype"] = "bfloat16";
  out["bnb_4bit_quant_storage"] = "uint8";
  out["llm_int8_skip_modules"] = std::vector<std::string>(plain.begin(), plain.end());
  return out;
}

}  // namespace

std::unique_ptr<Layout> make_bitsandbytes_layout() {
  return std::make_unique<BitsandbytesLayout>();
}

}  // namespace nybble::io
