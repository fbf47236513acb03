#include "src/io/python_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>
#include <vector>

#include "nybble/error.h"
#include "nybble/io/mapped_file.h"

namespace nybble::io {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::size_t kDeepest = 64;
constexpr std::string_view kBlanks = " \t\n\r";

/// The end of the string that begins at `begin`, or of the text.
std::size_t string_end(std::string_view text, std::size_t begin) {
  for (std::size_t i = begin + 1; i < text.size(); ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      return i + 1;
    }
  }
  return text.size();
}

/// The code unit of an escape \uXXXX at `at`; nothing where there is none.
std::optional<unsigned> code_unit(std::string_view text, std::size_t at) {
  if (at + 6 > text.size() || text[at] != '\\' || text[at + 1] != 'u') return std::nullopt;
  unsigned unit = 0;
  const char* const end = text.data() + at + 6;
  const auto [stop, error] = std::from_chars(text.data() + at + 2, end, unit, 16);
  if (error != std::errc() || stop != end) return std::nullopt;
  return unit;
}

/// A string with each half of a surrogate pair replaced, in as many bytes.
std::string whole_surrogates(std::string_view string) {
  const auto is_half = [](std::optional<unsigned> unit, unsigned first) {
    return unit && *unit >= first && *unit < first + 0x400;
  };
  constexpr unsigned kHigh = 0xD800;
  constexpr unsigned kLow = 0xDC00;
  std::string out(string);
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (out[i] != '\\') continue;
    const std::optional<unsigned> unit = code_unit(out, i);
    if (is_half(unit, kHigh) && is_half(code_unit(out, i + 6), kLow)) {
      i += 11;
    } else if (is_half(unit, kHigh) || is_half(unit, kLow)) {
      out.replace(i, 6, "\\ufffd");
      i += 5;
    } else {
      ++i;  // whatever is escaped
    }
  }
  return out;
}

/// Of the number that a text begins with; 0: there is none.
std::size_t number_length(std::string_view text) {
  std::size_t at = 0;
  const auto takes = [&](std::string_view any) {
    const bool found = at < text.size() && any.find(text[at]) != std::string_view::npos;
    at += found ? 1 : 0;
    return found;
  };
  const auto takes_digits = [&] {
    const std::size_t begin = at;
    while (takes("0123456789")) continue;
    return at != begin;
  };
  takes("-");
  if (!takes("0") && !takes_digits()) return 0;
  std::size_t end = at;
  if (takes(".")) {
    if (!takes_digits()) return end;
    end = at;
  }
  if (!takes("eE")) return end;
  takes("+-");
  return takes_digits() ? at : end;
}

/// Whether no double holds the number.
bool overflows(std::string_view number) {
  constexpr std::size_t kFinite = 300;
  if (number.size() < kFinite && number.find_first_of("eE") == std::string_view::npos) return false;
  try {
    return !json::parse(number).is_number();
  } catch (const json::out_of_range&) {
    return true;
  }
}

/// What strict JSON has instead of Python's.
struct Strict {
  std::string text;
  std::vector<std::size_t> longer_at;  ///< a byte was added before each of these of `text`
};

Strict strict_text(std::string_view text) {
  struct Word {
    std::string_view python, strict;
  };
  // As long where that is possible, so that errors name the byte.
  constexpr Word kWords[] = {{"NaN", "null"}, {"Infinity", "null    "}, {"-Infinity", "null     "}};
  Strict out;
  out.text.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const std::string_view rest = text.substr(i);
    if (rest[0] == '"') {
      const std::size_t end = string_end(text, i);
      out.text += whole_surrogates(text.substr(i, end - i));
      i = end;
      continue;
    }
    const auto* const word = std::find_if(std::begin(kWords), std::end(kWords), [&](const Word& w) {
      return rest.starts_with(w.python);
    });
    if (word != std::end(kWords)) {
      out.text += word->strict;
      i += word->python.size();
      if (word->strict.size() > word->python.size()) out.longer_at.push_back(out.text.size());
      continue;
    }
    const std::size_t length = number_length(rest);
    if (length != 0 && overflows(rest.substr(0, length))) {
      out.text += "null" + std::string(length - 4, ' ');  // "2e308" is the shortest
    } else {
      out.text += rest.substr(0, std::max<std::size_t>(1, length));
    }
    i += std::max<std::size_t>(1, length);
  }
  return out;
}

/// Where a member of an object is in its text.
struct Place {
  std::string key;
  std::size_t begin, end;  ///< of `"key": value`
};

