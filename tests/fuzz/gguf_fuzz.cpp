// Whatever the bytes say, parse returns tensors inside them that can be decoded or throws Error,
// and takes memory in proportion to their size (run with -malloc_limit_mb and -rss_limit_mb).
#include <cstdint>
#include <cstdlib>
#include <span>

#include "nybble/error.h"
#include "nybble/io/gguf.h"
#include "src/io/gguf_blocks.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const auto file = nybble::GgufFile::parse(bytes, "fuzz");
    for (const nybble::GgufTensor& tensor : file.tensors()) {
      const auto* const begin = tensor.bytes.data();
      if (!tensor.bytes.empty() &&
          (begin < bytes.data() || begin + tensor.bytes.size() > bytes.data() + size)) {
        std::abort();
      }
      if (&file.at(tensor.name) != &tensor) std::abort();
      try {
        (void)nybble::io::decode_gguf(tensor, "fuzz");
      } catch (const nybble::Error&) {
      }
    }
    for (const auto& [key, value] : file.values()) {
      if (file.value(key) != &value) std::abort();
    }
    (void)file.at("no such tensor");
  } catch (const nybble::Error&) {
  }
  return 0;
}
