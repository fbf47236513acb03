#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/peers/onnx_model.h"
#include "bench/peers/peer.h"
#include "bench/peers/shared_library.h"

namespace nybble::peers {

namespace {

/// ONNX Runtime's C interface is a table of functions that only grows, so their places are facts
/// that hold for every later version; no header is needed. Objects are opaque pointers.
enum Place : std::size_t {
  kGetErrorMessage = 2,
  kCreateSessionFromArray = 8,
  kRun = 9,
  kCreateSessionOptions = 10,
  kSetSessionExecutionMode = 13,
  kSetSessionGraphOptimizationLevel = 23,
  kCreateTensorWithDataAsOrtValue = 49,
  kCreateCpuMemoryInfo = 69,
  kReleaseEnv = 92,
  kReleaseStatus = 93,
  kReleaseMemoryInfo = 94,
  kReleaseSession = 95,
  kReleaseValue = 96,
  kReleaseSessionOptions = 100,
  kCreateEnvWithGlobalThreadPools = 119,
  kDisablePerSessionThreads = 120,
  kCreateThreadingOptions = 121,
  kReleaseThreadingOptions = 122,
  kSetGlobalIntraOpNumThreads = 147,
};
constexpr std::uint32_t kInterfaceVersion = 17;
constexpr int kWarning = 2;
constexpr int kSequential = 0;
constexpr int kAllOptimizations = 99;
constexpr int kDeviceAllocator = 0;
constexpr int kDefaultMemory = 0;
constexpr int kFloatTensor = 1;

class Interface {
 public:
  explicit Interface(const std::string& path) : library_(path) {
    struct Base {
      const void* const* (*table)(std::uint32_t version);
      const char* (*version)();
    };
    const Base* base = library_.function<const Base*()>("OrtGetApiBase")();
    table_ = base->table(kInterfaceVersion);
    version_ = base->version();
    if (table_ == nullptr) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{}: interface version {} is not offered", path, kInterfaceVersion));
    }
  }

  /// Calls a function that returns a status; throws what that says.
  template <class... Arguments>
  void call(Place place, Arguments... arguments) const {
    void* status = reinterpret_cast<void* (*)(Arguments...)>(at(place))(arguments...);
    if (status == nullptr) return;
    const auto message = reinterpret_cast<const char* (*)(const void*)>(at(kGetErrorMessage));
    const std::string text = message(status);
    release(kReleaseStatus, status);
    throw Error(ErrorCode::unsupported, "onnxruntime: " + text.substr(0, text.find('\n')));
  }
  void release(Place place, void* object) const {
    reinterpret_cast<void (*)(void*)>(at(place))(object);
  }
  [[nodiscard]] const char* version() const { return version_; }

 private:
  void* at(Place place) const { return const_cast<void*>(table_[place]); }

  SharedLibrary library_;
  const void* const* table_ = nullptr;
  const char* version_ = nullptr;
};

/// An object of the library and the way to release it.
class Object {
 public:
  Object() = default;
  /// Made by a function whose last argument is where the object goes.
  template <class... Arguments>
  Object(const Interface& interface, Place release, Place create, Arguments... arguments)
      : interface_(&interface), release_(release) {
    interface.call(create, arguments..., &object_);
  }
  Object(Object&& other) noexcept { swap(other); }
  Object& operator=(Object&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Object() {
    if (object_ != nullptr) interface_->release(release_, object_);
  }
  [[nodiscard]] void* get() const { return object_; }

 private:
  void swap(Object& other) {
    std::swap(interface_, other.interface_);
    std::swap(release_, other.release_);
    std::swap(object_, other.object_);
  }
  const Interface* interface_ = nullptr;
  Place release_ = kReleaseValue;
  void* object_ = nullptr;
};

/// What sessions share: the library, and one pool of threads for all, as if they were one model.
/// With a pool for each, threads that still spin for the last session would slow the next.
struct Runtime {
  Runtime(std::shared_ptr<Interface> library, std::size_t threads) : interface(std::move(library)) {
    const Interface& ort = *interface;
    const Object threading(ort, kReleaseThreadingOptions, kCreateThreadingOptions);
    ort.call(kSetGlobalIntraOpNumThreads, threading.get(), static_cast<int>(threads));
    environment = Object(ort, kReleaseEnv, kCreateEnvWithGlobalThreadPools, kWarning,
                         static_cast<const char*>("peers"), threading.get());
    options = Object(ort, kReleaseSessionOptions, kCreateSessionOptions);
    ort.call(kDisablePerSessionThreads, options.get());
    ort.call(kSetSessionExecutionMode, options.get(), kSequential);
    ort.call(kSetSessionGraphOptimizationLevel, options.get(), kAllOptimizations);
    memory =
        Object(ort, kReleaseMemoryInfo, kCreateCpuMemoryInfo, kDeviceAllocator, kDefaultMemory);
  }
  std::shared_ptr<Interface> interface;
  Object environment, options, memory;
};

/// The library allows one environment at a time, so those who want the same share it.
std::shared_ptr<Runtime> shared_runtime(const std::shared_ptr<Interface>& interface,
                                        std::size_t threads) {
  static std::weak_ptr<Runtime> existing;
  std::shared_ptr<Runtime> out = existing.lock();
  if (!out) existing = out = std::make_shared<Runtime>(interface, threads);
  return out;
}

class OnnxRuntimePeer final : public Peer {
 public:
  OnnxRuntimePeer(std::shared_ptr<Runtime> runtime, const Setup& setup, std::size_t block,
                  int accuracy_level)
      : runtime_(std::move(runtime)), n_(setup.weights.rows), k_(setup.weights.cols) {
    if (k_ % block != 0) {
      throw Error(ErrorCode::bad_shape, fmt::format("k = {} is no multiple of {}", k_, block));
    }
    quantize(setup.weights, block);
    weight_bytes_ = codes_.size() + scales_.size() * sizeof(float);
    const std::string model = make_onnx_model({codes_, scales_, n_, k_, block}, accuracy_level);
    while (sessions_.size() < setup.copies(weight_bytes_)) {
      sessions_.emplace_back(*runtime_->interface, kReleaseSession, kCreateSessionFromArray,
                             runtime_->environment.get(), static_cast<const void*>(model.data()),
                             model.size(), runtime_->options.get());
    }
  }

