#include "nybble/quantize/omniquant.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nybble/error.h"
#include "nybble/quantize/smoothquant.h"
#include "src/check_enum.h"
#include "src/quantize/channel_search.h"
#include "src/quantize/clip_training.h"
#include "src/quantize/hessian.h"
#include "src/quantize/layer_loss.h"

namespace nybble {

namespace {

/// sigmoid(4): where the reference starts.
constexpr double kPublishedClip = 0.98201379;

class OmniQuant {
 public:
  OmniQuant(MatrixView weight, const AnyFormat& format, const Calibration& calibration,
            Executor& executor, const OmniQuantOptions& options)
      : weight_(weight),
        format_(format),
        calibration_(calibration),
        executor_(executor),
        options_(options),
        n_(weight.rows),
        k_(weight.cols),
        steps_(options.epochs * kOmniQuantSteps) {
    if (options.activations) {
      loss_ = make_sample_loss(weight, calibration.samples(), *options.activations, executor);
    } else if (options.fit_part_only && calibration.held_out_tokens() != 0) {
      const MatrixView moment = calibration.fit_moment();
      loss_ = make_moment_loss(weight, {moment.data, moment.data + k_ * k_}, executor);
    } else {
      loss_ = make_moment_loss(weight, calibration.second_moment(), executor);
    }
  }

  OmniQuantResult run() {
    OmniQuantResult out{QuantizedMatrix(format_), {}, 0, 0, 0};
    const bool let = options_.let == OmniQuantOptions::Let::on ||
                     (options_.let == OmniQuantOptions::Let::automatic && options_.activations);
    std::vector<float> scale(k_, 1.0F);
    if (let) scale = start_scale(out.alpha);
    std::vector<float> scaled = scaled_weight(scale);
    RowCodes codes = start(scaled, loss_->at(view(scaled), scale));
    out.error_before = error_of(nested(codes, scaled), scale);
    RowCodes start_codes = codes;
    std::vector<float> start_scale = scale;
    std::vector<float> start_scaled = scaled;
    if (let) {
      train_scales(scale, codes);
      scaled = scaled_weight(scale);
    }
    // With the scales settled rows are on their own.
    const RowLoss loss = loss_->at(view(scaled), scale);
    if (let && options_.start == OmniQuantOptions::Start::search) {
      keep_better_rows(codes, start(scaled, loss), scaled, loss);
    }
    if (options_.clip) {
      train_clips(view(scaled), loss, {steps_, options_.clip_rate, patience()}, codes, executor_);
    }
    codes = nested(std::move(codes), scaled);
    out.error = error_of(codes, scale);
    // Only double quantization, which comes after all training, and rounding errors can do this.
    if (!(out.error <= out.error_before)) {
      codes = nested(std::move(start_codes), start_scaled);
      scale = std::move(start_scale);
      out.error = out.error_before;
    }
    out.matrix = to_matrix(codes, executor_);
    if (let) out.scale = std::move(scale);
    return out;
  }

 private:
  [[nodiscard]] MatrixView view(const std::vector<float>& values) const {
    return {values.data(), n_, k_};
  }
  [[nodiscard]] int patience() const { return std::max(steps_ / 4, kOmniQuantSteps); }

  [[nodiscard]] std::vector<float> scaled_weight(const std::vector<float>& scale) const {
    std::vector<float> out(n_ * k_);
    executor_.parallel_for(n_, [&](std::size_t row) {
      for (std::size_t i = 0; i < k_; ++i) out[row * k_ + i] = weight_.at(row, i) * scale[i];
    });
    return out;
  }

  /// SmoothQuant's scales. Channels that are always 0 tell nothing: they get what others get.
  [[nodiscard]] std::vector<float> start_scale(double& alpha) const {
    SmoothQuantOptions options;
    options.tensor_name = options_.tensor_name;
    options.activations = options_.activations;
    if (options_.start == OmniQuantOptions::Start::published) options.alpha = 0.5;
    SmoothQuantResult found =
        search_smoothquant_scale(weight_, format_, calibration_, executor_, options);
    alpha = found.alpha;
    const std::vector<float> largest = calibration_.max_abs();
    double sum = 0;
    double live = 0;
    for (std::size_t i = 0; i < k_; ++i) {
      if (largest[i] == 0) continue;
      sum += std::log(static_cast<double>(found.scale[i]));
      ++live;
    }
    const auto mean = static_cast<float>(live > 0 ? std::exp(sum / live) : 1);
    for (std::size_t i = 0; i < k_; ++i) {
      if (largest[i] == 0) found.scale[i] = mean;
    }
    return std::move(found.scale);
  }

