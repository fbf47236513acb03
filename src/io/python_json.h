#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

/// JSON objects as Python's json module writes and reads them: what models have beside their
/// tensors (config.json, an index of shards). Unlike parse_strict_json it takes blanks in front,
/// NaN, Infinity, numbers that no double holds, half of a surrogate pair, and a key more than once,
/// of which the last one counts.
namespace nybble::io {

/// `Json` is nlohmann::json, or nlohmann::ordered_json, which keeps the order of keys but takes
/// time in their number squared. NaN, infinities and what overflows become null, half of a
/// surrogate pair U+FFFD. Throws bad_file, starting with `name`, for what Python refuses, what is
/// no object, and more than 64 containers inside one another.
template <class Json = nlohmann::json>
Json parse_python_json(std::span<const std::byte> text, const std::string& name);

/// The same of a whole file. Throws io, too.
template <class Json = nlohmann::json>
Json read_python_json(const std::filesystem::path& path);

/// Members of an object by name; null: there shall be none.
using JsonMembers = std::map<std::string, nlohmann::ordered_json>;

/// A text that parse_python_json takes with these members set: those it has of their names are
/// gone, the others are as they were, byte for byte, and the new ones stand at the end, indented as
/// the first member is.
std::string edit_python_json(std::string_view text, const JsonMembers& members);

}  // namespace nybble::io
