#pragma once

#include <stdlib.h>

#include <string>

namespace nybble::test {

/// Forces a kernel target for as long as it lives.
class ForcedTarget {
 public:
  explicit ForcedTarget(const std::string& name) {
    if (const char* before = ::getenv("NYBBLE_TARGET")) before_ = before;
    ::setenv("NYBBLE_TARGET", name.c_str(), 1);
  }
  ForcedTarget(const ForcedTarget&) = delete;
  ForcedTarget& operator=(const ForcedTarget&) = delete;
  ~ForcedTarget() {
    if (before_.empty()) {
      ::unsetenv("NYBBLE_TARGET");
    } else {
      ::setenv("NYBBLE_TARGET", before_.c_str(), 1);
    }
  }

 private:
  std::string before_;
};

}  // namespace nybble::test
