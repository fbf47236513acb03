#pragma once

#include <dlfcn.h>

#include <string>

#include "nybble/error.h"

namespace nybble::peers {

/// A library loaded at run time and kept until the program ends: some start threads that outlive
/// the last call.
class SharedLibrary {
 public:
  /// Throws unsupported, with the loader's reason.
  explicit SharedLibrary(const std::string& path)
      : path_(path), handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) throw Error(ErrorCode::unsupported, reason());
  }

  /// A function by name, as the type it is declared with. Throws unsupported.
  template <class F>
  [[nodiscard]] F* function(const char* name) const {
    void* symbol = dlsym(handle_, name);
    if (symbol == nullptr) throw Error(ErrorCode::unsupported, path_ + " has no " + name);
    return reinterpret_cast<F*>(symbol);
  }

 private:
  static std::string reason() {
    const char* message = dlerror();
    return message != nullptr ? message : "dlopen failed";
  }

  std::string path_;
  void* handle_;
};

}  // namespace nybble::peers
