#include "bench/peers/float_copies.h"
#include "bench/peers/peer.h"

#ifdef NYBBLE_PEERS_EIGEN
#include <Eigen/Core>
#include <string>
#include <vector>
#endif

namespace nybble::peers {

#ifdef NYBBLE_PEERS_EIGEN

namespace {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

class EigenPeer final : public Peer {
 public:
  explicit EigenPeer(const Setup& setup)
      : weights_(setup), n_(setup.weights.rows), k_(setup.weights.cols), threads_(setup.threads) {}

  std::size_t weight_bytes() const override { return weights_.bytes(); }
  std::size_t copies() const override { return weights_.size(); }
  void set_input(MatrixView x) override {
    Eigen::setNbThreads(static_cast<int>(threads_));
    x_ = x;
    y_.assign(x.rows * n_, 0);
  }
  void run(std::size_t copy) override {
    const auto m = static_cast<Eigen::Index>(x_.rows);
    const auto n = static_cast<Eigen::Index>(n_);
    const auto k = static_cast<Eigen::Index>(k_);
    const Eigen::Map<const RowMajor> x(x_.data, m, k);
    const Eigen::Map<const RowMajor> w(weights_[copy], n, k);
    Eigen::Map<RowMajor>(y_.data(), m, n).noalias() = x * w.transpose();
  }
  std::vector<float> output() override { return y_; }
  std::string detail() const override {
    return std::string("Eigen ") + std::to_string(EIGEN_WORLD_VERSION) + '.' +
           std::to_string(EIGEN_MAJOR_VERSION) + '.' + std::to_string(EIGEN_MINOR_VERSION) +
           ", compiled for this CPU: " + Eigen::SimdInstructionSetsInUse();
  }

 private:
  FloatCopies weights_;
  std::size_t n_;
  std::size_t k_;
  std::size_t threads_;
  MatrixView x_;
  std::vector<float> y_;
};

}  // namespace

void add_eigen(Candidates& candidates) {
  candidates.found.push_back({"eigen f32", "Eigen", [](const Setup& setup) {
                                return std::make_unique<EigenPeer>(setup);
                              }});
}

#else

void add_eigen(Candidates& candidates) {
  candidates.skipped.push_back({"eigen f32", "Eigen's headers were not found when configuring"});
}

#endif

}  // namespace nybble::peers
