#include "nybble/quantize/gptq.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "kernels/registry.h"
#include "nybble/error.h"
#include "src/check_enum.h"
#include "src/linalg/dense.h"
#include "src/quantize/channel_search.h"
#include "src/quantize/gptq_trial.h"
#include "src/quantize/group_search.h"
#include "src/quantize/hessian.h"
#include "src/quantize/refine.h"
#include "src/quantize/row_codes.h"

namespace nybble {

namespace {

/// Columns whose errors are passed on to all later ones in one product: as many as the reference
/// takes, whose stale groups depend on that. 256 are no faster.
constexpr std::size_t kBlock = 128;
/// Columns that pass errors on to each other one by one, and rows that a task takes through a
/// block.
constexpr std::size_t kPart = 32;
constexpr std::size_t kRowChunk = 48;
/// Rows that options are compared on: enough to tell them apart, few enough to cost little.
constexpr std::size_t kTrialRows = 64;
/// Rows that the reported errors are of.
constexpr std::size_t kReportRows = 128;

/// One run of GPTQ over some rows with everything decided.
class Gptq {
 public:
  Gptq(MatrixView weight, const AnyFormat& format, TensorScale tensor,
       const OrderedHessian& hessian, const GptqOptions& options, Executor& executor)
      : weight_(weight),
        hessian_(hessian),
        options_(options),
        executor_(executor),
        table_(*kernels::select().table),
        search_(options.scales == ScaleChooser::search ? calibrated_search(nullptr)
                                                       : ScaleSearch{}),
        codes_(format, weight.rows, weight.cols, tensor),
        values_(weight.rows * weight.cols) {}

  RowCodes run() {
    const std::size_t n = weight_.rows;
    const std::size_t k = weight_.cols;
    executor_.parallel_for(n, [&](std::size_t row) {
      for (std::size_t i = 0; i < k; ++i) values_[row * k + i] = source(row, hessian_.order[i]);
    });
    if (options_.static_groups) choose_static_scales();
    std::vector<float> errors(n * kBlock);
    std::vector<float> packed;
    for (std::size_t begin = 0; begin < k; begin += kBlock) {
      const std::size_t size = std::min(kBlock, k - begin);
      // A group's scale is chosen from all its columns as they are: no updates may be waiting then.
      const std::size_t part = options_.static_groups ? std::min(kPart, size) : size;
      pack_factor(begin, size, part, packed);
      executor_.parallel_for((n + kRowChunk - 1) / kRowChunk, [&](std::size_t chunk) {
        const std::size_t first = chunk * kRowChunk;
        round_block(first, std::min(n, first + kRowChunk), begin, size, part, packed.data(),
                    errors.data());
      });
      const std::size_t end = begin + size;
      if (end == k) break;
      linalg::multiply({errors.data(), n, size},
                       {&hessian_.factor[begin * k + end], size, k - end, k},
                       {&values_[end], n, k - end, k}, linalg::Update::subtract, executor_);
    }
    return std::move(codes_);
  }

 private:
  [[nodiscard]] float source(std::size_t row, std::size_t col) const {
    return options_.zero_dead_channels && hessian_.dead[col] ? 0.0F : weight_.at(row, col);
  }
  [[nodiscard]] std::size_t group_of(std::size_t i) const {
    return hessian_.order[i] / codes_.group;
  }
  [[nodiscard]] ScaleChoice choose(const float* x, const float* cost, std::size_t count) const {
    GroupRange range;
    table_.group_ranges({x, count, count, &range});
    if (search_.grid == 1 && codes_.format.candidate_count() == 1) {
      return codes_.format.choose(range, codes_.tensor, 1);
    }
    return search_group(table_, codes_.format, search_, x,
                        options_.scales == ScaleChooser::search ? cost : nullptr, count, range,
                        codes_.tensor);
  }

