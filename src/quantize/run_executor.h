#pragma once

#include <atomic>
#include <functional>
#include <utility>

#include "nybble/error.h"
#include "nybble/executor.h"
#include "src/concurrency.h"

namespace nybble {

/// Another executor that stops when it is told to, also in the middle of a layer, and that does
/// something else beside the next loop: writing a layer while the next one is quantized.
class RunExecutor final : public Executor {
 public:
  RunExecutor(Executor& inner, const std::atomic<bool>* cancel) : inner_(inner), cancel_(cancel) {}
  [[nodiscard]] std::size_t concurrency() const noexcept override { return concurrency_of(inner_); }
  void parallel_for(std::size_t count, TaskRef task) override {
    const std::function<void()> beside = std::exchange(beside_, nullptr);
    const std::size_t extra = beside ? 1 : 0;
    const auto checked = [&](std::size_t i) {
      check();
      i < extra ? beside() : task(i - extra);
    };
    inner_.parallel_for(count + extra, checked);
  }
  void check() const {
    if (cancel_ != nullptr && cancel_->load()) throw Error(ErrorCode::cancelled, "interrupted");
  }
  /// One at a time.
  void do_beside_next(std::function<void()> work) { beside_ = std::move(work); }
  /// Returns when no such work is left.
  void finish_beside() {
    if (const std::function<void()> work = std::exchange(beside_, nullptr)) work();
  }

 private:
  Executor& inner_;
  const std::atomic<bool>* cancel_;
  std::function<void()> beside_;
};

}  // namespace nybble
