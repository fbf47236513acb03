#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace llama {

Progress::Progress(std::string label, std::size_t total)
    : label_(std::move(label)), total_(total), visible_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (visible_) fmt::print(stderr, "\r\033[K");
}

void Progress::advance() {
  ++done_;
  if (!visible_) return;
  constexpr std::size_t kWidth = 40;
  const std::size_t filled = kWidth * done_ / total_;
  fmt::print(stderr, "\r{} [{:<{}}] {}/{}", label_, std::string(filled, '#'), kWidth, done_,
             total_);
  std::fflush(stderr);
}

}  // namespace llama
