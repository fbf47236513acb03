#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "nybble/matrix.h"

/// nybble's linear layer beside the ones that users can install instead. Everything a competitor
/// has to offer is the class Peer; one file adds one library's.
namespace nybble::peers {

/// What every competitor gets: the same unquantized weights, and how often to copy them.
struct Setup {
  MatrixView weights;  ///< N x K, alive as long as the competitors are
  std::size_t threads = 1;
  std::size_t cold_bytes = 0;  ///< all copies of the weights together, at least

  /// How many copies of `bytes` leave none of them in a cache when its turn comes.
  [[nodiscard]] std::size_t copies(std::size_t bytes) const {
    return (cold_bytes + bytes - 1) / bytes;
  }
};

/// y (M x N) = x (M x K) times weights (N x K) transposed, in a library's best way to do it with
/// weights that stay and activations that come in f32. Throws Error where the library refuses.
class Peer {
 public:
  virtual ~Peer() = default;
  /// Bytes of one copy of the weights, as a call reads them.
  [[nodiscard]] virtual std::size_t weight_bytes() const = 0;
  [[nodiscard]] virtual std::size_t copies() const = 0;
  /// The activations of the runs that follow, alive as long as those. Not timed.
  virtual void set_input(MatrixView x) = 0;
  /// One call, timed, with the weights of `copy`.
  virtual void run(std::size_t copy) = 0;
  /// The result of the last run, M x N. Not timed.
  virtual std::vector<float> output() = 0;
  /// Version, kernel, session options: what somebody who doubts a number asks for first.
  [[nodiscard]] virtual std::string detail() const = 0;
};

struct Candidate {
  std::string name;     ///< "library weights activations"
  std::string library;  ///< one colour in the chart
  std::function<std::unique_ptr<Peer>(const Setup&)> make;
};

struct Skipped {
  std::string name;
  std::string reason;  ///< one line
};

struct Candidates {
  std::vector<Candidate> found;
  std::vector<Skipped> skipped;
};

void add_nybble(Candidates& candidates);
/// dlopen of libopenblas.so.0.
void add_openblas(Candidates& candidates);
/// Compiled in, if the headers were there.
void add_eigen(Candidates& candidates);
/// Linked, if the library was there.
void add_onednn(Candidates& candidates);
/// dlopen of the libraries in npm's packages, under `node_modules`.
void add_onnxruntime(Candidates& candidates, const std::string& node_modules);
void add_ggml(Candidates& candidates, const std::string& node_modules);

}  // namespace nybble::peers
