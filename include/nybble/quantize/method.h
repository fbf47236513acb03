#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nybble/format/registry.h"
#include "nybble/quantize/calibration.h"
#include "nybble/tensor/quantized_matrix.h"
#include "nybble/transform/transform.h"

namespace nybble {

/// A linear layer on its way to 4 bits: what every step of a method reads and changes. Weights and
/// calibration are those of the inputs T(x), T being the transforms so far.
struct LayerState {
  std::string name;  ///< in errors
  AnyFormat format;
  std::optional<AnyFormat> activations;  ///< none: they are not quantized
  Executor* executor;
  std::size_t rows, cols;  ///< N, K
  std::vector<float> weight;
  std::shared_ptr<const Calibration> calibration;  ///< null: none
  Transforms transforms;
  bool transformed = false;  ///< a step could have changed the input, whatever it decided
  std::optional<QuantizedMatrix> quantized;
  /// What was decided, for people: {"awq exponent", "0.45"}.
  std::vector<std::pair<std::string, std::string>> decisions;

  [[nodiscard]] MatrixView view() const { return {weight.data(), rows, cols}; }
  /// Another transform of the input, applied to weight, calibration and transforms: inputs are
  /// divided by `scale`, weights multiplied.
  void scale_channels(const std::vector<float>& scale);
  /// Throws bad_option where scale_channels would: after a rotation or a permutation.
  void expect_scalable() const;
  /// The layer's relative output error with `matrix` for its weights: on held-out tokens from the
  /// moments, or, where activations are quantized, on the sample.
  [[nodiscard]] double error_of(const QuantizedMatrix& matrix) const;
};

/// The kinds of transforms of a layer's input.
struct InputChanges {
  bool scale = false;
  bool permutation = false;
  bool rotation = false;

  [[nodiscard]] bool any() const { return scale || permutation || rotation; }
};

/// One step of a method: it transforms the layer or, as the last one, rounds it.
class MethodStep {
 public:
  virtual ~MethodStep() = default;
  /// Name and options, as parse_method takes them.
  [[nodiscard]] virtual std::string spec() const = 0;
  [[nodiscard]] virtual bool rounds() const = 0;
  /// Needs calibration (state.calibration is not null).
  [[nodiscard]] virtual bool calibrated() const = 0;
  /// Needs the original inputs beside those of quantized layers (Calibration::cross_moment).
  [[nodiscard]] virtual bool needs_originals() const { return false; }
  /// What it may add to the layer's transforms, its activations being quantized or not.
  [[nodiscard]] virtual InputChanges may_change_input(bool /*activations*/) const { return {}; }
  /// `rounding` is the method's last step: transforms may ask what it would make of them.
  virtual void run(LayerState& state, const MethodStep& rounding) const = 0;
  /// Only of steps that round: the error that is left on tokens they have not seen (error_of) if
  /// they are asked for a cheap version of their work on a few rows.
  [[nodiscard]] virtual double trial_error(const LayerState& state) const;
};

/// A row of the registry of methods.
struct MethodFamily {
  std::string name;
  std::string summary;
  std::string options;
  std::function<std::unique_ptr<MethodStep>(SpecOptions&)> make;
};
const std::vector<MethodFamily>& method_families();

/// Steps joined by '+', each `name[:key=value,...]`: "awq+gptq:damp=0.01". The last one rounds;
/// where none does, clip:loss=group follows awq, as in its paper, and rtn all others.
class Method {
 public:
  /// Throws bad_option with what is allowed.
  explicit Method(std::string_view spec);
  [[nodiscard]] std::string spec() const;
  [[nodiscard]] bool calibrated() const;
  [[nodiscard]] bool needs_originals() const;
  [[nodiscard]] InputChanges may_change_input(bool activations) const;
  [[nodiscard]] const std::vector<std::unique_ptr<MethodStep>>& steps() const { return steps_; }

 private:
  void add_step(std::string_view spec, std::string_view step);

  std::vector<std::unique_ptr<MethodStep>> steps_;
};

struct LayerOptions {
  std::string name = "layer";
  std::optional<AnyFormat> activations = std::nullopt;
};

/// A layer's 4-bit weights and what must run around them: what QuantizedLinear is made of.
struct QuantizedLayer {
  QuantizedMatrix weight;
  Transforms transforms;
  std::vector<std::pair<std::string, std::string>> decisions;
  double seconds = 0;
};

/// Runs a method on one layer. `calibration` may be null for methods that need none. Throws
/// bad_shape, bad_value, bad_option.
QuantizedLayer quantize_layer(MatrixView weight, const AnyFormat& format, const Method& method,
                              const Calibration* calibration, Executor& executor,
                              const LayerOptions& options = {});

/// The same for weights that are given away: the memory of one copy less.
QuantizedLayer quantize_layer(std::vector<float>&& weight, std::size_t rows, std::size_t cols,
                              const AnyFormat& format, const Method& method,
                              const Calibration* calibration, Executor& executor,
                              const LayerOptions& options = {});

/// The weights that `layer` computes with, transforms undone: N x K, for products with inputs as
/// they come.
std::vector<float> effective_weight(const QuantizedLayer& layer, Executor& executor);

/// 10 log10(sum y^2 / sum (y - y')^2) over the outputs y = original weight^T of the layer as it was
/// and y' as it became, its inputs T(x) in `activations` if given. x and original are M x K;
/// without an original it is x. Inf for no error. Throws bad_shape.
double output_sqnr_db(MatrixView x, MatrixView weight, const QuantizedLayer& layer,
                      const std::optional<AnyFormat>& activations, Executor& executor,
                      MatrixView original = {});

/// Every row of x as `format` stores it, in place: a row is its own tensor.
void fake_quantize_rows(MutableMatrixView x, const AnyFormat& format, Executor& executor);

}  // namespace nybble
