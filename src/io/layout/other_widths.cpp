#include "src/io/layout/other_widths.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "src/io/layout/compressed_tensors_config.h"
#include "src/io/layout/stored_tensors.h"

namespace nybble::io {

namespace {

constexpr std::array<std::size_t, 3> kQweightWidths = {2, 3, 8};
constexpr std::array<std::size_t, 7> kPackedWidths = {1, 2, 3, 5, 6, 7, 8};
constexpr std::size_t kWord = 32;

const TensorView* matrix(const TensorSource& source, const std::string& name) {
  const TensorView* tensor = source.find(name);
  const bool good = tensor != nullptr && tensor->shape.size() == 2 && tensor->shape[0] != 0 &&
                    tensor->shape[1] != 0;
  return good ? tensor : nullptr;
}

std::size_t divide_up(std::size_t a, std::size_t b) { return a / b + (a % b != 0 ? 1 : 0); }

/// Whether `words` words hold `count` codes of `bits` in a row.
bool holds(std::size_t words, std::size_t count, std::size_t bits) {
  return words <= count && words * kWord == count * bits;
}

}  // namespace

std::size_t other_qweight_width(const TensorSource& source, const std::string& module) {
  const TensorView* qweight = matrix(source, module + ".qweight");
  const TensorView* scales = matrix(source, module + ".scales");
  const TensorView* zeros = matrix(source, module + ".qzeros");
  if (qweight == nullptr || scales == nullptr || qweight->type != TensorType::i32) return 0;
  const std::size_t outputs = scales->shape[1];
  const TensorView* index = source.find(module + ".g_idx");
  const bool gptq = qweight->shape[1] == outputs;
  // AWQ packs the outputs of weights and zero points alike.
  if (!gptq && (index != nullptr || zeros == nullptr || zeros->shape[1] != qweight->shape[1])) {
    return 0;
  }
  if (index != nullptr && index->shape.size() != 1) return 0;
  if (index == nullptr && zeros == nullptr) return 0;
  const auto fits = [&](std::size_t bits) {
    if (index != nullptr && !holds(qweight->shape[0], index->shape[0], bits)) return false;
    return zeros == nullptr || holds(zeros->shape[1], outputs, bits);
  };
  const auto* const found = std::find_if(kQweightWidths.begin(), kQweightWidths.end(), fits);
  return found == kQweightWidths.end() ? 0 : *found;
}

std::size_t other_packed_width(const TensorSource& source, const std::string& module) {
  const TensorView* packed = matrix(source, module + ".weight_packed");
  const TensorView* shape = source.find(module + ".weight_shape");
  if (packed == nullptr || packed->type != TensorType::i32 || shape == nullptr ||
      shape->type != TensorType::i64 || shape->shape != std::vector<std::size_t>{2}) {
    return 0;
  }
  const auto sizes = elements<std::uint64_t>(*shape);  // of a negative: far too many
  constexpr std::uint64_t kMost = std::uint64_t{1} << 48;
  if (sizes[0] != packed->shape[0] || sizes[1] > kMost) return 0;
  if (divide_up(sizes[1], kWord / 4) == packed->shape[1]) return 0;
  if (weights_option(source.config(), "num_bits") == 4) return 0;
  const auto fits = [&](std::size_t bits) {
    // Whole words a code (older files) or bits in a row.
    return divide_up(sizes[1], kWord / bits) == packed->shape[1] ||
           divide_up(sizes[1] * bits, kWord) == packed->shape[1];
  };
  const auto* const found = std::find_if(kPackedWidths.begin(), kPackedWidths.end(), fits);
  return found == kPackedWidths.end() ? 0 : *found;
}

std::map<std::string, std::size_t> other_widths(const TensorSource& source) {
  std::map<std::string, std::size_t> out;
  for (const std::string& tensor : source.names()) {
    const auto add = [&](std::string_view suffix, auto width_of) {
      if (!tensor.ends_with(suffix)) return;
      const std::string module = tensor.substr(0, tensor.size() - suffix.size());
      if (const std::size_t bits = width_of(source, module); bits != 0) out[module] = bits;
    };
    add(".qweight", other_qweight_width);
    add(".weight_packed", other_packed_width);
  }
  return out;
}

}  // namespace nybble::io
