#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace nybble::io {

/// Throws io: `name`: cannot `action`: what errno says.
[[noreturn]] void fail_errno(const std::string& name, const char* action, int reason);

/// Fills `out` from byte `offset` of an open file on. Throws io where the system refuses or the
/// file ends before.
void read_at(int descriptor, std::size_t offset, std::span<std::byte> out, const std::string& name);

/// Writes all of `bytes` at byte `offset`. Throws io.
void write_at(int descriptor, std::size_t offset, std::span<const std::byte> bytes,
              const std::string& name);

/// Writes all of `bytes` where the file is. Throws io.
void append(int descriptor, std::span<const std::byte> bytes, const std::string& name);

}  // namespace nybble::io
