#include "nybble/quantize/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>

#include "nybble/error.h"
#include "nybble/io/safetensors.h"
#include "src/linalg/dense.h"
#include "src/transform/apply.h"

namespace nybble {

namespace {

/// Tokens whose product is added to the moments at a time.
constexpr std::size_t kChunk = 1024;

/// A number that looks random: the finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014).
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9U;
  x = (x ^ x >> 27) * 0x94D049BB133111EBU;
  return x ^ x >> 31;
}

}  // namespace

Calibration::Calibration(std::size_t channels, const CalibrationOptions& options)
    : channels_(channels),
      options_(options),
      max_(channels, -std::numeric_limits<float>::infinity()),
      min_(channels, std::numeric_limits<float>::infinity()),
      sum_abs_(channels),
      streams_{options.stream} {
  if (channels == 0) throw Error(ErrorCode::bad_shape, "calibration: 0 channels, expected some");
  for (std::vector<float>& moment : moment_) moment.resize(channels * channels);
}

void Calibration::check_inputs(MatrixView x, const std::string& name) const {
  check_rows(x, name);
  if (x.cols != channels_) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("{}: {} columns, expected {}", name, x.cols, channels_));
  }
  check_finite(x, name);
}

void Calibration::add(MatrixView x, Executor& executor, const std::string& name) {
  check_inputs(x, name);
  if (x.rows == 0) return;
  if (!cross_.empty()) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: earlier tokens came with their originals, these do not", name));
  }
  add_checked(x, executor);
}

void Calibration::add(MatrixView x, MatrixView original, Executor& executor,
                      const std::string& name) {
  check_inputs(x, name);
  check_inputs(original, name + " (original)");
  if (x.rows != original.rows) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("{}: {} tokens and {} originals, expected as many", name, x.rows,
                            original.rows));
  }
  if (x.rows == 0) return;
  if (cross_.empty() && tokens() != 0) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: earlier tokens came without their originals", name));
  }
  cross_.resize(channels_ * channels_);
  for (std::size_t begin = 0; begin < x.rows; begin += kChunk) {
    const std::size_t count = std::min(kChunk, x.rows - begin);
    std::vector<float> transposed(channels_ * count);
    linalg::transpose({original.row(begin), count, channels_, original.stride},
                      {transposed.data(), channels_, count}, executor);
    linalg::multiply({transposed.data(), channels_, count},
                     {x.row(begin), count, channels_, x.stride},
                     {cross_.data(), channels_, channels_}, linalg::Update::add, executor);
  }
  add_checked(x, executor);
}

void Calibration::add_checked(MatrixView x, Executor& executor) {
  for (std::size_t begin = 0; begin < x.rows; begin += kChunk) {
    const std::size_t end = std::min(x.rows, begin + kChunk);
    std::vector<std::size_t> rows[2];
    for (std::size_t row = begin; row < end; ++row) {
      rows[(next_token_ + row) / kRun % kParts == kParts - 1 ? 1 : 0].push_back(row);
    }
    for (std::size_t part = 0; part < 2; ++part) {
      const std::size_t count = rows[part].size();
      if (count == 0) continue;
      tokens_[part].value += count;
      std::vector<float> gathered(count * channels_);
      executor.parallel_for(count, [&](std::size_t i) {
        std::copy_n(x.row(rows[part][i]), channels_, &gathered[i * channels_]);
      });
      std::vector<float> transposed(channels_ * count);
      const MatrixView inputs(gathered.data(), count, channels_);
      linalg::transpose(inputs, {transposed.data(), channels_, count}, executor);
      linalg::multiply({transposed.data(), channels_, count}, inputs,
                       {moment_[part].data(), channels_, channels_}, linalg::Update::add, executor,
                       {.lower_only = true});
    }
  }
  // Only the lower triangle was added to.
  for (std::vector<float>& moment : moment_) {
    linalg::mirror_lower({moment.data(), channels_, channels_}, executor);
  }
  executor.parallel_for((channels_ + 63) / 64, [&](std::size_t task) {
    const std::size_t first = task * 64;
    const std::size_t last = std::min(channels(), first + 64);
    for (std::size_t row = 0; row < x.rows; ++row) {
      for (std::size_t col = first; col < last; ++col) {
        const float value = x.at(row, col);
        max_[col] = std::max(max_[col], value);
        min_[col] = std::min(min_[col], value);
        sum_abs_[col] += std::fabs(static_cast<double>(value));
      }
    }
  });
  std::vector<Key> keys;
  std::vector<const float*> rows;
  for (std::size_t row = 0; row < x.rows; ++row) {
    const std::uint64_t token = next_token_ + row;
    keys.push_back(
        {mix(token + mix(options_.stream + 0x9E3779B97F4A7C15U)), options_.stream, token});
    rows.push_back(x.row(row));
  }
  keep_sample(std::move(keys), std::move(rows));
  next_token_ += x.rows;
}

