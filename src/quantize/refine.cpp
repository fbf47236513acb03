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

/// Part of a matrix: some of its columns.
template <class T>
BasicMatrixView<T> columns(BasicMatrixView<T> m, std::size_t begin, std::size_t count) {
  return {m.data + begin, m.rows, count, m.stride};
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

std::size_t descend_codes(MatrixView weight, const OrderedHessian& hessian, int passes,
                          RowCodes& codes, Executor& executor) {
  const std::size_t n = weight.rows;
  const std::size_t k = weight.cols;
  if (passes == 0) return 0;
  std::vector<float> changes(n * k);
  std::vector<float> residual_values(n * k);  // (W - Q) H
  const MutableMatrixView residual(residual_values.data(), n, k);
  const MatrixView h(hessian.values.data(), k, k);
  ordered_errors(weight, hessian, codes, {changes.data(), n, k}, executor);
  linalg::multiply({changes.data(), n, k}, h, residual, linalg::Update::assign, executor);

  std::size_t total = 0;
  for (int pass = 0; pass < passes; ++pass) {
    std::atomic<std::size_t> changed = 0;
    for (std::size_t begin = 0; begin < k; begin += kBlock) {
      const std::size_t size = std::min(kBlock, k - begin);
      const MutableMatrixView change(changes.data(), n, size);
      std::atomic<bool> any = false;
      executor.parallel_for(n, [&](std::size_t row) {
        float* r = residual.row(row) + begin;
        std::size_t count = 0;
        for (std::size_t i = 0; i < size; ++i) {
          const float* h_row = h.row(begin + i) + begin;
          const std::uint32_t col = hessian.order[begin + i];
          std::uint8_t& code = codes.codes[row * k + col];
          const ScaleChoice& choice = codes.choice(row, col / codes.group);
          const float now = codes.decode(code, choice);
          const std::uint8_t best = codes.encode(now + r[i] / h_row[i], choice);
          const float delta = best == code ? 0.0F : codes.decode(best, choice) - now;
          change.at(row, i) = delta;
          if (delta == 0) continue;
          code = best;
          ++count;
          for (std::size_t j = 0; j < size; ++j) r[j] -= delta * h_row[j];
        }
        if (count != 0) {
          changed += count;
          any = true;
        }
      });
      if (!any) continue;
      const MatrixView rows(h.row(begin), size, k, h.stride);
      if (begin != 0) {
        linalg::multiply(change, columns(rows, 0, begin), columns(residual, 0, begin),
                         linalg::Update::subtract, executor);
      }
      if (const std::size_t end = begin + size; end != k) {
        linalg::multiply(change, columns(rows, end, k - end), columns(residual, end, k - end),
                         linalg::Update::subtract, executor);
      }
    }
    total += changed;
    if (changed * 1000 < n * k) break;
  }
  return total;
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

void refit_scales(MatrixView weight, const OrderedHessian& hessian, RowCodes& codes,
                  Executor& executor) {
  const FormatInfo& info = codes.format.info();
  if (info.double_quantized) return;
  const std::size_t k = weight.cols;
  const std::size_t sides = info.layout == ScaleLayout::sign_split ? 2 : 1;
  const std::size_t unknowns = codes.groups * sides;
  // H as stored, so that groups are contiguous.
  std::vector<float> h_values(k * k);
  executor.parallel_for(k, [&](std::size_t i) {
    float* to = &h_values[hessian.order[i] * k];
    for (std::size_t j = 0; j < k; ++j) to[hessian.order[j]] = hessian.values[i * k + j];
  });
  const MatrixView h(h_values.data(), k, k);

  // Some rows at a time: their matrices in 64 MB or less.
  const std::size_t batch =
      std::clamp<std::size_t>((std::size_t{16} << 20) / (unknowns * unknowns), 1, 256);
  const std::size_t most = std::min(batch, weight.rows);
  std::vector<float> unit_values(most * k);  // what a code stands for per unit of scale
  std::vector<float> masked_values(most * codes.group);
  std::vector<float> product_values(most * k);
  std::vector<float> residual_values(most * k);
  std::vector<float> error_values(most * k);
  std::vector<float> matrices(most * unknowns * unknowns);
  for (std::size_t begin = 0; begin < weight.rows; begin += batch) {
    const std::size_t rows = std::min(batch, weight.rows - begin);
    const MutableMatrixView unit(unit_values.data(), rows, k);
    const MutableMatrixView error(error_values.data(), rows, k);
    const MutableMatrixView residual(residual_values.data(), rows, k);
    const auto level_of = [&](std::size_t row, std::size_t col) {
      return info.levels[codes.codes[(begin + row) * k + col]];
    };
    executor.parallel_for(rows, [&](std::size_t row) {
      for (std::size_t col = 0; col < k; ++col) {
        const ScaleChoice& choice = codes.choice(begin + row, col / codes.group);
        unit.at(row, col) = (level_of(row, col) - choice.scale.zero) * codes.tensor.scale;
        error.at(row, col) = weight.at(begin + row, col) - codes.value(begin + row, col);
      }
    });
    linalg::multiply(error, h, residual, linalg::Update::assign, executor);
    // Column i of every row's matrix: the group's (and side's) values times H, summed by group.
    for (std::size_t i = 0; i < unknowns; ++i) {
      const std::size_t first = i / sides * codes.group;
      const std::size_t size = std::min(codes.group, k - first);
      const MutableMatrixView masked(masked_values.data(), rows, size);
      for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t j = 0; j < size; ++j) {
          const bool other_side = sides == 2 && (level_of(row, first + j) < 0) != (i % 2 == 1);
          masked.at(row, j) = other_side ? 0.0F : unit.at(row, first + j);
        }
      }
      const MutableMatrixView product(product_values.data(), rows, k);
      linalg::multiply(masked, {h.row(first), size, k, k}, product, linalg::Update::assign,
                       executor);
      executor.parallel_for(rows, [&](std::size_t row) {
        float* matrix = &matrices[row * unknowns * unknowns];
        for (std::size_t g = 0; g < codes.groups; ++g) {
          double sum[2] = {0, 0};
          for (std::size_t col = g * codes.group; col < std::min(k, (g + 1) * codes.group); ++col) {
            const std::size_t side = sides == 2 && level_of(row, col) < 0 ? 1 : 0;
            sum[side] +=
                static_cast<double>(unit.at(row, col)) * static_cast<double>(product.at(row, col));
          }
          for (std::size_t side = 0; side < sides; ++side) {
            matrix[(g * sides + side) * unknowns + i] = static_cast<float>(sum[side]);
          }
        }
      });
    }
    executor.parallel_for(rows, [&](std::size_t row) {
      NormalEquations equations{unknowns, &matrices[row * unknowns * unknowns],
                                std::vector<double>(unknowns)};
      for (std::size_t col = 0; col < k; ++col) {
        const std::size_t side = sides == 2 && level_of(row, col) < 0 ? 1 : 0;
        equations.gradient[col / codes.group * sides + side] +=
            static_cast<double>(unit.at(row, col)) * static_cast<double>(residual.at(row, col));
      }
      refit_row(equations, codes, begin + row);
    });
  }
}

}  // namespace nybble
