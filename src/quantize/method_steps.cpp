// The registry of methods: what each one's options are and which function it calls.

#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <utility>

#include "nybble/error.h"
#include "nybble/quantize/awq.h"
#include "nybble/quantize/clip_search.h"
#include "nybble/quantize/error_correction.h"
#include "nybble/quantize/gptq.h"
#include "nybble/quantize/method.h"
#include "nybble/quantize/omniquant.h"
#include "nybble/quantize/smoothquant.h"
#include "src/quantize/gptq_trial.h"
#include "src/quantize/rotation.h"

namespace nybble {

namespace {

/// A step and the canonical text that makes it again.
class NamedStep : public MethodStep {
 public:
  explicit NamedStep(std::string spec) : spec_(std::move(spec)) {}
  [[nodiscard]] std::string spec() const final { return spec_; }

 private:
  std::string spec_;
};

class Rounding : public NamedStep {
 public:
  using NamedStep::NamedStep;
  [[nodiscard]] bool rounds() const final { return true; }
};

class InputTransform : public NamedStep {
 public:
  using NamedStep::NamedStep;
  [[nodiscard]] bool rounds() const final { return false; }
};

/// Rounding that is one call and cheap enough to be its own trial.
class PlainRounding : public Rounding {
 public:
  using Rounding::Rounding;
  void run(LayerState& state, const MethodStep& /*rounding*/) const final {
    state.quantized = round(state);
  }
  [[nodiscard]] double trial_error(const LayerState& state) const final {
    return state.error_of(round(state));
  }

 private:
  [[nodiscard]] virtual QuantizedMatrix round(const LayerState& state) const = 0;
};

class RtnStep final : public PlainRounding {
 public:
  using PlainRounding::PlainRounding;
  [[nodiscard]] bool calibrated() const override { return false; }

 private:
  [[nodiscard]] QuantizedMatrix round(const LayerState& state) const override {
    return quantize_rtn(state.view(), state.format, *state.executor, {state.name});
  }
};

class ClipStep final : public PlainRounding {
 public:
  /// What errors are weighed by.
  enum class Loss : std::uint8_t { plain, diagonal, group };

  ClipStep(std::string spec, ClipSearchOptions options, Loss loss)
      : PlainRounding(std::move(spec)), options_(std::move(options)), loss_(loss) {}
  [[nodiscard]] bool calibrated() const override { return loss_ != Loss::plain; }

 private:
  [[nodiscard]] QuantizedMatrix round(const LayerState& state) const override {
    ClipSearchOptions options = options_;
    options.tensor_name = state.name;
    std::vector<float> importance;
    std::vector<float> moment;
    if (loss_ != Loss::plain) moment = state.calibration->second_moment();
    if (loss_ == Loss::group) options.moment = {moment.data(), state.cols, state.cols};
    if (loss_ == Loss::diagonal) {
      for (std::size_t i = 0; i < state.cols; ++i) {
        importance.push_back(moment[i * state.cols + i] /
                             static_cast<float>(state.calibration->tokens()));
      }
      options.importance = importance;
    }
    return quantize_clip_search(state.view(), state.format, *state.executor, options);
  }