  void choose_static_scales() {
    executor_.parallel_for(weight_.rows, [&](std::size_t row) {
      std::vector<float> x(codes_.group);
      for (std::size_t g = 0; g < codes_.groups; ++g) {
        const std::size_t first = g * codes_.group;
        const std::size_t count = std::min(codes_.group, weight_.cols - first);
        // The reference chooses a row's only scale before it zeroes dead channels.
        for (std::size_t j = 0; j < count; ++j) {
          x[j] =
              codes_.format.info().group == 0 ? weight_.at(row, first + j) : source(row, first + j);
        }
        codes_.choice(row, g) = choose(x.data(), &hessian_.cost[first], count);
      }
    });
    nest_scales(codes_);
  }

  /// The scale of the group that begins with column i of the order.
  void choose_dynamic_scale(std::size_t row, std::size_t i, const float* before_block,
                            std::size_t block_begin, std::size_t block_size) {
    // The last group may be shorter and, reordered, not come last.
    const std::size_t count = std::min(codes_.group, weight_.cols - group_of(i) * codes_.group);
    std::vector<float> x(count);
    std::vector<float> cost(count);
    for (std::size_t j = 0; j < count; ++j) {
      const std::size_t at = i + j;
      const bool stale = options_.stale_groups && at < block_begin + block_size;
      x[j] = stale ? before_block[at - block_begin] : values_[row * weight_.cols + at];
      cost[j] = hessian_.cost[hessian_.order[at]];
    }
    codes_.choice(row, group_of(i)) = choose(x.data(), cost.data(), count);
  }

  /// For each part of a block of columns, its rows of the factor as dense_update takes them: the
  /// columns behind the part, kDenseCols at a time.
  void pack_factor(std::size_t begin, std::size_t size, std::size_t part,
                   std::vector<float>& packed) const {
    packed.clear();
    const std::size_t k = weight_.cols;
    for (std::size_t from = 0; from < size; from += part) {
      for (std::size_t col = from + part; col < size; col += kernels::kDenseCols) {
        for (std::size_t i = from; i < from + part; ++i) {
          const float* row = &hessian_.factor[(begin + i) * k + begin];
          for (std::size_t j = col; j < col + kernels::kDenseCols; ++j) {
            packed.push_back(j < size ? row[j] : 0.0F);
          }
        }
      }
    }
  }

  /// Rounds a block of columns of some rows; `errors` is n x size. A part of the block at a time:
  /// its columns one after the other, then what they did to the rest of the block.
  void round_block(std::size_t first_row, std::size_t end_row, std::size_t begin, std::size_t size,
                   std::size_t part, const float* packed, float* errors) {
    const std::size_t k = weight_.cols;
    for (std::size_t from = 0; from < size; from += part) {
      const std::size_t end = std::min(size, from + part);
      for (std::size_t row = first_row; row < end_row; ++row) {
        round_columns(row, begin, from, end, errors + row * size);
      }
      for (std::size_t col = end; col < size; col += kernels::kDenseCols) {
        table_.dense_update({errors + first_row * size + from, size, packed,
                             &values_[first_row * k + begin + col], k, end_row - first_row,
                             end - from, std::min(kernels::kDenseCols, size - col), true});
        packed += part * kernels::kDenseCols;
      }
    }
  }

  /// Columns `from` to `end` of a block, each error passed on to those of them that follow.
  void round_columns(std::size_t row, std::size_t begin, std::size_t from, std::size_t end,
                     float* errors) {
    const std::size_t k = weight_.cols;
    float* w = &values_[row * k + begin];
    const std::vector<float> before(options_.stale_groups ? std::vector<float>(w, w + end)
                                                          : std::vector<float>());
    for (std::size_t i = from; i < end; ++i) {
      const std::size_t at = begin + i;
      const std::size_t g = group_of(at);
      if (!options_.static_groups && (at == 0 || group_of(at - 1) != g)) {
        choose_dynamic_scale(row, at, before.data(), begin, end);
      }
      const ScaleChoice& choice = codes_.choice(row, g);
      const std::uint8_t code = codes_.encode(w[i], choice);
      codes_.codes[row * k + hessian_.order[at]] = code;
      const float* u = &hessian_.factor[at * k + begin];
      const float error = (w[i] - codes_.decode(code, choice)) / u[i];
      errors[i] = error;
      for (std::size_t j = i + 1; j < end; ++j) w[j] -= error * u[j];
    }
  }