  std::size_t weight_bytes() const override { return weight_bytes_; }
  std::size_t copies() const override { return sessions_.size(); }
  void set_input(MatrixView x) override {
    y_data_.assign(x.rows * n_, 0);
    x_ = tensor(const_cast<float*>(x.data), x.rows, k_);  // inputs are only read
    y_ = tensor(y_data_.data(), x.rows, n_);
  }
  void run(std::size_t copy) override {
    const char* x_name = "x";
    const char* y_name = "y";
    void* x = x_.get();
    void* y = y_.get();
    const void* run_options = nullptr;
    runtime_->interface->call(kRun, sessions_[copy].get(), run_options, &x_name, &x, std::size_t{1},
                              &y_name, std::size_t{1}, &y);
  }
  std::vector<float> output() override { return y_data_; }
  std::string detail() const override {
    return fmt::format(
        "ONNX Runtime {}, C interface, one thread pool for all sessions (spinning as by default), "
        "sequential execution, all graph optimizations",
        runtime_->interface->version());
  }

 private:
  /// The value of largest magnitude of a block becomes -8, so that no level is lost.
  void quantize(MatrixView w, std::size_t block) {
    for (std::size_t n = 0; n < w.rows; ++n) {
      for (std::size_t k = 0; k < w.cols; k += block) {
        const float* values = w.row(n) + k;
        const float largest = *std::max_element(
            values, values + block, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
        const float scale = largest / -8;
        const auto code = [&](std::size_t i) {
          const float level = scale == 0 ? 0 : std::nearbyint(values[i] / scale);
          return static_cast<unsigned>(std::clamp(level + 8, 0.0F, 15.0F));
        };
        scales_.push_back(scale);
        for (std::size_t i = 0; i < block; i += 2) {
          codes_.push_back(static_cast<std::uint8_t>(code(i) | code(i + 1) << 4));
        }
      }
    }
  }

  Object tensor(float* data, std::size_t rows, std::size_t cols) const {
    const std::int64_t shape[] = {static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols)};
    return {*runtime_->interface,
            kReleaseValue,
            kCreateTensorWithDataAsOrtValue,
            runtime_->memory.get(),
            static_cast<void*>(data),
            rows * cols * sizeof(float),
            static_cast<const std::int64_t*>(shape),
            std::size_t{2},
            kFloatTensor};
  }

  std::shared_ptr<Runtime> runtime_;
  std::size_t n_;
  std::size_t k_;
  std::vector<std::uint8_t> codes_;
  std::vector<float> scales_;
  std::size_t weight_bytes_ = 0;
  std::vector<Object> sessions_;
  std::vector<float> y_data_;
  Object x_, y_;
};

}  // namespace

void add_onnxruntime(Candidates& candidates, const std::string& node_modules) {
  const std::string path =
      node_modules + "/onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime.so.1";
  try {
    const auto interface = std::make_shared<Interface>(path);
    for (const int accuracy_level : {4, 1, 0}) {
      for (const std::size_t block : {std::size_t{32}, std::size_t{128}}) {
        candidates.found.push_back({fmt::format("onnxruntime int4:{} acc{}", block, accuracy_level),
                                    "ONNX Runtime", [=](const Setup& setup) {
                                      return std::make_unique<OnnxRuntimePeer>(
                                          shared_runtime(interface, setup.threads), setup, block,
                                          accuracy_level);
                                    }});
      }
    }
  } catch (const Error& error) {
    candidates.skipped.push_back({"onnxruntime", error.what()});
  }
}

}  // namespace nybble::peers