  ClipSearchOptions options_;
  Loss loss_;
};

class AwqStep final : public InputTransform {
 public:
  /// `worth`: scales are kept where what is left of the error is below this share of it.
  AwqStep(std::string spec, AwqOptions options, bool always, double worth = 1)
      : InputTransform(std::move(spec)),
        options_(std::move(options)),
        always_(always),
        worth_(worth) {}
  [[nodiscard]] bool calibrated() const override { return true; }
  [[nodiscard]] InputChanges may_change_input(bool /*activations*/) const override {
    return {.scale = true};
  }
  void run(LayerState& state, const MethodStep& rounding) const override {
    state.expect_scalable();
    AwqOptions options = options_;
    options.tensor_name = state.name;
    const AwqResult found =
        search_awq_scale(state.view(), state.format, *state.calibration, *state.executor, options);
    // Rounding that makes up for errors may need less of it, or none.
    double power = 0;
    if (always_) {
      power = 1;
      state.scale_channels(found.scale);
    } else if (found.error < worth_ * found.error_before) {  // else it will not here either
      double least = worth_ * rounding.trial_error(state);
      LayerState best = state;
      for (const double tried : {1.0, 0.75, 0.5, 0.25}) {
        LayerState scaled = state;
        scaled.scale_channels(raised(found.scale, tried));
        const double error = rounding.trial_error(scaled);
        if (error >= least && power != 0) break;  // past the best
        if (error < least) {
          least = error;
          power = tried;
          best = std::move(scaled);
        }
      }
      state = std::move(best);
    }
    state.decisions.emplace_back(
        "awq exponent", fmt::format("{:g} ({}), times {:g}", found.exponent,
                                    found.form == AwqOptions::Form::duo ? "duo" : "plain", power));
  }

 private:
  static std::vector<float> raised(const std::vector<float>& scale, double power) {
    std::vector<float> out;
    for (const float value : scale) out.push_back(std::pow(value, static_cast<float>(power)));
    return out;
  }

  AwqOptions options_;
  bool always_;
  double worth_;
};

class GptqStep final : public Rounding {
 public:
  GptqStep(std::string spec, GptqOptions options, bool scale_channels)
      : Rounding(std::move(spec)), options_(std::move(options)), scale_channels_(scale_channels) {}
  [[nodiscard]] bool calibrated() const override { return true; }
  [[nodiscard]] InputChanges may_change_input(bool activations) const override {
    return {.scale = scale_channels_ && !activations,
            .permutation = !options_.static_groups && options_.order == ColumnOrder::activation};
  }
  void run(LayerState& state, const MethodStep& /*rounding*/) const override {
    // Where few channels carry the output, no rounding on one grid for all comes near to what a
    // scale for each does. What runs at inference is not changed for less than a decibel.
    constexpr double kDecibel = 0.794;
    if (scale_channels_ && !state.transformed && !state.activations &&
        state.calibration->held_out_tokens() != 0) {
      AwqStep("awq", {}, false, kDecibel).run(state, *this);
    }
    GptqOptions options = options_;
    options.tensor_name = state.name;
    GptqResult result =
        quantize_gptq(state.view(), state.format, *state.calibration, *state.executor, options);
    if (!result.permutation.source.empty()) {
      if (state.transforms.hadamard.block != 0) {
        throw Error(ErrorCode::bad_option,
                    fmt::format("{}: columns cannot be reordered after a rotation, expected "
                                "gptq:static_groups=true or another order",
                                state.name));
      }
      state.transforms.permutation = std::move(result.permutation);
    }
    state.quantized = std::move(result.matrix);
    const GptqReport& report = result.report;
    state.decisions.emplace_back(
        "gptq damping",
        fmt::format("{:g} of {}", report.damping.amount,
                    report.damping.kind == Damping::Kind::mean ? "the mean" : "each channel"));
    if (report.damping_raised != 0) {
      state.decisions.emplace_back(
          "gptq damping raised",
          fmt::format("{} times, H was not positive definite", report.damping_raised));
    }
    if (report.dead != 0)
      state.decisions.emplace_back("dead channels", std::to_string(report.dead));
    state.decisions.emplace_back("gptq error", fmt::format("{:.5g}", report.rounded_error));
    state.decisions.emplace_back("refined error", fmt::format("{:.5g}", report.error));
  }
  [[nodiscard]] double trial_error(const LayerState& state) const override {
    if (state.calibration->held_out_tokens() == 0) {
      return state.error_of(quantize_rtn(state.view(), state.format, *state.executor));
    }
    constexpr Damping kTried[] = {{Damping::Kind::mean, 0.01F}, {Damping::Kind::diagonal, 0.1F}};
    GptqOptions options = options_;
    options.tensor_name = state.name;
    options.refits = std::min(options.refits, 1);
    const std::span<const Damping> tried = options.damping
                                               ? std::span<const Damping>(&*options.damping, 1)
                                               : std::span<const Damping>(kTried);
    return try_dampings(state.view(), state.format, *state.calibration, *state.executor, options,
                        tried)
        .error;
  }

