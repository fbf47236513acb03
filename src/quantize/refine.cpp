#include "src/quantize/refine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "src/linalg/dense.h"

namespace nybble {

namespace {

/// Columns whose changes are applied to all others in one product.
constexpr std::size_t kBlock = 128;
/// From one change in so many codes on, a dense product is faster than a pass over a row of H for
/// each: it runs at 20 times the speed, measured at K = 4096.
constexpr std::size_t kDenseFrom = 20;
/// Another pass only if more than one code in so many changed in the last.
constexpr std::size_t kChangesWorthAPass = 500;

/// Part of a matrix: some of its columns.
template <class T>
BasicMatrixView<T> columns(BasicMatrixView<T> m, std::size_t begin, std::size_t count) {
  return {m.data + begin, m.rows, count, m.stride};
}

/// In 8 sums that baseline SIMD adds up.
float dot(const float* a, const float* b, std::size_t count) {
  float sums[8] = {};
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (std::size_t lane = 0; lane < 8; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  for (; i < count; ++i) sums[0] += a[i] * b[i];
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

}  // namespace

void ordered_errors(MatrixView weight, const OrderedHessian& hessian, const RowCodes& codes,
                    MutableMatrixView out, Executor& executor) {
  executor.parallel_for(weight.rows, [&](std::size_t row) {
    for (std::size_t i = 0; i < weight.cols; ++i) {
      const std::uint32_t col = hessian.order[i];
      out.at(row, i) = weight.at(row, col) - codes.value(row, col);
    }
  });
}

Refiner::Refiner(MatrixView weight, const OrderedHessian& hessian, RowCodes& codes,
                 Executor& executor)
    : weight_(weight),
      hessian_(hessian),
      codes_(codes),
      executor_(executor),
      residual_(weight.rows * weight.cols),
      changes_(weight.rows * weight.cols) {
  const MutableMatrixView errors(changes_.data(), weight.rows, weight.cols);
  ordered_errors(weight, hessian, codes, errors, executor);
  linalg::multiply(errors, h(), {residual_.data(), weight.rows, weight.cols},
                   linalg::Update::assign, executor);
}

MatrixView Refiner::h() const { return {hessian_.values.data(), weight_.cols, weight_.cols}; }

std::size_t Refiner::descend(int passes) {
  const std::size_t k = weight_.cols;
  std::size_t total = 0;
  for (int pass = 0; pass < passes; ++pass) {
    std::size_t changed = 0;
    for (std::size_t begin = 0; begin < k; begin += kBlock) {
      changed += descend_block(begin, std::min(kBlock, k - begin));
    }
    total += changed;
    if (changed * kChangesWorthAPass < weight_.rows * k) break;
  }
  return total;
}

std::size_t Refiner::descend_block(std::size_t begin, std::size_t size) {
  const std::size_t n = weight_.rows;
  const std::size_t k = weight_.cols;
  const MutableMatrixView residual(residual_.data(), n, k);
  const MutableMatrixView change(changes_.data(), n, size);
  std::atomic<std::size_t> changed = 0;
  executor_.parallel_for(n, [&](std::size_t row) {
    float* r = residual.row(row) + begin;
    std::size_t count = 0;
    for (std::size_t i = 0; i < size; ++i) {
      const float* h_row = h().row(begin + i) + begin;
      const std::uint32_t col = hessian_.order[begin + i];
      std::uint8_t& code = codes_.codes[row * k + col];
      const ScaleChoice& choice = codes_.choice(row, col / codes_.group);
      const float now = codes_.decode(code, choice);
      const std::uint8_t best = codes_.encode(now + r[i] / h_row[i], choice);
      const float delta = best == code ? 0.0F : codes_.decode(best, choice) - now;
      change.at(row, i) = delta;
      if (delta == 0) continue;
      code = best;
      ++count;
      for (std::size_t j = 0; j < size; ++j) r[j] -= delta * h_row[j];
    }
    if (count != 0) changed += count;
  });
  if (changed == 0) return 0;
  // What the block's changes do to all other columns: a product, or, where few codes changed, one
  // row of H each.
  const std::size_t end = begin + size;
  if (changed * kDenseFrom < n * size) {
    executor_.parallel_for(n, [&](std::size_t row) {
      float* r = residual.row(row);
      for (std::size_t i = 0; i < size; ++i) {
        const float delta = change.at(row, i);
        if (delta == 0) continue;
        const float* h_row = h().row(begin + i);
        for (std::size_t j = 0; j < begin; ++j) r[j] -= delta * h_row[j];
        for (std::size_t j = end; j < k; ++j) r[j] -= delta * h_row[j];
      }
    });
    return changed;
  }
  const MatrixView rows(h().row(begin), size, k, k);
  if (begin != 0) {
    linalg::multiply(change, columns(rows, 0, begin), columns(residual, 0, begin),
                     linalg::Update::subtract, executor_);
  }
  if (end != k) {
    linalg::multiply(change, columns(rows, end, k - end), columns(residual, end, k - end),
                     linalg::Update::subtract, executor_);
  }
  return changed;
}

namespace {

/// The normal equations of one row's scales: minimise (s - s0) M (s - s0) / 2 - b (s - s0).
struct NormalEquations {
  std::size_t size;
  const float* matrix;           ///< size x size
  std::vector<double> gradient;  ///< b, less what has been applied

  /// `steps` of conjugate gradients from 0, preconditioned by the diagonal.
  [[nodiscard]] std::vector<double> solve(int steps) const {
    std::vector<double> x(size);
    std::vector<double> r(gradient);
    std::vector<double> z(size);
    std::vector<double> p(size);
    std::vector<double> mp(size);
    double rz = 0;
    double first = 0;
    for (int step = 0; step < steps; ++step) {
      double next = 0;
      for (std::size_t i = 0; i < size; ++i) {
        const auto diagonal = static_cast<double>(matrix[i * size + i]);
        z[i] = diagonal > 0 ? r[i] / diagonal : 0;
        next += r[i] * z[i];
      }
      if (step == 0) first = next;
      if (!(next > 1e-10 * first)) break;
      double curvature = 0;
      for (std::size_t i = 0; i < size; ++i) p[i] = z[i] + (step == 0 ? 0 : next / rz) * p[i];
      for (std::size_t i = 0; i < size; ++i) {
        double sum = 0;
        for (std::size_t j = 0; j < size; ++j) {
          sum += static_cast<double>(matrix[i * size + j]) * p[j];
        }
        mp[i] = sum;
        curvature += sum * p[i];
      }
      if (!(curvature > 0)) break;
      const double by = next / curvature;
      for (std::size_t i = 0; i < size; ++i) {
        x[i] += by * p[i];
        r[i] -= by * mp[i];
      }
      rz = next;
    }
    return x;
  }
  void apply(std::size_t i, double change) {
    for (std::size_t j = 0; j < size; ++j) {
      gradient[j] -= static_cast<double>(matrix[j * size + i]) * change;
    }
  }
  /// What the objective changes by if variable i does.
  [[nodiscard]] double gain(std::size_t i, double change) const {
    return change * (gradient[i] - change * static_cast<double>(matrix[i * size + i]) / 2);
  }
};

/// One row's scales: the solution rounded, then each scale in turn as long as that helps.
void refit_row(NormalEquations& equations, RowCodes& codes, std::size_t row) {
  const FormatInfo& info = codes.format.info();
  const bool reciprocal = codes.format.encode_table().reciprocal;
  const std::size_t sides = info.layout == ScaleLayout::sign_split ? 2 : 1;
  const auto scale_of = [&](std::size_t i) {
    const GroupScale& scale = codes.choice(row, i / sides).scale;
    return static_cast<double>(i % sides == 0 ? scale.positive : scale.negative);
  };
  // Gain is checked for the whole row, not for each scale: changes of several make up for another.
  double total = 0;
  const std::vector<double> before = [&] {
    std::vector<double> out(equations.size);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = scale_of(i);
    return out;
  }();
  const std::vector<ScaleChoice> kept(
      codes.choices.begin() + static_cast<std::ptrdiff_t>(row * codes.groups),
      codes.choices.begin() + static_cast<std::ptrdiff_t>((row + 1) * codes.groups));
  const auto set = [&](std::size_t i, double scale, bool must_gain) {
    const double now = scale_of(i);
    if (!std::isfinite(scale) || scale * now <= 0 || std::fabs(scale) > 4 * std::fabs(now)) return;
    ScaleChoice& choice = codes.choice(row, i / sides);
    const ScaleChoice next =
        with_scale(choice, info, codes.tensor, reciprocal, i % sides, static_cast<float>(scale));
    const double stored =
        static_cast<double>(i % sides == 0 ? next.scale.positive : next.scale.negative);
    const double gain = equations.gain(i, stored - now);
    if (stored == 0 || stored == now || (must_gain && !(gain > 0))) return;
    total += gain;
    choice = next;
    equations.apply(i, stored - now);
  };
  const std::vector<double> solution = equations.solve(40);
  const std::vector<double> first_gradient = equations.gradient;
  for (std::size_t i = 0; i < equations.size; ++i) set(i, before[i] + solution[i], false);
  const auto polish = [&] {
    for (int sweep = 0; sweep < 4; ++sweep) {
      const double so_far = total;
      for (std::size_t i = 0; i < equations.size; ++i) {
        const auto diagonal = static_cast<double>(equations.matrix[i * equations.size + i]);
        if (diagonal > 0) set(i, scale_of(i) + equations.gradient[i] / diagonal, true);
      }
      if (!(total > so_far)) break;
    }
  };
  polish();
  if (!(total > 0)) {
    // Rounding undid it: from where the scales were, one at a time.
    std::copy(kept.begin(), kept.end(),
              codes.choices.begin() + static_cast<std::ptrdiff_t>(row * codes.groups));
    equations.gradient = first_gradient;
    total = 0;
    polish();
  }
}

}  // namespace

void Refiner::refit_scales() {
  const FormatInfo& info = codes_.format.info();
  if (info.double_quantized) return;
  const std::size_t k = weight_.cols;
  const std::size_t sides = info.layout == ScaleLayout::sign_split ? 2 : 1;
  const std::size_t unknowns = codes_.groups * sides;
  // H as stored, so that groups are contiguous.
  std::vector<float> h_values(k * k);
  executor_.parallel_for(k, [&](std::size_t i) {
    float* to = &h_values[hessian_.order[i] * k];
    for (std::size_t j = 0; j < k; ++j) to[hessian_.order[j]] = hessian_.values[i * k + j];
  });
  const MatrixView stored_h(h_values.data(), k, k);
  // What every value was; the residual follows at the end.
  executor_.parallel_for(weight_.rows, [&](std::size_t row) {
    for (std::size_t i = 0; i < k; ++i) {
      changes_[row * k + i] = -codes_.value(row, hessian_.order[i]);
    }
  });

  // Some rows at a time: their matrices in 64 MB or less.
  const std::size_t batch =
      std::clamp<std::size_t>((std::size_t{16} << 20) / (unknowns * unknowns), 1, 256);
  const std::size_t most = std::min(batch, weight_.rows);
  // What a code stands for per unit of scale; where signs have scales of their own, of one sign.
  std::vector<float> unit_values[2];
  for (std::size_t side = 0; side < sides; ++side) unit_values[side].resize(most * k);
  std::vector<float> product_values(most * k);
  std::vector<float> residual_values(most * k);
  std::vector<float> matrices(most * unknowns * unknowns);
  for (std::size_t begin = 0; begin < weight_.rows; begin += batch) {
    const std::size_t rows = std::min(batch, weight_.rows - begin);
    const MutableMatrixView units[2] = {{unit_values[0].data(), rows, k},
                                        {unit_values[1].data(), rows, k}};
    const MutableMatrixView residual(residual_values.data(), rows, k);
    executor_.parallel_for(rows, [&](std::size_t row) {
      for (std::size_t col = 0; col < k; ++col) {
        const ScaleChoice& choice = codes_.choice(begin + row, col / codes_.group);
        const float level = info.levels[codes_.codes[(begin + row) * k + col]];
        const float unit = (level - choice.scale.zero) * codes_.tensor.scale;
        units[0].at(row, col) = sides == 2 && level < 0 ? 0.0F : unit;
        if (sides == 2) units[1].at(row, col) = level < 0 ? unit : 0.0F;
      }
      for (std::size_t i = 0; i < k; ++i) {
        residual.at(row, hessian_.order[i]) = residual_[(begin + row) * k + i];
      }
    });
    // Column i of every row's matrix: the group's (and side's) values times H, summed by group.
    for (std::size_t i = 0; i < unknowns; ++i) {
      const std::size_t first = i / sides * codes_.group;
      const std::size_t size = std::min(codes_.group, k - first);
      // Symmetric: this group's columns and those after it are enough.
      const MutableMatrixView product(product_values.data(), rows, k - first);
      linalg::multiply(columns(MatrixView(units[i % sides]), first, size),
                       {stored_h.row(first) + first, size, k - first, k}, product,
                       linalg::Update::assign, executor_);
      executor_.parallel_for(rows, [&](std::size_t row) {
        float* matrix = &matrices[row * unknowns * unknowns];
        for (std::size_t g = i / sides; g < codes_.groups; ++g) {
          const std::size_t at = g * codes_.group;
          const std::size_t count = std::min(codes_.group, k - at);
          for (std::size_t side = 0; side < sides; ++side) {
            const float sum = dot(units[side].row(row) + at, product.row(row) + at - first, count);
            const std::size_t other = g * sides + side;
            matrix[other * unknowns + i] = sum;
            matrix[i * unknowns + other] = sum;
          }
        }
      });
    }
    executor_.parallel_for(rows, [&](std::size_t row) {
      NormalEquations equations{unknowns, &matrices[row * unknowns * unknowns],
                                std::vector<double>(unknowns)};
      for (std::size_t i = 0; i < unknowns; ++i) {
        const std::size_t at = i / sides * codes_.group;
        equations.gradient[i] =
            static_cast<double>(dot(units[i % sides].row(row) + at, residual.row(row) + at,
                                    std::min(codes_.group, k - at)));
      }
      refit_row(equations, codes_, begin + row);
    });
  }
  executor_.parallel_for(weight_.rows, [&](std::size_t row) {
    for (std::size_t i = 0; i < k; ++i) {
      changes_[row * k + i] += codes_.value(row, hessian_.order[i]);
    }
  });
  linalg::multiply({changes_.data(), weight_.rows, k}, h(), {residual_.data(), weight_.rows, k},
                   linalg::Update::subtract, executor_);
}

}  // namespace nybble
