#pragma once

#include <string>

#include "nybble/error.h"

namespace nybble {

/// What a public object's pointer holds. Throws bad_option, naming the object, where a move took it
/// away.
template <class Pointer>
decltype(auto) owned(const Pointer& pointer, const char* object) {
  if (!pointer) {
    throw Error(ErrorCode::bad_option,
                std::string(object) + ": moved from, expected one that holds something");
  }
  return *pointer;
}

}  // namespace nybble
