#include "nybble/io/tensor_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/positioned.h"
#include "src/io/safetensors_format.h"
#include "src/io/safetensors_header.h"
#include "src/io/shard_index.h"

namespace nybble {

TensorFile::TensorFile(const std::filesystem::path& path)
    : name_(path.string()),
      // O_NONBLOCK: opening a pipe must not wait for a writer.
      file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (file_.get() < 0) io::fail_errno(name_, "open", errno);
  struct stat status {};
  if (::fstat(file_.get(), &status) != 0) io::fail_errno(name_, "stat", errno);
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::io, name_ + ": cannot read: expected a regular file");
  }
  size_ = static_cast<std::size_t>(status.st_size);
  std::byte first[io::kLengthBytes];
  const std::span<std::byte> begin(first, std::min(size_, io::kLengthBytes));
  io::read_at(file_.get(), 0, begin, name_);
  std::vector<std::byte> text(io::read_header_length(begin, size_, name_));
  io::read_at(file_.get(), io::kLengthBytes, text, name_);
  io::SafetensorsHeader header = io::parse_header(text, size_, name_);
  tensors_ = std::move(header.tensors);
  metadata_ = std::move(header.metadata);
}

const TensorInfo* TensorFile::find(std::string_view name) const {
  const auto found = std::find_if(tensors_.begin(), tensors_.end(),
                                  [&](const TensorInfo& tensor) { return tensor.name == name; });
  return found == tensors_.end() ? nullptr : &*found;
}

void TensorFile::read(const TensorInfo& tensor, std::size_t begin, std::span<std::byte> out) const {
  if (begin > tensor.bytes || out.size() > tensor.bytes - begin) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: tensor {}: bytes {} + {} of {} asked for", name_,
                            io::quote(tensor.name), begin, out.size(), tensor.bytes));
  }
  io::read_at(file_.get(), tensor.offset + begin, out, name_);
}

std::vector<std::byte> TensorFile::read(const TensorInfo& tensor) const {
  std::vector<std::byte> out(tensor.bytes);
  read(tensor, 0, out);
  return out;
}

void TensorFile::will_need(const TensorInfo& tensor) const noexcept {
  // Advice: where it fails, reading is only slower.
  (void)::posix_fadvise(file_.get(), static_cast<off_t>(tensor.offset),
                        static_cast<off_t>(tensor.bytes), POSIX_FADV_WILLNEED);
}

TensorFiles::TensorFiles(const std::filesystem::path& path) : name_(path.string()) {
  const io::ShardIndex shards = io::find_shards(path);
  std::vector<std::vector<std::string_view>> names;
  for (const std::filesystem::path& file : shards.files) files_.emplace_back(file);
  for (const TensorFile& file : files_) {
    names.emplace_back();
    for (const TensorInfo& tensor : file.tensors()) {
      names.back().push_back(tensor.name);
      tensors_.push_back({&file, &tensor});
      index_.emplace(tensor.name, tensors_.back());
    }
  }
  shards.check(names);
}

TensorFiles::Entry TensorFiles::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? Entry{nullptr, nullptr} : found->second;
}

}  // namespace nybble
