#include "bench/calibrated/reference.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>

namespace nybble::bench {

namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Eigen::Index;

struct Range {
  Eigen::ArrayXf scale, zero;
};

/// Every row's scale and zero point for some columns.
Range find_range(const Matrix& w) {
  const Eigen::ArrayXf low = w.rowwise().minCoeff().array().min(0.0F);
  const Eigen::ArrayXf high = w.rowwise().maxCoeff().array().max(0.0F);
  Range range;
  range.scale = ((high - low) / 15).max(1e-8F);
  range.zero = (-low / range.scale).round();
  return range;
}

Eigen::ArrayXf quantize(const Eigen::ArrayXf& w, const Range& range) {
  const Eigen::ArrayXf code = ((w / range.scale).round() + range.zero).max(0.0F).min(15.0F);
  return (code - range.zero) * range.scale;
}

}  // namespace

void reference_gptq(float* weight, std::size_t rows, std::size_t cols, const float* inputs,
                    std::size_t tokens, std::size_t group_size) {
  const auto n = static_cast<Index>(rows);
  const auto k = static_cast<Index>(cols);
  const auto group = static_cast<Index>(group_size);
  Eigen::Map<Matrix> w(weight, n, k);
  const Eigen::Map<const Matrix> x(inputs, static_cast<Index>(tokens), k);
  Matrix h = 2 * (x.transpose() * x);
  h.diagonal().array() += 0.01F * h.diagonal().mean();
  const Matrix inverse = h.llt().solve(Matrix::Identity(k, k));
  const Matrix u = inverse.llt().matrixU();
  constexpr Index kBlock = 128;
  for (Index begin = 0; begin < k; begin += kBlock) {
    const Index size = std::min(kBlock, k - begin);
    // Column-major: the loop below goes down columns.
    Eigen::MatrixXf block = w.middleCols(begin, size);
    Eigen::MatrixXf errors(n, size);
    Matrix rounded(n, size);
    Range range;
    for (Index i = 0; i < size; ++i) {
      if ((begin + i) % group == 0) {
        range = find_range(w.middleCols(begin + i, std::min(group, k - begin - i)));
      }
      const Eigen::ArrayXf q = quantize(block.col(i).array(), range);
      rounded.col(i) = q;
      const Eigen::VectorXf error = (block.col(i).array() - q) / u(begin + i, begin + i);
      block.rightCols(size - i).noalias() -= error * u.row(begin + i).segment(begin + i, size - i);
      errors.col(i) = error;
    }
    w.middleCols(begin, size) = rounded;
    const Index end = begin + size;
    w.rightCols(k - end).noalias() -= errors * u.block(begin, end, size, k - end);
  }
}

namespace {

void round_to_nearest(Matrix& w, Index group) {
  for (Index begin = 0; begin < w.cols(); begin += group) {
    const Index size = std::min(group, w.cols() - begin);
    const Range range = find_range(w.middleCols(begin, size));
    for (Index i = begin; i < begin + size; ++i) w.col(i) = quantize(w.col(i).array(), range);
  }
}

}  // namespace

void reference_awq(float* weight, std::size_t rows, std::size_t cols, const float* inputs,
                   std::size_t tokens, std::size_t group_size) {
  const auto n = static_cast<Index>(rows);
  const auto k = static_cast<Index>(cols);
  const auto group = static_cast<Index>(group_size);
  Eigen::Map<Matrix> w(weight, n, k);
  const Eigen::Map<const Matrix> x(inputs, static_cast<Index>(tokens), k);
  const Matrix outputs = x * w.transpose();
  const Eigen::ArrayXf x_mean = x.cwiseAbs().colwise().mean().transpose();
  Matrix best = w;
  float least = std::numeric_limits<float>::infinity();
  for (int i = 0; i < 20; ++i) {
    Eigen::ArrayXf scale = x_mean.pow(static_cast<float>(i) / 20).max(1e-4F);
    scale /= std::sqrt(scale.maxCoeff() * scale.minCoeff());
    Matrix scaled = w * scale.matrix().asDiagonal();
    round_to_nearest(scaled, group);
    scaled = scaled * scale.inverse().matrix().asDiagonal();
    const Matrix difference = outputs - x * scaled.transpose();
    const float loss = difference.squaredNorm();
    if (loss < least) {
      least = loss;
      best = scaled;
    }
  }
  w = best;
}

}  // namespace nybble::bench