 private:
  GptqOptions options_;
  bool scale_channels_;
};

class OmniQuantStep final : public Rounding {
 public:
  OmniQuantStep(std::string spec, OmniQuantOptions options)
      : Rounding(std::move(spec)), options_(std::move(options)) {}
  [[nodiscard]] bool calibrated() const override { return true; }
  [[nodiscard]] InputChanges may_change_input(bool activations) const override {
    return {.scale = options_.let == OmniQuantOptions::Let::on ||
                     (options_.let == OmniQuantOptions::Let::automatic && activations)};
  }
  void run(LayerState& state, const MethodStep& /*rounding*/) const override {
    run(state, options_);
  }
  [[nodiscard]] double trial_error(const LayerState& state) const override {
    OmniQuantOptions options = options_;
    options.epochs = std::min(options.epochs, 2);
    options.fit_part_only = true;
    LayerState trial = state;
    run(trial, options);
    return trial.error_of(*trial.quantized);
  }

 private:
  static void run(LayerState& state, OmniQuantOptions options) {
    options.tensor_name = state.name;
    options.activations = state.activations;
    // Channels cannot be scaled behind a rotation; asked to, scale_channels says so.
    if (options.let == OmniQuantOptions::Let::automatic && state.transforms.hadamard.block != 0) {
      options.let = OmniQuantOptions::Let::off;
    }
    if (options.let == OmniQuantOptions::Let::on) {
      state.scale_channels(std::vector<float>(state.cols, 1.0F));
    }
    OmniQuantResult result = quantize_omniquant(state.view(), state.format, *state.calibration,
                                                *state.executor, options);
    if (!result.scale.empty()) {
      state.decisions.emplace_back("omniquant alpha", fmt::format("{:g}", result.alpha));
      state.scale_channels(result.scale);
    }
    state.decisions.emplace_back("omniquant error before",
                                 fmt::format("{:.5g}", result.error_before));
    state.decisions.emplace_back("omniquant error", fmt::format("{:.5g}", result.error));
    state.quantized = std::move(result.matrix);
  }

  OmniQuantOptions options_;
};

class SmoothQuantStep final : public InputTransform {
 public:
  SmoothQuantStep(std::string spec, SmoothQuantOptions options)
      : InputTransform(std::move(spec)), options_(std::move(options)) {}
  [[nodiscard]] bool calibrated() const override { return true; }
  [[nodiscard]] InputChanges may_change_input(bool /*activations*/) const override {
    return {.scale = true};
  }
  void run(LayerState& state, const MethodStep& /*rounding*/) const override {
    SmoothQuantOptions options = options_;
    options.tensor_name = state.name;
    options.activations = state.activations;
    const SmoothQuantResult found = search_smoothquant_scale(
        state.view(), state.format, *state.calibration, *state.executor, options);
    state.decisions.emplace_back("smoothquant alpha", fmt::format("{:g}", found.alpha));
    state.scale_channels(found.scale);
  }

 private:
  SmoothQuantOptions options_;
};

class QepStep final : public InputTransform {
 public:
  QepStep(std::string spec, double alpha, Damping damping)
      : InputTransform(std::move(spec)), alpha_(alpha), damping_(damping) {}
  [[nodiscard]] bool calibrated() const override { return true; }
  [[nodiscard]] bool needs_originals() const override { return true; }
  void run(LayerState& state, const MethodStep& /*rounding*/) const override {
    state.weight = correct_for_inputs(state.view(), *state.calibration, alpha_, damping_,
                                      *state.executor, state.name);
  }

