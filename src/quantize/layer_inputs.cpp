#include "src/quantize/layer_inputs.h"

#include <fmt/format.h>

#include <algorithm>

#include "nybble/error.h"
#include "nybble/io/npy.h"
#include "src/io/checked.h"
#include "src/io/decode_floats.h"
#include "src/quantize/file_rows.h"

namespace nybble {

namespace {

namespace fs = std::filesystem;

constexpr const char* kSuffixes[] = {"", ".weight", ".calib", ".input"};

/// The last part of a layer's name, and of the layer whose inputs are the same.
constexpr struct {
  std::string_view layer, same;
} kShared[] = {{"k_proj", "q_proj"}, {"v_proj", "q_proj"}, {"up_proj", "gate_proj"}};

bool is_saved_calibration(const TensorFile& file) { return file.metadata().contains("nybble"); }

/// The inputs that a file for one layer holds: its only tensor.
const TensorInfo& only_tensor(const TensorFile& file) {
  if (file.tensors().size() != 1) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: {} tensors, expected one, [tokens, K], or a saved calibration",
                            file.name(), file.tensors().size()));
  }
  return file.tensors()[0];
}

void check_tensor(const TensorFile& file, const TensorInfo& tensor, std::size_t channels) {
  if (tensor.shape.size() == 2 && tensor.shape[0] != 0 && tensor.shape[1] == channels &&
      io::is_float(tensor.type)) {
    return;
  }
  throw Error(ErrorCode::bad_shape,
              fmt::format("{}: tensor {} is {} {}, expected inputs of the layer, [tokens, {}], in "
                          "F32, F16 or BF16",
                          file.name(), io::quote(tensor.name), tensor_type_name(tensor),
                          io::shape_text(tensor.shape), channels));
}

Calibration gather(const TensorFile& file, const TensorInfo& tensor, std::size_t channels,
                   Executor& executor) {
  constexpr std::size_t kTokens = 4096;
  check_tensor(file, tensor, channels);
  const FileRows rows(file, tensor);
  Calibration out(channels);
  ReadBuffer buffer;
  for (std::size_t begin = 0; begin < rows.rows(); begin += kTokens) {
    const std::size_t count = std::min(kTokens, rows.rows() - begin);
    out.add(rows.read(begin, count, buffer), executor,
            fmt::format("{}: {}", file.name(), tensor.name));
  }
  return out;
}

}  // namespace

LayerInputs::LayerInputs(const fs::path& path) : path_(path) {
  if (!path.empty() && !fs::is_directory(path)) file_.emplace(path);
}

std::optional<LayerInputs::Place> LayerInputs::find_exactly(const std::string& layer) const {
  if (path_.empty()) return std::nullopt;
  if (file_) {
    for (const char* const suffix : kSuffixes) {
      if (const TensorInfo* tensor = file_->find(layer + suffix)) return Place{tensor, {}};
    }
    return std::nullopt;
  }
  for (const char* const extension : {".npy", ".safetensors"}) {
    const fs::path file = path_ / (layer + extension);
    if (fs::exists(file)) return Place{nullptr, file};
  }
  return std::nullopt;
}

std::optional<LayerInputs::Place> LayerInputs::find(const std::string& layer) const {
  if (std::optional<Place> place = find_exactly(layer)) return place;
  for (const auto& shared : kShared) {
    if (!layer.ends_with(shared.layer)) continue;
    const std::string before = layer.substr(0, layer.size() - shared.layer.size());
    if (before.empty() || before.ends_with('.'))
      return find_exactly(before + std::string(shared.same));
  }
  return std::nullopt;
}

void LayerInputs::check(const std::string& layer, std::size_t channels) const {
  const std::optional<Place> place = find(layer);
  if (!place) {
    throw Error(
        ErrorCode::bad_option,
        path_.empty()
            ? fmt::format("layer {}: its method needs calibration, expected inputs of the "
                          "layers",
                          io::quote(layer))
            : fmt::format("layer {}: its method needs calibration, expected its inputs in {}",
                          io::quote(layer), path_.string()));
  }
  if (place->tensor != nullptr) {
    check_tensor(*file_, *place->tensor, channels);
  } else if (place->file.extension() == ".safetensors") {
    const TensorFile file(place->file);
    if (!is_saved_calibration(file)) {
      check_tensor(file, only_tensor(file), channels);
    } else if (const TensorInfo* max = file.find("max");
               max == nullptr || max->shape != std::vector<std::size_t>{channels}) {
      throw Error(ErrorCode::bad_shape,
                  fmt::format("{}: not a calibration of {} channels", file.name(), channels));
    }
  }
}

Calibration LayerInputs::read(const std::string& layer, std::size_t channels,
                              Executor& executor) const {
  const Place place = find(layer).value();
  if (place.tensor != nullptr) return gather(*file_, *place.tensor, channels, executor);
  if (place.file.extension() == ".safetensors") {
    const TensorFile file(place.file);
    if (is_saved_calibration(file)) return Calibration::load(place.file);
    return gather(file, only_tensor(file), channels, executor);
  }
  const NpyArray array = read_npy(place.file);
  if (array.shape.size() != 2 || array.shape[1] != channels) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("{}: shape {}, expected [tokens, {}]", place.file.string(),
                            io::shape_text(array.shape), channels));
  }
  const std::vector<float> values = array.as_f32();
  Calibration out(channels);
  out.add({values.data(), array.shape[0], channels}, executor, place.file.string());
  return out;
}

std::vector<fs::path> LayerInputs::files() const {
  std::vector<fs::path> out;
  if (path_.empty()) return out;
  if (file_) return {path_};
  for (const auto& entry : fs::directory_iterator(path_)) {
    const fs::path extension = entry.path().extension();
    if (extension == ".npy" || extension == ".safetensors") out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace nybble
