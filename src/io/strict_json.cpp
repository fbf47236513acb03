#include "src/io/strict_json.h"

#include <fmt/format.h>

#include <set>
#include <vector>

#include "nybble/error.h"
#include "src/io/checked.h"

namespace nybble::io {

using nlohmann::json;

json parse_strict_json(std::span<const std::byte> text, const std::string& name,
                       std::size_t max_depth) {
  const auto* const first = reinterpret_cast<const char*>(text.data());
  // Also keeps out a byte order mark, which the parser would skip.
  if (text.empty() || *first != '{') {
    throw Error(ErrorCode::bad_file, name + ": not a JSON object: expected '{' first");
  }
  std::vector<std::set<std::string>> open_objects;  // the keys seen in each
  const auto check = [&](int depth, json::parse_event_t event, const json& value) {
    using Event = json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (static_cast<std::size_t>(depth) >= max_depth) {
        throw Error(
            ErrorCode::bad_file,
            fmt::format("{}: JSON nested deeper than the {} levels expected", name, max_depth));
      }
    }
    if (event == Event::object_start) open_objects.emplace_back();
    if (event == Event::object_end) open_objects.pop_back();
    if (event == Event::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!open_objects.back().insert(key).second) {
        throw Error(
            ErrorCode::bad_file,
            fmt::format("{}: duplicate key {} in JSON, expected each once", name, quote(key)));
      }
    }
    return true;
  };
  try {
    return json::parse(first, first + text.size(), check);
  } catch (const json::parse_error& error) {
    throw Error(ErrorCode::bad_file, fmt::format("{}: damaged JSON at byte {}", name, error.byte));
  } catch (const json::exception&) {
    throw Error(ErrorCode::bad_file, name + ": JSON holds a number out of range");
  }
}

std::string show_json(const json& value) {
  constexpr std::size_t kLongest = 120;
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

std::string json_string(const std::string& text, const std::string& what) {
  try {
    return json(text).dump();
  } catch (const json::exception&) {
    throw Error(ErrorCode::bad_option, fmt::format("{}: {} is not UTF-8", what, quote(text)));
  }
}

}  // namespace nybble::io
