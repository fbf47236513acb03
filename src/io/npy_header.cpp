#include "src/io/npy_header.h"

#include <fmt/format.h>

#include <charconv>
#include <iterator>
#include <set>

#include "nybble/error.h"
#include "src/io/checked.h"

namespace nybble {
namespace {

struct TypeRow {
  NpyType type;
  std::string_view descr;
  std::size_t item_size;
};

constexpr TypeRow kTypes[] = {
    {NpyType::f32, "<f4", 4}, {NpyType::f64, "<f8", 8}, {NpyType::f16, "<f2", 2},
    {NpyType::u8, "|u1", 1},  {NpyType::i8, "|i1", 1},  {NpyType::u16, "<u2", 2},
    {NpyType::i16, "<i2", 2}, {NpyType::u32, "<u4", 4}, {NpyType::i32, "<i4", 4},
    {NpyType::u64, "<u8", 8}, {NpyType::i64, "<i8", 8}, {NpyType::boolean, "|b1", 1},
};

constexpr bool rows_follow_the_enum() {
  for (std::size_t i = 0; i < std::size(kTypes); ++i) {
    if (static_cast<std::size_t>(kTypes[i].type) != i) return false;
  }
  return true;
}
static_assert(rows_follow_the_enum());

NpyType type_from_descr(std::string_view descr, const std::string& name) {
  for (const TypeRow& row : kTypes) {
    if (row.descr == descr) return row.type;
    // The order of one byte is no order: '<u1' is the same type.
    if (row.item_size == 1 && descr.starts_with('<') && descr.substr(1) == row.descr.substr(1)) {
      return row.type;
    }
  }
  const std::string_view reason = descr.starts_with('>') ? "big endian" : "unsupported";
  throw Error(ErrorCode::unsupported,
              fmt::format("{}: {} dtype {}, expected a little-endian float, integer or bool", name,
                          reason, io::quote(descr)));
}

/// Reads the literals of Python that a header is made of, from left to right.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  io::NpyHeader parse() {
    io::NpyHeader header;
    std::set<std::string_view> seen;
    expect('{');
    while (!accept('}')) {
      const std::string_view key = string();
      if (!seen.insert(key).second) fail(fmt::format("duplicate key {}", io::quote(key)));
      expect(':');
      read_value(key, header);
      if (accept(',')) continue;
      expect('}');
      break;
    }
    skip_space();
    if (position_ != text_.size()) fail("something after the dict");
    for (const std::string_view key : {"descr", "fortran_order", "shape"}) {
      if (!seen.contains(key)) fail(fmt::format("{} is missing", key));
    }
    return header;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: npy header, character {}: {}", name_, position_, what));
  }

  void read_value(std::string_view key, io::NpyHeader& header) {
    if (key == "descr") {
      skip_space();
      if (position_ < text_.size() && text_[position_] == '[') {
        throw Error(ErrorCode::unsupported,
                    name_ + ": records (a structured dtype), expected one number type");
      }
      header.type = type_from_descr(string(), name_);
    } else if (key == "fortran_order") {
      header.fortran_order = boolean();
    } else if (key == "shape") {
      header.shape = tuple();
    } else {
      fail(fmt::format("key {}, expected descr, fortran_order or shape", io::quote(key)));
    }
  }

  void skip_space() {
    while (position_ < text_.size() &&
           std::string_view(" \t\r\n").find(text_[position_]) != std::string_view::npos) {
      ++position_;
    }
  }

  bool accept(char c) {
    skip_space();
    if (position_ == text_.size() || text_[position_] != c) return false;
    ++position_;
    return true;
  }

  void expect(char c) {
    if (!accept(c)) fail(fmt::format("expected '{}'", c));
  }

  std::string_view string() {
    const char delimiter = accept('"') ? '"' : '\'';
    if (delimiter == '\'') expect(delimiter);
    const std::size_t end = text_.find(delimiter, position_);
    if (end == std::string_view::npos) fail("a string without an end");
    const std::string_view result = text_.substr(position_, end - position_);
    position_ = end + 1;
    return result;
  }

  bool boolean() {
    skip_space();
    for (const bool value : {false, true}) {
      const std::string_view word = value ? "True" : "False";
      if (text_.substr(position_).starts_with(word)) {
        position_ += word.size();
        return value;
      }
    }
    fail("expected True or False");
  }

  std::size_t integer() {
    skip_space();
    std::size_t value = 0;
    const char* const first = text_.data() + position_;
    const auto [last, error] = std::from_chars(first, text_.data() + text_.size(), value);
    if (error != std::errc()) fail("expected an unsigned integer below 2^64");
    position_ += static_cast<std::size_t>(last - first);
    return value;
  }

  /// "()", "(3,)", "(3, 4)" or "(3, 4,)"; "(3)" is no tuple in Python.
  std::vector<std::size_t> tuple() {
    std::vector<std::size_t> result;
    bool comma = true;
    expect('(');
    while (!accept(')')) {
      if (!comma) fail("expected ',' or ')'");
      if (result.size() == io::kNpyMaxRank) {
        fail(fmt::format("shape of more than {} axes", io::kNpyMaxRank));
      }
      result.push_back(integer());
      comma = accept(',');
    }
    if (result.size() == 1 && !comma)
      fail("shape is not a tuple: expected ',' after its only axis");
    return result;
  }

  std::string_view text_;
  const std::string& name_;
  std::size_t position_ = 0;
};

}  // namespace

std::string_view npy_descr(NpyType type) noexcept {
  return kTypes[static_cast<std::size_t>(type)].descr;
}

std::size_t npy_item_size(NpyType type) noexcept {
  return kTypes[static_cast<std::size_t>(type)].item_size;
}

io::NpyHeader io::parse_npy_header(std::string_view text, const std::string& name) {
  return HeaderParser(text, name).parse();
}

}  // namespace nybble