  MatrixView weight_;
  const OrderedHessian& hessian_;
  const GptqOptions& options_;
  Executor& executor_;
  const kernels::KernelTable& table_;
  ScaleSearch search_;
  RowCodes codes_;
  std::vector<float> values_;  ///< rows x K in the order, updated as columns are rounded
};

/// What is rounded: rows of the weight under a Hessian. Dynamic groups in activation order are of
/// columns that follow each other in it, so then all columns are in that order, which is the
/// natural one of what this holds; `source` says where they were.
struct Problem {
  Problem(MatrixView rows, OrderedHessian ordered, bool permuted)
      : weight(rows), hessian(std::move(ordered)) {
    if (!permuted) return;
    source = hessian.order;
    const std::size_t k = rows.cols;
    values.resize(rows.rows * k);
    for (std::size_t row = 0; row < rows.rows; ++row) {
      for (std::size_t i = 0; i < k; ++i) values[row * k + i] = rows.at(row, source[i]);
    }
    weight = {values.data(), rows.rows, k};
    std::vector<float> cost(k);
    std::vector<bool> dead(k);
    for (std::uint32_t i = 0; i < k; ++i) {
      cost[i] = hessian.cost[source[i]];
      dead[i] = hessian.dead[source[i]];
      hessian.order[i] = i;
    }
    hessian.cost = std::move(cost);
    hessian.dead = std::move(dead);
  }

  Problem(const Problem&) = delete;  // weight may be a view of values
  Problem& operator=(const Problem&) = delete;

  std::vector<std::uint32_t> source;  ///< empty: columns as stored
  std::vector<float> values;
  MatrixView weight;
  OrderedHessian hessian;
};

/// The squared output error of up to `most` rows, evenly spread, under a moment of the columns as
/// stored.
double error_of(const Problem& problem, const RowCodes& codes, MatrixView moment, std::size_t most,
                Executor& executor) {
  const MatrixView& weight = problem.weight;
  const std::size_t rows = std::min(weight.rows, most);
  const std::size_t k = weight.cols;
  std::vector<float> errors(rows * k);
  executor.parallel_for(rows, [&](std::size_t i) {
    const std::size_t row = spread_row(i, rows, weight.rows);
    for (std::size_t col = 0; col < k; ++col) {
      const std::size_t stored = problem.source.empty() ? col : problem.source[col];
      errors[i * k + stored] = weight.at(row, col) - codes.value(row, col);
    }
  });
  return quadratic_form({errors.data(), rows, k}, moment, executor);
}

/// The squared outputs of the same rows.
double outputs_of(MatrixView weight, MatrixView moment, std::size_t most, Executor& executor) {
  const std::vector<float> some = spread_rows(weight, most);
  return quadratic_form({some.data(), some.size() / weight.cols, weight.cols}, moment, executor);
}

double ratio(double error, double whole) { return whole > 0 ? error / whole : 0; }

/// Puts the columns of each group in the order of the input. The weights stay what they were, and
/// files that say of a column only which group it is in (GPTQ's g_idx) can hold them.
void sort_inside_groups(std::vector<std::uint32_t>& source, RowCodes& codes) {
  const std::size_t k = source.size();
  std::vector<std::uint32_t> from(k);
  std::iota(from.begin(), from.end(), 0U);
  for (std::size_t begin = 0; begin < k; begin += codes.group) {
    const auto first = from.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto last = first + static_cast<std::ptrdiff_t>(std::min(codes.group, k - begin));
    std::sort(first, last, [&](std::uint32_t a, std::uint32_t b) { return source[a] < source[b]; });
  }
  const std::vector<std::uint32_t> old_source = source;
  for (std::size_t i = 0; i < k; ++i) source[i] = old_source[from[i]];
  std::vector<std::uint8_t> old_codes(k);
  for (std::size_t row = 0; row < codes.rows; ++row) {
    std::uint8_t* row_codes = &codes.codes[row * k];
    std::copy_n(row_codes, k, old_codes.begin());
    for (std::size_t i = 0; i < k; ++i) row_codes[i] = old_codes[from[i]];
  }
}

class Quantizer {
 public:
  Quantizer(MatrixView weight, const AnyFormat& format, const Calibration& calibration,
            Executor& executor, const GptqOptions& options)
      : weight_(weight),
        format_(format),
        calibration_(calibration),
        executor_(executor),
        options_(options),
        group_(format.info().group == 0 ? weight.cols : format.info().group),
        tensor_(tensor_scale_of(format, weight)) {}

