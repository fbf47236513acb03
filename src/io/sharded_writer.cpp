#include "nybble/io/sharded_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "nybble/error.h"
#include "nybble/io/atomic_file.h"
#include "src/io/checked.h"
#include "src/io/positioned.h"
#include "src/io/safetensors_header.h"
#include "src/io/shard_index.h"

namespace nybble {

namespace {

constexpr std::size_t kCopyBytes = std::size_t{1} << 20;

std::string index_text(std::span<const TensorToWrite> tensors, const ShardPlan& plan) {
  std::size_t total = 0;
  nlohmann::ordered_json weight_map = nlohmann::ordered_json::object();
  std::map<std::string_view, std::size_t> by_name;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    total += plan.places[i].bytes;
    by_name.emplace(tensors[i].name, i);
  }
  for (const auto& [name, i] : by_name) {
    weight_map[std::string(name)] = plan.files[plan.places[i].file].name;
  }
  nlohmann::ordered_json index;
  index["metadata"]["total_size"] = total;
  index["weight_map"] = std::move(weight_map);
  return index.dump(2) + "\n";
}

/// The run of tensors of one file.
void add_file(std::span<const TensorToWrite> tensors, std::map<std::string, std::string> metadata,
              ShardPlan& plan) {
  const std::string name = io::kSingleName;  // in errors: which shard it is does not matter
  std::vector<TensorInfo> infos;
  for (const TensorToWrite& tensor : tensors) {
    infos.push_back({tensor.name, tensor.type, tensor.shape, 0,
                     *io::stored_bytes(tensor.type, tensor.shape, tensor.bytes), tensor.dtype});
    for (const auto& [key, value] : tensor.metadata) {
      if (metadata.emplace(key, value).first->second == value) continue;
      throw Error(ErrorCode::bad_option,
                  fmt::format("{}: metadata {} is {} and {}, expected one value", name,
                              io::quote(key), io::quote(metadata.at(key)), io::quote(value)));
    }
  }
  ShardPlan::File file;
  file.header = io::write_header(infos, metadata, name);
  file.bytes = file.header.size();
  for (const TensorInfo& info : infos) {
    plan.places.push_back({plan.files.size(), info.offset, info.bytes});
    file.bytes += info.bytes;
  }
  plan.files.push_back(std::move(file));
}

/// Whether `path` is a file of that size which begins with that header.
bool is_file(const std::string& path, const ShardPlan::File& file) {
  const FileDescriptor opened(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (opened.get() < 0 || ::fstat(opened.get(), &status) != 0 || !S_ISREG(status.st_mode) ||
      static_cast<std::size_t>(status.st_size) != file.bytes) {
    return false;
  }
  std::string header(file.header.size(), '\0');
  io::read_at(opened.get(), 0, std::as_writable_bytes(std::span(header)), path);
  return header == file.header;
}

void rename_file(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) io::fail_errno(to, "rename to", errno);
}

std::filesystem::path make_work_folder(const std::filesystem::path& folder) {
  std::string pattern = (folder / ".nybble-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) io::fail_errno(pattern, "create", errno);
  return pattern;
}

}  // namespace

ShardPlan plan_shards(std::span<const TensorToWrite> tensors,
                      const std::map<std::string, std::string>& metadata, std::size_t shard_bytes) {
  if (tensors.empty()) throw Error(ErrorCode::bad_option, "a checkpoint without a tensor");
  ShardPlan plan;
  std::set<std::string_view> names;
  std::size_t begin = 0;
  std::size_t used = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorToWrite& tensor = tensors[i];
    io::check_tensor_name(tensor.name, io::kSingleName);
    if (!names.insert(tensor.name).second) {
      throw Error(
          ErrorCode::bad_option,
          fmt::format("tensor {} is there twice, expected each name once", io::quote(tensor.name)));
    }
    const auto bytes = io::stored_bytes(tensor.type, tensor.shape, tensor.bytes);
    if (!bytes) {
      throw Error(ErrorCode::bad_shape,
                  fmt::format("tensor {}: shape {} of {} is not a whole number of bytes below 2^64",
                              io::quote(tensor.name), io::shape_text(tensor.shape),
                              tensor_type_name(tensor.type)));
    }
    if (i != begin && (*bytes > shard_bytes || used > shard_bytes - *bytes)) {
      add_file(tensors.subspan(begin, i - begin), metadata, plan);
      begin = i;
      used = 0;
    }
    used += *bytes;
  }
  add_file(tensors.subspan(begin), metadata, plan);
  if (plan.files.size() == 1) {
    plan.files[0].name = io::kSingleName;
    return plan;
  }
  for (std::size_t i = 0; i < plan.files.size(); ++i) {
    plan.files[i].name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, plan.files.size());
  }
  plan.index = index_text(tensors, plan);
  return plan;
}

bool has_shards(const std::filesystem::path& folder, const ShardPlan& plan) {
  const bool indexed = std::filesystem::exists(folder / ShardPlan::kIndexName);
  return indexed == !plan.index.empty() &&
         std::all_of(plan.files.begin(), plan.files.end(), [&](const ShardPlan::File& file) {
           return is_file((folder / file.name).string(), file);
         });
}

bool has_checkpoint(const std::filesystem::path& folder) {
  if (!std::filesystem::exists(folder)) return false;
  const std::filesystem::directory_iterator files(folder);
  return std::any_of(begin(files), end(files), [](const auto& entry) {
    return entry.path().extension() == ".safetensors" ||
           entry.path().filename() == ShardPlan::kIndexName;
  });
}

