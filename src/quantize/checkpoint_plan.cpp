#include "src/quantize/checkpoint_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/orientations.h"
#include "src/io/quantization_config.h"
#include "src/io/safetensors_header.h"
#include "src/io/shard_index.h"
#include "src/owned.h"
#include "src/quantize/divisor_format.h"
#include "src/quantize/stacked_experts.h"
#include "src/quantize/tensor_choice.h"
#include "src/quantize/written_layer.h"
#include "src/transform/hadamard.h"

namespace nybble {

namespace {

/// The tensors of a source as layouts look at them: names, types and shapes, and the bytes only of
/// those that describe others.
class HeaderTensors final : public io::TensorSource {
 public:
  explicit HeaderTensors(const TensorFiles& source) : where_(source.name()) {
    for (const TensorFiles::Entry& entry : source.tensors()) {
      const TensorInfo& tensor = *entry.tensor;
      names_.push_back(tensor.name);
      std::vector<std::byte>& bytes = bytes_[tensor.name];
      constexpr std::size_t kSmall = 1024;
      constexpr std::size_t kText = 65536;
      if (tensor.bytes <= (tensor.type == TensorType::u8 ? kText : kSmall)) {
        bytes = entry.file->read(tensor);
      }
      views_.emplace(tensor.name,
                     TensorView{tensor.name, tensor.type, tensor.shape, bytes, tensor.dtype});
      metadata_.insert(entry.file->metadata().begin(), entry.file->metadata().end());
    }
  }
  [[nodiscard]] const TensorView* find(std::string_view name) const override {
    const auto found = views_.find(name);
    return found == views_.end() ? nullptr : &found->second;
  }
  [[nodiscard]] std::vector<std::string> names() const override { return names_; }
  [[nodiscard]] const std::string& where() const override { return where_; }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const override {
    return metadata_;
  }
  [[nodiscard]] const nlohmann::json& config() const override { return config_; }

 private:
  std::string where_;
  std::vector<std::string> names_;
  std::map<std::string, std::vector<std::byte>> bytes_;
  std::map<std::string, TensorView, std::less<>> views_;
  std::map<std::string, std::string> metadata_;
  nlohmann::json config_ = nlohmann::json::object();
};

void refuse_quantized(const TensorFiles& source, const std::filesystem::path& path) {
  const auto refuse = [&](const std::string& what, const std::string& instead) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: {} is quantized already, expected weights of floats: {}",
                            source.name(), what, instead));
  };
  const HeaderTensors tensors(source);
  for (const auto& layout : io::layouts()) {
    const std::vector<io::Module> modules = layout->find(tensors);
    if (modules.empty()) continue;
    refuse(fmt::format("{} (layout {})", io::quote(modules[0].name), layout->name()),
           "`nybble convert` writes other layouts, and with --requantize other formats; the model "
           "it was made from loses less");
  }
  const std::string claim = io::find_quantization_claim(path);
  if (!claim.empty()) refuse(claim + " says it", "`nybble convert` takes the layouts of 4 bits");
}

/// What the rules make of one tensor.
struct Choice {
  std::string format, method, reason;
  std::optional<bool> transposed = std::nullopt;
};

class Chooser {
 public:
  explicit Chooser(const CheckpointOptions& options)
      : options_(&options), matched_(options.rules.size()), applied_(options.rules.size()) {}

  /// Empty format: it is copied, for `reason` unless a rule says otherwise.
  Choice choose(const TensorInfo& tensor, std::string reason) {
    Choice out{{}, options_->method, std::move(reason)};
    if (out.reason.empty()) out.format = options_->format;
    for (std::size_t i = 0; i < options_->rules.size(); ++i) {
      const TensorRule& rule = options_->rules[i];
      if (!rule.matches(tensor.name)) continue;
      matched_[i] = true;
      if (rule.skip) {
        applied_[i] = true;
        out = {{}, options_->method, out.format.empty() ? out.reason : "rule"};
        continue;
      }
      if (!can_quantize(tensor) || (rule.format.empty() && out.format.empty())) continue;
      applied_[i] = true;
      if (!rule.format.empty()) out.format = rule.format;
      if (!rule.method.empty()) out.method = rule.method;
      if (rule.transposed) out.transposed = rule.transposed;
    }
    return out;
  }

