// MXFP4 as gpt-oss has it: blocks of 16 bytes (32 codes, adjacent pairs, low nibble = even k: not
// ggml's order) and one E8M0 byte each; experts, if any, in the first dimension.
//
// Two names are in use: Hugging Face's NAME_blocks, and NAME.blocks in OpenAI's own repository,
// whose modules all end in "_weight" (block.0.mlp.mlp1_weight.blocks). That ending alone decides
// which is read and written, so that a file keeps its names.

#include <fmt/format.h>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/layout/e2m1_tensors.h"
#include "src/io/layout/json_members.h"

namespace nybble::io {

namespace {

using Shape = std::vector<std::size_t>;

constexpr std::size_t kGroup = 32;
constexpr std::size_t kBlockBytes = 16;

std::string part(const std::string& module, const char* what) {
  return module + (module.ends_with("_weight") ? "." : "_") + what;
}

class GptOss final : public RefusingLayout {
 public:
  [[nodiscard]] std::string name() const override { return "gpt_oss"; }
  [[nodiscard]] std::string summary() const override {
    return "gpt-oss: MXFP4, all experts of a layer in one tensor";
  }
  [[nodiscard]] std::vector<Module> find(const TensorSource& source) const override;
  [[nodiscard]] Evidence judge(const TensorSource& source,
                               std::span<const Module> modules) const override;
  [[nodiscard]] StoredLayer read(const TensorSource& source, const Module& module) const override;
  [[nodiscard]] WrittenLayer write(const StoredLayer& layer) const override;
  [[nodiscard]] nlohmann::ordered_json config(const AnyFormat& /*format*/,
                                              std::span<const std::string> plain) const override {
    nlohmann::ordered_json names = nlohmann::ordered_json::array();
    for (const std::string& module : plain) names.push_back(module);
    return {{"quant_method", "mxfp4"}, {"modules_to_not_convert", names}};
  }

 private:
  [[nodiscard]] std::string refusal(const AnyFormat& format,
                                    std::span<const std::size_t> shape) const override {
    if (!is_e2m1(format.info(), ScaleType::e8m0, kGroup, false)) {
      return fmt::format("format '{}', expected mxfp4 with groups of 32", format.info().spec);
    }
    if ((shape.size() == 2 || shape.size() == 3) && shape.back() % kGroup == 0) return {};
    return fmt::format("shape {}, expected [N, K] or [experts, N, K] with K a multiple of {}",
                       shape_text(shape), kGroup);
  }
};

std::vector<Module> GptOss::find(const TensorSource& source) const {
  std::vector<Module> modules;
  for (const std::string& name : source.names()) {
    constexpr std::string_view kSuffix = "blocks";
    const std::optional<std::string> stem = module_of(name, kSuffix);
    if (!stem || stem->size() < 2) continue;
    const std::string module = stem->substr(0, stem->size() - 1);
    const TensorView& blocks = *source.find(name);
    if (name != part(module, "blocks") || blocks.type != TensorType::u8 ||
        !has_rank(blocks, 3, 4) || blocks.shape.back() != kBlockBytes) {
      continue;
    }
    Shape shape(blocks.shape.begin(), blocks.shape.end() - 1);
    shape.back() *= kGroup;
    std::vector<std::string> tensors = {name};
    const std::string scales = part(module, "scales");
    if (source.find(scales) != nullptr) tensors.push_back(scales);
    modules.push_back({module, std::move(shape), std::move(tensors)});
  }
  return modules;
}

Evidence GptOss::judge(const TensorSource& source, std::span<const Module> modules) const {
  Evidence evidence;
  const std::string method = text_member(source.config(), "quant_method");
  if (!method.empty()) {
    evidence.config_says = fmt::format("quant_method is {}", quote(method));
    evidence.config = method == "mxfp4" ? Evidence::Verdict::in_favour : Evidence::Verdict::against;
  }
  judge_exponents(source, modules,
                  modules.front().name.ends_with("_weight") ? ".scales" : "_scales", evidence);
  return evidence;
}

StoredLayer GptOss::read(const TensorSource& source, const Module& module) const {
  const TensorView& blocks = expect_rank(source, part(module.name, "blocks"), TensorType::u8, 3, 4);
  if (blocks.shape.back() != kBlockBytes) {
    throw bad_tensor(source, blocks.name,
                     fmt::format("is U8 {}, expected blocks of {} bytes", shape_text(blocks.shape),
                                 kBlockBytes));
  }
  Shape shape(blocks.shape.begin(), blocks.shape.end() - 1);
  const TensorView& scales = source.expect(part(module.name, "scales"), TensorType::u8, shape);
  const std::size_t cols = shape.back() * kGroup;
  const std::size_t rows = scales.bytes.size() / shape.back();
  shape.back() = cols;
  return {module.name, shape, e2m1_matrix("mxfp4", rows, cols, blocks, scales), {}};
}

WrittenLayer GptOss::write(const StoredLayer& layer) const {
  check_write(*this, layer, {});
  Shape scales(layer.shape);
  scales.back() /= kGroup;
  Shape blocks(scales);
  blocks.push_back(kBlockBytes);
  return {{owned_tensor(part(layer.name, "blocks"), TensorType::u8, blocks, layer.weight.codes),
           owned_tensor(part(layer.name, "scales"), TensorType::u8, scales, layer.weight.scales)},
          {}};
}

}  // namespace

std::unique_ptr<Layout> make_gpt_oss_layout() { return std::make_unique<GptOss>(); }

}  // namespace nybble::io