/// The members of the object that a valid text is.
std::vector<Place> members_of(std::string_view text) {
  std::vector<Place> out;
  std::size_t depth = 0;
  std::size_t end = 0;  // of the last token
  bool in_member = false;
  const auto finish = [&] {
    if (in_member) out.back().end = end;
    in_member = false;
  };
  for (std::size_t i = 0; i < text.size();) {
    const char c = text[i];
    const std::size_t next = c == '"' ? string_end(text, i) : i + 1;
    if (depth == 1 && c == '"' && !in_member) {
      out.push_back({json::parse(whole_surrogates(text.substr(i, next - i))), i, next});
      in_member = true;
    }
    if (depth == 1 && (c == ',' || c == '}')) finish();
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    if (kBlanks.find(c) == std::string_view::npos) end = next;
    i = next;
  }
  return out;
}

/// The end of a line and the indentation of the next one; empty: all is on one line.
std::string_view line_break(std::string_view blanks) {
  const std::size_t feed = blanks.rfind('\n');
  if (feed == std::string_view::npos) return {};
  return blanks.substr(feed - (feed > 0 && blanks[feed - 1] == '\r' ? 1 : 0));
}

}  // namespace

template <class Json>
Json parse_python_json(std::span<const std::byte> text, const std::string& name) {
  const std::string_view given(reinterpret_cast<const char*>(text.data()), text.size());
  const std::size_t first = given.find_first_not_of(kBlanks);
  // Also keeps out a byte order mark, which the parser would skip.
  if (first == std::string_view::npos || given[first] != '{') {
    throw Error(ErrorCode::bad_file, name + ": not a JSON object: expected '{' first");
  }
  const auto damaged_at = [&](std::size_t byte) {
    return Error(ErrorCode::bad_file, fmt::format("{}: damaged JSON at byte {}", name, byte));
  };
  // The parser would take it for the end.
  if (const std::size_t zero = given.find('\0'); zero != std::string_view::npos) {
    throw damaged_at(zero + 1);
  }
  using Event = typename Json::parse_event_t;
  const auto check = [&](int depth, Event event, const Json& /*value*/) {
    const bool opens = event == Event::object_start || event == Event::array_start;
    if (opens && static_cast<std::size_t>(depth) >= kDeepest) {
      throw Error(
          ErrorCode::bad_file,
          fmt::format("{}: JSON nested deeper than the {} levels expected", name, kDeepest));
    }
    return true;
  };
  const Strict strict = strict_text(given);
  try {
    return Json::parse(strict.text, check);
  } catch (const json::parse_error& error) {
    const auto added = std::count_if(strict.longer_at.begin(), strict.longer_at.end(),
                                     [&](std::size_t position) { return position < error.byte; });
    throw damaged_at(error.byte - static_cast<std::size_t>(added));
  }
}

template <class Json>
Json read_python_json(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_python_json<Json>(file.bytes(), path.string());
}

template json parse_python_json(std::span<const std::byte>, const std::string&);
template ordered_json parse_python_json(std::span<const std::byte>, const std::string&);
template json read_python_json(const std::filesystem::path&);
template ordered_json read_python_json(const std::filesystem::path&);

std::string edit_python_json(std::string_view text, const JsonMembers& members) {
  const std::vector<Place> places = members_of(text);
  const std::size_t open = text.find('{') + 1;
  const std::string_view lead =
      places.empty() ? std::string_view("\n  ") : text.substr(open, places[0].begin - open);
  const std::string line(line_break(lead));
  const std::string comma = line.empty() ? ", " : "," + line;
  const std::size_t indent = line.size() - (line.rfind('\n') + 1);
  std::string out(text.substr(0, open));
  std::string separator(lead);  // before the next member
  for (std::size_t i = 0; i < places.size(); ++i) {
    const Place& place = places[i];
    if (members.contains(place.key)) continue;
    out += separator;
    out += text.substr(place.begin, place.end - place.begin);
    const bool last = i + 1 == places.size();
    separator = last ? comma : text.substr(place.end, places[i + 1].begin - place.end);
  }
  bool any_new = false;
  for (const auto& [key, value] : members) {
    if (value.is_null()) continue;
    out += std::exchange(separator, comma) + json(key).dump() + ": ";
    const std::string shown =
        line.empty() ? value.dump() : value.dump(static_cast<int>(indent), line.back());
    for (const char c : shown) {
      c == '\n' ? out += line : out += c;
    }
    any_new = true;
  }
  if (!places.empty()) return out.append(text.substr(places.back().end));
  return out.append(any_new ? "\n" : "").append(text.substr(any_new ? text.rfind('}') : open));
}

}  // namespace nybble::io
