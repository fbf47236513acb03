#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/peers/float_copies.h"
#include "bench/peers/peer.h"
#include "bench/peers/shared_library.h"

namespace nybble::peers {

namespace {

/// The few functions that are called, as BLAS declares them (32-bit integers: Debian's build).
struct OpenBlas {
  SharedLibrary library{"libopenblas.so.0"};
  void (*set_num_threads)(int) = library.function<void(int)>("openblas_set_num_threads");
  const char* (*config)() = library.function<const char*()>("openblas_get_config");
  void (*sgemm)(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                const float* a, int lda, const float* b, int ldb, float beta, float* c, int ldc) =
      library.function<void(int, int, int, int, int, int, float, const float*, int, const float*,
                            int, float, float*, int)>("cblas_sgemm");
  void (*sgemv)(int order, int transpose, int m, int n, float alpha, const float* a, int lda,
                const float* x, int incx, float beta, float* y, int incy) =
      library.function<void(int, int, int, int, float, const float*, int, const float*, int, float,
                            float*, int)>("cblas_sgemv");
};

constexpr int kRowMajor = 101;
constexpr int kNoTranspose = 111;
constexpr int kTranspose = 112;

class OpenBlasPeer final : public Peer {
 public:
  OpenBlasPeer(std::shared_ptr<OpenBlas> blas, const Setup& setup)
      : blas_(std::move(blas)),
        weights_(setup),
        n_(static_cast<int>(setup.weights.rows)),
        k_(static_cast<int>(setup.weights.cols)) {
    blas_->set_num_threads(static_cast<int>(setup.threads));
  }

  std::size_t weight_bytes() const override { return weights_.bytes(); }
  std::size_t copies() const override { return weights_.size(); }
  void set_input(MatrixView x) override {
    x_ = x;
    y_.assign(x.rows * static_cast<std::size_t>(n_), 0);
  }
  void run(std::size_t copy) override {
    const float* w = weights_[copy];
    if (x_.rows == 1) {
      blas_->sgemv(kRowMajor, kNoTranspose, n_, k_, 1, w, k_, x_.data, 1, 0, y_.data(), 1);
    } else {
      blas_->sgemm(kRowMajor, kNoTranspose, kTranspose, static_cast<int>(x_.rows), n_, k_, 1,
                   x_.data, k_, w, k_, 0, y_.data(), n_);
    }
  }
  std::vector<float> output() override { return y_; }
  std::string detail() const override { return std::string(blas_->config()) + "; M = 1: sgemv"; }

 private:
  std::shared_ptr<OpenBlas> blas_;
  FloatCopies weights_;
  int n_;
  int k_;
  MatrixView x_;
  std::vector<float> y_;
};

}  // namespace

void add_openblas(Candidates& candidates) {
  const char* name = "openblas f32";
  // Its threads wait for the next call by spinning for 2^26 cycles, into the next competitor's
  // time; 2^22 still cover the gaps between calls.
  setenv("OPENBLAS_THREAD_TIMEOUT", "22", 0);
  try {
    candidates.found.push_back(
        {name, "OpenBLAS", [blas = std::make_shared<OpenBlas>()](const Setup& setup) {
           return std::make_unique<OpenBlasPeer>(blas, setup);
         }});
  } catch (const Error& error) {
    candidates.skipped.push_back({name, error.what()});
  }
}

}  // namespace nybble::peers
