#include "nybble/quantize/rtn.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/registry.h"
#include "nybble/error.h"
#include "nybble/format/nf4.h"
#include "nybble/quantize/clip_search.h"
#include "src/quantize/encode_row.h"

namespace nybble {

namespace {

/// The largest finite |x|; throws for Inf and NaN where the caller refuses them.
float tensor_amax(MatrixView weight, bool refuse_nonfinite, const kernels::KernelTable& table,
                  const std::string& name, Executor& executor) {
  const std::size_t tasks = std::min(weight.rows, executor.concurrency() * 4);
  std::vector<float> largest(tasks, 0.0F);
  executor.parallel_for(tasks, [&](std::size_t task) {
    for (std::size_t row = weight.rows * task / tasks; row < weight.rows * (task + 1) / tasks;
         ++row) {
      GroupRange range;
      table.group_ranges({weight.row(row), weight.cols, weight.cols, &range});
      if (!std::isnan(range.max)) {
        largest[task] = std::max({largest[task], range.max, -range.min});
        continue;
      }
      for (std::size_t col = 0; col < weight.cols; ++col) {
        const float x = weight.at(row, col);
        if (std::isfinite(x)) {
          largest[task] = std::max(largest[task], std::fabs(x));
        } else if (refuse_nonfinite) {
          throw Error(ErrorCode::bad_value,
                      fmt::format("{}: {} at [{}, {}], expected finite values", name, x, row, col));
        }
      }
    }
  });
  return *std::max_element(largest.begin(), largest.end());
}

QuantizedMatrix quantize(MatrixView weight, const AnyFormat& format, Executor& executor,
                         const QuantizeOptions& options, const ScaleSearch& search) {
  check_view(weight, options.tensor_name);
  const kernels::KernelTable& table = *kernels::select().table;
  const FormatInfo& info = format.info();
  const bool refuse = !info.propagates_nonfinite && !options.propagate_nonfinite;
  QuantizedMatrix out(format, weight.rows, weight.cols);
  const float amax = tensor_amax(weight, refuse, table, options.tensor_name, executor);
  out.tensor = format.tensor_scale(amax);

  std::vector<float> nested(info.double_quantized ? out.rows * out.groups : 0);
  const std::uint8_t padding = encode_value(format.encode_table(), ScaleChoice{}, 0);
  const std::size_t tasks = std::min(weight.rows, executor.concurrency() * 4);
  executor.parallel_for(tasks, [&](std::size_t task) {
    std::vector<GroupRange> ranges(out.groups);
    std::vector<ScaleChoice> choices(out.groups);
    std::vector<std::uint8_t> codes(out.padded_cols);
    for (std::size_t row = out.rows * task / tasks; row < out.rows * (task + 1) / tasks; ++row) {
      encode_row(table, format, weight.row(row), out.cols, out.group, out.tensor, search,
                 {ranges, choices}, codes.data());
      for (std::size_t g = 0; g < out.groups; ++g) {
        const GroupScale& scale = choices[g].scale;
        if (info.double_quantized) {
          nested[row * out.groups + g] = scale.positive;
        } else {
          out.set_scale(row, g, scale);
        }
      }
      // Padding stands for zero under any scale; with a zero point that is the zero point.
      for (std::size_t col = out.cols; col < out.padded_cols; ++col) {
        codes[col] = info.layout == ScaleLayout::zero_point
                         ? static_cast<std::uint8_t>(choices[out.groups - 1].scale.zero)
                         : padding;
      }
      std::uint8_t* to = &out.codes[row * (out.padded_cols / 2)];
      for (std::size_t i = 0; i < out.padded_cols / 2; ++i) {
        to[i] = static_cast<std::uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
      }
    }
  });
  if (info.double_quantized) {
    double_quantize(nested, out.scales, out.nested_scales, out.nested_offset);
  }
  return out;
}

}  // namespace

QuantizedMatrix quantize_rtn(MatrixView weight, const AnyFormat& format, Executor& executor,
                             const QuantizeOptions& options) {
  return quantize(weight, format, executor, options, {});
}

QuantizedMatrix quantize_clip_search(MatrixView weight, const AnyFormat& format, Executor& executor,
                                     const ClipSearchOptions& options) {
  if (options.grid < 2 || !(options.smallest > 0) || !(options.smallest < 1)) {
    throw Error(ErrorCode::bad_option,
                fmt::format("clip search: grid {} with smallest {}, expected a grid of at least 2 "
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
  return quantize(weight, format, executor, options,
                  {options.grid, options.smallest,
                   options.importance.empty() ? nullptr : options.importance.data()});
}

}  // namespace nybble
