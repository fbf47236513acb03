#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "nybble/format/format.h"
#include "nybble/io/atomic_file.h"
#include "nybble/io/mapped_file.h"
#include "nybble/io/stored_layer.h"

namespace nybble {

/// The tensor types of GGUF by their numbers in the file (ggml.h, enum ggml_type). Numbers that are
/// missing belong to types that ggml has removed.
enum class GgufType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q8_1 = 9,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  q8_k = 15,
  iq2_xxs = 16,
  iq2_xs = 17,
  iq3_xxs = 18,
  iq1_s = 19,
  iq4_nl = 20,
  iq3_s = 21,
  iq2_s = 22,
  iq4_xs = 23,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  iq1_m = 29,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  mxfp4 = 39,
  nvfp4 = 40,
  q1_0 = 41,
  q2_0 = 42,
};

/// The name ggml gives the type: "Q4_K".
std::string_view gguf_type_name(GgufType type) noexcept;
/// Values of K that a block of the type holds, 1 for plain numbers, and its bytes.
std::size_t gguf_block_values(GgufType type) noexcept;
std::size_t gguf_block_bytes(GgufType type) noexcept;

/// An array among a file's keys. As in GgufValue, the index of the alternative is the number that
/// GGUF gives the type of the elements.
struct GgufArray {
  std::variant<std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::uint16_t>,
               std::vector<std::int16_t>, std::vector<std::uint32_t>, std::vector<std::int32_t>,
               std::vector<float>, std::vector<bool>, std::vector<std::string>,
               std::vector<GgufArray>, std::vector<std::uint64_t>, std::vector<std::int64_t>,
               std::vector<double>>
      values;

  [[nodiscard]] std::size_t size() const {
    return std::visit([](const auto& elements) { return elements.size(); }, values);
  }
  bool operator==(const GgufArray&) const = default;
};

/// The value of a key, with the very type it has in the file: the index is GGUF's type number.
using GgufValue = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t,
                               std::uint32_t, std::int32_t, float, bool, std::string, GgufArray,
                               std::uint64_t, std::int64_t, double>;

/// A tensor inside a file that stays open. The bytes are rows of blocks, little endian and not
/// necessarily aligned for their type.
struct GgufTensor {
  std::string name;
  GgufType type = GgufType::f32;
  std::vector<std::size_t> shape;  ///< outermost first, K last: GGUF's own list reversed
  std::span<const std::byte> bytes;
};

/// One .gguf file of version 2 or 3, little endian, mapped. Everything is checked on opening:
/// counts and lengths against the size of the file, types, arrays at most 4 deep, 0 to 4 axes,
/// names and keys that occur once, sizes equal to product(shape) / block * bytes, and data as ggml
/// lays it out: each tensor right after the one before, rounded up to the alignment, and nothing
/// behind the last but padding. Throws bad_file, naming the file and the key or tensor, where that
/// is not so; unsupported for version 1 and big endian.
class GgufFile {
 public:
  static constexpr std::uint32_t kDefaultAlignment = 32;

  /// Throws io, bad_file, unsupported.
  explicit GgufFile(const std::filesystem::path& path);
  /// The same for bytes in memory, which must outlive the result; `name` is for messages.
  static GgufFile parse(std::span<const std::byte> bytes, const std::string& name);

  [[nodiscard]] std::uint32_t version() const noexcept { return version_; }
  /// general.alignment, or 32.
  [[nodiscard]] std::uint32_t alignment() const noexcept { return alignment_; }
  /// Whether the file ends where the data do, without padding behind them.
  [[nodiscard]] bool ends_unpadded() const noexcept { return ends_unpadded_; }
  /// All keys in the order of the file.
  [[nodiscard]] const std::vector<std::pair<std::string, GgufValue>>& values() const noexcept {
    return values_;
  }
  /// Null where there is no such key.
  [[nodiscard]] const GgufValue* value(std::string_view key) const;

