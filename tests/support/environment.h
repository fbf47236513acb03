#pragma once

#include <stdlib.h>

#include <string>

namespace nybble::test {

/// Sets an environment variable for as long as it lives.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name) {
    if (const char* before = ::getenv(name)) before_ = before;
    ::setenv(name, value.c_str(), 1);
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  ~Environment() {
    if (before_.empty()) {
      ::unsetenv(name_);
    } else {
      ::setenv(name_, before_.c_str(), 1);
    }
  }

 private:
  const char* name_;
  std::string before_;
};

/// Forces a kernel target for as long as it lives.
struct ForcedTarget : Environment {
  explicit ForcedTarget(const std::string& name) : Environment("NYBBLE_TARGET", name) {}
};

}  // namespace nybble::test
