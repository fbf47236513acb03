// Whatever the bytes say, parse returns views that tile a part of them or throws Error.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "nybble/error.h"
#include "nybble/io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const auto file = nybble::SafetensorsFile::parse(bytes, "fuzz");
    const auto* position = file.tensors().empty() ? nullptr : file.tensors()[0].bytes.data();
    for (const nybble::TensorView& tensor : file.tensors()) {
      if (tensor.bytes.data() != position || &file.at(tensor.name) != &tensor) std::abort();
      position += tensor.bytes.size();
      if (position > bytes.data() + size) std::abort();
      try {
        (void)nybble::to_f32(tensor);
      } catch (const nybble::Error&) {
      }
    }
    (void)file.at("no such tensor");
  } catch (const nybble::Error&) {
  }
  return 0;
}
