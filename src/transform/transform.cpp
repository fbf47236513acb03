#include "nybble/transform/transform.h"

#include <fmt/format.h>

#include "nybble/error.h"
#include "src/transform/apply.h"
#include "src/transform/hadamard.h"

namespace nybble {

namespace {

void expect(bool holds, const std::string& message) {
  if (!holds) throw Error(ErrorCode::bad_shape, message);
}

}  // namespace

void Transforms::check(std::size_t rows, std::size_t cols) const {
  const auto size_or_none = [](std::size_t size, std::size_t expected, const char* part) {
    expect(size == 0 || size == expected,
           fmt::format("{}: {} values, expected {}", part, size, expected));
  };
  size_or_none(channel_scale.scale.size(), cols, "channel scale");
  size_or_none(permutation.source.size(), cols, "permutation");
  std::vector<bool> seen(permutation.source.size());
  for (const std::uint32_t source : permutation.source) {
    expect(source < cols && !seen[source],
           fmt::format("permutation: index {} is out of range or repeated", source));
    seen[source] = true;
  }
  expect(hadamard.block == 0 || (has_hadamard(hadamard.block) && cols % hadamard.block == 0),
         fmt::format("hadamard: block {}, expected the order of a Hadamard matrix that divides {}",
                     hadamard.block, cols));
  size_or_none(hadamard.signs.size(), hadamard.block == 0 ? 0 : cols, "hadamard signs");
  // Divided, not multiplied: a rank from a file may be any number.
  expect(low_rank.a.size() % cols == 0 && low_rank.a.size() / cols == low_rank.rank &&
             low_rank.b.size() % rows == 0 && low_rank.b.size() / rows == low_rank.rank,
         fmt::format("low rank: {} and {} values, expected rank {} times {} and {}",
                     low_rank.a.size(), low_rank.b.size(), low_rank.rank, cols, rows));
  size_or_none(bias.size(), rows, "bias");
  if (sparse.row_start.empty()) {
    expect(sparse.column.empty() && sparse.value.empty(),
           fmt::format("sparse outliers: {} entries without row starts", sparse.value.size()));
    return;
  }
  expect(sparse.row_start.size() == rows + 1 && sparse.row_start.front() == 0 &&
             sparse.row_start.back() == sparse.column.size() &&
             sparse.column.size() == sparse.value.size(),
         fmt::format("sparse outliers: {} row starts, {} columns, {} values do not fit {} rows",
                     sparse.row_start.size(), sparse.column.size(), sparse.value.size(), rows));
  for (std::size_t i = 0; i + 1 < sparse.row_start.size(); ++i) {
    expect(sparse.row_start[i] <= sparse.row_start[i + 1],
           fmt::format("sparse outliers: row {} ends before it starts", i));
  }
  for (const std::uint32_t column : sparse.column) {
    expect(column < cols, fmt::format("sparse outliers: column {} of {}", column, cols));
  }
}

void apply_input(const Transforms& transforms, const float* x, std::size_t cols, float* out) {
  const std::vector<float>& scale = transforms.channel_scale.scale;
  const std::vector<std::uint32_t>& source = transforms.permutation.source;
  for (std::size_t i = 0; i < cols; ++i) {
    const std::size_t from = source.empty() ? i : source[i];
    out[i] = scale.empty() ? x[from] : x[from] * scale[from];
  }
  const Hadamard& rotation = transforms.hadamard;
  if (rotation.block == 0) return;
  for (std::size_t i = 0; i < rotation.signs.size(); ++i) out[i] *= rotation.signs[i];
  for (std::size_t i = 0; i < cols; i += rotation.block) hadamard(out + i, rotation.block, false);
}

void apply_input_transposed(const Transforms& transforms, float* w, std::size_t cols) {
  const Hadamard& rotation = transforms.hadamard;
  if (rotation.block != 0) {
    for (std::size_t i = 0; i < cols; i += rotation.block) hadamard(w + i, rotation.block, true);
    for (std::size_t i = 0; i < rotation.signs.size(); ++i) w[i] *= rotation.signs[i];
  }
  const std::vector<std::uint32_t>& source = transforms.permutation.source;
  if (!source.empty()) {
    const std::vector<float> permuted(w, w + cols);
    for (std::size_t i = 0; i < cols; ++i) w[source[i]] = permuted[i];
  }
  const std::vector<float>& scale = transforms.channel_scale.scale;
  for (std::size_t i = 0; i < scale.size(); ++i) w[i] *= scale[i];
}

void add_side_branches(const Transforms& transforms, const float* x, std::size_t rows,
                       std::size_t cols, float* projected, float* y) {
  const LowRank& low = transforms.low_rank;
  for (std::size_t r = 0; r < low.rank; ++r) {
    float sum = 0;
    for (std::size_t i = 0; i < cols; ++i) sum += x[i] * low.a[r * cols + i];
    projected[r] = sum;
  }
  const SparseOutliers& sparse = transforms.sparse;
  for (std::size_t row = 0; row < rows; ++row) {
    float sum = 0;
    for (std::size_t r = 0; r < low.rank; ++r) sum += projected[r] * low.b[row * low.rank + r];
    if (!sparse.row_start.empty()) {
      for (std::size_t i = sparse.row_start[row]; i < sparse.row_start[row + 1]; ++i) {
        sum += x[sparse.column[i]] * sparse.value[i];
      }
    }
    if (!transforms.bias.empty()) sum += transforms.bias[row];
    y[row] += sum;
  }
}

}  // namespace nybble
