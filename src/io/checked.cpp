#include "src/io/checked.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace nybble::io {
namespace {

constexpr std::size_t kLongestQuote = 120;
constexpr std::size_t kHints = 3;

std::optional<std::size_t> multiply(std::size_t a, std::size_t b) {
  if (b != 0 && a > std::numeric_limits<std::size_t>::max() / b) return std::nullopt;
  return a * b;
}

/// Levenshtein distance.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = std::exchange(row[j + 1], std::min({substituted, row[j] + 1, row[j + 1] + 1}));
    }
  }
  return row[b.size()];
}

}  // namespace

std::optional<std::size_t> byte_count(std::span<const std::size_t> shape, std::size_t bits) {
  std::optional<std::size_t> total = bits;
  for (const std::size_t size : shape) {
    total = multiply(*total, size);
    if (!total) return std::nullopt;
  }
  if (*total % 8 != 0) return std::nullopt;
  return *total / 8;
}

std::string shape_text(std::span<const std::size_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::string quote(std::string_view text) {
  std::string result = "\"";
  for (const char c : text.substr(0, kLongestQuote)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) {
      result += fmt::format("\\x{:02x}", byte);
    } else {
      result += c;
    }
  }
  result += text.size() > kLongestQuote ? "\"..." : "\"";
  return result;
}

std::string name_hint(std::string_view wanted, const std::vector<std::string_view>& names) {
  // A name from a hostile file may be of any length; the distance costs the product of both.
  std::vector<std::pair<std::size_t, std::string_view>> near;
  for (const std::string_view name : names) {
    near.emplace_back(edit_distance(wanted.substr(0, kLongestQuote), name.substr(0, kLongestQuote)),
                      name);
  }
  const std::size_t shown = std::min(kHints, near.size());
  std::partial_sort(near.begin(), near.begin() + static_cast<std::ptrdiff_t>(shown), near.end());
  std::string result = fmt::format("expected one of its {} tensors", names.size());
  for (std::size_t i = 0; i < shown; ++i) {
    result += (i == 0 ? ", such as " : ", ") + quote(near[i].second);
  }
  return result;
}

}  // namespace nybble::io
