#include "nybble/quantize/rtn.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/registry.h"
#include "nybble/error.h"
#include "nybble/format/nf4.h"
#include "nybble/format/scale.h"
#include "nybble/quantize/clip_search.h"
#include "src/quantize/encode_row.h"
#include "src/quantize/row_codes.h"
#include "src/quantize/weight_rows.h"

namespace nybble {

namespace {

/// The largest finite |x| of a row.
float row_amax(const kernels::KernelTable& table, const float* x, std::size_t count) {
  GroupRange range;
  table.group_ranges({x, count, count, &range});
  if (!std::isnan(range.max)) return absmax(range);
  float largest = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (std::isfinite(x[i])) largest = std::max(largest, std::fabs(x[i]));
  }
  return largest;
}

float tensor_amax(const WeightRows& weight, const kernels::KernelTable& table, Executor& executor) {
  std::vector<float> largest(weight.rows());
  for_each_row(
      weight, executor, [] { return 0; },
      [&](std::size_t row, const float* values, int /*state*/) {
        largest[row] = row_amax(table, values, weight.cols());
      });
  return *std::max_element(largest.begin(), largest.end());
}

/// Throws for the first Inf or NaN of a row that is known to hold one.
[[noreturn]] void refuse_nonfinite(const float* values, std::size_t row, const std::string& name) {
  std::size_t col = 0;
  while (std::isfinite(values[col])) ++col;
  throw Error(ErrorCode::bad_value, fmt::format("{}: {} at [{}, {}], expected finite values", name,
                                                values[col], row, col));
}

/// One row on its way: a thread's own.
struct RowWork {
  std::vector<GroupRange> ranges;
  std::vector<ScaleChoice> choices;
  std::vector<std::uint8_t> codes;
  std::vector<float> decoded;
};

QuantizedMatrix quantize(const WeightRows& weight, const AnyFormat& format, Executor& executor,
                         const QuantizeOptions& options, const ScaleSearch& search,
                         SquaredError* error) {
  const kernels::KernelTable& table = *kernels::select().table;
  const FormatInfo& info = format.info();
  // MX-QLLM's E4M3 has no NaN to propagate, and double quantization would spread one everywhere.
  const bool can_propagate = info.scale_type != ScaleType::e4m3x480 && !info.double_quantized;
  const bool refuse = !info.propagates_nonfinite && !(options.propagate_nonfinite && can_propagate);
  QuantizedMatrix out(format, weight.rows(), weight.cols());
  if (info.tensor_scale) out.tensor = format.tensor_scale(tensor_amax(weight, table, executor));

  std::vector<float> nested(info.double_quantized ? out.rows * out.groups : 0);
  std::vector<SquaredError> errors(error != nullptr ? out.rows : 0);
  const auto make_work = [&] {
    return RowWork{std::vector<GroupRange>(out.groups), std::vector<ScaleChoice>(out.groups),
                   std::vector<std::uint8_t>(out.padded_cols),
                   std::vector<float>(error != nullptr ? out.cols : 0)};
  };
  for_each_row(weight, executor, make_work, [&](std::size_t row, const float* x, RowWork& work) {
    encode_row(table, format, x, out.cols, out.group, out.tensor, search,
               {work.ranges, work.choices}, work.codes.data());
    if (refuse && std::any_of(work.ranges.begin(), work.ranges.end(),
                              [](const GroupRange& range) { return std::isnan(range.max); })) {
      refuse_nonfinite(x, row, options.tensor_name);
    }
    if (error != nullptr) {
      table.codes_to_float({work.codes.data(), out.cols, out.group, info.levels.data(),
                            work.choices.data(), out.tensor.scale, work.decoded.data()});
      errors[row] = squared_error(table, x, work.decoded.data(), out.cols);
    }
    if (info.double_quantized) {
      for (std::size_t g = 0; g < out.groups; ++g) {
        nested[row * out.groups + g] = work.choices[g].scale.positive;
      }
    } else {
      out.set_row_scales(row, work.choices);
    }
    store_codes(out, row, work.choices[out.groups - 1], work.codes.data());
  });
  if (info.double_quantized) {
    double_quantize(nested, out.scales, out.nested_scales, out.nested_offset);
  }
  for (const SquaredError& row : errors) *error += row;
  return out;
}

}  // namespace

QuantizedMatrix quantize_rtn(MatrixView weight, const AnyFormat& format, Executor& executor,
                             const QuantizeOptions& options) {
  check_view(weight, options.tensor_name);
  return quantize(MatrixRows(weight), format, executor, options, {}, nullptr);
}

QuantizedMatrix quantize_rtn(const WeightRows& weight, const AnyFormat& format, Executor& executor,
                             const QuantizeOptions& options, SquaredError* error) {
  if (error == nullptr || !format.info().double_quantized) {
    return quantize(weight, format, executor, options, {}, error);
  }
  // Their scales are only known when all rows are.
  QuantizedMatrix out = quantize(weight, format, executor, options, {}, nullptr);
  *error = squared_error(weight, out, {}, executor);
  return out;
}

QuantizedMatrix quantize_clip_search(MatrixView weight, const AnyFormat& format, Executor& executor,
                                     const ClipSearchOptions& options) {
  if (options.grid < 2 || options.grid > 10000 || !(options.smallest > 0) ||
      !(options.smallest < 1)) {
    throw Error(ErrorCode::bad_option,
                fmt::format("clip search: grid {} with smallest {}, expected a grid of 2 to 10000 "
                            "and a smallest factor between 0 and 1",
                            options.grid, options.smallest));
  }
  if (!options.importance.empty() && options.importance.size() != weight.cols) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("{}: importance has {} values, expected {}", options.tensor_name,
                            options.importance.size(), weight.cols));
  }
  for (std::size_t i = 0; i < options.importance.size(); ++i) {
    if (!(options.importance[i] >= 0) || !std::isfinite(options.importance[i])) {
      throw Error(ErrorCode::bad_value,
                  fmt::format("{}: importance[{}] is {}, expected a finite number >= 0",
                              options.tensor_name, i, options.importance[i]));
    }
  }
  if (options.moment.data != nullptr &&
      (options.moment.rows != weight.cols || options.moment.cols != weight.cols)) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("{}: moment {} x {}, expected {} x {}", options.tensor_name,
                            options.moment.rows, options.moment.cols, weight.cols, weight.cols));
  }
  return quantize(MatrixRows(weight), format, executor, options,
                  {.grid = options.grid,
                   .smallest = options.smallest,
                   .importance = options.importance.empty() ? nullptr : options.importance.data(),
                   .cut_ends = options.cut_ends,
                   .moment = options.moment.data,
                   .moment_stride = options.moment.stride},
                  nullptr);
}

}  // namespace nybble
