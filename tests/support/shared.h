#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <optional>
#include <string>

namespace nybble::test {

/// A file or folder below the folder that the environment variable NYBBLE_SHARED names (models,
/// evaluation texts, other people's reference results). Empty if it is not there.
std::optional<std::filesystem::path> shared_path(const std::string& relative);

/// The same below NYBBLE_GOLDEN: the folder into which formats.tar.xz and quantizers.tar.xz of
/// shared/golden were unpacked.
std::optional<std::filesystem::path> golden_path(const std::string& relative);

/// NYBBLE_REQUIRE_SHARED=1: a missing file fails its test instead of skipping it (CI sets it).
bool shared_is_required();

}  // namespace nybble::test

#define NYBBLE_PATH_OR_SKIP(variable, relative, find, environment)                              \
  const std::filesystem::path variable = ::nybble::test::find(relative).value_or("");           \
  if (variable.empty() && ::nybble::test::shared_is_required())                                 \
    FAIL() << (relative) << " not found below " environment ", and NYBBLE_REQUIRE_SHARED is 1"; \
  if (variable.empty()) GTEST_SKIP() << (relative) << " not found below " environment

/// Defines `variable` as the path of a shared file, or skips (or fails, see above) the test.
#define NYBBLE_SHARED_OR_SKIP(variable, relative) \
  NYBBLE_PATH_OR_SKIP(variable, relative, shared_path, "NYBBLE_SHARED")
#define NYBBLE_GOLDEN_OR_SKIP(variable, relative) \
  NYBBLE_PATH_OR_SKIP(variable, relative, golden_path, "NYBBLE_GOLDEN")