ShardedWriter::ShardedWriter(const std::filesystem::path& folder, ShardPlan plan)
    : folder_(folder), plan_(std::move(plan)), own_work_(true) {
  std::filesystem::create_directories(folder);
  if (has_checkpoint(folder)) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: holds a checkpoint already, expected a folder without one",
                            folder.string()));
  }
  work_ = make_work_folder(folder);
  try {
    for (std::size_t i = 0; i < plan_.files.size(); ++i) open_file(i);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove_all(work_, ignored);
    throw;
  }
  written_.resize(plan_.places.size());
}

ShardedWriter::ShardedWriter(const std::filesystem::path& folder, ShardPlan plan,
                             const std::filesystem::path& work)
    : folder_(folder), work_(work), plan_(std::move(plan)), own_work_(false) {
  std::filesystem::create_directories(folder);
  std::filesystem::create_directories(work);
  for (std::size_t i = 0; i < plan_.files.size(); ++i) open_file(i);
}

ShardedWriter::~ShardedWriter() {
  std::error_code ignored;
  if (own_work_) std::filesystem::remove_all(work_, ignored);
}

void ShardedWriter::open_file(std::size_t index) {
  const ShardPlan::File& file = plan_.files[index];
  const std::string path = (work_ / file.name).string();
  const std::string finished = (folder_ / file.name).string();
  // A process may have died between two renames.
  if (!own_work_ && !std::filesystem::exists(path) && is_file(finished, file)) {
    files_.push_back({FileDescriptor(::open(finished.c_str(), O_RDONLY | O_CLOEXEC)), finished});
    return;
  }
  const bool there = !own_work_ && is_file(path, file);
  found_ = found_ && there;
  const int flags = O_RDWR | O_CREAT | O_CLOEXEC | (there ? 0 : O_TRUNC);
  files_.push_back({FileDescriptor(::open(path.c_str(), flags, 0666)), path});
  const int descriptor = files_.back().file.get();
  if (descriptor < 0) io::fail_errno(path, "write", errno);
  if (there) return;
  if (::ftruncate(descriptor, static_cast<off_t>(file.bytes)) != 0) {
    io::fail_errno(path, "make as large as it has to be", errno);
  }
  io::write_at(descriptor, 0, std::as_bytes(std::span(file.header)), path);
}

const ShardPlan::Place& ShardedWriter::place(std::size_t tensor, std::size_t begin,
                                             std::size_t count) const {
  const ShardPlan::Place& to = plan_.places.at(tensor);
  if (begin > to.bytes || count > to.bytes - begin) {
    throw Error(ErrorCode::bad_option, fmt::format("{}: bytes {} + {} of a tensor of {}",
                                                   files_[to.file].path, begin, count, to.bytes));
  }
  return to;
}

void ShardedWriter::write(std::size_t tensor, std::size_t begin, std::span<const std::byte> bytes) {
  const ShardPlan::Place& to = place(tensor, begin, bytes.size());
  const File& file = files_[to.file];
  io::write_at(file.file.get(), to.offset + begin, bytes, file.path);
  if (own_work_) written_[tensor] += bytes.size();
}

void ShardedWriter::read(std::size_t tensor, std::size_t begin, std::span<std::byte> out) const {
  const ShardPlan::Place& from = place(tensor, begin, out.size());
  const File& file = files_[from.file];
  io::read_at(file.file.get(), from.offset + begin, out, file.path);
}

void ShardedWriter::begin_flush(std::size_t tensor) noexcept {
#ifdef SYNC_FILE_RANGE_WRITE
  const ShardPlan::Place& at = plan_.places[tensor];
  // Advice: where it fails, flush() does it all.
  (void)::sync_file_range(files_[at.file].file.get(), static_cast<off_t>(at.offset),
                          static_cast<off_t>(at.bytes), SYNC_FILE_RANGE_WRITE);
#else
  (void)tensor;
#endif
}

void ShardedWriter::flush() {
  for (const File& file : files_) {
    if (::fsync(file.file.get()) != 0) io::fail_errno(file.path, "flush", errno);
  }
}

void ShardedWriter::finish() {
  for (std::size_t i = 0; i < written_.size(); ++i) {
    if (written_[i] == plan_.places[i].bytes) continue;
    throw Error(
        ErrorCode::bad_option,
        fmt::format("{}: {} of the {} bytes of its tensor {} were written",
                    plan_.files[plan_.places[i].file].name, written_[i], plan_.places[i].bytes, i));
  }
  flush();
  for (std::size_t i = 0; i < files_.size(); ++i) {
    const std::string target = (folder_ / plan_.files[i].name).string();
    if (files_[i].path == target) continue;
    rename_file(files_[i].path, target);
    files_[i].path = target;
  }
  if (plan_.index.empty()) return;
  AtomicFile index(work_ / ShardPlan::kIndexName);
  index.write(std::as_bytes(std::span(plan_.index)));
  index.commit();
  rename_file(index.target().string(), (folder_ / ShardPlan::kIndexName).string());
}

void copy_tensor(const TensorFile& file, const TensorInfo& from, ShardedWriter& to,
                 std::size_t tensor) {
  std::vector<std::byte> buffer(std::min(kCopyBytes, from.bytes));
  for (std::size_t begin = 0; begin < from.bytes; begin += kCopyBytes) {
    const std::span<std::byte> piece(buffer.data(), std::min(kCopyBytes, from.bytes - begin));
    file.read(from, begin, piece);
    to.write(tensor, begin, piece);
  }
}

}  // namespace nybble
