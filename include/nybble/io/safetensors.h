#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nybble/io/atomic_file.h"
#include "nybble/io/mapped_file.h"

namespace nybble {

/// The dtypes of safetensors that are known here, and `opaque` for any other: bytes that can be
/// copied, and nothing more.
enum class TensorType {
  f64,
  f32,
  f16,
  bf16,
  u64,
  i64,
  u32,
  i32,
  u16,
  i16,
  u8,
  i8,
  boolean,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0,
  f6_e2m3,
  f6_e3m2,
  f4,
  c64,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  opaque
};

/// The name in the file, "BF16" say. That of an opaque one is its tensor's.
std::string_view tensor_type_name(TensorType type) noexcept;
/// Bits of one element: 4, 6, 8, 16, 32 or 64; 0 for opaque.
std::size_t tensor_type_bits(TensorType type) noexcept;

/// A tensor inside a file that stays open: the bytes are row-major, little endian and not
/// necessarily aligned for their type, so read them with memcpy or to_f32.
struct TensorView {
  std::string name;
  TensorType type = TensorType::f32;
  std::vector<std::size_t> shape;  ///< empty for a scalar
  std::span<const std::byte> bytes;
  std::string dtype = {};  ///< what the file calls an opaque type, empty for others
};

/// What the file calls the type of the tensor.
std::string_view tensor_type_name(const TensorView& tensor) noexcept;

/// The values as f32, rounded to nearest from f64. Throws unsupported, naming the tensor and its
/// type, unless that is f32, f16, bf16 or f64; bad_shape where bytes and shape disagree.
std::vector<float> to_f32(const TensorView& tensor);

/// One .safetensors file, mapped. Everything is checked on opening: a header of at most
/// 100,000,000 bytes that is a JSON object without duplicate keys, unsigned integers only, sizes
/// equal to product(shape) * bits / 8 where the type is known, and tensors that tile the data
/// without a hole or an overlap. Throws bad_file, naming the file and the tensor, where that is not
/// so.
class SafetensorsFile {
 public:
  /// Throws io and bad_file.
  explicit SafetensorsFile(const std::filesystem::path& path);
  /// The same for bytes in memory, which must outlive the result; `name` is for messages.
  static SafetensorsFile parse(std::span<const std::byte> bytes, const std::string& name);

  /// All tensors in the order of their data. Views stay valid as long as this object, also after
  /// it is moved elsewhere.
  [[nodiscard]] const std::vector<TensorView>& tensors() const& noexcept { return tensors_; }
  /// A loop over a temporary's tensors would read a file already closed.
  const std::vector<TensorView>& tensors() && = delete;
  /// Null where there is none.
  [[nodiscard]] const TensorView* find(std::string_view name) const;
  /// Throws bad_option, listing the names most like it, where there is none.
  [[nodiscard]] const TensorView& at(std::string_view name) const;
  /// The free text of __metadata__; empty where there is none.
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept {
    return metadata_;
  }
  /// The path or the name it was opened with.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

 private:
  SafetensorsFile() = default;
  void read(std::span<const std::byte> bytes);

  std::string name_;
  MappedFile mapping_;
  std::vector<TensorView> tensors_;
  std::map<std::string_view, const TensorView*> index_;  // both point into tensors_
  std::map<std::string, std::string> metadata_;
};

/// The tensors of one model: a .safetensors file, or a folder that holds model.safetensors or
/// model.safetensors.index.json with its shards (the former where there are both).
class Checkpoint {
 public:
  /// Opens and checks every shard. Throws io; bad_file where a shard is damaged, a shard's name
  /// leaves the folder, a tensor is in two shards, weight_map and the shards disagree, or the
  /// folder has a shard that would not be read.
  explicit Checkpoint(const std::filesystem::path& path);

  /// Null where there is none. Views stay valid as long as this object.
  [[nodiscard]] const TensorView* find(std::string_view name) const;
  /// Throws bad_option, listing the names most like it, where there is none.
  [[nodiscard]] const TensorView& at(std::string_view name) const;
  /// All names, shard by shard in the order of the data.
  [[nodiscard]] std::vector<std::string> names() const;
  /// The files, sorted by name.
  [[nodiscard]] const std::vector<SafetensorsFile>& shards() const noexcept { return shards_; }

 private:
  std::string name_;
  std::vector<SafetensorsFile> shards_;
  std::map<std::string_view, const TensorView*> index_;  // both point into shards_
};

/// The index of a folder that is not read because model.safetensors is beside it; empty: there is
/// none.
std::string ignored_index(const std::filesystem::path& path);

/// Writes one .safetensors file through AtomicFile: nothing appears under `path` before finish().
class SafetensorsWriter {
 public:
  /// Creates the temporary file, so that a path that cannot be written fails early. Throws io.
  explicit SafetensorsWriter(const std::filesystem::path& path);

  /// Appends a tensor; tensors are written in the order added. `bytes` is not copied and must
  /// outlive finish(). Throws bad_option for a name that is taken, reserved or not UTF-8, bad_shape
  /// where shape, type and bytes disagree.
  void add(const std::string& name, TensorType type, std::span<const std::size_t> shape,
           std::span<const std::byte> bytes);
  /// The same of bytes that the writer keeps until then itself.
  void add_owned(const std::string& name, TensorType type, std::span<const std::size_t> shape,
                 std::vector<std::byte> bytes);
  /// Sets one string of __metadata__, replacing an earlier one. Throws bad_option unless UTF-8.
  void set_metadata(const std::string& key, const std::string& value);
  /// Writes and renames. Throws io; bad_option where the header would exceed 100,000,000 bytes.
  /// Only once.
  void finish();

 private:
  AtomicFile file_;
  std::vector<TensorView> tensors_;
  std::vector<std::vector<std::byte>> owned_;  // moved, their memory stays where it is
  std::set<std::string> names_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace nybble
