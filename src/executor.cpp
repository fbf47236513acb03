#include "nybble/executor.h"

#include <exception>

#include "nybble/error.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace nybble {

#ifdef _OPENMP
namespace {

class OpenMpExecutor final : public Executor {
 public:
  explicit OpenMpExecutor(std::size_t threads)
      : threads_(threads != 0 ? threads : static_cast<std::size_t>(omp_get_max_threads())) {}
  [[nodiscard]] std::size_t concurrency() const noexcept override { return threads_; }
  void parallel_for(std::size_t count, TaskRef task) override {
    if (threads_ == 1 || count <= 1) {
      for (std::size_t i = 0; i < count; ++i) task(i);
      return;
    }
    // An exception must not leave the region it was thrown in: the first is kept and thrown after.
    std::exception_ptr first;
#pragma omp parallel for schedule(dynamic, 1) num_threads(static_cast <int>(threads_))
    for (std::size_t i = 0; i < count; ++i) {
      try {
        task(i);
      } catch (...) {
#pragma omp critical(nybble_executor)
        if (!first) first = std::current_exception();
      }
    }
    if (first) std::rethrow_exception(first);
  }

 private:
  std::size_t threads_;
};

}  // namespace

std::unique_ptr<Executor> make_openmp_executor(std::size_t threads) {
  return std::make_unique<OpenMpExecutor>(threads);
}
#else
std::unique_ptr<Executor> make_openmp_executor(std::size_t threads) {
  if (threads > 1) {
    throw Error(ErrorCode::unsupported,
                "this nybble was built without OpenMP: pass an executor "
                "of your own for more than one thread");
  }
  return std::make_unique<SerialExecutor>();
}
#endif

}  // namespace nybble
