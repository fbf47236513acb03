#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "nybble/format/block_format.h"
#include "nybble/quantize/calibration.h"
#include "tests/support/sanitized.h"

/// Layer problems with the results of other people's quantizers (golden/quantizers.tar.xz).
namespace nybble::test {

struct GoldenMatrix {
  std::vector<std::size_t> shape;
  std::vector<float> values;

  [[nodiscard]] MatrixView view() const { return {values.data(), shape.at(0), shape.at(1)}; }
};

/// An .npy file of any number type, as f32.
GoldenMatrix read_golden(const std::filesystem::path& path);

struct GoldenProblem {
  std::string name;
  std::filesystem::path folder;
  GoldenMatrix weight, inputs, test_inputs;
  nlohmann::json results;
  Calibration calibration;

  explicit GoldenProblem(const std::filesystem::path& problem_folder);
};

/// Sanitizers take ten times as long: they see the smaller problems, and a part of the formats.
inline constexpr bool kSanitized = NYBBLE_TEST_SANITIZED != 0;

/// The folders of all problems of at most `most` weights, by name.
std::vector<std::filesystem::path> golden_problems(const std::filesystem::path& root,
                                                   std::size_t most);

/// A result's name, "gptq.sym.g32.act", as a format where it names one: the int4 formats with
/// scales as GPTQ's reference chooses them, in f32. Group 0 = the row.
AnyFormat gptq_format(bool symmetric, std::size_t group);
/// The same with AWQ's: ranges that need not include 0.
AnyFormat awq_format(std::size_t group);
/// "g32" -> 32, "pc" -> 0 among the parts of a name.
std::size_t group_of(const std::string& name);

}  // namespace nybble::test
