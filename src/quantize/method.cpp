#include "nybble/quantize/method.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "nybble/error.h"

namespace nybble {

void Method::add_step(std::string_view spec, std::string_view step) {
  SpecOptions options(step, "method");
  const std::vector<MethodFamily>& families = method_families();
  const auto family = std::find_if(families.begin(), families.end(),
                                   [&](const MethodFamily& f) { return f.name == options.name(); });
  if (family == families.end()) {
    std::vector<std::string> names;
    for (const MethodFamily& f : families) names.push_back(f.name);
    throw Error(ErrorCode::bad_option,
                fmt::format("method '{}': unknown step '{}', expected one of {}", spec,
                            options.name(), fmt::join(names, ", ")));
  }
  steps_.push_back(family->make(options));
}

Method::Method(std::string_view spec) {
  for (std::string_view rest = spec;;) {
    const std::size_t plus = rest.find('+');
    add_step(spec, rest.substr(0, plus));
    if (plus == std::string_view::npos) break;
    rest = rest.substr(plus + 1);
  }
  for (std::size_t i = 0; i + 1 < steps_.size(); ++i) {
    if (!steps_[i]->rounds()) continue;
    throw Error(ErrorCode::bad_option, fmt::format("method '{}': '{}' rounds and must come last",
                                                   spec, steps_[i]->spec()));
  }
  if (!steps_.back()->rounds()) {
    const bool awq = std::any_of(steps_.begin(), steps_.end(),
                                 [](const auto& step) { return step->spec().starts_with("awq"); });
    add_step(spec, awq ? "clip:loss=group" : "rtn");
  }
}

std::string Method::spec() const {
  std::vector<std::string> parts;
  for (const auto& step : steps_) parts.push_back(step->spec());
  return fmt::format("{}", fmt::join(parts, "+"));
}

bool Method::needs_originals() const {
  return std::any_of(steps_.begin(), steps_.end(),
                     [](const auto& step) { return step->needs_originals(); });
}

InputChanges Method::may_change_input(bool activations) const {
  InputChanges out;
  for (const auto& step : steps_) {
    const InputChanges changes = step->may_change_input(activations);
    out.scale = out.scale || changes.scale;
    out.permutation = out.permutation || changes.permutation;
    out.rotation = out.rotation || changes.rotation;
  }
  return out;
}

bool Method::calibrated() const {
  return std::any_of(steps_.begin(), steps_.end(),
                     [](const auto& step) { return step->calibrated(); });
}

}  // namespace nybble