  GptqResult run() {
    const std::vector<float> moment_values = calibration_.second_moment();
    const MatrixView moment(moment_values.data(), weight_.cols, weight_.cols);
    const Problem problem =
        problem_of(weight_, moment, options_.damping ? *options_.damping : best_damping());
    GptqResult out{QuantizedMatrix(format_), {problem.source}, {}};
    std::vector<std::uint32_t>& source = out.permutation.source;
    const OrderedHessian& hessian = problem.hessian;
    out.report.damping = hessian.damping;
    out.report.damping_raised = hessian.damping_raised;
    out.report.dead =
        static_cast<std::size_t>(std::count(hessian.dead.begin(), hessian.dead.end(), true));
    const double whole = outputs_of(weight_, moment, kReportRows, executor_);
    const auto relative_error = [&](const RowCodes& codes) {
      return ratio(error_of(problem, codes, moment, kReportRows, executor_), whole);
    };
    RowCodes codes = round(problem);
    out.report.rounded_error = relative_error(codes);
    out.report.error = out.report.rounded_error;
    if (options_.descent_passes != 0 || options_.refits != 0) {
      out.report.descended = refine(problem, codes);
      out.report.error = relative_error(codes);
    }
    if (!source.empty()) sort_inside_groups(source, codes);
    out.matrix = to_matrix(codes, executor_);
    return out;
  }

  /// Of some dampings, the one whose result has the least error on tokens it has not seen, on a
  /// few rows.
  [[nodiscard]] DampingTrial try_dampings(std::span<const Damping> tried) const {
    if (calibration_.held_out_tokens() == 0) return {};
    const std::vector<float> values = spread_rows(weight_, kTrialRows);
    const MatrixView some(values.data(), values.size() / weight_.cols, weight_.cols);
    DampingTrial best;
    best.error = std::numeric_limits<double>::infinity();
    for (const Damping& damping : tried) {
      const Problem problem = problem_of(some, calibration_.fit_moment(), damping);
      RowCodes codes = round(problem);
      refine(problem, codes);
      const double error =
          error_of(problem, codes, calibration_.held_out_moment(), kTrialRows, executor_);
      if (error < best.error) best = {damping, error};
    }
    best.error =
        ratio(best.error, outputs_of(some, calibration_.held_out_moment(), kTrialRows, executor_));
    return best;
  }

 private:
  [[nodiscard]] Problem problem_of(MatrixView rows, MatrixView moment, Damping damping) const {
    const bool permuted = !options_.static_groups && options_.order == ColumnOrder::activation;
    return {rows,
            order_hessian(moment, damping, options_.order, group_, executor_, options_.tensor_name),
            permuted};
  }

  [[nodiscard]] RowCodes round(const Problem& problem) const {
    return Gptq(problem.weight, format_, tensor_, problem.hessian, options_, executor_).run();
  }

