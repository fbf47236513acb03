#include <string>
#include <utility>
#include <vector>

#include "bench/peers/peer.h"
#include "nybble/executor.h"
#include "nybble/format/registry.h"
#include "nybble/linear/linear.h"
#include "nybble/quantize/rtn.h"

namespace nybble::peers {

namespace {

class NybblePeer final : public Peer {
 public:
  NybblePeer(const Setup& setup, const AnyFormat& format, Path path)
      : executor_(make_thread_executor(setup.threads)) {
    const QuantizedMatrix weight = quantize_rtn(setup.weights, format, *executor_);
    LinearOptions options;
    options.path = path;
    layers_.emplace_back(weight, options, *executor_);
    while (layers_.size() < setup.copies(weight_bytes())) {
      layers_.emplace_back(weight, options, *executor_);
    }
  }

  std::size_t weight_bytes() const override { return layers_.front().packed_bytes(); }
  std::size_t copies() const override { return layers_.size(); }
  void set_input(MatrixView x) override {
    x_ = x;
    y_.assign(x.rows * layers_.front().rows(), 0);
  }
  void run(std::size_t copy) override {
    const QuantizedLinear& layer = layers_[copy];
    layer.run(x_, {y_.data(), x_.rows, layer.rows()}, workspace_, *executor_);
  }
  std::vector<float> output() override { return y_; }
  std::string detail() const override { return layers_.front().kernel() + ""; }

 private:
  std::unique_ptr<Executor> executor_;
  std::vector<QuantizedLinear> layers_;
  Workspace workspace_;
  MatrixView x_;
  std::vector<float> y_;
};

}  // namespace

void add_nybble(Candidates& candidates) {
  for (const Path path : {Path::a8, Path::a16, Path::a4}) {
    for (const char* spec : {"int4", "int4:group=128", "nf4", "mxfp4", "nvfp4", "amxfp4"}) {
      const std::string name = std::string("nybble ") + spec + ' ' + path_name(path);
      candidates.found.push_back(
          {name, "nybble", [format = parse_format(spec), path](const Setup& setup) {
             return std::make_unique<NybblePeer>(setup, format, path);
           }});
    }
  }
}

}  // namespace nybble::peers
