#include "src/quantize/layer_loss.h"

#include <algorithm>
#include <numeric>

#include "src/linalg/dense.h"
#include "src/quantize/hessian.h"

namespace nybble {

void add_column_sums(MatrixView values, float sign, std::span<float> out, Executor& executor) {
  constexpr std::size_t kCols = 64;
  executor.parallel_for((values.cols + kCols - 1) / kCols, [&](std::size_t task) {
    const std::size_t begin = task * kCols;
    const std::size_t count = std::min(kCols, values.cols - begin);
    double sums[kCols] = {};
    for (std::size_t row = 0; row < values.rows; ++row) {
      for (std::size_t i = 0; i < count; ++i) {
        sums[i] += static_cast<double>(values.at(row, begin + i));
      }
    }
    for (std::size_t i = 0; i < count; ++i) out[begin + i] += sign * static_cast<float>(sums[i]);
  });
}

namespace {

/// sum e H e^T with e = rounded / scale - weight.
class MomentLoss final : public LayerLoss {
 public:
  MomentLoss(MatrixView weight, std::vector<float> moment, Executor& executor)
      : weight_(weight), moment_(std::move(moment)), executor_(executor) {
    whole_ = quadratic_form(weight_, view(), executor_);
  }

  double evaluate(MatrixView rounded, std::span<const float> scale, MutableMatrixView gradient,
                  std::span<float> scale_gradient) override {
    const std::size_t n = weight_.rows;
    const std::size_t k = weight_.cols;
    std::vector<float> errors(n * k);
    executor_.parallel_for(n, [&](std::size_t row) {
      for (std::size_t i = 0; i < k; ++i) {
        errors[row * k + i] = rounded.at(row, i) / scale[i] - weight_.at(row, i);
      }
    });
    linalg::multiply({errors.data(), n, k}, view(), gradient, linalg::Update::assign, executor_);
    std::vector<double> sums(n);
    executor_.parallel_for(n, [&](std::size_t row) {
      double sum = 0;
      for (std::size_t i = 0; i < k; ++i) {
        float& error = errors[row * k + i];
        float& slope = gradient.at(row, i);
        sum += static_cast<double>(error) * static_cast<double>(slope);
        slope = 2 * slope / scale[i];
        error = rounded.at(row, i) * slope;
      }
      sums[row] = sum;
    });
    add_column_sums({errors.data(), n, k}, -1, scale_gradient, executor_);
    return std::accumulate(sums.begin(), sums.end(), 0.0);
  }

  [[nodiscard]] RowLoss at(MatrixView /*scaled*/, std::span<const float> scale) override {
    const std::size_t k = weight_.cols;
    RowLoss out{moment_, {}};
    executor_.parallel_for(k, [&](std::size_t row) {
      for (std::size_t i = 0; i < k; ++i) out.moment[row * k + i] /= scale[row] * scale[i];
    });
    return out;
  }
  [[nodiscard]] double whole() const override { return whole_; }

 private:
  [[nodiscard]] MatrixView view() const { return {moment_.data(), weight_.cols, weight_.cols}; }

  MatrixView weight_;
  std::vector<float> moment_;
  Executor& executor_;
  double whole_ = 0;
};

/// |X W^T - Q(X / s) rounded^T|^2.
class SampleLoss final : public LayerLoss {
 public:
  SampleLoss(MatrixView weight, MatrixView inputs, const AnyFormat& activations, Executor& executor)
      : rows_(weight.rows),
        inputs_(inputs),
        format_(activations),
        executor_(executor),
        outputs_(inputs.rows * weight.rows),
        scaled_(inputs.rows * inputs.cols),
        rounded_(inputs.rows * inputs.cols) {
    const std::size_t m = inputs_.rows;
    linalg::multiply_transposed(inputs_, weight, {outputs_.data(), m, rows_},
                                linalg::Update::assign, executor_);
    for (const float value : outputs_) {
      whole_ += static_cast<double>(value) * static_cast<double>(value);
    }
  }

