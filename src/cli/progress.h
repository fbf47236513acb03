#pragma once

#include <chrono>
#include <cstddef>
#include <string>

namespace nybble::cli {

/// A line on stderr that says how far a run is, how fast, and when it will be done. Nothing where
/// stderr is not a terminal; without colour where NO_COLOR is set.
class Progress {
 public:
  explicit Progress(bool wanted);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(std::size_t done, std::size_t total, std::size_t bytes, std::size_t total_bytes);

 private:
  using Clock = std::chrono::steady_clock;
  bool visible_;
  bool coloured_;
  bool drawn_ = false;
  Clock::time_point begun_ = Clock::now();
  Clock::time_point last_{};
};

/// "12 s", "3:07" or "1:02:03".
std::string duration_text(double seconds);

/// "812 B", "5.00 GB": powers of 1000.
std::string bytes_text(double bytes);

}  // namespace nybble::cli
