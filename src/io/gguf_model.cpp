#include "src/io/gguf_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <optional>
#include <type_traits>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/gguf_format.h"

namespace nybble::io {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSplitKeys = "split.";
constexpr const char* kNumberKey = "split.no";  // from 0 on
constexpr const char* kCountKey = "split.count";
constexpr const char* kTensorsKey = "split.tensors.count";
constexpr std::string_view kExtension = ".gguf";
constexpr std::size_t kDigits = 5;
constexpr std::string_view kOf = "-of-";

[[noreturn]] void fail(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::bad_file, where + ": " + what);
}

/// PREFIX-NNNNN-of-MMMMM.gguf.
struct PartName {
  std::string prefix;
  std::size_t number;  ///< from 1 on
  std::size_t count;

  [[nodiscard]] std::string text(std::size_t other) const {
    return fmt::format("{}-{:0{}}{}{:0{}}{}", prefix, other, kDigits, kOf, count, kDigits,
                       kExtension);
  }
};

std::optional<std::size_t> read_digits(std::string_view text) {
  std::size_t number = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || stop != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<PartName> read_part_name(std::string_view name) {
  constexpr std::size_t kTail = 1 + kDigits + kOf.size() + kDigits;
  if (!name.ends_with(kExtension)) return std::nullopt;
  name.remove_suffix(kExtension.size());
  if (name.size() < kTail) return std::nullopt;
  const std::string_view prefix = name.substr(0, name.size() - kTail);
  const std::string_view tail = name.substr(prefix.size());
  if (tail[0] != '-' || tail.substr(1 + kDigits, kOf.size()) != kOf) return std::nullopt;
  const auto number = read_digits(tail.substr(1, kDigits));
  const auto count = read_digits(tail.substr(kTail - kDigits));
  if (!number || !count) return std::nullopt;
  return PartName{std::string(prefix), *number, *count};
}

/// A count among the keys; nothing where there is no such key.
std::optional<std::size_t> read_count(const GgufFile& file, const char* key) {
  const GgufValue* const value = file.value(key);
  if (value == nullptr) return std::nullopt;
  return std::visit(
      [&](const auto& number) -> std::size_t {
        using T = std::decay_t<decltype(number)>;
        if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
          if (number >= T{0}) return static_cast<std::size_t>(number);
        }
        fail(fmt::format("{}: key {}", file.name(), quote(key)),
             "is not a whole number, expected one from 0 on");
      },
      *value);
}

/// Throws unless the key of a part is there and `expected`; `why` it is.
void expect_count(const GgufFile& file, const char* key, std::size_t expected,
                  const std::string& why) {
  const std::optional<std::size_t> found = read_count(file, key);
  if (found == expected) return;
  fail(fmt::format("{}: key {}", file.name(), quote(key)),
       fmt::format("{}, expected {} {}", found ? fmt::format("is {}", *found) : "is missing",
                   expected, why));
}

std::string missing_parts(const fs::path& folder, const PartName& name) {
  constexpr std::size_t kShown = 8;
  std::vector<std::string> missing;
  std::size_t count = 0;
  for (std::size_t number = 1; number <= name.count; ++number) {
    if (fs::exists(folder / name.text(number))) continue;
    if (++count <= kShown) missing.push_back(quote(name.text(number)));
  }
  if (count > kShown) missing.push_back(fmt::format("{} more", count - kShown));
  return fmt::format("{}", fmt::join(missing, ", "));
}

}  // namespace

GgufModel::GgufModel(const fs::path& path) : name_(path.string()) {
  GgufFile file(path);
  const std::optional<PartName> part = read_part_name(path.filename().string());
  const std::size_t named = part ? part->count : 1;
  const std::size_t count = read_count(file, kCountKey).value_or(0);
  if (count > 1) {
    open_parts(std::move(file), path, count);
  } else if (named > 1) {
    fail(name_, fmt::format("is named as part {} of {}, but key {} {}", part->number, named,
                            quote(kCountKey),
                            file.value(kCountKey) == nullptr ? std::string("is missing")
                                                             : fmt::format("is {}", count)));
  } else {
    files_.push_back(std::move(file));
  }
  merge();
}

void GgufModel::open_parts(GgufFile opened, const fs::path& path, std::size_t count) {
  const std::optional<PartName> name = read_part_name(path.filename().string());
  const std::size_t number = read_count(opened, kNumberKey).value_or(0) + 1;
  if (!name) {
    fail(name_, fmt::format("is part {} of {}, expected a name such as {} to find the others by",
                            number, count, quote(PartName{"model", 1, count}.text(number))));
  }
  expect_count(opened, kCountKey, name->count, "as its name says");
  expect_count(opened, kNumberKey, name->number - 1, "as its name says");
  if (name->number > count) {
    fail(name_, fmt::format("is part {} of {}, expected 1 to {}", name->number, count, count));
  }
  const fs::path folder = path.parent_path();
  const std::string missing = missing_parts(folder, *name);
  if (!missing.empty()) {
    fail(name_, fmt::format("is part {} of {}, missing: {}", number, count, missing));
  }
  for (std::size_t i = 1; i <= count; ++i) {
    if (i != number) files_.emplace_back(folder / name->text(i));
  }
  files_.insert(files_.begin() + static_cast<std::ptrdiff_t>(number) - 1, std::move(opened));
  std::size_t tensors = 0;
  for (const GgufFile& file : files_) tensors += file.tensors().size();
  for (std::size_t i = 0; i < count; ++i) {
    expect_count(files_[i], kCountKey, count, "as the other parts say");
    expect_count(files_[i], kNumberKey, i, "as its name says");
    expect_count(files_[i], kTensorsKey, tensors, "as the parts have");
  }
}

void GgufModel::merge() {
  std::map<std::string, const GgufValue*, std::less<>> known;
  for (const GgufFile& file : files_) {
    const bool first = &file == files_.data();
    for (const auto& [key, value] : file.values()) {
      // About the file, not the model.
      if (is_split() && (key.starts_with(kSplitKeys) || (!first && key == kAlignmentKey))) continue;
      const auto [before, added] = known.emplace(key, &value);
      if (added) {
        values_.emplace_back(key, value);
      } else if (*before->second != value) {
        fail(fmt::format("{}: key {}", file.name(), quote(key)),
             "differs from that of another part");
      }
    }
    tensors_.insert(tensors_.end(), file.tensors().begin(), file.tensors().end());
  }
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (index_.emplace(tensors_[i].name, i).second) continue;
    fail(fmt::format("{}: tensor {}", name_, quote(tensors_[i].name)),
         "is in two parts, expected each name once");
  }
}

const GgufTensor* GgufModel::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const GgufTensor& GgufModel::at(std::string_view name) const {
  if (const GgufTensor* const tensor = find(name)) return *tensor;
  std::vector<std::string_view> names;
  for (const GgufTensor& tensor : tensors_) names.push_back(tensor.name);
  throw Error(ErrorCode::bad_option,
              fmt::format("{}: no tensor {}, {}", name_, quote(name), name_hint(name, names)));
}

}  // namespace nybble::io
