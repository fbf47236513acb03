#include "nybble/io/file_descriptor.h"

#include <unistd.h>

namespace nybble {

FileDescriptor::~FileDescriptor() {
  if (value_ >= 0) ::close(value_);
}

}  // namespace nybble