void Calibration::keep_sample(std::vector<Key> keys, std::vector<const float*> rows) {
  for (std::size_t i = 0; i < keys_.size(); ++i) {
    keys.push_back(keys_[i]);
    rows.push_back(&samples_[i * channels_]);
  }
  std::vector<std::size_t> order(keys.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const std::size_t count = std::min(options_.sample_rows, keys.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    [&](std::size_t a, std::size_t b) {
                      const auto place = [&](std::size_t i) {
                        return std::tuple(keys[i].hash, keys[i].stream, keys[i].token);
                      };
                      return place(a) < place(b);
                    });
  order.resize(count);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(keys[a].stream, keys[a].token) < std::pair(keys[b].stream, keys[b].token);
  });
  std::vector<Key> kept;
  std::vector<float> samples;
  samples.reserve(count * channels_);
  for (const std::size_t i : order) {
    kept.push_back(keys[i]);
    samples.insert(samples.end(), rows[i], rows[i] + channels_);
  }
  keys_ = std::move(kept);
  samples_ = std::move(samples);
}

void Calibration::merge(const Calibration& other) {
  if (other.channels_ != channels_) {
    throw Error(ErrorCode::bad_shape, fmt::format("calibration: {} channels to merge, expected {}",
                                                  other.channels_, channels_));
  }
  for (const std::uint64_t stream : other.streams_) {
    if (std::find(streams_.begin(), streams_.end(), stream) != streams_.end()) {
      throw Error(ErrorCode::bad_option,
                  fmt::format("calibration: stream {} is in both, expected one of its own for each",
                              stream));
    }
  }
  if (tokens() != 0 && other.tokens() != 0 && cross_.empty() != other.cross_.empty()) {
    throw Error(ErrorCode::bad_option, "calibration: originals of the inputs are only in one");
  }
  if (cross_.empty()) cross_.resize(other.cross_.size());
  for (std::size_t i = 0; i < other.cross_.size(); ++i) cross_[i] += other.cross_[i];
  streams_.insert(streams_.end(), other.streams_.begin(), other.streams_.end());
  for (std::size_t part = 0; part < 2; ++part) {
    tokens_[part].value += other.tokens_[part];
    for (std::size_t i = 0; i < moment_[part].size(); ++i) {
      moment_[part][i] += other.moment_[part][i];
    }
  }
  for (std::size_t i = 0; i < channels_; ++i) {
    max_[i] = std::max(max_[i], other.max_[i]);
    min_[i] = std::min(min_[i], other.min_[i]);
    sum_abs_[i] += other.sum_abs_[i];
  }
  std::vector<const float*> rows;
  for (std::size_t i = 0; i < other.keys_.size(); ++i) {
    rows.push_back(&other.samples_[i * channels_]);
  }
  keep_sample(other.keys_, std::move(rows));
}

std::vector<float> Calibration::second_moment() const {
  std::vector<float> out(moment_[0]);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] += moment_[1][i];
  return out;
}

std::vector<float> Calibration::max_abs() const {
  std::vector<float> out(channels_);
  for (std::size_t i = 0; i < channels_ && tokens() != 0; ++i) {
    out[i] = std::max(std::fabs(max_[i]), std::fabs(min_[i]));
  }
  return out;
}

std::vector<float> Calibration::mean_abs() const {
  std::vector<float> out(channels_);
  for (std::size_t i = 0; i < channels_ && tokens() != 0; ++i) {
    out[i] = static_cast<float>(sum_abs_[i] / static_cast<double>(tokens()));
  }
  return out;
}

Calibration Calibration::transformed(const Transforms& transforms, Executor& executor) const {
  Calibration out(*this);
  if (!transforms.changes_input()) return out;
  out.cross_.clear();
  const std::size_t k = channels_;
  const auto apply_rows = [&](MutableMatrixView m) {
    executor.parallel_for(m.rows, [&](std::size_t row) {
      std::vector<float> before(m.row(row), m.row(row) + k);
      apply_input(transforms, before.data(), k, m.row(row));
    });
  };
  for (std::vector<float>& moment : out.moment_) {
    std::vector<float> half(moment);
    apply_rows({half.data(), k, k});
    linalg::transpose({half.data(), k, k}, {moment.data(), k, k}, executor);
    apply_rows({moment.data(), k, k});
    linalg::mirror_lower({moment.data(), k, k}, executor);
  }
  apply_rows({out.samples_.data(), out.keys_.size(), k});
  if (transforms.hadamard.block == 0) {
    for (std::size_t i = 0; i < k; ++i) {
      const std::size_t from =
          transforms.permutation.source.empty() ? i : transforms.permutation.source[i];
      const float scale =
          transforms.channel_scale.scale.empty() ? 1.0F : transforms.channel_scale.scale[from];
      out.max_[i] = scale < 0 ? min_[from] * scale : max_[from] * scale;
      out.min_[i] = scale < 0 ? max_[from] * scale : min_[from] * scale;
      out.sum_abs_[i] = sum_abs_[from] * std::fabs(static_cast<double>(scale));
    }
    return out;
  }
  const std::size_t rows = out.keys_.size();
  for (std::size_t i = 0; i < k; ++i) {
    out.max_[i] = -std::numeric_limits<float>::infinity();
    out.min_[i] = -out.max_[i];
    double sum = 0;
    for (std::size_t row = 0; row < rows; ++row) {
      const float value = out.samples_[row * k + i];
      out.max_[i] = std::max(out.max_[i], value);
      out.min_[i] = std::min(out.min_[i], value);
      sum += std::fabs(static_cast<double>(value));
    }
    out.sum_abs_[i] =
        rows == 0 ? 0 : sum / static_cast<double>(rows) * static_cast<double>(tokens());
  }
  return out;
}

