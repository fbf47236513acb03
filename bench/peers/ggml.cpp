#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/peers/peer.h"
#include "bench/peers/shared_library.h"

namespace nybble::peers {

namespace {

// Opaque objects of ggml, named so that they cannot be mixed up.
struct Context;
struct Tensor;
struct Graph;
struct Backend;
struct Buffer;
struct BufferType;
struct Device;
struct Registry;
struct ThreadPool;

/// As ggml passes them by value.
struct ContextParameters {
  std::size_t memory_size;
  void* memory;
  bool no_data;
};
struct ThreadPoolParameters {
  bool cpu_mask[512];
  int threads;
  int priority;
  std::uint32_t poll;
  bool strict_cpu;
  bool paused;
};

/// The library's functions that are used, and the CPU backend it found best for this machine.
class Ggml {
 public:
  explicit Ggml(const std::string& folder)
      : base_(folder + "/libggml-base.so"), loader_(folder + "/libggml.v0.5.0.so") {
    bind(base_, "ggml_init", init);
    bind(base_, "ggml_free", free);
    bind(base_, "ggml_new_tensor_2d", new_tensor_2d);
    bind(base_, "ggml_mul_mat", mul_mat);
    bind(base_, "ggml_tensor_overhead", tensor_overhead);
    bind(base_, "ggml_graph_overhead_custom", graph_overhead);
    bind(base_, "ggml_new_graph_custom", new_graph);
    bind(base_, "ggml_build_forward_expand", build_forward_expand);
    bind(base_, "ggml_type_name", type_name);
    bind(base_, "ggml_row_size", row_size);
    bind(base_, "ggml_blck_size", block_size);
    bind(base_, "ggml_backend_dev_supports_op", supports_op);
    bind(base_, "ggml_quantize_chunk", quantize_chunk);
    bind(base_, "ggml_version", version);
    bind(base_, "ggml_threadpool_params_default", threadpool_params_default);
    bind(base_, "ggml_backend_free", backend_free);
    bind(base_, "ggml_backend_buffer_free", buffer_free);
    bind(base_, "ggml_backend_dev_init", dev_init);
    bind(base_, "ggml_backend_dev_buffer_type", dev_buffer_type);
    bind(base_, "ggml_backend_buft_name", buft_name);
    bind(base_, "ggml_backend_alloc_ctx_tensors_from_buft", alloc_tensors);
    bind(base_, "ggml_backend_buffer_get_base", buffer_base);
    bind(base_, "ggml_backend_tensor_alloc", tensor_alloc);
    bind(base_, "ggml_backend_tensor_set", tensor_set);
    bind(base_, "ggml_backend_tensor_get", tensor_get);
    bind(base_, "ggml_backend_graph_compute", graph_compute);

    void (*log_set)(void (*)(int, const char*, void*), void*) = nullptr;
    bind(base_, "ggml_log_set", log_set);
    log_set([](int, const char*, void*) {}, nullptr);
    void (*load_all)(const char*) = nullptr;
    bind(loader_, "ggml_backend_load_all_from_path", load_all);
    load_all(folder.c_str());
    Device* (*by_name)(const char*) = nullptr;
    bind(loader_, "ggml_backend_dev_by_name", by_name);
    device = by_name("CPU");
    if (device == nullptr) throw Error(ErrorCode::unsupported, folder + ": no CPU backend loads");

    Registry* (*registry_of)(Device*) = nullptr;
    bind(base_, "ggml_backend_dev_backend_reg", registry_of);
    registry_ = registry_of(device);
    bind(base_, "ggml_backend_reg_get_proc_address", address_);
    bind_optional("ggml_backend_set_n_threads", set_threads);
    bind_optional("ggml_threadpool_new", threadpool_new);
    bind_optional("ggml_threadpool_free", threadpool_free);
    bind_optional("ggml_backend_cpu_set_threadpool", set_threadpool);
    bind_optional("ggml_backend_dev_get_extra_bufts", extra_buffer_types);
  }

