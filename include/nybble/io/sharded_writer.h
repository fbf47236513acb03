#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "nybble/io/file_descriptor.h"
#include "nybble/io/tensor_file.h"
#include "nybble/io/tensor_info.h"

namespace nybble {

/// A tensor that a checkpoint is going to hold.
struct TensorToWrite {
  std::string name;
  TensorType type = TensorType::u8;
  std::vector<std::size_t> shape;
  /// For __metadata__ of the file that it is in.
  std::map<std::string, std::string> metadata = {};
  std::string dtype = {};  ///< of an opaque type, as in TensorInfo
  std::size_t bytes = 0;   ///< of an opaque type, whose shape does not say it
};

/// Where every byte of a checkpoint goes: model.safetensors, or model-00001-of-0000N.safetensors
/// and model.safetensors.index.json.
struct ShardPlan {
  struct File {
    std::string name;
    std::string header;     ///< what it begins with
    std::size_t bytes = 0;  ///< of the whole file
  };
  struct Place {
    std::size_t file = 0;
    std::size_t offset = 0;  ///< of the first byte in that file
    std::size_t bytes = 0;
  };
  std::vector<File> files;
  std::vector<Place> places;  ///< one a tensor, in the order given
  std::string index;          ///< the text of the index; empty where there is one file

  static constexpr const char* kIndexName = "model.safetensors.index.json";
};

/// Tensors in their order, a new file where the data of one would exceed `shard_bytes` (a tensor
/// that is larger has one of its own). `metadata` is for every file. Throws bad_option for a name
/// that is there twice, reserved or not UTF-8, for metadata of one file that contradicts itself,
/// and without any tensor; bad_shape for a size that is no whole number of bytes.
ShardPlan plan_shards(std::span<const TensorToWrite> tensors,
                      const std::map<std::string, std::string>& metadata, std::size_t shard_bytes);

/// Whether `folder` has all files of the plan, of the right sizes and with the right headers.
bool has_shards(const std::filesystem::path& folder, const ShardPlan& plan);

/// Whether there are tensors or an index of them in `folder` (which may be missing).
bool has_checkpoint(const std::filesystem::path& folder);

/// Writes the files of a ShardPlan: each tensor when it is there, whole or in pieces, in any order
/// and in memory that does not grow with it. Nothing appears in the folder before finish(), which
/// renames the files into it, the index last. The same plan and bytes give the same files.
class ShardedWriter {
 public:
  /// Creates the files in a hidden folder inside `folder`, which is created, too, and removed by
  /// the destructor. Throws io; bad_option where `folder` has other .safetensors files already.
  ShardedWriter(const std::filesystem::path& folder, ShardPlan plan);
  /// The files are created in `work`, on the same file system, and stay there until finish(): a
  /// later ShardedWriter of the same plan, in another process, too, finds what was written.
  ShardedWriter(const std::filesystem::path& folder, ShardPlan plan,
                const std::filesystem::path& work);
  ShardedWriter(const ShardedWriter&) = delete;
  ShardedWriter& operator=(const ShardedWriter&) = delete;
  ~ShardedWriter();

  [[nodiscard]] const ShardPlan& plan() const noexcept { return plan_; }
  /// Whether every file was there already, of the right size and with the right header.
  [[nodiscard]] bool found() const noexcept { return found_; }

  /// Bytes of a tensor from its byte `begin` on. Throws bad_option beyond its end; io.
  void write(std::size_t tensor, std::size_t begin, std::span<const std::byte> bytes);
  /// Fills `out` with what was written. Throws as write().
  void read(std::size_t tensor, std::size_t begin, std::span<std::byte> out) const;
  /// Asks the system to bring a tensor to the disk, and returns at once: flush() has less to wait
  /// for.
  void begin_flush(std::size_t tensor) noexcept;
  /// Brings what was written to the disk. Throws io.
  void flush();
  /// flush(), then renames. Calling it again, or from another process where one died in it, ends
  /// the same. Throws io; bad_option where (without `work`) a tensor has not got all its bytes.
  void finish();

 private:
  struct File {
    FileDescriptor file;
    std::string path;
  };
  void open_file(std::size_t index);
  /// Throws bad_option where [begin, begin + count) is not of the tensor.
  const ShardPlan::Place& place(std::size_t tensor, std::size_t begin, std::size_t count) const;

  std::filesystem::path folder_, work_;
  ShardPlan plan_;
  bool own_work_;
  bool found_ = true;
  std::vector<File> files_;
  std::vector<std::size_t> written_;  ///< bytes a tensor
};

/// All bytes of `from` to where `tensor` goes, through a buffer of a fixed size.
void copy_tensor(const TensorFile& file, const TensorInfo& from, ShardedWriter& to,
                 std::size_t tensor);

}  // namespace nybble
