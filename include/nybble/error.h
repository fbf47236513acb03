#pragma once

#include <stdexcept>
#include <string>

namespace nybble {

/// What went wrong, for callers that branch on it (the C API returns these numbers).
enum class ErrorCode : int {
  bad_option = 1,   ///< an option or format string that is not understood
  bad_shape = 2,    ///< rows, columns or sizes that do not fit together
  bad_value = 3,    ///< NaN or Inf where the format has no answer for it
  bad_file = 4,     ///< a file that is truncated, contradicts itself or is of another kind
  io = 5,           ///< the operating system refused (missing file, full disk)
  unsupported = 6,  ///< valid, but this build or this CPU cannot do it
  cancelled = 7,    ///< the caller asked for it to stop
};

/// The one exception nybble throws. The message names the tensor or option, the value found and
/// what was expected, on one line.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  [[nodiscard]] ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace nybble