  /// Throws bad_option for the first rule that did nothing.
  void finish() const {
    for (std::size_t i = 0; i < matched_.size(); ++i) {
      if (applied_[i]) continue;
      const std::string match = io::quote(options_->rules[i].match);
      throw Error(ErrorCode::bad_option,
                  matched_[i] ? fmt::format("rule {} (of {}): matches no tensor that can be "
                                            "quantized, expected a matrix of floats",
                                            match, i + 1)
                              : fmt::format("rule {} (of {}): matches no tensor of {}", match,
                                            i + 1, options_->source.string()));
    }
  }

 private:
  const CheckpointOptions* options_;
  std::vector<bool> matched_, applied_;
};

std::map<std::string, Orientation> orientations_of(const TensorFiles& source,
                                                   const std::filesystem::path& path) {
  io::TensorShapes shapes;
  for (const TensorFiles::Entry& entry : source.tensors()) {
    shapes.emplace(entry.tensor->name, &entry.tensor->shape);
  }
  return io::find_orientations(path, shapes);
}

/// Throws unsupported where it is unknown.
bool is_transposed(const TensorInfo& tensor, Orientation orientation) {
  if (orientation != Orientation::unknown) return orientation == Orientation::in_out;
  throw Error(ErrorCode::unsupported,
              fmt::format("{}: {} may be [outputs, inputs] or, like weights of this model whose "
                          "bias fits only so, [inputs, outputs]: expected model_type in "
                          "config.json, or a rule {}=transposed=true (or false)",
                          tensor.name, io::shape_text(tensor.shape), module_name(tensor.name)));
}

/// `action`, its errors named.
template <class Action>
auto named(const std::string& name, Action action) {
  try {
    return action();
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}: {}", name, error.what()));
  }
}

Transforms example_of(const InputChanges& changes, std::size_t cols) {
  Transforms out;
  if (changes.scale) out.channel_scale.scale.assign(cols, 1.0F);
  if (changes.permutation) {
    for (std::size_t i = cols; i-- > 0;) {
      out.permutation.source.push_back(static_cast<std::uint32_t>(i));
    }
  }
  if (changes.rotation) out.hadamard.block = largest_hadamard(cols, 2);
  return out;
}

/// Throws unsupported where the layout cannot hold what the method may make.
void check_transforms(const io::Layout& layout, const AnyFormat& format, const Method& method,
                      const std::vector<std::size_t>& shape) {
  const InputChanges may = method.may_change_input(false);
  const auto probe = [&](const InputChanges& one, const char* what, const std::string& instead) {
    if (!one.any()) return;
    try {
      (void)example_tensors(layout, format, shape, example_of(one, shape.back()));
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unsupported) throw;
      throw Error(ErrorCode::unsupported,
                  fmt::format("method '{}' may {} the layer's input, which layout '{}' cannot hold"
                              ": expected {}",
                              method.spec(), what, layout.name(), instead));
    }
  };
  const bool gptq = method.steps().size() == 1 && method.spec().starts_with("gptq");
  probe({.scale = may.scale}, "scale",
        gptq ? "gptq:channel_scale=false" : "a method without awq and smoothquant");
  probe({.permutation = may.permutation}, "reorder", "gptq:static_groups=true");
  probe({.rotation = may.rotation}, "rotate", "a method without hadamard");
}

}  // namespace

CheckpointPlan::Data::Data(const CheckpointOptions& given)
    : options(given),
      source(given.source),
      layout(&io::find_layout(given.layout)),
      inputs(given.calibration) {
  if (options.format.empty()) {
    throw Error(ErrorCode::bad_option, "no format, expected one such as int4:group=128");
  }
  if (options.shard_bytes == 0) throw Error(ErrorCode::bad_option, "shards of 0 bytes");
  refuse_quantized(source, options.source);
  for (const TensorFile& file : source.files()) {
    metadata.insert(file.metadata().begin(), file.metadata().end());
  }
  metadata.emplace("format", "pt");  // transformers opens no file without it
  decide();
  describe();
  plan_files();
}

