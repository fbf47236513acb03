#include "tests/support/shared.h"

#include <cstdlib>
#include <string_view>

namespace nybble::test {

namespace {

std::optional<std::filesystem::path> below(const char* variable, const std::string& relative) {
  const char* folder = std::getenv(variable);
  if (folder == nullptr || *folder == '\0') return std::nullopt;
  std::filesystem::path path = std::filesystem::path(folder) / relative;
  if (!std::filesystem::exists(path)) return std::nullopt;
  return path;
}

}  // namespace

std::optional<std::filesystem::path> shared_path(const std::string& relative) {
  return below("NYBBLE_SHARED", relative);
}

std::optional<std::filesystem::path> golden_path(const std::string& relative) {
  return below("NYBBLE_GOLDEN", relative);
}

bool shared_is_required() {
  const char* value = std::getenv("NYBBLE_REQUIRE_SHARED");
  return value != nullptr && std::string_view(value) == "1";
}

}  // namespace nybble::test
