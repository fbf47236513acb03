#pragma once

#include <atomic>
#include <csignal>

namespace nybble::cli {

/// While it lives, SIGINT and SIGTERM only set a flag; a second one ends the process at once.
class InterruptHandler {
 public:
  InterruptHandler();
  InterruptHandler(const InterruptHandler&) = delete;
  InterruptHandler& operator=(const InterruptHandler&) = delete;
  ~InterruptHandler();

  /// Set by a signal; of the whole process.
  [[nodiscard]] const std::atomic<bool>& flag() const;

 private:
  struct sigaction before_[2]{};
};

}  // namespace nybble::cli
