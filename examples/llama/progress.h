#pragma once

#include <cstddef>
#include <string>

namespace llama {

/// A line on stderr that shows how far a loop is; nothing where stderr is not a terminal.
class Progress {
 public:
  Progress(std::string label, std::size_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void advance();

 private:
  std::string label_;
  std::size_t total_;
  std::size_t done_ = 0;
  bool visible_;
};

}  // namespace llama
