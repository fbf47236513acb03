#include "src/quantize/flushed_groups.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/registry.h"
#include "nybble/error.h"
#include "nybble/format/element.h"
#include "nybble/format/registry.h"
#include "nybble/format/scale.h"

namespace nybble {

namespace {

constexpr double kShare = 1e-4;

/// Whether the ends of a group, and so everything between, become zeros.
bool flushes(const AnyFormat& format, GroupRange range, TensorScale tensor) {
  for (int i = 0; i < format.candidate_count(); ++i) {
    const ScaleChoice choice = format.candidate(range, tensor, i);
    for (const float end : {range.max, range.min}) {
      const std::uint8_t code = encode_value(format.encode_table(), choice, end);
      if (end != 0 && format.decode(code, choice.scale, tensor) != 0) return false;
    }
  }
  return true;
}

/// No group that holds a larger magnitude is flushed: the largest single value that is.
float largest_flushed(const AnyFormat& format, TensorScale tensor) {
  std::uint32_t flushed = 0;  // the bits of magnitudes are in their order
  auto kept = std::bit_cast<std::uint32_t>(std::numeric_limits<float>::max());
  while (kept - flushed > 1) {
    const std::uint32_t middle = flushed + (kept - flushed) / 2;
    const auto value = std::bit_cast<float>(middle);
    const bool gone = flushes(format, {value, 0}, tensor) || flushes(format, {0, -value}, tensor);
    (gone ? flushed : kept) = middle;
  }
  return std::bit_cast<float>(flushed);
}

/// The options of `spec` with `name` set to `value` and those left out that need another value.
std::string with_option(const std::string& spec, const std::string& name,
                        const std::string& value) {
  const std::size_t colon = spec.find(':');
  std::string out = spec.substr(0, colon) + ":";
  for (std::size_t at = colon; at != std::string::npos;) {
    const std::size_t end = spec.find(',', at + 1);
    const std::string option = spec.substr(at + 1, end == std::string::npos ? end : end - at - 1);
    if (!option.starts_with(name + "=") && !option.starts_with("rule=")) out += option + ",";
    at = end;
  }
  return out + name + "=" + value;
}

/// The nearest relative of `format` that holds weights up to `largest`.
std::string instead_of(const AnyFormat& format, float largest) {
  const auto holds = [&](const std::string& spec) {
    try {
      const AnyFormat other = parse_format(spec);
      return !flushes(other, {largest, -largest}, other.tensor_scale(largest));
    } catch (const Error&) {
      return false;  // no such option
    }
  };
  std::string out;
  for (const auto& [name, value] : {std::pair("scale", "f32"), std::pair("tensor_scale", "true")}) {
    const std::string spec = with_option(format.info().spec, name, value);
    if (holds(spec)) out += (out.empty() ? "" : " or ") + spec;
  }
  if (!out.empty()) return out;
  constexpr const char* kOther = "int4:scale=f32";
  return holds(kOther) ? fmt::format("another format, such as {}", kOther) : "larger weights";
}

/// What the groups of one row lose.
struct Loss {
  double total = 0, flushed = 0;  ///< sums of squares
  float largest = 0;              ///< of the flushed
  std::size_t col = 0;            ///< where that group begins
};

constexpr GroupRange kAll = {std::numeric_limits<float>::max(),
                             std::numeric_limits<float>::lowest()};

/// Of the values that are in the range.
double sum_of_squares(const float* x, std::size_t count, GroupRange range) {
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (x[i] >= range.min && x[i] <= range.max) {
      sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
  }
  return sum;
}

/// What of a group has a scale of its own: all of it, or each sign.
std::array<GroupRange, 2> parts(const AnyFormat& format, GroupRange range) {
  if (format.info().layout != ScaleLayout::sign_split) return {range, GroupRange()};
  return {GroupRange{std::max(range.max, 0.0F), 0}, GroupRange{0, std::min(range.min, 0.0F)}};
}

}  // namespace

void refuse_flushed(const WeightRows& weight, const AnyFormat& format, TensorScale tensor,
                    double signal, const std::string& name, Executor& executor) {
  const float limit = largest_flushed(format, tensor);
  const double count = static_cast<double>(weight.rows()) * static_cast<double>(weight.cols());
  if (count * static_cast<double>(limit) * static_cast<double>(limit) <= kShare * signal) return;

  const kernels::KernelTable& table = *kernels::select().table;
  const std::size_t cols = weight.cols();
  const std::size_t group = format.info().group == 0 ? cols : format.info().group;
  std::vector<Loss> losses(weight.rows());
  const auto make_ranges = [&] { return std::vector<GroupRange>((cols + group - 1) / group); };
  for_each_row(weight, executor, make_ranges,
               [&](std::size_t row, const float* x, std::vector<GroupRange>& ranges) {
                 Loss& loss = losses[row];
                 loss.total = sum_of_squares(x, cols, kAll);
                 table.group_ranges({x, cols, group, ranges.data()});
                 for (std::size_t g = 0; g < ranges.size(); ++g) {
                   for (const GroupRange& part : parts(format, ranges[g])) {
                     const float largest = absmax(part);
                     if (!(largest > 0 && largest <= limit)) continue;
                     if (!flushes(format, part, tensor)) continue;
                     const std::size_t begin = g * group;
                     loss.flushed += sum_of_squares(x + begin, std::min(group, cols - begin), part);
                     if (largest > loss.largest) {
                       loss.largest = largest;
                       loss.col = begin;
                     }
                   }
                 }
               });

  Loss all;
  std::size_t worst = 0;
  for (std::size_t row = 0; row < losses.size(); ++row) {
    all.total += losses[row].total;
    all.flushed += losses[row].flushed;
    if (losses[row].largest > losses[worst].largest) worst = row;
  }
  if (!(all.flushed > kShare * all.total)) return;
  const Loss& loss = losses[worst];
  throw Error(ErrorCode::bad_value,
              fmt::format("{}: weights of row {}, columns {} to {}, largest {:g}, would become "
                          "zeros: {} has no scale that small, expected {}",
                          name, worst, loss.col, std::min(loss.col + group, cols) - 1, loss.largest,
                          format.info().spec, instead_of(format, loss.largest)));
}

}  // namespace nybble
