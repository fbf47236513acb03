#include "nybble/quantize/tensor_rule.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <nlohmann/json.hpp>

#include "nybble/error.h"
#include "nybble/io/mapped_file.h"
#include "src/io/checked.h"

namespace nybble {

namespace {

using nlohmann::json;

TensorRule read_rule(const json& entry, const std::string& where) {
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorCode::bad_file, fmt::format("{}: {}", where, what));
  };
  if (!entry.is_object()) refuse("not an object with match and format, method, transposed or skip");
  TensorRule rule;
  for (const auto& [key, value] : entry.items()) {
    if (key == "skip") {
      if (!value.is_boolean()) refuse("skip is not true or false");
      rule.skip = value.get<bool>();
      continue;
    }
    if (key == "transposed") {
      if (!value.is_boolean()) refuse("transposed is not true or false");
      rule.transposed = value.get<bool>();
      continue;
    }
    std::string* const text = key == "match"    ? &rule.match
                              : key == "format" ? &rule.format
                              : key == "method" ? &rule.method
                                                : nullptr;
    if (text == nullptr) {
      refuse(fmt::format("unknown key {}, expected match, format, method, transposed or skip",
                         io::quote(key)));
    }
    if (!value.is_string()) refuse(key + " is not a string");
    *text = value.get<std::string>();
  }
  if (rule.match.empty()) refuse("match is missing");
  if (rule.skip == (!rule.format.empty() || !rule.method.empty() || rule.transposed)) {
    refuse("expected either \"skip\": true or a format, method or transposed");
  }
  return rule;
}

}  // namespace

bool TensorRule::matches(const std::string& tensor) const {
  constexpr std::string_view kWeight = ".weight";
  if (::fnmatch(match.c_str(), tensor.c_str(), 0) == 0) return true;
  if (!tensor.ends_with(kWeight)) return false;
  const std::string module = tensor.substr(0, tensor.size() - kWeight.size());
  return ::fnmatch(match.c_str(), module.c_str(), 0) == 0;
}

TensorRule parse_rule(std::string_view text) {
  const std::size_t equals = text.find('=');
  const std::string_view what =
      equals == std::string_view::npos ? std::string_view() : text.substr(equals + 1);
  if (equals == 0 || what.empty() || what.starts_with('/') || what.ends_with('/')) {
    throw Error(ErrorCode::bad_option,
                fmt::format("rule {}: expected GLOB=FORMAT, GLOB=FORMAT/METHOD, "
                            "GLOB=transposed=true or GLOB=skip",
                            io::quote(text)));
  }
  TensorRule rule;
  rule.match = text.substr(0, equals);
  if (what == "skip") {
    rule.skip = true;
    return rule;
  }
  if (what == "transposed=true" || what == "transposed=false") {
    rule.transposed = what.ends_with("true");
    return rule;
  }
  const std::size_t slash = what.find('/');
  rule.format = what.substr(0, slash);
  if (slash != std::string_view::npos) rule.method = what.substr(slash + 1);
  return rule;
}

std::vector<TensorRule> read_recipe(const std::filesystem::path& path) {
  const MappedFile file(path);
  const auto* const text = reinterpret_cast<const char*>(file.bytes().data());
  json rules;
  try {
    rules = json::parse(text, text + file.bytes().size());
  } catch (const json::parse_error& error) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: damaged JSON at byte {}", path.string(), error.byte));
  } catch (const json::exception&) {
    throw Error(ErrorCode::bad_file, path.string() + ": JSON holds a number out of range");
  }
  if (!rules.is_array()) {
    throw Error(ErrorCode::bad_file, path.string() + ": not a list of rules: expected '[' first");
  }
  std::vector<TensorRule> out;
  for (const json& rule : rules) {
    out.push_back(read_rule(rule, fmt::format("{}: rule {}", path.string(), out.size() + 1)));
  }
  return out;
}

}  // namespace nybble
