#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/io/layout/layout.h"

/// What layouts share: reading tensors that are checked, and refusing what cannot be written.
namespace nybble::io {

/// The group sizes that int4 has (and, as everywhere, one group a row).
inline constexpr std::array<std::size_t, 7> kInt4Groups = {16, 32, 64, 128, 256, 512, 1024};

/// What is before `suffix` in a tensor's name; nothing for names that do not end in it or have
/// nothing before it.
std::optional<std::string> module_of(std::string_view tensor, std::string_view suffix);

/// The module's name with each suffix, for those tensors that exist.
std::vector<std::string> existing_tensors(const TensorSource& source, const std::string& module,
                                          std::initializer_list<const char*> suffixes);

/// bad_file: `tensor` of `source` is `found` (in words).
Error bad_tensor(const TensorSource& source, const std::string& tensor, const std::string& found);

/// As TensorSource::expect, of any of `types`; errors name the first.
const TensorView& expect_any(const TensorSource& source, const std::string& name,
                             std::initializer_list<TensorType> types,
                             std::span<const std::size_t> shape);

/// As TensorSource::expect, where only the number of dimensions and the type are known. Throws
/// bad_file for an empty tensor, too: no dimension of the result is 0 or larger than its bytes.
const TensorView& expect_rank(const TensorSource& source, const std::string& name, TensorType type,
                              std::size_t least_rank, std::size_t most_rank);

/// Whether it has elements and `least` to `most` dimensions: what find() claims. By its shape
/// alone, for the bytes of large tensors may not be there.
inline bool has_rank(const TensorView& tensor, std::size_t least, std::size_t most) {
  const std::vector<std::size_t>& shape = tensor.shape;
  return shape.size() >= least && shape.size() <= most &&
         std::find(shape.begin(), shape.end(), 0U) == shape.end();
}
inline bool has_rank(const TensorView& tensor, std::size_t rank) {
  return has_rank(tensor, rank, rank);
}

/// One f32 that is finite and above 0.
float expect_positive(const TensorSource& source, const std::string& name,
                      std::span<const std::size_t> shape);

/// The tensor's elements; their size must be that of its type.
template <class T>
std::vector<T> elements(const TensorView& tensor) {
  std::vector<T> out(tensor.bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), out.size() * sizeof(T));
  return out;
}

template <class T>
OwnedTensor owned_tensor(std::string name, TensorType type, std::vector<std::size_t> shape,
                         const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {std::move(name), type, std::move(shape), {bytes.begin(), bytes.end()}};
}

/// The type that some tools write an index of groups in, as a detail; I32 is usual.
inline constexpr const char* kWideIndex = "I64";
/// The elements of an index of groups, I32 or I64.
std::vector<std::int64_t> index_elements(const TensorView& tensor);
/// The same written again: `type` is kWideIndex, or anything else for I32, which must hold them.
OwnedTensor index_tensor(std::string name, const std::string& type,
                         const std::vector<std::int64_t>& index);

/// Whether `holds` is true of the first bytes (4096 of each module, for files larger than memory)
/// of all tensors module + suffix; false where one is missing.
template <class Holds>
bool first_bytes_hold(const TensorSource& source, std::span<const Module> modules,
                      const char* suffix, Holds holds) {
  constexpr std::size_t kLooked = 4096;
  return std::all_of(modules.begin(), modules.end(), [&](const Module& module) {
    const TensorView* tensor = source.find(module.name + suffix);
    if (tensor == nullptr) return false;
    const auto bytes = tensor->bytes.first(std::min(tensor->bytes.size(), kLooked));
    return std::all_of(bytes.begin(), bytes.end(),
                       [&](std::byte byte) { return holds(std::to_integer<unsigned>(byte)); });
  });
}

/// A layout that says in words what it cannot hold.
class RefusingLayout : public Layout {
 public:
  void check(const AnyFormat& format, std::span<const std::size_t> shape) const final;

 protected:
  /// Why a weight of that format and shape cannot be held; empty where it can.
  [[nodiscard]] virtual std::string refusal(const AnyFormat& format,
                                            std::span<const std::size_t> shape) const = 0;
};

/// Throws bad_shape where `shape` is not that of the layer's weight.
void check_stored_shape(const StoredLayer& layer);

/// What of a layer beside its weight a layout has tensors for.
struct Holds {
  bool permutation = false, input_scale = false;
};

/// What write() begins with. Throws bad_shape where the layer contradicts itself; unsupported,
/// naming the layer, where check() does or the layer has a part that `layout` has no tensor for.
void check_write(const Layout& layout, const StoredLayer& layer, Holds holds);

/// The value of a detail of the layer; empty where there is none.
const std::string& detail(const StoredLayer& layer, const std::string& name);

}  // namespace nybble::io
