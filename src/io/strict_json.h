#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

namespace nybble::io {

/// Parses one JSON object as files that are checked before they are trusted must be: no duplicate
/// key anywhere, at most `max_depth` containers inside one another. Throws bad_file, starting with
/// `name`, otherwise.
nlohmann::json parse_strict_json(std::span<const std::byte> text, const std::string& name,
                                 std::size_t max_depth);

/// A value as messages show it: as it is in JSON, ASCII only, and shortened. Strings are in quotes.
std::string show_json(const nlohmann::json& value);

/// The text of a JSON string, in quotes. Throws bad_option, naming `what`, unless it is UTF-8.
std::string json_string(const std::string& text, const std::string& what);

}  // namespace nybble::io