void Calibration::save(const std::filesystem::path& path) const {
  SafetensorsWriter writer(path);
  const auto add = [&](const char* name, TensorType type, const std::vector<std::size_t>& shape,
                       const auto& values) {
    writer.add(name, type, shape, std::as_bytes(std::span(values)));
  };
  const std::vector<std::uint64_t> counts = {tokens_[0], tokens_[1], next_token_, options_.stream,
                                             options_.sample_rows};
  std::vector<std::uint64_t> keys;
  for (const Key& key : keys_) keys.insert(keys.end(), {key.hash, key.stream, key.token});
  add("counts", TensorType::u64, {counts.size()}, counts);
  add("streams", TensorType::u64, {streams_.size()}, streams_);
  add("fit_moment", TensorType::f32, {channels_, channels_}, moment_[0]);
  add("held_out_moment", TensorType::f32, {channels_, channels_}, moment_[1]);
  if (!cross_.empty()) add("cross_moment", TensorType::f32, {channels_, channels_}, cross_);
  add("max", TensorType::f32, {channels_}, max_);
  add("min", TensorType::f32, {channels_}, min_);
  add("sum_abs", TensorType::f64, {channels_}, sum_abs_);
  add("sample_keys", TensorType::u64, {keys_.size(), 3}, keys);
  add("samples", TensorType::f32, {keys_.size(), channels_}, samples_);
  writer.set_metadata("nybble", "calibration 1");
  writer.finish();
}

Calibration Calibration::load(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorCode::bad_file, fmt::format("{}: {}", file.name(), what));
  };
  const auto kind = file.metadata().find("nybble");
  if (kind == file.metadata().end() || kind->second != "calibration 1") {
    refuse("not a calibration (metadata nybble = 'calibration 1' is missing)");
  }
  const auto read = [&](const char* name, TensorType type, auto& values,
                        const std::vector<std::size_t>& shape) {
    const TensorView* tensor = file.find(name);
    if (tensor == nullptr) refuse(fmt::format("tensor {} is missing", name));
    if (tensor->type != type || tensor->shape != shape) {
      refuse(fmt::format("tensor {} has another type or shape than calibrations have", name));
    }
    values.resize(tensor->bytes.size() / sizeof(values[0]));
    if (!values.empty()) std::memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
  };
  const TensorView* max = file.find("max");
  const TensorView* streams = file.find("streams");
  const TensorView* sample_keys = file.find("sample_keys");
  if (max == nullptr || max->shape.size() != 1 || max->shape[0] == 0 || streams == nullptr ||
      streams->shape.size() != 1 || sample_keys == nullptr || sample_keys->shape.size() != 2) {
    refuse("max, streams or sample_keys is missing or has another shape than calibrations have");
  }
  const std::size_t k = max->shape[0];
  const std::size_t rows = sample_keys->shape[0];
  // Before memory is taken for k x k numbers.
  const TensorView* moment = file.find("fit_moment");
  if (moment == nullptr || moment->shape != std::vector<std::size_t>{k, k}) {
    refuse(fmt::format("fit_moment is not {} x {}", k, k));
  }
  Calibration out(k);
  std::vector<std::uint64_t> counts;
  std::vector<std::uint64_t> keys;
  read("counts", TensorType::u64, counts, {5});
  read("streams", TensorType::u64, out.streams_, {streams->shape[0]});
  read("fit_moment", TensorType::f32, out.moment_[0], {k, k});
  read("held_out_moment", TensorType::f32, out.moment_[1], {k, k});
  if (file.find("cross_moment") != nullptr) {
    read("cross_moment", TensorType::f32, out.cross_, {k, k});
  }
  read("max", TensorType::f32, out.max_, {k});
  read("min", TensorType::f32, out.min_, {k});
  read("sum_abs", TensorType::f64, out.sum_abs_, {k});
  read("sample_keys", TensorType::u64, keys, {rows, 3});
  read("samples", TensorType::f32, out.samples_, {rows, k});
  for (const std::vector<float>* values :
       {&out.moment_[0], &out.moment_[1], &out.cross_, &out.samples_}) {
    for (const float value : *values) {
      if (!std::isfinite(value)) refuse("Inf or NaN, expected finite values");
    }
  }
  out.tokens_[0] = counts[0];
  out.tokens_[1] = counts[1];
  out.next_token_ = counts[2];
  out.options_.stream = counts[3];
  out.options_.sample_rows = counts[4];
  for (std::size_t i = 0; i < rows; ++i) {
    out.keys_.push_back({keys[3 * i], keys[3 * i + 1], keys[3 * i + 2]});
  }
  return out;
}

}  // namespace nybble
