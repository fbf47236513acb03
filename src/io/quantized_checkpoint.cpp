#include "nybble/io/quantized_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/checkpoint_source.h"
#include "src/io/gguf_format.h"
#include "src/owned.h"

namespace nybble {

namespace {

/// Index of the entry of that name. Throws bad_option with the names most like it.
template <class Entry>
std::size_t index_of(const std::vector<Entry>& entries, const std::string& name, const char* kind) {
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const Entry& entry) { return entry.name == name; });
  if (found != entries.end()) return static_cast<std::size_t>(found - entries.begin());
  std::vector<std::string_view> names;
  for (const Entry& entry : entries) names.push_back(entry.name);
  throw Error(ErrorCode::bad_option,
              fmt::format("no {} {}, {}", kind, io::quote(name), io::name_hint(name, names)));
}

}  // namespace

QuantizedCheckpoint::QuantizedCheckpoint(const std::filesystem::path& path,
                                         const std::string& layout)
    : source_(layout == "gguf" || io::is_gguf(path)
                  ? io::open_gguf_checkpoint(path, layout)
                  : io::open_safetensors_checkpoint(path, layout)) {}
QuantizedCheckpoint::QuantizedCheckpoint(QuantizedCheckpoint&&) noexcept = default;
QuantizedCheckpoint& QuantizedCheckpoint::operator=(QuantizedCheckpoint&&) noexcept = default;
QuantizedCheckpoint::~QuantizedCheckpoint() = default;

const std::vector<std::filesystem::path>& QuantizedCheckpoint::files() const {
  return owned(source_, "checkpoint").files;
}
const std::vector<QuantizedCheckpoint::LayerEntry>& QuantizedCheckpoint::layers() const {
  return owned(source_, "checkpoint").layers;
}
const std::vector<QuantizedCheckpoint::TensorEntry>& QuantizedCheckpoint::tensors() const {
  return owned(source_, "checkpoint").tensors;
}
const std::vector<std::string>& QuantizedCheckpoint::reasons() const {
  return owned(source_, "checkpoint").reasons;
}
const std::string& QuantizedCheckpoint::claimed_method() const {
  return owned(source_, "checkpoint").claimed_method;
}
const std::map<std::string, std::size_t>& QuantizedCheckpoint::other_widths() const {
  return owned(source_, "checkpoint").other_widths;
}
const std::map<std::string, std::string>& QuantizedCheckpoint::metadata() const {
  return owned(source_, "checkpoint").metadata;
}

StoredLayer QuantizedCheckpoint::read(const std::string& layer) const {
  return owned(source_, "checkpoint").read(index_of(layers(), layer, "quantized layer"));
}
std::vector<float> QuantizedCheckpoint::read_f32(const std::string& tensor) const {
  return owned(source_, "checkpoint").read_f32(index_of(tensors(), tensor, "tensor"));
}
std::span<const std::byte> QuantizedCheckpoint::bytes(const std::string& tensor) const {
  return owned(source_, "checkpoint").bytes(index_of(tensors(), tensor, "tensor"));
}
TensorView QuantizedCheckpoint::raw(const std::string& tensor, std::vector<float>& storage) const {
  return owned(source_, "checkpoint").raw(index_of(tensors(), tensor, "tensor"), storage);
}

}  // namespace nybble