  double evaluate(MatrixView rounded, std::span<const float> scale, MutableMatrixView gradient,
                  std::span<float> scale_gradient) override {
    const std::size_t m = inputs_.rows;
    const std::size_t k = inputs_.cols;
    round_inputs(scale);
    std::vector<float> missing(outputs_);  // what the rounded layer's outputs lack
    const MutableMatrixView missing_view(missing.data(), m, rows_);
    linalg::multiply_transposed(inputs(), rounded, missing_view, linalg::Update::subtract,
                                executor_);
    std::vector<double> sums(m);
    executor_.parallel_for(m, [&](std::size_t row) {
      double sum = 0;
      for (std::size_t i = 0; i < rows_; ++i) {
        float& value = missing[row * rows_ + i];
        sum += static_cast<double>(value) * static_cast<double>(value);
        value *= -2;  // the gradient by the output
      }
      sums[row] = sum;
    });
    std::vector<float> transposed(missing.size());
    linalg::transpose(missing_view, {transposed.data(), rows_, m}, executor_);
    linalg::multiply({transposed.data(), rows_, m}, inputs(), gradient, linalg::Update::assign,
                     executor_);
    std::vector<float> by_input(m * k);
    linalg::multiply(missing_view, rounded, {by_input.data(), m, k}, linalg::Update::assign,
                     executor_);
    std::vector<float> by_log(m * k);
    executor_.parallel_for(m, [&](std::size_t row) {
      std::vector<float> errors(k);
      for (std::size_t i = 0; i < k; ++i) errors[i] = rounded_[row * k + i] - scaled_[row * k + i];
      for (std::size_t g = 0; g < groups_; ++g) {
        const std::size_t at = g * group_;
        const std::size_t index = row * groups_ + g;
        straight_through({&format_.encode_table(), choices_[index], tensors_[row], ranges_[index],
                          &scaled_[row * k + at], &errors[at], &by_input[row * k + at],
                          std::min(group_, k - at)},
                         &by_log[row * k + at]);
      }
    });
    // Inputs are divided.
    add_column_sums({by_log.data(), m, k}, -1, scale_gradient, executor_);
    return std::accumulate(sums.begin(), sums.end(), 0.0);
  }

  [[nodiscard]] RowLoss at(MatrixView scaled, std::span<const float> scale) override {
    const std::size_t m = inputs_.rows;
    const std::size_t k = inputs_.cols;
    round_inputs(scale);
    std::vector<float> transposed(m * k);
    linalg::transpose(inputs(), {transposed.data(), k, m}, executor_);
    const MatrixView columns(transposed.data(), k, m);
    RowLoss out{std::vector<float>(k * k), std::vector<float>(rows_ * k)};
    linalg::multiply_transposed(columns, columns, {out.moment.data(), k, k}, linalg::Update::assign,
                                executor_);
    // With weights as they were, outputs are still off by what rounding made of the inputs.
    std::vector<float> off(m * k);
    for (std::size_t i = 0; i < off.size(); ++i) off[i] = rounded_[i] - scaled_[i];
    std::vector<float> by_output(rows_ * m);
    linalg::multiply_transposed(scaled, {off.data(), m, k}, {by_output.data(), rows_, m},
                                linalg::Update::assign, executor_);
    linalg::multiply({by_output.data(), rows_, m}, inputs(), {out.linear.data(), rows_, k},
                     linalg::Update::assign, executor_);
    return out;
  }
  [[nodiscard]] double whole() const override { return whole_; }

 private:
  [[nodiscard]] MatrixView inputs() const { return {rounded_.data(), inputs_.rows, inputs_.cols}; }

  /// Every row as its own tensor.
  void round_inputs(std::span<const float> scale) {
    const std::size_t m = inputs_.rows;
    const std::size_t k = inputs_.cols;
    group_ = format_.info().group == 0 ? k : format_.info().group;
    groups_ = (k + group_ - 1) / group_;
    choices_.resize(m * groups_);
    ranges_.resize(m * groups_);
    tensors_.resize(m);
    // As layers that run do it: times the reciprocal.
    std::vector<float> reciprocal(k);
    for (std::size_t i = 0; i < k; ++i) reciprocal[i] = 1 / scale[i];
    executor_.parallel_for(m, [&](std::size_t row) {
      float* x = &scaled_[row * k];
      for (std::size_t i = 0; i < k; ++i) x[i] = inputs_.at(row, i) * reciprocal[i];
      tensors_[row] = tensor_scale_of(format_, {x, 1, k});
      RowCodes codes(format_, 1, k, tensors_[row]);
      round_row(x, {}, 0, codes, {&ranges_[row * groups_], groups_});
      std::copy(codes.choices.begin(), codes.choices.end(), &choices_[row * groups_]);
      for (std::size_t i = 0; i < k; ++i) rounded_[row * k + i] = codes.value(0, i);
    });
  }

  std::size_t rows_;
  MatrixView inputs_;
  AnyFormat format_;
  Executor& executor_;
  std::vector<float> outputs_;  ///< M x N, of the layer as it was
  double whole_ = 0;
  // The inputs as they were last rounded.
  std::vector<float> scaled_;
  std::vector<float> rounded_;
  std::size_t group_ = 0;
  std::size_t groups_ = 0;
  std::vector<ScaleChoice> choices_;
  std::vector<GroupRange> ranges_;
  std::vector<TensorScale> tensors_;
};

}  // namespace

std::unique_ptr<LayerLoss> make_moment_loss(MatrixView weight, std::vector<float> moment,
                                            Executor& executor) {
  return std::make_unique<MomentLoss>(weight, std::move(moment), executor);
}

std::unique_ptr<LayerLoss> make_sample_loss(MatrixView weight, MatrixView inputs,
                                            const AnyFormat& activations, Executor& executor) {
  return std::make_unique<SampleLoss>(weight, inputs, activations, executor);
}

}  // namespace nybble