void CheckpointPlan::Data::decide() {
  std::map<std::string, AnyFormat> formats;
  std::map<std::string, std::shared_ptr<const Method>> methods;
  // What a rule or an option says is wrong even if nothing needs it.
  const auto format_of = [&](const std::string& spec) {
    AnyFormat format = parse_format(spec);
    if (layout->holds_divisor() && format.info().tensor_scale) {
      format = AnyFormat(DivisorFormat(std::move(format)));
    }
    return formats.try_emplace(spec, std::move(format)).first->second;
  };
  const auto method_of = [&](const std::string& spec) {
    return methods.try_emplace(spec, std::make_shared<const Method>(spec)).first->second;
  };
  format_of(options.format);
  method_of(options.method);
  for (const TensorRule& rule : options.rules) {
    if (!rule.format.empty()) format_of(rule.format);
    if (!rule.method.empty()) method_of(rule.method);
  }
  Chooser chooser(options);
  const std::map<std::string, Orientation> orientations = orientations_of(source, options.source);
  const StackedExperts experts(source, options.source);
  const auto reason_of = [&](const TensorInfo& tensor) {
    if (!StackedExperts::is_one(tensor)) return reason_to_copy(tensor);
    if (std::string reason = experts.reason_to_copy(tensor); !reason.empty()) return reason;
    // Each of them would need inputs of its own.
    if (method_of(options.method)->calibrated()) {
      return std::string("3-D experts, calibrated method");
    }
    try {
      layout->check(layout->format_for(format_of(options.format)), tensor.shape);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unsupported) throw;
      return fmt::format("3-D experts, layout {}", layout->name());
    }
    return std::string();
  };
  for (const TensorFiles::Entry& entry : source.tensors()) {
    const TensorInfo& tensor = *entry.tensor;
    const Choice choice = chooser.choose(tensor, reason_of(tensor));
    PlannedTensor planned;
    planned.name = tensor.name;
    planned.type = tensor_type_name(tensor);
    planned.shape = tensor.shape;
    planned.source_bytes = tensor.bytes;
    Work item{entry, {}, nullptr, {}};
    if (choice.format.empty()) {
      planned.reason = choice.reason;
    } else {
      item.layer = module_name(tensor.name);
      item.method = method_of(choice.method);
      planned.format = layout->format_for(format_of(choice.format));
      planned.method = item.method->spec();
      const auto found = orientations.find(tensor.name);
      planned.transposed =
          choice.transposed ? *choice.transposed
                            : found != orientations.end() && is_transposed(tensor, found->second);
      if (planned.transposed) planned.shape = io::transposed_shape(std::move(planned.shape));
    }
    tensors.push_back(std::move(planned));
    work.push_back(std::move(item));
  }
  chooser.finish();
  if (std::none_of(tensors.begin(), tensors.end(),
                   [](const PlannedTensor& tensor) { return tensor.format.has_value(); })) {
    throw Error(ErrorCode::bad_option, fmt::format("{}: no tensor to quantize among its {}",
                                                   source.name(), tensors.size()));
  }
}

void CheckpointPlan::Data::describe() {
  // Models have few shapes: each is asked about once.
  using Key = std::tuple<std::string, std::string, std::vector<std::size_t>>;
  std::map<Key, std::vector<TensorToWrite>> examples;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    PlannedTensor& tensor = tensors[i];
    Work& item = work[i];
    if (!tensor.format) {
      const TensorInfo& from = *item.from.tensor;
      item.written = {{from.name, from.type, from.shape, {}, from.dtype, from.bytes}};
      tensor.bytes = tensor.source_bytes;
      continue;
    }
    const AnyFormat& format = *tensor.format;
    const Method& method = *item.method;
    named(tensor.name, [&] {
      const Key key(format.info().spec, tensor.method, tensor.shape);
      if (!examples.contains(key)) {
        layout->check(format, tensor.shape);
        check_transforms(*layout, format, method, tensor.shape);
        examples.emplace(key, example_tensors(*layout, format, tensor.shape, {}));
      }
      item.written = for_layer(examples.at(key), item.layer);
    });
    if (method.needs_originals()) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{}: method '{}' needs the inputs of layers before and after earlier "
                              "ones were quantized, expected a method without qep",
                              tensor.name, method.spec()));
    }
    if (method.calibrated()) inputs.check(item.layer, tensor.shape.back());
    for (const TensorToWrite& written : item.written) {
      tensor.bytes += io::stored_bytes(written.type, written.shape, written.bytes).value();
    }
    tensor.exact = !method.may_change_input(false).any() && !layout->sizes_vary(format);
    exact = exact && tensor.exact;
  }
}

