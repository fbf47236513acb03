// Whatever the bytes say, every layout reads its modules or throws Error; what it reads it writes
// to the same bytes. quantization_config is the string "config" of the file's metadata.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <utility>

#include "nybble/error.h"
#include "nybble/io/safetensors.h"
#include "src/io/layout/config_claims.h"
#include "src/io/layout/layout.h"

namespace {

using nybble::io::FoundModule;
using nybble::io::TensorSource;

class FuzzedTensors final : public TensorSource {
 public:
  explicit FuzzedTensors(std::span<const std::byte> bytes)
      : file_(nybble::SafetensorsFile::parse(bytes, where_)) {
    const auto found = file_.metadata().find("config");
    if (found == file_.metadata().end()) return;
    nlohmann::json parsed = nlohmann::json::parse(found->second, nullptr, false);
    if (parsed.is_object()) config_ = std::move(parsed);
  }
  const nybble::TensorView* find(std::string_view name) const override { return file_.find(name); }
  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const nybble::TensorView& tensor : file_.tensors()) names.push_back(tensor.name);
    return names;
  }
  const std::string& where() const override { return where_; }
  const std::map<std::string, std::string>& metadata() const override { return file_.metadata(); }
  const nlohmann::json& config() const override { return config_; }

 private:
  std::string where_ = "fuzz";
  nybble::SafetensorsFile file_;
  nlohmann::json config_ = nlohmann::json::object();
};

void read_and_write(const TensorSource& source, const FoundModule& found) {
  const nybble::StoredLayer layer = found.layout->read(source, found.module);
  layer.weight.check();
  layer.transforms.check(layer.weight.rows, layer.weight.cols);
  const nybble::io::WrittenLayer written = found.layout->write(layer);
  if (written.tensors.size() != found.module.tensors.size()) std::abort();
  for (const nybble::io::OwnedTensor& tensor : written.tensors) {
    const nybble::TensorView* before = source.find(tensor.name);
    if (before == nullptr || before->type != tensor.type || before->shape != tensor.shape ||
        !std::equal(tensor.bytes.begin(), tensor.bytes.end(), before->bytes.begin(),
                    before->bytes.end())) {
      std::abort();
    }
  }
  nybble::io::check_config_claims(source, layer);
}

void detect_and_read(const TensorSource& source, const std::string& forced) {
  std::vector<std::string> reasons;
  try {
    for (const FoundModule& found : nybble::io::detect(source, forced, reasons)) {
      try {
        read_and_write(source, found);
      } catch (const nybble::Error&) {
      }
    }
  } catch (const nybble::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const FuzzedTensors source(std::as_bytes(std::span(data, size)));
    detect_and_read(source, "");
    for (const auto& layout : nybble::io::layouts()) detect_and_read(source, layout->name());
  } catch (const nybble::Error&) {
  }
  return 0;
}