 private:
  double alpha_;
  Damping damping_;
};

class HadamardStep final : public InputTransform {
 public:
  HadamardStep(std::string spec, std::size_t block, std::uint64_t seed)
      : InputTransform(std::move(spec)), block_(block), seed_(seed) {}
  [[nodiscard]] bool calibrated() const override { return false; }
  [[nodiscard]] InputChanges may_change_input(bool /*activations*/) const override {
    return {.rotation = true};
  }
  void run(LayerState& state, const MethodStep& /*rounding*/) const override {
    rotate(state, block_, seed_);
    state.decisions.emplace_back("hadamard block", std::to_string(state.transforms.hadamard.block));
  }

 private:
  std::size_t block_;
  std::uint64_t seed_;
};

std::unique_ptr<MethodStep> make_rtn(SpecOptions& options) {
  options.finish();
  return std::make_unique<RtnStep>(options.canonical());
}

std::unique_ptr<MethodStep> make_clip(SpecOptions& options) {
  ClipSearchOptions clip;
  clip.grid = options.integer("grid", clip.grid, 2, 10000);
  clip.smallest = static_cast<float>(options.number("smallest", 0.2, 0.001, 0.999));
  const std::string loss = options.choice("loss", {"diagonal", "group", "plain"});
  clip.cut_ends = options.flag("cut_ends", false);
  options.finish();
  return std::make_unique<ClipStep>(options.canonical(), clip,
                                    loss == "plain"   ? ClipStep::Loss::plain
                                    : loss == "group" ? ClipStep::Loss::group
                                                      : ClipStep::Loss::diagonal);
}

std::unique_ptr<MethodStep> make_gptq(SpecOptions& options) {
  GptqOptions gptq;
  const std::string order = options.choice("order", {"activation", "group_aware", "natural"});
  gptq.order = order == "natural"       ? ColumnOrder::natural
               : order == "group_aware" ? ColumnOrder::group_aware
                                        : ColumnOrder::activation;
  if (!options.flag("act_order", true)) gptq.order = ColumnOrder::natural;
  gptq.static_groups = options.flag("static_groups", true);
  gptq.stale_groups = options.flag("stale_groups", false);
  gptq.zero_dead_channels = options.flag("zero_dead", false);
  const std::string scales = options.choice("scales", {"search", "range"});
  gptq.scales = scales == "range" ? ScaleChooser::range : ScaleChooser::search;
  const std::string kind = options.choice("damp_of", {"mean", "diagonal"});
  if (const std::optional<double> amount = options.number_or_auto("damp", 0, 1000)) {
    gptq.damping = Damping{kind == "mean" ? Damping::Kind::mean : Damping::Kind::diagonal,
                           static_cast<float>(*amount)};
  }
  const std::string refine = options.choice("refine", {"full", "cd", "none"});
  gptq.descent_passes = options.integer("passes", gptq.descent_passes, 0, 1000);
  gptq.refits = options.integer("refits", gptq.refits, 0, 1000);
  if (refine != "full") gptq.refits = 0;
  if (refine == "none") gptq.descent_passes = 0;
  // Not in the references' modes, which leave the other improvements out.
  const bool scale_channels = options.choice("channel_scale", {"auto", "false"}) == "auto" &&
                              scales == "search" && refine == "full";
  options.finish();
  return std::make_unique<GptqStep>(options.canonical(), gptq, scale_channels);
}

std::unique_ptr<MethodStep> make_omniquant(SpecOptions& options) {
  OmniQuantOptions omni;
  omni.epochs = options.integer("epochs", omni.epochs, 0, 1000);
  omni.clip = options.flag("lwc", true);
  const std::string let = options.choice("let", {"auto", "true", "false"});
  omni.let = let == "true"    ? OmniQuantOptions::Let::on
             : let == "false" ? OmniQuantOptions::Let::off
                              : OmniQuantOptions::Let::automatic;
  omni.clip_rate = static_cast<float>(options.number("lr", 0.01, 1e-6, 1));
  omni.scale_rate = static_cast<float>(options.number("let_lr", 0.005, 1e-6, 1));
  omni.start = options.choice("init", {"search", "published"}) == "search"
                   ? OmniQuantOptions::Start::search
                   : OmniQuantOptions::Start::published;
  options.finish();
  return std::make_unique<OmniQuantStep>(options.canonical(), omni);
}

std::unique_ptr<MethodStep> make_awq(SpecOptions& options) {
  AwqOptions awq;
  const std::string form = options.choice("form", {"best", "plain", "duo"});
  awq.form = form == "plain" ? AwqOptions::Form::plain
             : form == "duo" ? AwqOptions::Form::duo
                             : AwqOptions::Form::best;
  awq.grid = options.integer("grid", awq.grid, 1, 1000);
  awq.refine = options.flag("refine", true);
  awq.search_scales = options.choice("scales", {"search", "range"}) == "search";
  awq.rows = static_cast<std::size_t>(options.integer("rows", 256, 0, 1 << 24));
  const bool always = options.flag("always", false);
  options.finish();
  return std::make_unique<AwqStep>(options.canonical(), awq, always);
}

std::unique_ptr<MethodStep> make_smoothquant(SpecOptions& options) {
  SmoothQuantOptions smooth;
  smooth.alpha = options.number_or_auto("alpha", 0, 1);
  options.finish();
  return std::make_unique<SmoothQuantStep>(options.canonical(), smooth);
}

std::unique_ptr<MethodStep> make_qep(SpecOptions& options) {
  const double alpha = options.number("alpha", 0.5, 0, 1);
  const Damping damping{Damping::Kind::mean,
                        static_cast<float>(options.number("damp", 0.01, 0, 1000))};
  options.finish();
  return std::make_unique<QepStep>(options.canonical(), alpha, damping);
}

std::unique_ptr<MethodStep> make_hadamard(SpecOptions& options) {
  const auto block =
      static_cast<std::size_t>(options.number_or_auto("block", 2, 65536).value_or(0));
  const int seed = options.integer("seed", 1, 0, 1 << 30);
  options.finish();
  return std::make_unique<HadamardStep>(options.canonical(), block,
                                        static_cast<std::uint64_t>(seed));
}

}  // namespace

const std::vector<MethodFamily>& method_families() {
  static const std::vector<MethodFamily> families = {
      {"rtn", "round to nearest, each format's own scales", "none", make_rtn},
      {"clip", "clip search: the scale of each group with the least squared error",
       "grid=2..10000, smallest=0.001..0.999, loss=diagonal|group|plain (by the mean of x^2; of "
       "the "
       "group's output, as AWQ; unweighted), cut_ends=false|true",
       make_clip},
      {"gptq", "GPTQ with searched scales, coordinate descent and refitted scales",
       "order=activation|group_aware|natural, act_order=true|false, static_groups=true|false, "
       "stale_groups=false|true, zero_dead=false|true, scales=search|range, damp=auto|0..1000, "
       "damp_of=mean|diagonal, refine=full|cd|none, passes=0..1000, refits=0..1000, "
       "channel_scale=auto|false (auto: after no transform and with scales=search, refine=full, "
       "channels are "
       "scaled as by awq where that gains a decibel)",
       make_gptq},
      {"omniquant", "learned clipping and, with activations, channel scales (OmniQuant)",
       "epochs=0..1000, lwc=true|false, let=auto|true|false, lr=1e-6..1, let_lr=1e-6..1, "
       "init=search|published",
       make_omniquant},
      {"awq", "activation-aware channel scales; before a step that rounds",
       "form=best|plain|duo, grid=1..1000, refine=true|false, scales=search|range, rows=0.. (0 = "
       "all), always=false|true",
       make_awq},
      {"smoothquant", "range moved from activations to weights; before a step that rounds",
       "alpha=auto|0..1", make_smoothquant},
      {"qep",
       "weights corrected for the error of earlier layers' outputs; first, needs original inputs",
       "alpha=0..1 (0.5), damp=0..1000 (0.01)", make_qep},
      {"hadamard", "randomized block Hadamard rotation; before a step that rounds",
       "block=auto|2..65536, seed=0..", make_hadamard},
  };
  return families;
}

}  // namespace nybble
