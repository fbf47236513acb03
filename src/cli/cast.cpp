#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cast_arrays.h"
#include "commands.h"
#include "nybble/error.h"
#include "nybble/executor.h"
#include "nybble/format/registry.h"
#include "nybble/io/npy.h"
#include "nybble/metrics.h"
#include "nybble/quantize/rtn.h"
#include "output.h"

namespace nybble::cli {

namespace {

struct Options {
  std::string input, format, out, codes, scales, scale_bytes, zeros, nonfinite;
  std::size_t threads = 0;
  bool per_row = false;
  bool json = false;
};

struct Input {
  Shape shape;
  std::vector<float> values;
};

/// What cannot work with this format is refused before anything is read.
void check_outputs(const Options& options, const FormatInfo& info) {
  if (!options.zeros.empty() && info.layout != ScaleLayout::zero_point) {
    throw Error(
        ErrorCode::bad_option,
        fmt::format("--zeros: format '{}' has no zero points, expected int4:zero_point=true",
                    info.spec));
  }
  if (!options.scale_bytes.empty() && !has_scale_bytes(info)) {
    throw Error(ErrorCode::bad_option,
                fmt::format("--scale-bytes: format '{}' has {} scales, expected a type of one byte "
                            "(e8m0, e4m3, e4m3x480, e5m2, or double=true)",
                            info.spec, scale_type_name(info.scale_type)));
  }
  check_writable({options.out, options.codes, options.scales, options.scale_bytes, options.zeros},
                 {options.input});
}

Input read_input(const std::string& path) {
  Input input;
  try {
    const NpyArray array = read_npy(path);
    input.values = array.as_f32();
    input.shape = array.shape;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) throw;
    // Here it is the file that is wrong, not the way the program was called.
    throw Error(ErrorCode::bad_file, fmt::format("{}: {}", path, error.what()));
  }
  if (input.shape.empty() || input.values.empty()) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("{}: shape [{}], expected at least one axis and no empty one", path,
                            fmt::join(input.shape, ", ")));
  }
  return input;
}

/// "[1, 0, 31]": where in `shape` the element at `offset` is.
std::string position(const Shape& shape, std::size_t offset) {
  Shape index(shape.size());
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    index[axis] = offset % shape[axis];
    offset /= shape[axis];
  }
  return fmt::format("[{}]", fmt::join(index, ", "));
}

void refuse_nonfinite(const Input& input, const std::string& path) {
  for (std::size_t i = 0; i < input.values.size(); ++i) {
    if (std::isfinite(input.values[i])) continue;
    throw Error(ErrorCode::bad_value,
                fmt::format("{}: {} at {}, expected finite values (or --nonfinite propagate)", path,
                            input.values[i], position(input.shape, i)));
  }
}

void write_arrays(const Options& options, const QuantizedMatrix& matrix, const Shape& shape,
                  std::span<const float> decoded) {
  if (!options.out.empty()) write_npy(options.out, shape, decoded);
  if (!options.codes.empty()) write_npy(options.codes, shape, unpacked_codes(matrix));
  const Shape scales = scale_shape(matrix, shape);
  if (!options.scales.empty()) write_npy(options.scales, scales, decoded_scales(matrix));
  if (!options.scale_bytes.empty()) write_npy(options.scale_bytes, scales, matrix.scales);
  if (!options.zeros.empty()) write_npy(options.zeros, scales, matrix.zero_points);
}

void print_result(const QuantizedMatrix& matrix, const QuantizationMetrics& statistics,
                  bool as_json) {
  const FormatInfo& info = matrix.format.info();
  Json out = {{"format", info.spec},           {"bits_per_element", matrix.bits_per_element()},
              {"mse", statistics.mse},         {"relative_mse", statistics.relative_mse},
              {"sqnr_db", statistics.sqnr_db}, {"max_error", statistics.max_error},
              {"cosine", statistics.cosine},   {"clipped", statistics.clipped},
              {"zeroed", statistics.zeroed}};
  if (info.tensor_scale) out["tensor_scale"] = matrix.tensor.scale;
  if (as_json) return print_json(out);
  for (const auto& [key, value] : out.items()) {
    fmt::print("{:<16}  {}\n", key,
               value.is_number_float() ? fmt::format("{:.8g}", value.get<double>())
               : value.is_string()     ? value.get<std::string>()
                                       : value.dump());
  }
}

void run_cast(const Options& options) {
  const AnyFormat format = parse_format(options.format);
  const FormatInfo& info = format.info();
  check_outputs(options, info);
  const auto executor = make_thread_executor(options.threads);
  const Input input = read_input(options.input);
  const bool propagate =
      options.nonfinite.empty() ? info.propagates_nonfinite : options.nonfinite == "propagate";
  if (!propagate) refuse_nonfinite(input, options.input);

  const std::size_t count = input.values.size();
  const bool flattened = info.flattened_blocks && !options.per_row;
  const std::size_t cols = flattened ? count : input.shape.back();
  QuantizeOptions quantize_options;
  quantize_options.tensor_name = options.input;
  quantize_options.propagate_nonfinite = propagate;
  const QuantizedMatrix matrix =
      quantize_rtn({input.values.data(), count / cols, cols}, format, *executor, quantize_options);
  std::vector<float> decoded(count);
  dequantize(matrix, {decoded.data(), matrix.rows, matrix.cols}, *executor);
  const QuantizationMetrics statistics = quantization_metrics(matrix, input.values, decoded);
  write_arrays(options, matrix, input.shape, decoded);
  print_result(matrix, statistics, options.json);
}

}  // namespace

void add_cast_command(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "cast", "Quantize an .npy array to a 4-bit format and back, and say what was lost");
  const auto options = std::make_shared<Options>();
  command
      .add_option("IN", options->input,
                  "Array of f32, f16 or f64 (rounded to f32), groups run "
                  "along its last axis")
      ->required();
  command.add_option("--format", options->format, "name[:key=value,...]; see `nybble formats`")
      ->required();
  command.add_option("--out", options->out, "Write the decoded values: f32, shape of IN");
  command.add_option("--codes", options->codes, "Write the codes: u8 0..15, shape of IN");
  command.add_option("--scales", options->scales,
                     "Write the decoded scales: f32, the last axis of IN becomes groups, then "
                     "[positive, negative] for sign-split formats");
  command.add_option("--scale-bytes", options->scale_bytes,
                     "Write the scales as stored, for types of one byte: u8");
  command.add_option("--zeros", options->zeros, "Write the zero points: u8, shape of the scales");
  command.add_flag("--per-row", options->per_row,
                   "nf4 and fp4_bnb: start blocks anew in each row. By default they run over the "
                   "flattened array as in bitsandbytes; where they cross row ends, --scales is "
                   "[blocks]");
  command
      .add_option("--nonfinite", options->nonfinite,
                  "What NaN and Inf do: propagate (their group becomes NaN) or error. By "
                  "default the format decides")
      ->check(CLI::IsMember({"propagate", "error"}));
  add_threads_option(command, options->threads);
  add_json_option(command, options->json);
  command.callback([options] { run_cast(*options); });
}

}  // namespace nybble::cli