  Context* (*init)(ContextParameters);
  void (*free)(Context*);
  Tensor* (*new_tensor_2d)(Context*, int type, std::int64_t, std::int64_t);
  Tensor* (*mul_mat)(Context*, Tensor* weights, Tensor* x);
  std::size_t (*tensor_overhead)();
  std::size_t (*graph_overhead)(std::size_t nodes, bool gradients);
  Graph* (*new_graph)(Context*, std::size_t nodes, bool gradients);
  void (*build_forward_expand)(Graph*, Tensor*);
  const char* (*type_name)(int type);
  std::size_t (*row_size)(int type, std::int64_t cols);
  std::int64_t (*block_size)(int type);
  bool (*supports_op)(Device*, const Tensor*);
  std::size_t (*quantize_chunk)(int type, const float*, void*, std::int64_t start,
                                std::int64_t rows, std::int64_t cols, const float* importance);
  const char* (*version)();
  ThreadPoolParameters (*threadpool_params_default)(int threads);
  void (*backend_free)(Backend*);
  void (*buffer_free)(Buffer*);
  Backend* (*dev_init)(Device*, const char*);
  BufferType* (*dev_buffer_type)(Device*);
  const char* (*buft_name)(BufferType*);
  Buffer* (*alloc_tensors)(Context*, BufferType*);
  void* (*buffer_base)(Buffer*);
  int (*tensor_alloc)(Buffer*, Tensor*, void* address);
  void (*tensor_set)(Tensor*, const void*, std::size_t offset, std::size_t bytes);
  void (*tensor_get)(const Tensor*, void*, std::size_t offset, std::size_t bytes);
  int (*graph_compute)(Backend*, Graph*);
  void (*set_threads)(Backend*, int);
  ThreadPool* (*threadpool_new)(ThreadPoolParameters*);
  void (*threadpool_free)(ThreadPool*);
  void (*set_threadpool)(Backend*, ThreadPool*);
  BufferType** (*extra_buffer_types)(Device*);
  Device* device = nullptr;

  /// A type by its name, so that no enumeration is copied. Throws unsupported.
  [[nodiscard]] int type(const std::string& name) const {
    constexpr int kMoreThanAll = 64;
    for (int i = 0; i < kMoreThanAll; ++i) {
      const char* candidate = type_name(i);
      if (candidate != nullptr && name == candidate) return i;
    }
    throw Error(ErrorCode::unsupported, fmt::format("ggml {} has no type {}", version(), name));
  }

 private:
  template <class F>
  static void bind(const SharedLibrary& library, const char* name, F*& out) {
    out = library.function<F>(name);
  }
  /// Functions of the CPU backend are asked for by name: it was loaded by the library itself.
  template <class F>
  void bind_optional(const char* name, F*& out) {
    out = reinterpret_cast<F*>(address_(registry_, name));
    if (out == nullptr) {
      throw Error(ErrorCode::unsupported, fmt::format("ggml's CPU backend has no {}", name));
    }
  }

