#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace nybble {

/// The element types read and written, all little endian.
enum class NpyType { f32, f64, f16, u8, i8, u16, i16, u32, i32, u64, i64, boolean };

/// numpy's name of the type, "<f4" or "|b1" say.
std::string_view npy_descr(NpyType type) noexcept;
/// Bytes of one element: 1, 2, 4 or 8.
std::size_t npy_item_size(NpyType type) noexcept;

/// An array as numpy.save writes it, in C order whatever order the file had.
struct NpyArray {
  NpyType type = NpyType::f32;
  std::vector<std::size_t> shape;  ///< empty for a scalar
  std::vector<std::byte> data;     ///< count() elements, last axis contiguous

  /// The number of elements: the product of the shape, 1 for a scalar.
  [[nodiscard]] std::size_t count() const noexcept { return data.size() / npy_item_size(type); }

  /// The values as f32, rounded to nearest from f64. Throws unsupported, naming the type, unless it
  /// is f32, f16 or f64.
  [[nodiscard]] std::vector<float> as_f32() const;

  /// The elements as they are, valid as long as `data`. T is float, double or an integer of the
  /// width and sign of the array; booleans are read as std::uint8_t. Throws unsupported, naming the
  /// type found and the one expected, for any other.
  template <class T>
  [[nodiscard]] std::span<const T> as() const {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double> ||
                  (std::is_integral_v<T> && !std::is_same_v<T, bool>));
    require_type(type_of<T>());
    return {reinterpret_cast<const T*>(data.data()), data.size() / sizeof(T)};
  }

 private:
  template <class T>
  static constexpr NpyType type_of() {
    if constexpr (std::is_same_v<T, float>) return NpyType::f32;
    if constexpr (std::is_same_v<T, double>) return NpyType::f64;
    constexpr bool is_signed = std::is_signed_v<T>;
    if constexpr (sizeof(T) == 1) return is_signed ? NpyType::i8 : NpyType::u8;
    if constexpr (sizeof(T) == 2) return is_signed ? NpyType::i16 : NpyType::u16;
    if constexpr (sizeof(T) == 4) return is_signed ? NpyType::i32 : NpyType::u32;
    return is_signed ? NpyType::i64 : NpyType::u64;
  }
  void require_type(NpyType expected) const;
};

/// Reads an .npy file (version 1.0, 2.0 or 3.0) held in memory; `name` is for messages. The header
/// must be exactly a dict of descr, fortran_order and shape (at most 64 axes) and the data must
/// fill the rest exactly. Throws bad_file for anything else, unsupported for a dtype not in
/// NpyType (big endian, complex, text, objects, records).
NpyArray parse_npy(std::span<const std::byte> bytes, const std::string& name);

/// parse_npy of a file. Throws io as well.
NpyArray read_npy(const std::filesystem::path& path);

/// Writes version 1.0, byte for byte as numpy.save does, through AtomicFile. `data` holds the
/// elements in C order. Throws bad_shape where its size and the shape disagree, io.
void write_npy(const std::filesystem::path& path, NpyType type, std::span<const std::size_t> shape,
               std::span<const std::byte> data);
void write_npy(const std::filesystem::path& path, std::span<const std::size_t> shape,
               std::span<const float> values);
void write_npy(const std::filesystem::path& path, std::span<const std::size_t> shape,
               std::span<const std::uint8_t> values);

}  // namespace nybble
