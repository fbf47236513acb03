#include "tests/format/golden.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "nybble/io/npy.h"

namespace nybble::test {

namespace {

/// rows x cols of what is stored cols x rows.
template <class T>
std::vector<T> transpose(const std::vector<T>& values, std::size_t rows, std::size_t cols) {
  std::vector<T> out(values.size());
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < cols; ++c) out[r * cols + c] = values[c * rows + r];
  }
  return out;
}

template <class T>
std::vector<T> read(const GoldenCase& golden, const std::string& output) {
  const NpyArray array = read_npy(golden.files.at(output));
  const auto view = array.as<T>();
  std::vector<T> values(view.begin(), view.end());
  // Values and codes are shaped as the input; scales have a row per row of groups already.
  if (!golden.transposed || array.shape.at(0) != golden.cols) return values;
  return transpose(values, golden.rows, golden.cols);
}

template <class T, class Same, class Show>
void expect_same(std::span<const T> got, std::span<const T> expected, const std::string& label,
                 Same same, Show show) {
  ASSERT_EQ(got.size(), expected.size()) << label;
  std::size_t different = 0;
  std::string first;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (same(got[i], expected[i])) continue;
    if (++different <= 4)
      first += fmt::format(" [{}] {} not {};", i, show(got[i]), show(expected[i]));
  }
  EXPECT_EQ(different, 0U) << label << ": of " << got.size() << " differ:" << first;
}

}  // namespace

std::vector<float> GoldenCase::floats(const std::string& output) const {
  return read<float>(*this, output);
}

std::vector<std::uint8_t> GoldenCase::bytes(const std::string& output) const {
  return read<std::uint8_t>(*this, output);
}

std::vector<GoldenCase> golden_cases(const std::filesystem::path& root, const std::string& format) {
  std::ifstream file(root / format / "index.json");
  const nlohmann::json index = nlohmann::json::parse(file);
  std::vector<GoldenCase> out;
  for (const auto& entry : index) {
    GoldenCase golden;
    golden.format = format;
    golden.variant = entry.at("variant");
    golden.name = entry.at("case");
    golden.label = format + "/" + golden.variant + "/" + golden.name;
    for (const auto& [output, what] : entry.at("outputs").items()) {
      golden.files[output] = root / std::string(what.at("file"));
    }
    golden.input_file = root / std::string(entry.at("input"));
    const NpyArray input = read_npy(golden.input_file);
    if (input.type == NpyType::f32) golden.input = input.as_f32();
    if (input.shape.size() == 2) {
      golden.rows = input.shape[0];
      golden.cols = input.shape[1];
    }
    if (entry.at("axis") == 0) {
      std::swap(golden.rows, golden.cols);
      golden.input = transpose(golden.input, golden.rows, golden.cols);
      golden.transposed = true;
    }
    out.push_back(std::move(golden));
  }
  return out;
}

bool same_value(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b)) || (a == 0 && b == 0);
}

void expect_same_values(std::span<const float> got, std::span<const float> expected,
                        const std::string& label) {
  expect_same(got, expected, label, same_value, [](float x) { return fmt::format("{:a}", x); });
}

void expect_same_bytes(std::span<const std::uint8_t> got, std::span<const std::uint8_t> expected,
                       const std::string& label) {
  expect_same(
      got, expected, label, [](int a, int b) { return a == b; }, [](int x) { return x; });
}

std::vector<std::uint8_t> unpacked_codes(const QuantizedMatrix& matrix, bool merge_zeros) {
  std::vector<std::uint8_t> out;
  for (std::size_t r = 0; r < matrix.rows; ++r) {
    for (std::size_t c = 0; c < matrix.cols; ++c) {
      const std::uint8_t code = matrix.code(r, c);
      out.push_back(merge_zeros && code == 8 ? std::uint8_t{0} : code);
    }
  }
  return out;
}

std::vector<float> decoded_scales(const QuantizedMatrix& matrix, bool negative) {
  std::vector<float> out;
  for (std::size_t r = 0; r < matrix.rows; ++r) {
    for (std::size_t g = 0; g < matrix.groups; ++g) {
      const GroupScale scale = matrix.scale(r, g);
      out.push_back(negative ? scale.negative : scale.positive);
    }
  }
  return out;
}

std::vector<float> dequantized(const QuantizedMatrix& matrix) {
  std::vector<float> out(matrix.rows * matrix.cols);
  SerialExecutor executor;
  dequantize(matrix, {out.data(), matrix.rows, matrix.cols}, executor);
  return out;
}

}  // namespace nybble::test
