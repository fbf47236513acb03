#include "nybble/quantize/awq.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "nybble/error.h"
#include "src/check_enum.h"
#include "src/quantize/channel_search.h"
#include "src/quantize/hessian.h"

namespace nybble {

namespace {

using Form = AwqOptions::Form;

/// AutoAWQ's second statistic: the mean over rows of |w| relative to the largest of its group.
std::vector<float> relative_weight_mean(MatrixView weight, std::size_t group) {
  std::vector<double> sum(weight.cols);
  for (std::size_t row = 0; row < weight.rows; ++row) {
    for (std::size_t begin = 0; begin < weight.cols; begin += group) {
      const std::size_t end = std::min(weight.cols, begin + group);
      float largest = 0;
      for (std::size_t col = begin; col < end; ++col) {
        largest = std::max(largest, std::fabs(weight.at(row, col)));
      }
      for (std::size_t col = begin; col < end && largest > 0; ++col) {
        sum[col] += static_cast<double>(std::fabs(weight.at(row, col)) / largest);
      }
    }
  }
  std::vector<float> out;
  for (const double value : sum) {
    out.push_back(static_cast<float>(value / static_cast<double>(weight.rows)));
  }
  return out;
}

class Search {
 public:
  Search(MatrixView weight, const AnyFormat& format, const Calibration& calibration,
         Executor& executor, const AwqOptions& options)
      : format_(format),
        executor_(executor),
        moment_(calibration.second_moment()),
        x_mean_(calibration.mean_abs()),
        w_mean_(relative_weight_mean(weight,
                                     format.info().group == 0 ? weight.cols : format.info().group)),
        rows_(spread_rows(weight, options.rows)),
        weight_(rows_.data(), rows_.size() / weight.cols, weight.cols) {
    if (options.search_scales) {
      // Coarser than the final search: only the channels' scales are decided here.
      for (std::size_t i = 0; i < weight.cols; ++i) {
        importance_.push_back(moment_[i * weight.cols + i]);
      }
      search_ = {.grid = 12,
                 .smallest = 0.5F,
                 .importance = importance_.data(),
                 .largest = 1.05F,
                 .zero_steps = 0,
                 .both_signs = true};
    }
    whole_ = quadratic_form(weight_, moment(), executor_);
  }

  /// sqrt(largest * smallest) = 1; what published code does.
  [[nodiscard]] std::vector<float> scale(Form form, double exponent) const {
    std::vector<float> out;
    for (std::size_t i = 0; i < x_mean_.size(); ++i) {
      double value = std::pow(static_cast<double>(x_mean_[i]), exponent);
      if (form == Form::duo) {
        value /= std::pow(static_cast<double>(w_mean_[i]), 1 - exponent) + 1e-4;
      }
      out.push_back(static_cast<float>(std::max(value, 1e-4)));
    }
    const auto [least, most] = std::minmax_element(out.begin(), out.end());
    const float middle = std::sqrt(*least * *most);
    for (float& value : out) value /= middle;
    return out;
  }

  [[nodiscard]] double error(std::span<const float> scale) const {
    std::vector<float> difference = round_scaled(weight_, format_, scale, search_, executor_);
    for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= rows_[i];
    const double error =
        quadratic_form({difference.data(), weight_.rows, weight_.cols}, moment(), executor_);
    return whole_ > 0 ? error / whole_ : 0;
  }

 private:
  [[nodiscard]] MatrixView moment() const { return {moment_.data(), weight_.cols, weight_.cols}; }

  const AnyFormat& format_;
  Executor& executor_;
  std::vector<float> moment_, x_mean_, w_mean_, rows_;
  MatrixView weight_;
  std::vector<float> importance_;
  ScaleSearch search_;
  double whole_ = 0;
};

}  // namespace

AwqResult search_awq_scale(MatrixView weight, const AnyFormat& format,
                           const Calibration& calibration, Executor& executor,
                           const AwqOptions& options) {
  check_calibrated(weight, calibration, options.tensor_name);
  check_enum(options.form, Form::best, "awq: form");
  if (options.grid < 1 || options.grid > 1000) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: grid {}, expected 1 to 1000", options.tensor_name, options.grid));
  }
  const Search search(weight, format, calibration, executor, options);
  AwqResult best;
  best.scale.assign(weight.cols, 1.0F);
  best.error_before = search.error({});
  best.error = best.error_before;
  const auto offer = [&](Form form, double exponent) {
    std::vector<float> scale = search.scale(form, exponent);
    const double error = search.error(scale);
    if (error < best.error) {
      best = {std::move(scale), form, exponent, best.error_before, error};
    }
  };
  const double step = 1.0 / options.grid;
  for (const Form form : {Form::plain, Form::duo}) {
    if (options.form != form && options.form != Form::best) continue;
    for (int i = 0; i < options.grid; ++i) offer(form, i * step);
  }
  if (options.refine && best.error < best.error_before) {
    const double middle = best.exponent;
    const Form form = best.form;
    for (const int quarter : {-3, -2, -1, 1, 2, 3}) {
      const double exponent = middle + quarter * step / 4;
      if (exponent >= 0 && exponent <= 1) offer(form, exponent);
    }
  }
  return best;
}

}  // namespace nybble
