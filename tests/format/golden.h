#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nybble/matrix.h"
#include "nybble/tensor/quantized_matrix.h"

namespace nybble::test {

/// One result of other people's reference code (shared/golden/README.md): an input and what the
/// reference made of it. Cases whose groups run along axis 0 are transposed as they are read, so
/// that here groups always run along rows.
class GoldenCase {
 public:
  std::string format, variant, name;
  std::string label;  ///< format/variant/name, for messages
  std::size_t rows = 0;
  std::size_t cols = 0;
  bool transposed = false;
  std::vector<float> input;  ///< empty where the input is not an f32 array
  std::filesystem::path input_file;

  [[nodiscard]] bool has(const std::string& output) const { return files.contains(output); }
  [[nodiscard]] std::vector<float> floats(const std::string& output) const;
  [[nodiscard]] std::vector<std::uint8_t> bytes(const std::string& output) const;
  [[nodiscard]] MatrixView view() const { return {input.data(), rows, cols}; }

  std::map<std::string, std::filesystem::path> files;  ///< by output
};

/// All cases of a format's folder; `root` is the folder formats/.
std::vector<GoldenCase> golden_cases(const std::filesystem::path& root, const std::string& format);

/// Bit for bit, except that any NaN is any NaN and -0 is +0.
bool same_value(float a, float b);

/// Expects equal values in that sense, and reports the first few that are not.
void expect_same_values(std::span<const float> got, std::span<const float> expected,
                        const std::string& label);
void expect_same_bytes(std::span<const std::uint8_t> got, std::span<const std::uint8_t> expected,
                       const std::string& label);

/// All codes of a matrix, rows x cols, one a byte. `merge_zeros` writes E2M1's -0 (8) as 0.
std::vector<std::uint8_t> unpacked_codes(const QuantizedMatrix& matrix, bool merge_zeros);
/// The scales of one side of all groups, decoded.
std::vector<float> decoded_scales(const QuantizedMatrix& matrix, bool negative = false);
/// dequantize() on one thread.
std::vector<float> dequantized(const QuantizedMatrix& matrix);

}  // namespace nybble::test