void CheckpointPlan::Data::plan_files() {
  nlohmann::ordered_json config;
  const PlannedTensor* first = nullptr;
  std::vector<std::string> plain;
  for (const PlannedTensor& tensor : tensors) {
    if (!tensor.format && tensor.shape.size() == 2 && tensor.name.ends_with(".weight")) {
      plain.push_back(module_name(tensor.name));
    }
    if (tensor.format && first == nullptr) first = &tensor;
  }
  if (first != nullptr) config = layout->config(*first->format, plain);
  for (const PlannedTensor& tensor : tensors) {
    if (config.is_null() || !tensor.format) continue;
    if (tensor.format->info().spec == first->format->info().spec) continue;
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: format '{}' beside '{}' of {}: layout '{}' holds one format for "
                            "all, expected that or --layout nybble",
                            tensor.name, tensor.format->info().spec, first->format->info().spec,
                            first->name, layout->name()));
  }
  io::ModelFiles beside = io::plan_model_files(options.source, {{"quantization_config", config}});
  model_files = std::move(beside.files);
  const auto is_read = [&](const std::filesystem::path& path) {
    return std::any_of(source.files().begin(), source.files().end(), [&](const TensorFile& file) {
      return std::filesystem::path(file.name()) == path;
    });
  };
  for (io::FolderFile& file : beside.kept_out) {
    if (!is_read(file.path)) kept_out.push_back({std::move(file.name), std::move(file.kept_out)});
  }
  for (const io::ModelFile& file : model_files) files.push_back({file.name, file.bytes});

  std::vector<std::vector<TensorToWrite>> written;
  for (const Work& item : work) written.push_back(item.written);
  const ShardPlan shards = shard_plan(*this, written);
  for (const ShardPlan::File& file : shards.files) files.push_back({file.name, file.bytes});
  if (!shards.index.empty()) files.push_back({io::kIndexName, shards.index.size()});
  std::sort(files.begin(), files.end(),
            [](const PlannedFile& a, const PlannedFile& b) { return a.name < b.name; });
}

ShardPlan shard_plan(const CheckpointPlan::Data& plan,
                     const std::vector<std::vector<TensorToWrite>>& written) {
  std::vector<TensorToWrite> all;
  for (const auto& tensors : written) all.insert(all.end(), tensors.begin(), tensors.end());
  return plan_shards(all, plan.metadata, plan.options.shard_bytes);
}

std::size_t PlannedTensor::elements() const {
  std::size_t count = 1;  // cannot wrap: the tensor is in a file
  for (const std::size_t size : shape) count *= size;
  return count;
}

double PlannedTensor::bits_per_weight() const {
  return 8.0 * static_cast<double>(bytes) /
         static_cast<double>(std::max<std::size_t>(1, elements()));
}

CheckpointPlan::CheckpointPlan(const CheckpointOptions& options)
    : data_(std::make_unique<const Data>(options)) {}
CheckpointPlan::CheckpointPlan(CheckpointPlan&&) noexcept = default;
CheckpointPlan& CheckpointPlan::operator=(CheckpointPlan&&) noexcept = default;
CheckpointPlan::~CheckpointPlan() = default;

const CheckpointPlan::Data& CheckpointPlan::data() const { return owned(data_, "checkpoint plan"); }
const std::vector<PlannedTensor>& CheckpointPlan::tensors() const& { return data().tensors; }
const std::vector<PlannedFile>& CheckpointPlan::files() const& { return data().files; }
const std::vector<KeptOutFile>& CheckpointPlan::kept_out() const& { return data().kept_out; }
bool CheckpointPlan::exact() const { return data().exact; }

}  // namespace nybble
