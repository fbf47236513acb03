#include "nybble/io/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "nybble/error.h"
#include "src/io/positioned.h"

namespace nybble {
namespace {

constexpr int kAttempts = 100;

[[noreturn]] void fail(const std::filesystem::path& path, const char* action, int reason) {
  io::fail_errno(path.string(), action, reason);
}

std::filesystem::path unique_sibling(const std::filesystem::path& target) {
  static std::atomic<unsigned> counter = 0;
  std::filesystem::path result = target;
  result += fmt::format(".tmp-{}-{}", ::getpid(), counter.fetch_add(1));
  return result;
}

}  // namespace

AtomicFile::AtomicFile(const std::filesystem::path& target) : target_(target) {
  std::error_code ignored;  // a target that is not there is the usual case
  if (std::filesystem::exists(target, ignored)) {
    if (!std::filesystem::is_regular_file(target, ignored)) {
      throw Error(ErrorCode::io,
                  fmt::format("{}: cannot write: expected a regular file", target.string()));
    }
    // Renaming over a link would replace the link.
    const std::filesystem::path resolved = std::filesystem::canonical(target, ignored);
    if (!ignored) target_ = resolved;
  }
  // A process that was killed may have left a temporary of the same name behind.
  for (int attempt = 0; attempt < kAttempts && descriptor_ < 0; ++attempt) {
    temporary_ = unique_sibling(target_);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && errno != EEXIST) break;
  }
  if (descriptor_ < 0) fail(target, "write", errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  io::append(descriptor_, bytes, target_.string());
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) fail(target_, "flush", errno);
  if (::close(std::exchange(descriptor_, -1)) != 0) fail(target_, "close", errno);
  if (std::rename(temporary_.c_str(), target_.c_str()) != 0) fail(target_, "rename to", errno);
  temporary_.clear();
}

}  // namespace nybble
