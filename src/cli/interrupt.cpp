#include "interrupt.h"

namespace nybble::cli {

namespace {

// Signal handlers have no argument to reach it by.
std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

}  // namespace

InterruptHandler::InterruptHandler() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted.store(true); };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  ::sigaction(SIGINT, &action, &before_[0]);
  ::sigaction(SIGTERM, &action, &before_[1]);
}

InterruptHandler::~InterruptHandler() {
  ::sigaction(SIGINT, &before_[0], nullptr);
  ::sigaction(SIGTERM, &before_[1], nullptr);
}

const std::atomic<bool>& InterruptHandler::flag() const { return interrupted; }

}  // namespace nybble::cli