  /// How the training starts for weights that were multiplied by the channel scales.
  [[nodiscard]] RowCodes start(const std::vector<float>& scaled, const RowLoss& loss) const {
    if (options_.start == OmniQuantOptions::Start::search) {
      std::vector<float> importance(k_);
      for (std::size_t i = 0; i < k_; ++i) importance[i] = loss.moment[i * k_ + i];
      return round_rows(view(scaled), format_, calibrated_search(importance.data()), executor_);
    }
    RowCodes out(format_, n_, k_, tensor_scale_of(format_, view(scaled)));
    const auto log = static_cast<float>(options_.clip ? std::log(kPublishedClip) : 0);
    const std::vector<ClipLogs> logs(out.groups, {log, log});
    const std::vector<bool> negated(out.choices.size());
    executor_.parallel_for(n_, [&](std::size_t row) {
      std::vector<GroupRange> ranges(out.groups);
      round_clipped(&scaled[row * k_], logs.data(), negated, row, out, ranges.data());
    });
    return out;
  }

  /// Double quantization changes the scales, for which the codes are then chosen again.
  [[nodiscard]] RowCodes nested(RowCodes codes, const std::vector<float>& scaled) const {
    if (!format_.info().double_quantized) return codes;
    nest_scales(codes);
    executor_.parallel_for(n_, [&](std::size_t row) {
      for (std::size_t i = 0; i < k_; ++i) {
        codes.codes[row * k_ + i] =
            codes.encode(scaled[row * k_ + i], codes.choice(row, i / codes.group));
      }
    });
    return codes;
  }

  [[nodiscard]] std::vector<float> decoded(const RowCodes& codes) const {
    std::vector<float> out(n_ * k_);
    executor_.parallel_for(n_, [&](std::size_t row) {
      for (std::size_t i = 0; i < k_; ++i) out[row * k_ + i] = codes.value(row, i);
    });
    return out;
  }

  [[nodiscard]] double error_of(const RowCodes& codes, const std::vector<float>& scale) {
    const std::vector<float> rounded = decoded(codes);
    std::vector<float> gradient(n_ * k_);
    std::vector<float> scale_gradient(k_);
    const double error =
        loss_->evaluate(view(rounded), scale, {gradient.data(), n_, k_}, scale_gradient);
    return loss_->whole() > 0 ? error / loss_->whole() : 0;
  }

  void keep_better_rows(RowCodes& codes, const RowCodes& other, const std::vector<float>& scaled,
                        const RowLoss& loss) const {
    const std::vector<double> mine = row_losses(view(scaled), loss, codes, executor_);
    const std::vector<double> theirs = row_losses(view(scaled), loss, other, executor_);
    for (std::size_t row = 0; row < n_; ++row) {
      if (!(theirs[row] < mine[row])) continue;
      std::copy_n(&other.codes[row * k_], k_, &codes.codes[row * k_]);
      std::copy_n(&other.choices[row * codes.groups], codes.groups,
                  &codes.choices[row * codes.groups]);
    }
  }

  /// Where LET and LWC have got to.
  struct Joint {
    std::vector<float> scale;       ///< K
    std::vector<float> scale_logs;  ///< K
    std::vector<float> scaled;      ///< N x K
    Clips clips;
    RowCodes codes;
    std::vector<GroupRange> ranges;  ///< [rows][groups], clipped
    std::vector<AdamMoments> clip_moments;
    std::vector<AdamMoments> scale_moments;
    Adam clip_adam;
    Adam scale_adam;
  };

  /// LET and LWC together, from `codes` and `scale`, which become the best iterate.
  void train_scales(std::vector<float>& scale, RowCodes& codes) {
    std::vector<float> scaled = scaled_weight(scale);
    Clips clips = clips_of(view(scaled), codes, executor_);
    const std::size_t groups = codes.choices.size();
    Joint now{scale,
              {},
              std::move(scaled),
              std::move(clips),
              codes,
              std::vector<GroupRange>(groups),
              std::vector<AdamMoments>(2 * groups),
              std::vector<AdamMoments>(k_),
              Adam(options_.clip_rate),
              Adam(options_.scale_rate)};
    for (const float value : scale) now.scale_logs.push_back(std::log(value));
    std::vector<float> gradient(n_ * k_);
    double least = 0;
    const auto offer = [&](const RowCodes& offered, double error) {
      if (!(error < least)) return;
      least = error;
      scale = now.scale;
      codes = offered;
    };
    for (int step = 0; step <= steps_; ++step) {
      if (step == 0) {
        clipped_ranges(now);
      } else {
        round_jointly(now);
      }
      const std::vector<float> rounded = decoded(now.codes);
      std::vector<float> scale_gradient(k_);
      const double error =
          loss_->evaluate(view(rounded), now.scale, {gradient.data(), n_, k_}, scale_gradient);
      if (step == 0) {
        if (!(error > 0)) return;
        least = error;
        normal_ = static_cast<float>(1 / error);
      }
      offer(now.codes, error);
      if (step % kOmniQuantSteps == 0 && step != 0) {
        // Searched scales fit the codes they were searched for: only others of their kind beat
        // them.
        const RowCodes searched = better_start(now);
        offer(searched, error_of(searched, now.scale) * loss_->whole());
      }
      step_jointly(now, rounded, gradient, std::move(scale_gradient));
    }
  }

