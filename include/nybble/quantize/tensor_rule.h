#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nybble {

/// What becomes of the tensors of a checkpoint whose name a pattern matches.
struct TensorRule {
  /// A glob (* ? [...]) over the whole name of the tensor, or of its module (without ".weight").
  std::string match;
  std::string format;  ///< empty: as it would be without this rule
  std::string method;  ///< empty: as it would be without this rule
  bool skip = false;   ///< copied as it is; nothing else is said then
  /// Whether the weights are stored [..., inputs, outputs]; nothing: as it would be without this
  /// rule
  std::optional<bool> transposed = std::nullopt;

  [[nodiscard]] bool matches(const std::string& tensor) const;
};

/// "GLOB=FORMAT", "GLOB=FORMAT/METHOD", "GLOB=transposed=true" (or false) or "GLOB=skip". Throws
/// bad_option.
TensorRule parse_rule(std::string_view text);

/// A recipe: a JSON list of rules, {"match": GLOB} and "format", "method", "transposed": true or
/// false, or "skip": true each.
/// Throws io; bad_file naming the rule.
std::vector<TensorRule> read_recipe(const std::filesystem::path& path);

}  // namespace nybble
