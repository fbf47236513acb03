#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "nybble/executor.h"

namespace nybble::test {

/// An executor on fresh std::threads, any number of them whatever the machine has. ThreadSanitizer
/// understands it, which it does not OpenMP's runtime.
class ThreadExecutor final : public Executor {
 public:
  explicit ThreadExecutor(std::size_t threads) : threads_(std::max<std::size_t>(threads, 1)) {}

  [[nodiscard]] std::size_t concurrency() const noexcept override { return threads_; }

  void parallel_for(std::size_t count, TaskRef task) override {
    std::atomic<std::size_t> next{0};
    std::mutex mutex;
    std::exception_ptr error;
    const auto work = [&] {
      try {
        for (std::size_t i = next++; i < count; i = next++) task(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
      }
    };
    std::vector<std::jthread> threads;
    for (std::size_t i = 1; i < std::min(threads_, count); ++i) threads.emplace_back(work);
    work();
    threads.clear();
    if (error) std::rethrow_exception(error);
  }

 private:
  std::size_t threads_;
};

}  // namespace nybble::test