  void clipped_ranges(Joint& now) const {
    const std::size_t groups = now.codes.groups;
    executor_.parallel_for(n_, [&](std::size_t row) {
      GroupRange* const ranges = &now.ranges[row * groups];
      group_ranges(&now.scaled[row * k_], now.codes, ranges);
      for (std::size_t g = 0; g < groups; ++g) {
        ranges[g] = clipped(ranges[g], now.clips.logs[row * groups + g]);
      }
    });
  }

  void round_jointly(Joint& now) const {
    for (std::size_t i = 0; i < k_; ++i) now.scale[i] = std::exp(now.scale_logs[i]);
    now.scaled = scaled_weight(now.scale);
    now.codes.tensor = tensor_scale_of(format_, view(now.scaled));
    const std::size_t groups = now.codes.groups;
    executor_.parallel_for(n_, [&](std::size_t row) {
      round_clipped(&now.scaled[row * k_], &now.clips.logs[row * groups], now.clips.negated, row,
                    now.codes, &now.ranges[row * groups]);
    });
  }

  /// The rows as they are or with scales searched anew.
  [[nodiscard]] RowCodes better_start(const Joint& now) const {
    RowCodes out = now.codes;
    if (options_.start == OmniQuantOptions::Start::search) {
      const RowLoss loss = loss_->at(view(now.scaled), now.scale);
      keep_better_rows(out, start(now.scaled, loss), now.scaled, loss);
    }
    return out;
  }

  void step_jointly(Joint& now, const std::vector<float>& rounded,
                    const std::vector<float>& gradient, std::vector<float> scale_gradient) const {
    now.clip_adam.next_step();
    now.scale_adam.next_step();
    std::vector<float> by_log(n_ * k_);
    executor_.parallel_for(n_, [&](std::size_t row) {
      const float* const x = &now.scaled[row * k_];
      std::vector<float> errors(k_);
      for (std::size_t i = 0; i < k_; ++i) errors[i] = rounded[row * k_ + i] - x[i];
      for (std::size_t g = 0; g < now.codes.groups; ++g) {
        const std::size_t at = g * now.codes.group;
        const std::size_t index = row * now.codes.groups + g;
        const ClipLogs by_clip = straight_through(
            {&format_.encode_table(), now.codes.choices[index], now.codes.tensor, now.ranges[index],
             x + at, &errors[at], &gradient[row * k_ + at], std::min(now.codes.group, k_ - at)},
            &by_log[row * k_ + at]);
        if (!options_.clip) continue;
        AdamMoments* const moments = &now.clip_moments[2 * index];
        ClipLogs& logs = now.clips.logs[index];
        logs.high += now.clip_adam.change(moments[0], normal_ * by_clip.high);
        logs.low += now.clip_adam.change(moments[1], normal_ * by_clip.low);
      }
    });
    add_column_sums(view(by_log), 1, scale_gradient, executor_);
    for (std::size_t i = 0; i < k_; ++i) {
      now.scale_logs[i] += now.scale_adam.change(now.scale_moments[i], normal_ * scale_gradient[i]);
    }
  }

  MatrixView weight_;
  const AnyFormat& format_;
  const Calibration& calibration_;
  Executor& executor_;
  const OmniQuantOptions& options_;
  std::size_t n_, k_;
  int steps_;
  std::unique_ptr<LayerLoss> loss_;
  float normal_ = 1;  ///< what gradients are multiplied by, so that Adam's epsilon is small
};

}  // namespace

OmniQuantResult quantize_omniquant(MatrixView weight, const AnyFormat& format,
                                   const Calibration& calibration, Executor& executor,
                                   const OmniQuantOptions& options) {
  check_calibrated(weight, calibration, options.tensor_name);
  check_enum(options.start, OmniQuantOptions::Start::published, "omniquant: start");
  check_enum(options.let, OmniQuantOptions::Let::on, "omniquant: let");
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorCode::bad_option, fmt::format("{}: {}", options.tensor_name, what));
  };
  constexpr int kMostEpochs = 1000;
  if (options.epochs < 0 || options.epochs > kMostEpochs) {
    refuse(fmt::format("{} epochs, expected 0 to {}", options.epochs, kMostEpochs));
  }
  for (const float rate : {options.clip_rate, options.scale_rate}) {
    if (!(rate > 0 && rate <= 1)) refuse(fmt::format("learning rate {}, expected 0 to 1", rate));
  }
  if (options.activations && calibration.samples().rows == 0) {
    refuse("the calibration kept no sample of the inputs, expected some");
  }
  return OmniQuant(weight, format, calibration, executor, options).run();
}

}  // namespace nybble
