// nybble inside an engine: the engine's thread pool, its weights where they lie, memory that it
// allocates beforehand, and a say in which kernels run.
#include <cstddef>
#include <cstdio>
#include <functional>
#include <random>
#include <vector>

#include "nybble/nybble.h"
#include "thread_pool.h"

namespace {

/// All that nybble needs to run on the engine's threads.
class PoolExecutor final : public nybble::Executor {
 public:
  explicit PoolExecutor(ThreadPool& pool) : pool_(pool) {}
  [[nodiscard]] std::size_t concurrency() const noexcept override { return pool_.size(); }
  void parallel_for(std::size_t count, nybble::TaskRef task) override {
    pool_.run(count, std::cref(task));
  }

 private:
  ThreadPool& pool_;
};

}  // namespace

int main() {
  constexpr std::size_t kHidden = 512;
  constexpr std::size_t kBatch = 8;
  ThreadPool pool(2);
  PoolExecutor executor(pool);

  // Q, K and V side by side in one buffer, [in][3 * in]: K is a view with a stride, no copy.
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> fused(kHidden * 3 * kHidden);
  for (float& value : fused) value = normal(random);
  std::vector<float> x(kBatch * kHidden);
  for (float& value : x) value = normal(random);
  const nybble::MatrixView key(fused.data() + kHidden, kHidden, kHidden, 3 * kHidden);

  const auto weight = nybble::quantize_rtn(key, nybble::parse_format("nvfp4:search=4over6"),
                                           executor, {.tensor_name = "layers.0.key"});
  const nybble::QuantizedLinear linear(weight, {}, executor);
  std::printf("%s", linear.explain().c_str());

  // Load time: the most that any step will need. Run time: no checks, no allocation, noexcept.
  nybble::Workspace workspace;
  workspace.reserve(linear.workspace_bytes(kBatch, executor.concurrency()));
  std::vector<float> y(kBatch * kHidden);
  for (std::size_t batch = 1; batch <= kBatch; batch *= 2) {
    linear.run_unchecked({x.data(), batch, kHidden}, {y.data(), batch, kHidden}, workspace,
                         executor);
  }

  // Any target by name, on any number of threads: a8 is the same bit for bit.
  bool good = true;
  nybble::SerialExecutor serial;
  for (const nybble::TargetInfo& target : nybble::list_targets()) {
    if (!target.supported) continue;
    nybble::LinearOptions options;
    options.target = target.name;
    const nybble::QuantizedLinear forced(weight, options, serial);
    std::vector<float> again(y.size());
    forced.run({x.data(), kBatch, kHidden}, {again.data(), kBatch, kHidden}, workspace, serial);
    std::printf("%-32s %s\n", forced.kernel().c_str(), again == y ? "same bits" : "DIFFERS");
    good = good && again == y;
  }

  // What cannot work says so: one line with the value found and what was expected.
  try {
    nybble::select_target("avx1024");
    good = false;
  } catch (const nybble::Error& error) {
    std::printf("error as expected: %s\n", error.what());
  }
  return good ? 0 : 1;
}
