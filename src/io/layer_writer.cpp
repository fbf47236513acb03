#include "nybble/io/layer_writer.h"

#include <utility>

#include "src/io/layout/layout.h"

namespace nybble {

void add_layer(SafetensorsWriter& writer, const StoredLayer& layer, const std::string& layout) {
  io::WrittenLayer written = io::find_layout(layout).write(layer);
  for (io::OwnedTensor& tensor : written.tensors) {
    writer.add_owned(tensor.name, tensor.type, tensor.shape, std::move(tensor.bytes));
  }
  for (const auto& [key, value] : written.metadata) writer.set_metadata(key, value);
}

}  // namespace nybble
