#include "tests/support/all_specs.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "nybble/error.h"
#include "nybble/format/registry.h"

namespace nybble::test {

namespace {

struct Option {
  std::string key;
  std::vector<std::string> values;
};

std::vector<std::string> split(const std::string& text, const std::string& separator) {
  std::vector<std::string> out;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    out.push_back(text.substr(begin, end - begin));
    begin = end + separator.size();
  }
  return out;
}

/// "a=1|2|3, b=x|y (only sometimes)"
std::vector<Option> parse_options(const std::string& text) {
  std::vector<Option> out;
  for (const std::string& part : split(text, ", ")) {
    const std::string pair = part.substr(0, part.find(' '));
    const std::size_t equals = pair.find('=');
    out.push_back({pair.substr(0, equals), split(pair.substr(equals + 1), "|")});
  }
  return out;
}

std::vector<std::string> specs(int most_changed) {
  std::vector<std::string> out;
  std::set<std::string> seen;
  for (const FormatFamily& family : format_families()) {
    // Partial specs, and how many options of each are not at their default.
    std::vector<std::pair<std::string, int>> partial = {{family.name, 0}};
    for (const Option& option : parse_options(family.options)) {
      const std::size_t count = partial.size();
      for (std::size_t i = 0; i < count; ++i) {
        const auto [spec, changed] = partial[i];
        if (changed == most_changed) continue;
        for (std::size_t v = 1; v < option.values.size(); ++v) {
          partial.emplace_back(
              spec + (changed == 0 ? ":" : ",") + option.key + "=" + option.values[v], changed + 1);
        }
      }
    }
    for (const auto& [spec, changed] : partial) {
      try {
        const std::string canonical = parse_format(spec).info().spec;
        if (seen.insert(canonical).second) out.push_back(canonical);
      } catch (const Error&) {
        continue;
      }
    }
  }
  return out;
}

}  // namespace

std::vector<std::string> all_specs() { return specs(std::numeric_limits<int>::max()); }

std::vector<std::string> few_specs() { return specs(2); }

}  // namespace nybble::test
