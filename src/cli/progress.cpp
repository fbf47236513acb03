#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace nybble::cli {

Progress::Progress(bool wanted)
    : visible_(wanted && ::isatty(STDERR_FILENO) == 1),
      // https://no-color.org: set and not empty
      coloured_(std::getenv("NO_COLOR") == nullptr || *std::getenv("NO_COLOR") == '\0') {}

Progress::~Progress() {
  if (drawn_) fmt::print(stderr, "\r\033[K");
}

void Progress::show(std::size_t done, std::size_t total, std::size_t bytes,
                    std::size_t total_bytes) {
  constexpr auto kPause = std::chrono::milliseconds(100);
  constexpr std::size_t kWidth = 30;
  const Clock::time_point now = Clock::now();
  if (!visible_ || (drawn_ && now - last_ < kPause && done != total)) return;
  last_ = now;
  drawn_ = true;
  const double share =
      total_bytes == 0 ? 1 : static_cast<double>(bytes) / static_cast<double>(total_bytes);
  const auto filled = static_cast<std::size_t>(share * kWidth);
  const double seconds = std::chrono::duration<double>(now - begun_).count();
  const double rate = static_cast<double>(bytes) / std::max(seconds, 1e-9);
  const double left = share > 0 ? seconds * (1 - share) / share : 0;
  fmt::print(stderr, "\r\033[K{}[{:-<{}}]{} {}/{} tensors  {}/s  ETA {}",
             coloured_ ? "\033[32m" : "", std::string(std::min(filled, kWidth), '#'), kWidth,
             coloured_ ? "\033[0m" : "", done, total, bytes_text(rate), duration_text(left));
  std::fflush(stderr);
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<long>(seconds + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string bytes_text(double bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  std::size_t unit = 0;
  while (bytes >= 1000 && unit + 1 < std::size(kUnits)) {
    bytes /= 1000;
    ++unit;
  }
  if (unit == 0) return fmt::format("{:.0f} B", bytes);
  return fmt::format("{:.{}f} {}", bytes, bytes < 10 ? 2 : bytes < 100 ? 1 : 0, kUnits[unit]);
}

}  // namespace nybble::cli