  SharedLibrary base_;
  SharedLibrary loader_;
  Registry* registry_ = nullptr;
  void* (*address_)(Registry*, const char*) = nullptr;
};

/// A graph of one product has room for this many nodes.
constexpr std::size_t kNodes = 8;

/// A few tensors that live and die together, perhaps in a graph, and their memory.
class Tensors {
 public:
  Tensors() = default;
  explicit Tensors(const Ggml& ggml) : ggml_(&ggml) {
    const std::size_t bytes = kNodes * ggml.tensor_overhead() + ggml.graph_overhead(kNodes, false);
    context_ = ggml.init({bytes, nullptr, true});
    if (context_ == nullptr) throw Error(ErrorCode::unsupported, "ggml_init failed");
  }
  Tensors(Tensors&& other) noexcept { swap(other); }
  Tensors& operator=(Tensors&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Tensors() {
    if (buffer_ != nullptr) ggml_->buffer_free(buffer_);
    if (context_ != nullptr) ggml_->free(context_);
  }
  [[nodiscard]] Context* context() const { return context_; }
  [[nodiscard]] Buffer* buffer() const { return buffer_; }
  void allocate(BufferType* type) {
    buffer_ = ggml_->alloc_tensors(context_, type);
    if (buffer_ == nullptr) throw Error(ErrorCode::unsupported, "ggml could not allocate tensors");
  }

 private:
  void swap(Tensors& other) {
    std::swap(ggml_, other.ggml_);
    std::swap(context_, other.context_);
    std::swap(buffer_, other.buffer_);
  }
  const Ggml* ggml_ = nullptr;
  Context* context_ = nullptr;
  Buffer* buffer_ = nullptr;
};

class GgmlPeer final : public Peer {
 public:
  /// `repacked`: in the buffer type that interleaves rows, which llama.cpp prefers where it can.
  GgmlPeer(std::shared_ptr<Ggml> ggml, const Setup& setup, const std::string& type_name,
           bool repacked)
      : ggml_(std::move(ggml)), n_(as_int(setup.weights.rows)), k_(as_int(setup.weights.cols)) {
    const int type = ggml_->type(type_name);
    BufferType* buffer_type =
        repacked ? repack_buffer_type() : ggml_->dev_buffer_type(ggml_->device);
    buffer_name_ = ggml_->buft_name(buffer_type);
    if (k_ % ggml_->block_size(type) != 0) {
      throw Error(ErrorCode::bad_shape,
                  fmt::format("k = {} is no multiple of {}", k_, ggml_->block_size(type)));
    }

    const std::vector<std::byte> packed = quantize(setup.weights, type, type_name == "nvfp4");
    weight_bytes_ = packed.size();
    while (weights_.size() < setup.copies(weight_bytes_)) {
      Weights copy{Tensors(*ggml_), nullptr};
      copy.tensor = ggml_->new_tensor_2d(copy.tensors.context(), type, k_, n_);
      copy.tensors.allocate(buffer_type);
      if (weights_.empty()) check_support(copy.tensor);
      ggml_->tensor_set(copy.tensor, packed.data(), 0, packed.size());
      weights_.push_back(std::move(copy));
    }

    const int threads = static_cast<int>(setup.threads);
    ThreadPoolParameters parameters = ggml_->threadpool_params_default(threads);
    // By default threads wait for the next graph by spinning for 0.1 s, into the next competitor's
    // time. This much still covers the gaps between calls.
    parameters.poll = 1;
    pool_.reset(ggml_->threadpool_new(&parameters));
    backend_.reset(ggml_->dev_init(ggml_->device, nullptr));
    ggml_->set_threads(backend_.get(), threads);
    ggml_->set_threadpool(backend_.get(), pool_.get());
  }

  std::size_t weight_bytes() const override { return weight_bytes_; }
  std::size_t copies() const override { return weights_.size(); }

  void set_input(MatrixView x) override {
    const auto m = as_int(x.rows);
    BufferType* plain = ggml_->dev_buffer_type(ggml_->device);
    products_.clear();
    input_ = Tensors(*ggml_);
    Tensor* input = ggml_->new_tensor_2d(input_.context(), ggml_->type("f32"), k_, m);
    input_.allocate(plain);
    ggml_->tensor_set(input, x.data, 0, x.rows * x.cols * sizeof(float));
    for (const Weights& weights : weights_) {
      Product product{Tensors(*ggml_), nullptr, nullptr};
      product.y = ggml_->mul_mat(product.tensors.context(), weights.tensor, input);
      product.graph = ggml_->new_graph(product.tensors.context(), kNodes, false);
      ggml_->build_forward_expand(product.graph, product.y);
      if (products_.empty()) {
        product.tensors.allocate(plain);
      } else {  // all results in the same place, as the other competitors have it
        Buffer* first = products_.front().tensors.buffer();
        ggml_->tensor_alloc(first, product.y, ggml_->buffer_base(first));
      }
      products_.push_back(std::move(product));
    }
    y_.resize(x.rows * static_cast<std::size_t>(n_));
  }

  void run(std::size_t copy) override {
    last_ = copy;
    if (ggml_->graph_compute(backend_.get(), products_[copy].graph) != 0) {
      throw Error(ErrorCode::unsupported, "ggml_backend_graph_compute failed");
    }
  }

  std::vector<float> output() override {
    ggml_->tensor_get(products_[last_].y, y_.data(), 0, y_.size() * sizeof(float));
    for (float& value : y_) value /= tensor_scale_;
    return y_;
  }
  std::string detail() const override {
    return fmt::format("ggml {} of llama.cpp v0.5.0, weights in {}, own thread pool (poll 1)",
                       version(), buffer_name_);
  }