  /// All tensors in the order of the file. Views stay valid as long as this object, also after it
  /// is moved elsewhere.
  [[nodiscard]] const std::vector<GgufTensor>& tensors() const& noexcept { return tensors_; }
  /// A loop over a temporary's tensors would read a file already closed.
  const std::vector<GgufTensor>& tensors() && = delete;
  /// Null where there is none.
  [[nodiscard]] const GgufTensor* find(std::string_view name) const;
  /// Throws bad_option, listing the names most like it, where there is none.
  [[nodiscard]] const GgufTensor& at(std::string_view name) const;
  /// The path or the name it was opened with.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

 private:
  GgufFile() = default;
  void read(std::span<const std::byte> bytes);

  std::string name_;
  MappedFile mapping_;
  std::uint32_t version_ = 3;
  std::uint32_t alignment_ = kDefaultAlignment;
  bool ends_unpadded_ = false;
  std::vector<std::pair<std::string, GgufValue>> values_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string_view, std::size_t> keys_;   // indices into values_
  std::map<std::string_view, std::size_t> index_;  // indices into tensors_
};

struct GgufWriterOptions {
  std::uint32_t version = 3;   ///< 2 or 3, which differ in nothing but this number
  bool ends_unpadded = false;  ///< leave out the padding behind the data
};

/// Writes one .gguf file through AtomicFile: nothing appears under `path` before finish(). What
/// GgufFile reads, added in its order with its version and end, is written as the same bytes.
class GgufWriter {
 public:
  /// Creates the temporary file, so that a path that cannot be written fails early. Throws io;
  /// bad_option for another version.
  explicit GgufWriter(const std::filesystem::path& path, const GgufWriterOptions& options = {});

  /// Appends a key; general.alignment, if any, is what tensors are aligned to. Throws bad_option
  /// for a key that is taken or too long, an alignment that is none, arrays too deep.
  void set(const std::string& key, GgufValue value);
  /// Appends a tensor. `bytes` is not copied and must outlive finish(). Throws bad_option for a
  /// name that is taken or longer than the 63 bytes ggml reads, bad_shape where shape, type and
  /// bytes disagree.
  void add(const std::string& name, GgufType type, std::span<const std::size_t> shape,
           std::span<const std::byte> bytes);
  /// Appends a tensor whose bytes are made while finish() writes it and freed right after.
  void add(const std::string& name, GgufType type, std::span<const std::size_t> shape,
           std::function<std::vector<std::byte>()> make_bytes);
  /// Writes and renames. Throws io; bad_shape where made bytes do not fit; what making them throws.
  /// Only once.
  void finish();

 private:
  struct Entry {
    GgufTensor tensor;
    std::size_t size;
    std::function<std::vector<std::byte>()> make_bytes;  // or empty: tensor.bytes
  };
  void add(Entry entry);
  [[nodiscard]] std::vector<std::byte> header() const;

  AtomicFile file_;
  GgufWriterOptions options_;
  std::uint32_t alignment_ = GgufFile::kDefaultAlignment;
  std::vector<std::pair<std::string, GgufValue>> values_;
  std::set<std::string> keys_;
  std::vector<Entry> entries_;
  std::set<std::string> names_;
};

/// The block type that holds a weight of that format and shape ([N, K], or experts before them)
/// without loss. Throws unsupported, with the reason, where there is none.
GgufType gguf_type_for(const AnyFormat& format, std::span<const std::size_t> shape);

/// Appends a layer as the tensor `name`.weight and, for NVFP4, `name`.scale (the tensor scale, left
/// out where it is 1 and no file held it) and `name`.input_scale: the tensors that
/// QuantizedCheckpoint read it from. The layer must outlive finish(), which makes the blocks one
/// layer at a time. `type` is what is expected, by default what gguf_type_for says. Throws
/// unsupported naming the layer where GGUF cannot hold it: another type, a transform; what
/// GgufWriter::add throws.
void add_layer(GgufWriter& writer, const StoredLayer& layer,
               std::optional<GgufType> type = std::nullopt);
/// The same for layers that are not all in memory at once: `read` is called here, for what the
/// header says, and again by finish().
void add_layer(GgufWriter& writer, std::function<StoredLayer()> read,
               std::optional<GgufType> type = std::nullopt);

}  // namespace nybble