  std::size_t refine(const Problem& problem, RowCodes& codes) const {
    if (options_.descent_passes == 0 && options_.refits == 0) return 0;
    Refiner refiner(problem.weight, problem.hessian, codes, executor_);
    std::size_t changed = refiner.descend(options_.descent_passes);
    for (int i = 0; i < options_.refits; ++i) {
      refiner.refit_scales();
      changed += refiner.descend((options_.descent_passes + 1) / 2);
    }
    return changed;
  }

  /// The damping whose result has the least error on tokens it has not seen: of three that are far
  /// apart, then of the best one's neighbours.
  [[nodiscard]] Damping best_damping() const {
    using enum Damping::Kind;
    constexpr Damping kFirst[] = {{mean, 0.01F}, {diagonal, 0.01F}, {diagonal, 0.1F}};
    constexpr Damping kNearMean[] = {{mean, 0.003F}};
    constexpr Damping kNearLow[] = {{diagonal, 0.001F}, {diagonal, 0.03F}};
    constexpr Damping kNearHigh[] = {{diagonal, 0.03F}, {diagonal, 0.3F}};
    const DampingTrial first = try_dampings(kFirst);
    const DampingTrial second =
        try_dampings(first.damping.kind == mean      ? std::span<const Damping>(kNearMean)
                     : first.damping.amount == 0.01F ? std::span<const Damping>(kNearLow)
                                                     : std::span<const Damping>(kNearHigh));
    return second.error < first.error ? second.damping : first.damping;
  }

  MatrixView weight_;
  const AnyFormat& format_;
  const Calibration& calibration_;
  Executor& executor_;
  const GptqOptions& options_;
  std::size_t group_;
  TensorScale tensor_;
};

void check(MatrixView weight, const AnyFormat& format, const Calibration& calibration,
           const GptqOptions& options) {
  check_calibrated(weight, calibration, options.tensor_name);
  check_enum(options.order, ColumnOrder::group_aware, "gptq: column order");
  check_enum(options.scales, ScaleChooser::search, "gptq: scales");
  if (options.damping) check_enum(options.damping->kind, Damping::Kind::diagonal, "gptq: damping");
  if (format.info().double_quantized && !options.static_groups) {
    throw Error(
        ErrorCode::bad_option,
        fmt::format("{}: format '{}' quantizes all scales together before codes are chosen, "
                    "expected static_groups=true",
                    options.tensor_name, format.info().spec));
  }
  if (options.damping && !(options.damping->amount >= 0 && options.damping->amount <= 1e6F)) {
    throw Error(ErrorCode::bad_option, fmt::format("{}: damping {}, expected 0 to 1e6",
                                                   options.tensor_name, options.damping->amount));
  }
  if (options.descent_passes < 0 || options.refits < 0 || options.descent_passes > 1000 ||
      options.refits > 1000) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: {} descent passes and {} refits, expected 0 to 1000",
                            options.tensor_name, options.descent_passes, options.refits));
  }
}

}  // namespace

GptqResult quantize_gptq(MatrixView weight, const AnyFormat& format, const Calibration& calibration,
                         Executor& executor, const GptqOptions& options) {
  check(weight, format, calibration, options);
  return Quantizer(weight, format, calibration, executor, options).run();
}

DampingTrial try_dampings(MatrixView weight, const AnyFormat& format,
                          const Calibration& calibration, Executor& executor,
                          const GptqOptions& options, std::span<const Damping> tried) {
  check(weight, format, calibration, options);
  return Quantizer(weight, format, calibration, executor, options).try_dampings(tried);
}

double output_error(MatrixView a, MatrixView b, MatrixView moment, Executor& executor) {
  std::vector<float> difference(a.rows * a.cols);
  for (std::size_t row = 0; row < a.rows; ++row) {
    for (std::size_t col = 0; col < a.cols; ++col) {
      difference[row * a.cols + col] = a.at(row, col) - b.at(row, col);
    }
  }
  return quadratic_form({difference.data(), a.rows, a.cols}, moment, executor);
}

}  // namespace nybble
