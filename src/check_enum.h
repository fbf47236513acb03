#pragma once

#include <fmt/format.h>

#include "nybble/error.h"

namespace nybble {

/// Throws bad_option for an enumeration that holds a number without a name.
template <class Enum>
[[noreturn]] void refuse_enum(Enum value, const char* what) {
  throw Error(ErrorCode::bad_option, fmt::format("{}: {}, expected one of the enumeration's", what,
                                                 static_cast<long long>(value)));
}
/// The same unless `value` is one of 0 to `last`.
template <class Enum>
void check_enum(Enum value, Enum last, const char* what) {
  if (static_cast<unsigned long long>(value) > static_cast<unsigned long long>(last)) {
    refuse_enum(value, what);
  }
}

}  // namespace nybble