 private:
  struct Weights {
    Tensors tensors;
    Tensor* tensor;
  };
  struct Product {
    Tensors tensors;
    Tensor* y;
    Graph* graph;
  };
  struct FreePool {
    std::shared_ptr<Ggml>& ggml;
    void operator()(ThreadPool* pool) const { ggml->threadpool_free(pool); }
  };
  struct FreeBackend {
    std::shared_ptr<Ggml>& ggml;
    void operator()(Backend* backend) const { ggml->backend_free(backend); }
  };

  static std::int64_t as_int(std::size_t value) { return static_cast<std::int64_t>(value); }
  std::string version() const { return ggml_->version(); }

  BufferType* repack_buffer_type() const {
    BufferType** types = ggml_->extra_buffer_types(ggml_->device);
    for (; types != nullptr && *types != nullptr; ++types) {
      if (std::string(ggml_->buft_name(*types)).find("REPACK") != std::string::npos) return *types;
    }
    throw Error(ErrorCode::unsupported, "this CPU backend has no repack buffer type");
  }

  /// Not every type and shape can be repacked, and filling such a tensor crashes.
  void check_support(Tensor* weights) const {
    const Tensors trial(*ggml_);
    Tensor* x = ggml_->new_tensor_2d(trial.context(), ggml_->type("f32"), k_, 1);
    if (!ggml_->supports_op(ggml_->device, ggml_->mul_mat(trial.context(), weights, x))) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{} x {} is not supported in {}", n_, k_, buffer_name_));
    }
  }

  /// NVFP4 keeps one multiplier for the tensor outside of it: without that, scales of small weights
  /// fall into E4M3's subnormals. Undone in output(), where it costs the peer no time.
  std::vector<std::byte> quantize(MatrixView w, int type, bool scale_tensor) {
    std::vector<float> values(w.data, w.data + w.rows * w.cols);
    if (scale_tensor) {
      float largest = 0;
      for (const float value : values) largest = std::max(largest, std::fabs(value));
      constexpr float kLargestScaleTimesLevel = 448.0F * 6.0F;
      tensor_scale_ = kLargestScaleTimesLevel / largest;
      for (float& value : values) value *= tensor_scale_;
    }
    std::vector<std::byte> packed(w.rows * ggml_->row_size(type, k_));
    ggml_->quantize_chunk(type, values.data(), packed.data(), 0, n_, k_, nullptr);
    return packed;
  }

  std::shared_ptr<Ggml> ggml_;
  std::int64_t n_;
  std::int64_t k_;
  std::size_t weight_bytes_ = 0;
  float tensor_scale_ = 1;
  std::string buffer_name_;
  std::vector<Weights> weights_;
  Tensors input_;
  std::vector<Product> products_;
  std::size_t last_ = 0;
  std::vector<float> y_;
  std::unique_ptr<ThreadPool, FreePool> pool_{nullptr, FreePool{ggml_}};
  std::unique_ptr<Backend, FreeBackend> backend_{nullptr, FreeBackend{ggml_}};
};

}  // namespace

void add_ggml(Candidates& candidates, const std::string& node_modules) {
  struct Kind {
    const char* type;
    bool repacked;
  };
  constexpr Kind kKinds[] = {{"q4_0", true},  {"q4_K", true},   {"iq4_nl", true},
                             {"mxfp4", true}, {"nvfp4", false}, {"q8_0", false}};
  try {
    const auto ggml =
        std::make_shared<Ggml>(node_modules + "/@node-llama-cpp/linux-x64/bins/linux-x64");
    for (const Kind kind : kKinds) {
      candidates.found.push_back(
          {fmt::format("llama.cpp {}{}", kind.type, kind.repacked ? " repacked" : ""), "llama.cpp",
           [=](const Setup& setup) {
             return std::make_unique<GgmlPeer>(ggml, setup, kind.type, kind.repacked);
           }});
    }
  } catch (const Error& error) {
    candidates.skipped.push_back({"llama.cpp", error.what()});
  }
}

}  // namespace nybble::peers
