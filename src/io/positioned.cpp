#include "src/io/positioned.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "nybble/error.h"

namespace nybble::io {

void fail_errno(const std::string& name, const char* action, int reason) {
  throw Error(ErrorCode::io, fmt::format("{}: cannot {}: {}", name, action, std::strerror(reason)));
}

void read_at(int descriptor, std::size_t offset, std::span<std::byte> out,
             const std::string& name) {
  while (!out.empty()) {
    const ssize_t got = ::pread(descriptor, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno(name, "read", errno);
    if (got == 0) {
      throw Error(ErrorCode::io,
                  fmt::format("{}: ends at byte {}, expected {} more", name, offset, out.size()));
    }
    offset += static_cast<std::size_t>(got);
    out = out.subspan(static_cast<std::size_t>(got));
  }
}

void write_at(int descriptor, std::size_t offset, std::span<const std::byte> bytes,
              const std::string& name) {
  while (!bytes.empty()) {
    const ssize_t done =
        ::pwrite(descriptor, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail_errno(name, "write", errno);
    offset += static_cast<std::size_t>(done);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
}

void append(int descriptor, std::span<const std::byte> bytes, const std::string& name) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(descriptor, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail_errno(name, "write", errno);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
}

}  // namespace nybble::io
