// Which layout a checkpoint's modules are in. Several layouts may have the tensors of a module;
// metadata and data decide between them, and contradictions are refused: a wrong reading makes a
// model that still talks.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "nybble/error.h"
#include "src/io/layout/layout.h"

namespace nybble::io {

namespace {

using Verdict = Evidence::Verdict;

struct Candidate {
  const Layout* layout;
  std::vector<Module> modules;
  Evidence evidence;
};

std::string says(const Evidence& evidence) {
  std::vector<std::string> parts;
  if (!evidence.config_says.empty()) parts.push_back(evidence.config_says);
  if (!evidence.data_says.empty()) parts.push_back(evidence.data_says);
  return parts.empty() ? "only names and shapes" : fmt::format("{}", fmt::join(parts, "; "));
}

/// How much speaks for a candidate; below 0: it is not that.
int weight(const Evidence& evidence) {
  if (evidence.config == Verdict::against || evidence.data == Verdict::against) return -1;
  return (evidence.config == Verdict::in_favour ? 1 : 0) +
         (evidence.data == Verdict::in_favour ? 1 : 0);
}

[[noreturn]] void refuse(const TensorSource& source, const std::string& module,
                         const std::vector<const Candidate*>& candidates, const char* what) {
  std::vector<std::string> readings;
  for (const Candidate* candidate : candidates) {
    readings.push_back(fmt::format("{}: {}", candidate->layout->name(), says(candidate->evidence)));
  }
  throw Error(ErrorCode::bad_file,
              fmt::format("{}: {}: {}; {}; expected one layout, name it with --layout",
                          source.where(), module, what, fmt::join(readings, "; ")));
}

/// The candidate for one module, of those that have it.
const Candidate& choose(const TensorSource& source, const std::string& module,
                        const std::vector<const Candidate*>& candidates) {
  // One piece of evidence for a layout and another against it: nobody knows what was meant.
  for (const Candidate* candidate : candidates) {
    const Evidence& e = candidate->evidence;
    if ((e.config == Verdict::in_favour && e.data == Verdict::against) ||
        (e.config == Verdict::against && e.data == Verdict::in_favour)) {
      refuse(source, module, candidates, "metadata and data contradict each other");
    }
  }
  const Candidate* best = nullptr;
  bool tie = false;
  for (const Candidate* candidate : candidates) {
    const int score = weight(candidate->evidence);
    if (score < 0) continue;
    if (best == nullptr || score > weight(best->evidence)) {
      best = candidate;
      tie = false;
    } else if (score == weight(best->evidence)) {
      tie = true;
    }
  }
  if (best == nullptr) refuse(source, module, candidates, "no layout fits");
  if (tie) refuse(source, module, candidates, "several layouts fit");
  return *best;
}

}  // namespace

std::vector<FoundModule> detect(const TensorSource& source, std::string_view forced,
                                std::vector<std::string>& reasons) {
  std::vector<FoundModule> found;
  const auto by_name = [](const FoundModule& a, const FoundModule& b) {
    return a.module.name < b.module.name;
  };
  if (!forced.empty()) {
    const Layout& layout = find_layout(forced);
    for (Module& module : layout.find(source)) found.push_back({&layout, std::move(module)});
    if (found.empty()) {
      throw Error(ErrorCode::bad_file,
                  fmt::format("{}: no layer has the tensors of layout {}, which was asked for",
                              source.where(), forced));
    }
    reasons.push_back(fmt::format("{}: asked for, {} layers", forced, found.size()));
    std::sort(found.begin(), found.end(), by_name);
    return found;
  }
  std::vector<Candidate> candidates;
  for (const auto& layout : layouts()) {
    std::vector<Module> modules = layout->find(source);
    if (modules.empty()) continue;
    Evidence evidence = layout->judge(source, modules);
    candidates.push_back({layout.get(), std::move(modules), std::move(evidence)});
  }
  std::map<std::string, std::vector<const Candidate*>> claims;
  for (const Candidate& candidate : candidates) {
    for (const Module& module : candidate.modules) claims[module.name].push_back(&candidate);
  }
  for (const Candidate& candidate : candidates) {
    std::size_t taken = 0;
    for (const Module& module : candidate.modules) {
      if (&choose(source, module.name, claims[module.name]) != &candidate) continue;
      found.push_back({candidate.layout, module});
      ++taken;
    }
    if (taken == 0) continue;  // it only looked like that
    reasons.push_back(fmt::format("{}: {} layers ({})", candidate.layout->name(), taken,
                                  says(candidate.evidence)));
  }
  std::sort(found.begin(), found.end(), by_name);
  return found;
}

}  // namespace nybble::io
