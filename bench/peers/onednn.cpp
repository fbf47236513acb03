#include "bench/peers/peer.h"

#ifdef NYBBLE_PEERS_ONEDNN
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <dnnl.hpp>
#include <string>
#include <unordered_map>
#include <vector>
#endif

namespace nybble::peers {

namespace {
constexpr const char* kNames[] = {"onednn f32", "onednn bf16", "onednn int8 per channel"};
}

#ifdef NYBBLE_PEERS_ONEDNN

namespace {

using dnnl::memory;
using Type = memory::data_type;
using Arguments = std::unordered_map<int, memory>;

float largest_magnitude(const float* values, std::size_t count) {
  float largest = 0;
  for (std::size_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(values[i]));
  return largest;
}

/// Weights in f32, bf16 or int8 with one scale per output, packed as oneDNN likes them. int8
/// activations have one scale for the tensor, known ahead (calibrated): what oneDNN 2 offers.
class OneDnnPeer final : public Peer {
 public:
  OneDnnPeer(const Setup& setup, Type type)
      : setup_(setup), type_(type), dims_{as_dim(setup.weights.cols), as_dim(setup.weights.rows)} {
    omp_set_num_threads(static_cast<int>(setup.threads));
  }

  std::size_t weight_bytes() const override { return weights_desc_.get_size(); }
  std::size_t copies() const override { return weights_.size(); }

  void set_input(MatrixView x) override {
    omp_set_num_threads(static_cast<int>(setup_.threads));
    const auto m = as_dim(x.rows);
    const memory::desc x_desc({m, dims_[0]}, Type::f32, memory::format_tag::ab);
    const memory::desc converted_desc({m, dims_[0]}, type_, memory::format_tag::ab);
    const memory::desc y_desc({m, dims_[1]}, Type::f32, memory::format_tag::ab);
    const memory::desc any_weights(dims_, type_, memory::format_tag::any);

    dnnl::primitive_attr to_input;
    dnnl::primitive_attr to_output;
    if (type_ == Type::s8) {
      const float scale = largest_magnitude(x.data, x.rows * x.cols) / 127;
      to_input.set_output_scales(0, {1 / scale});
      std::vector<float> scales = weight_scales();
      for (float& value : scales) value *= scale;
      to_output.set_output_scales(1 << 1, scales);
    }
    const dnnl::matmul::primitive_desc product({converted_desc, any_weights, y_desc}, to_output,
                                               engine_);
    matmul_ = dnnl::matmul(product);
    implementation_ = product.impl_info_str();
    if (weights_.empty() || product.weights_desc() != weights_desc_) {
      pack(product.weights_desc());
    }

    // The caller's activations are read only.
    x_ = memory(x_desc, engine_, const_cast<float*>(x.data));
    y_ = memory(y_desc, engine_);
    converted_ = type_ == Type::f32 ? x_ : memory(converted_desc, engine_);
    if (type_ != Type::f32) {
      convert_ = dnnl::reorder(
          dnnl::reorder::primitive_desc(engine_, x_desc, engine_, converted_desc, to_input));
    }
  }

  void run(std::size_t copy) override {
    if (type_ != Type::f32) {
      convert_.execute(stream_, Arguments{{DNNL_ARG_FROM, x_}, {DNNL_ARG_TO, converted_}});
    }
    matmul_.execute(stream_, Arguments{{DNNL_ARG_SRC, converted_},
                                       {DNNL_ARG_WEIGHTS, weights_[copy]},
                                       {DNNL_ARG_DST, y_}});
    stream_.wait();
  }

  std::vector<float> output() override {
    const auto* y = static_cast<const float*>(y_.get_data_handle());
    return {y, y + y_.get_desc().get_size() / sizeof(float)};
  }
  std::string detail() const override {
    const dnnl_version_t* version = dnnl_version();
    return fmt::format("oneDNN {}.{}.{}, {}", version->major, version->minor, version->patch,
                       implementation_);
  }

 private:
  static memory::dim as_dim(std::size_t value) { return static_cast<memory::dim>(value); }

  std::vector<float> weight_scales() const {
    const MatrixView w = setup_.weights;
    std::vector<float> scales(w.rows);
    for (std::size_t n = 0; n < w.rows; ++n) {
      scales[n] = largest_magnitude(w.row(n), w.cols) / 127;
    }
    return scales;
  }

  void pack(const memory::desc& desc) {
    const MatrixView w = setup_.weights;
    std::vector<std::int8_t> integers;
    memory source;
    if (type_ == Type::s8) {
      const std::vector<float> scales = weight_scales();
      for (std::size_t n = 0; n < w.rows; ++n) {
        for (std::size_t k = 0; k < w.cols; ++k) {
          integers.push_back(static_cast<std::int8_t>(std::lround(w.at(n, k) / scales[n])));
        }
      }
      source = memory({dims_, Type::s8, memory::format_tag::ba}, engine_, integers.data());
    } else {
      source =
          memory({dims_, Type::f32, memory::format_tag::ba}, engine_, const_cast<float*>(w.data));
    }
    weights_desc_ = desc;
    weights_.clear();
    while (weights_.size() < setup_.copies(desc.get_size())) {
      memory packed(desc, engine_);
      dnnl::reorder(source, packed).execute(stream_, source, packed);
      weights_.push_back(packed);
    }
    stream_.wait();
  }

  Setup setup_;
  Type type_;
  memory::dims dims_;  ///< K, N
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  memory::desc weights_desc_;
  std::vector<memory> weights_;
  memory x_, converted_, y_;
  dnnl::reorder convert_;
  dnnl::matmul matmul_;
  std::string implementation_;
};

}  // namespace

void add_onednn(Candidates& candidates) {
  constexpr Type kTypes[] = {Type::f32, Type::bf16, Type::s8};
  for (std::size_t i = 0; i < std::size(kTypes); ++i) {
    candidates.found.push_back({kNames[i], "oneDNN", [type = kTypes[i]](const Setup& setup) {
                                  return std::make_unique<OneDnnPeer>(setup, type);
                                }});
  }
}

#else

void add_onednn(Candidates& candidates) {
  for (const char* name : kNames) {
    candidates.skipped.push_back({name, "oneDNN was not found when configuring"});
  }
}

#endif

}  // namespace nybble::peers
