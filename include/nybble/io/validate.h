#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "nybble/executor.h"
#include "nybble/io/quantized_checkpoint.h"

namespace nybble {

/// An error makes wrong results whoever loads the file, a warning most likely lost weights or
/// another writer's bug, a note is what a loader may stumble over.
enum class Severity { note, warning, error };
const char* severity_name(Severity severity);

/// What is wrong with a layer or a tensor. One for each kind of trouble, however often it occurs.
struct Finding {
  Severity severity = Severity::error;
  std::string name;       ///< of the layer or tensor
  std::string place;      ///< the first: "scales[3, 7]" (row, group)
  std::string found;      ///< there: "nan"
  std::string expected;   ///< "a finite number"
  std::size_t count = 1;  ///< of places

  /// "NAME: PLACE is FOUND, expected EXPECTED (the first of COUNT)".
  [[nodiscard]] std::string text() const;
};

/// Looks at every scale, zero point, code of padding and transform of a layer, in canonical form.
/// `signed_scales`: its layout has scales of both signs (GGUF's Q4_0 and IQ4_NL). Throws bad_shape
/// as QuantizedMatrix::check.
///   error    NaN or Inf scales, set sign bits of FP8 scales, tensor and input scales that are not
///            positive numbers, zero points beyond 15, a shape that is not the matrix's, transforms
///            that do not fit or are not finite
///   warning  negative float scales, zero scales whose codes are not zero, E8M0 scales outside
///            2^-27 .. 2^13 whose codes are not zero, zero points that are 7 or 9 throughout (off
///            by one), padding that is not zero, channel scales of 0
///   note     a two-level format whose tensor scale is 1
std::vector<Finding> validate(const StoredLayer& layer, bool signed_scales, Executor& executor);

/// NaN and Inf in a tensor: one error for both.
std::vector<Finding> validate(const std::string& name, std::span<const std::size_t> shape,
                              std::span<const float> values, Executor& executor);

/// What a model's config says of the shapes of its layers; 0 = not known.
struct ModelShape {
  std::size_t hidden_size = 0;
  std::size_t intermediate_size = 0;
};
/// From config.json beside the tensors (its text_config where it has one) or a GGUF file's
/// metadata. Throws bad_file where config.json is none.
ModelShape read_model_shape(const std::filesystem::path& path,
                            const QuantizedCheckpoint& checkpoint);

/// Everything above for every layer and tensor, one in memory at a time, and between layers:
///   error    shapes of attention and MLP layers that are not `shape`'s, tensors of a quantized
///            layer of which one is missing, biases of another length, a config that names a method
///            where no layer of it is known
///   warning  quantized layers in an unknown layout, a weight beside a quantized layer of its name,
///            zero points of 0 in layout gptq: its kernels disagree about them
///   note     q, k and v, or gate and up, with tensor scales that differ: engines that fuse them
///            assume one
/// `report` is called as findings come. Returns how many tensors of which type were not looked at,
/// because their values cannot be read as floats: integers, GGUF's types beside those of 4 bits.
/// Throws what reading throws.
std::map<std::string, std::size_t> validate(const QuantizedCheckpoint& checkpoint,
                                            const ModelShape& shape,
                                            const std::function<void(const Finding&)>& report,
                                            Executor& executor);

}  // namespace nybble
