#pragma once

#include <atomic>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nybble/executor.h"
#include "nybble/format/format.h"
#include "nybble/io/safetensors.h"
#include "nybble/quantize/tensor_rule.h"

namespace nybble {

/// A model to quantize, and how.
struct CheckpointOptions {
  std::filesystem::path source = {};  ///< what Checkpoint opens: a folder, or a .safetensors file
  std::string format = {};            ///< parse_format's
  std::string method = "rtn";         ///< Method's
  std::string layout = "nybble";
  std::vector<TensorRule> rules = {};      ///< later ones win
  std::filesystem::path calibration = {};  ///< the inputs of layers; empty: none (see LayerInputs)
  std::size_t shard_bytes = 5'000'000'000;
};

/// What becomes of a tensor of the source.
struct PlannedTensor {
  std::string name;
  std::string type;                 ///< as the file names it: "BF16"
  std::vector<std::size_t> shape;   ///< of the layer's weight where it is quantized
  bool transposed = false;          ///< the source has it the other way round, [..., K, N]
  std::optional<AnyFormat> format;  ///< nothing: it is copied
  std::string method;               ///< with its options; empty: it is copied
  std::string reason;               ///< why it is copied: "embedding", "1-D", "rule", ...
  std::size_t source_bytes = 0;
  std::size_t bytes = 0;  ///< of what it becomes, in all its tensors
  /// false: at least that, since the method decides while it runs whether inputs are transformed.
  bool exact = true;

  [[nodiscard]] std::size_t elements() const;
  [[nodiscard]] double bits_per_weight() const;
};

/// A file that a run writes.
struct PlannedFile {
  std::string name;  ///< from the output's folder on
  std::size_t bytes = 0;
};

/// A file or, its name ending in '/', a folder beside the source's tensors that is not copied.
struct KeptOutFile {
  std::string name;
  std::string reason;  ///< "weights", "hidden", "a log", ...
};

/// Everything that quantizing a checkpoint is going to do, decided and checked before any work.
///
/// Matrices of floats named "*.weight" are quantized, and experts that are one tensor [E, N, K],
/// where the layout holds those; embeddings, output heads, norms, routers of experts ("*router*",
/// "*.gate.weight"), whatever else is not two-dimensional and anything with fewer than 32 rows or
/// columns is copied, unless a rule gives it a format. Experts of [E, K, N] are copied too, and
/// those of which config.json's hidden_size does not tell what they are. A rule's format does not
/// apply to what it cannot be: tensors of one axis, or not of floats. Weights that are stored
/// [K, N] (GPT-2's Conv1D: by model_type, or a bias that fits only so) are transposed.
class CheckpointPlan {
 public:
  /// Reads headers only. Throws what opening the source throws; bad_file where it is quantized
  /// already; bad_option for what is not understood, a rule that applies to nothing and a layer
  /// without the calibration that its method needs; unsupported where the layout cannot hold a
  /// tensor's format, its shape or what its method may make of it, and where nothing tells whether
  /// a weight is to be transposed.
  explicit CheckpointPlan(const CheckpointOptions& options);
  CheckpointPlan(CheckpointPlan&&) noexcept;
  CheckpointPlan& operator=(CheckpointPlan&&) noexcept;
  ~CheckpointPlan();

  /// In the order of the files.
  [[nodiscard]] const std::vector<PlannedTensor>& tensors() const&;
  /// A loop over a temporary's tensors would read what is gone.
  const std::vector<PlannedTensor>& tensors() && = delete;
  /// Sorted by name. Sizes are at least these where exact() is false.
  [[nodiscard]] const std::vector<PlannedFile>& files() const&;
  const std::vector<PlannedFile>& files() && = delete;
  /// What of the source's folder no file is made of, sorted by name. Whatever is not known to be
  /// weights, logs, caches or hidden is copied.
  [[nodiscard]] const std::vector<KeptOutFile>& kept_out() const&;
  const std::vector<KeptOutFile>& kept_out() && = delete;
  [[nodiscard]] bool exact() const;

  struct Data;
  [[nodiscard]] const Data& data() const;

 private:
  std::unique_ptr<const Data> data_;
};

/// A tensor that is done.
struct TensorDone {
  const PlannedTensor* tensor = nullptr;
  double seconds = 0;
  double sqnr_db = 0;  ///< of the weights; NaN where it was copied
  std::size_t bytes = 0;
  /// By this process, of what it has to do.
  std::size_t done = 0, total = 0;
  /// The same in bytes of the source.
  std::size_t done_bytes = 0, total_bytes = 0;
};

/// Processes that quantize one checkpoint together. They see the same files.
class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;
  [[nodiscard]] virtual std::size_t rank() const = 0;
  [[nodiscard]] virtual std::size_t size() const = 0;
  /// Returns when every process has called it. Calls `check` now and then, which may throw.
  virtual void barrier(const std::function<void()>& check) = 0;
};

struct RunOptions {
  std::filesystem::path out = {};             ///< a folder, created if need be
  bool resume = false;                        ///< continue what an earlier run began
  const std::atomic<bool>* cancel = nullptr;  ///< becomes true: stop
  std::function<void(const TensorDone&)> on_tensor = {};
  ProcessGroup* group = nullptr;  ///< null: this process alone
};

struct CheckpointReport {
  std::size_t tensors = 0;
  std::size_t quantized = 0;
  std::size_t resumed = 0;       ///< of the tensors: done by an earlier run
  std::size_t weights = 0;       ///< elements of those quantized
  std::size_t weight_bytes = 0;  ///< what those became
  std::size_t source_bytes = 0;
  std::size_t bytes = 0;  ///< of all files written
  double sqnr_db = 0;     ///< of all weights quantized; NaN: not known, as of a finished run
  std::size_t processed_bytes = 0;  ///< source bytes of the tensors this process did
  double seconds = 0;
};

/// Does what a plan says, one tensor at a time with all threads of `executor`. Results are the same
/// bytes for any number of threads and processes, and however often it was interrupted. Memory
/// holds, besides the calibration that is needed, three times the largest output (13.5 bits a
/// weight for INT4) for `rtn`, which reads a few rows at a time; for other methods one tensor in
/// f32 and its output.
///
/// Until everything is done there is only the folder `.nybble-parts` in `out`; it keeps what is
/// done when a run ends early, for `resume`. Throws bad_option where `out` holds a checkpoint, a
/// run begun without `resume`, or one begun with other options or another source; io where another
/// process writes there; cancelled; and what quantizers throw.
CheckpointReport quantize_checkpoint(const CheckpointPlan& plan, Executor& executor,
                                     const RunOptions& options);

}  // namespace nybble
