#include "nybble/attention/kv_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "nybble/error.h"
#include "nybble/kernels.h"
#include "nybble/tensor/quantized_matrix.h"
#include "src/attention/kv_data.h"
#include "src/check_enum.h"
#include "src/linear/plan.h"
#include "src/owned.h"
#include "src/quantize/encode_row.h"
#include "src/tensor/integer_levels.h"

namespace nybble {

using kernels::kChunk;
using kernels::kPanelRows;

namespace {

/// Largest group along tokens: its last, incomplete group is f32.
constexpr std::size_t kLargestTokenGroup = 256;

void check_format(const FormatInfo& info, const char* what) {
  if (info.double_quantized) {
    throw Error(ErrorCode::unsupported,
                fmt::format("kv cache, {} '{}': double quantization needs all scales at once", what,
                            info.spec));
  }
  if (info.imported) {
    throw Error(ErrorCode::unsupported,
                fmt::format("kv cache, {} '{}': it holds imported weights, nothing can be "
                            "quantized to it",
                            what, info.spec));
  }
  if (info.group % 16 != 0) {
    throw Error(ErrorCode::unsupported,
                fmt::format("kv cache, {} '{}': groups of {}, kernels need multiples of 16", what,
                            info.spec, info.group));
  }
}

/// The values of a row of `count` that share a scale: the row is one group where groups are longer.
std::size_t group_in(const FormatInfo& info, std::size_t count) {
  return info.group == 0 ? round_up(count, kChunk) : info.group;
}

}  // namespace

KvCache::Data::Data(std::size_t kv_heads, std::size_t dim, std::size_t room,
                    KvCacheOptions cache_options)
    : options(std::move(cache_options)),
      heads(kv_heads),
      head_dim(dim),
      capacity(room),
      key_group(group_in(options.keys.info(), dim)),
      value_group(group_in(options.values.info(), dim)),
      target(kernels::select(options.target)) {
  kind = options.path == Path::a8    ? ActivationKind::int8
         : options.path == Path::a16 ? ActivationKind::bf16
                                     : ActivationKind::f32;
  const std::size_t key_dot = dot_group(key_group);
  const std::size_t key_cols = round_up(head_dim, kChunk);
  keys =
      PanelStore(options.keys,
                 {heads, capacity, key_cols, key_dot,
                  // Dot groups that only pad need scales too.
                  (key_cols / key_dot * key_dot + key_group - 1) / key_group, key_group / key_dot},
                 *target.table);
  if (options.value_groups == ValueGroups::tokens) {
    unit = std::max(value_group, kChunk);
    const std::size_t dot = dot_group(value_group);
    const std::size_t cols = capacity / unit * unit;
    values = PanelStore(options.values,
                        {heads, head_dim, cols, dot, cols / value_group, value_group / dot},
                        *target.table);
    tail.resize(heads * unit * head_dim);
  } else {
    values = PanelStore(options.values, {heads, head_dim, round_up(capacity, kChunk), kChunk, 0, 1},
                        *target.table);
    token_scales =
        PanelStore(options.values, {heads, capacity, 0, kChunk, value_slices(), 1}, *target.table);
  }
  key_offset.resize(heads * head_dim);
  const std::size_t longest = std::max(key_cols, unit);
  encode_scratch.resize(heads);
  for (EncodeScratch& scratch : encode_scratch) {
    scratch.key.resize(head_dim);
    scratch.column.resize(unit);
    scratch.codes.resize(longest);
    scratch.ranges.resize(longest / 16);
    scratch.choices.resize(longest / 16);
  }
}

void KvCache::Data::append_key(std::size_t head, const float* k, std::size_t token) {
  EncodeScratch& scratch = encode_scratch[head];
  const std::size_t cols = round_up(head_dim, kChunk);
  const std::size_t panel = token / kPanelRows;
  if (token % kPanelRows == 0) {
    keys.clear_codes(head, panel, 0, cols / kChunk);
    keys.clear_scales(head, panel, 0, (cols + key_group - 1) / key_group);
  }
  for (std::size_t i = 0; i < head_dim; ++i) {
    scratch.key[i] = k[i] - key_offset[head * head_dim + i];
  }
  std::fill(scratch.codes.begin(), scratch.codes.end(), keys.padding());
  encode_row(*target.table, options.keys, scratch.key.data(), head_dim, key_group, {}, {},
             {scratch.ranges, scratch.choices}, scratch.codes.data());
  keys.put_codes(head, token, 0, {scratch.codes.data(), cols});
  for (std::size_t g = 0; g * key_group < head_dim; ++g) {
    keys.put_scale(head, token, g, scratch.choices[g].scale);
  }
}

void KvCache::Data::append_value(std::size_t head, const float* v, std::size_t token) {
  if (unit != 0) {
    std::copy_n(v, head_dim, &tail[(head * unit + token % unit) * head_dim]);
    if ((token + 1) % unit == 0) encode_unit(head, token + 1 - unit);
    return;
  }
  EncodeScratch& scratch = encode_scratch[head];
  if (token % kChunk == 0) {
    for (std::size_t panel = 0; panel < value_panels(); ++panel) {
      values.clear_codes(head, panel, token / kChunk, 1);
    }
  }
  if (token % kPanelRows == 0) {
    token_scales.clear_scales(head, token / kPanelRows, 0, value_slices());
  }
  encode_row(*target.table, options.values, v, head_dim, value_group, {}, {},
             {scratch.ranges, scratch.choices}, scratch.codes.data());
  for (std::size_t d = 0; d < head_dim; ++d) values.put_code(head, d, token, scratch.codes[d]);
  for (std::size_t g = 0; g < value_slices(); ++g) {
    token_scales.put_scale(head, token, g, scratch.choices[g].scale);
  }
}

/// The tail of a head, complete, as codes of tokens `first` and on.
void KvCache::Data::encode_unit(std::size_t head, std::size_t first) {
  EncodeScratch& scratch = encode_scratch[head];
  const std::size_t groups = unit / value_group;
  if (head_dim % kPanelRows != 0) {
    values.clear_codes(head, value_panels() - 1, first / kChunk, unit / kChunk);
    values.clear_scales(head, value_panels() - 1, first / value_group, groups);
  }
  for (std::size_t d = 0; d < head_dim; ++d) {
    for (std::size_t t = 0; t < unit; ++t) {
      scratch.column[t] = tail[(head * unit + t) * head_dim + d];
    }
    encode_row(*target.table, options.values, scratch.column.data(), unit, value_group, {}, {},
               {scratch.ranges, scratch.choices}, scratch.codes.data());
    values.put_codes(head, d, first, {scratch.codes.data(), unit});
    for (std::size_t g = 0; g < groups; ++g) {
      values.put_scale(head, d, first / value_group + g, scratch.choices[g].scale);
    }
  }
}

void KvCache::append(MatrixView k, MatrixView v, Executor& executor) {
  Data& d = owned(data_, "kv cache");
  check_rows(k, "kv cache: k");
  check_rows(v, "kv cache: v");
  const std::size_t cols = d.heads * d.head_dim;
  if (k.cols != cols || v.cols != cols || k.rows != v.rows) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("kv cache: k is {} x {} and v {} x {}, expected both M x {}", k.rows,
                            k.cols, v.rows, v.cols, cols));
  }
  if (k.rows == 0) return;
  if (k.rows > d.capacity - d.size) {
    throw Error(ErrorCode::bad_shape, fmt::format("kv cache: {} tokens after {}, room for {}",
                                                  k.rows, d.size, d.capacity));
  }
  for (const auto& [x, name] : {std::pair{k, "k"}, std::pair{v, "v"}}) {
    for (std::size_t row = 0; row < x.rows; ++row) {
      GroupRange range;
      d.target.table->group_ranges({x.row(row), cols, cols, &range});
      if (!std::isnan(range.max)) continue;
      std::size_t col = 0;
      while (std::isfinite(x.at(row, col))) ++col;
      throw Error(ErrorCode::bad_value, fmt::format("kv cache: {} in {} at [{}, {}], expected "
                                                    "finite values",
                                                    x.at(row, col), name, row, col));
    }
  }
  const auto task = [&](std::size_t head) {
    for (std::size_t row = 0; row < k.rows; ++row) {
      d.append_key(head, k.row(row) + head * d.head_dim, d.size + row);
      d.append_value(head, v.row(row) + head * d.head_dim, d.size + row);
    }
  };
  SerialExecutor serial;
  Executor& chosen = 16 * k.rows * cols < kWorthThreads ? serial : executor;
  // Values past the end of the unit that waits take the places of those that wait. If the executor
  // throws before it is codes in every head, they are needed again.
  const bool past_unit = d.unit != 0 && d.size % d.unit != 0 && d.size % d.unit + k.rows > d.unit;
  const std::vector<float> waiting = past_unit ? d.tail : std::vector<float>();
  try {
    chosen.parallel_for(d.heads, task);
  } catch (...) {
    if (past_unit) d.tail = waiting;
    throw;
  }
  d.size += k.rows;
}

KvCache::KvCache(std::size_t kv_heads, std::size_t head_dim, std::size_t capacity,
                 KvCacheOptions options) {
  // 16 bytes a value is more than everything together takes.
  const std::size_t limit = std::size_t{1} << 56;
  if (kv_heads == 0 || head_dim == 0 || capacity == 0 || kv_heads > limit / head_dim ||
      kv_heads * head_dim > limit / capacity) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("kv cache: {} heads x {} channels x {} tokens, expected at least 1 "
                            "each and a size that memory can hold",
                            kv_heads, head_dim, capacity));
  }
  check_enum(options.path, Path::a4, "kv cache: path");
  check_enum(options.value_groups, ValueGroups::head_dim, "kv cache: value groups");
  if (options.path == Path::a4) {
    throw Error(ErrorCode::bad_option, "kv cache: path a4, expected a8, a16 or a32");
  }
  check_format(options.keys.info(), "keys");
  const FormatInfo& values = options.values.info();
  check_format(values, "values");
  if (options.value_groups == ValueGroups::tokens &&
      (values.group == 0 || values.group > kLargestTokenGroup)) {
    throw Error(ErrorCode::unsupported,
                fmt::format("kv cache, values '{}': groups along tokens of {}, expected at most {}",
                            values.spec, values.group == 0 ? "all" : std::to_string(values.group),
                            kLargestTokenGroup));
  }
  data_ = std::make_unique<Data>(kv_heads, head_dim, capacity, std::move(options));
}

KvCache::~KvCache() = default;
KvCache::KvCache(KvCache&&) noexcept = default;
KvCache& KvCache::operator=(KvCache&&) noexcept = default;

std::size_t KvCache::size() const noexcept { return data_ ? data_->size : 0; }
std::size_t KvCache::capacity() const noexcept { return data_ ? data_->capacity : 0; }
std::size_t KvCache::kv_heads() const noexcept { return data_ ? data_->heads : 0; }
std::size_t KvCache::head_dim() const noexcept { return data_ ? data_->head_dim : 0; }
void KvCache::clear() noexcept {
  if (data_) data_->size = 0;
}

void KvCache::set_key_offset(std::span<const float> offset) {
  Data& d = owned(data_, "kv cache");
  if (d.size != 0 || offset.size() != d.key_offset.size()) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("kv cache: {} key offsets with {} tokens stored, expected {} and none",
                            offset.size(), d.size, d.key_offset.size()));
  }
  for (const float value : offset) {
    if (!std::isfinite(value)) {
      throw Error(ErrorCode::bad_value,
                  fmt::format("kv cache: {} among key offsets, expected finite values", value));
    }
  }
  std::copy(offset.begin(), offset.end(), d.key_offset.begin());
}

std::size_t KvCache::bytes() const noexcept {
  if (!data_) return 0;
  const Data& d = *data_;
  const std::size_t key_bytes =
      d.keys.row_bytes(round_up(d.head_dim, kChunk), (d.head_dim + d.key_group - 1) / d.key_group);
  std::size_t value_bytes = 0;
  if (d.unit == 0) {
    value_bytes = d.size * d.token_scales.row_bytes(d.head_dim, d.value_slices());
  } else {
    value_bytes = d.head_dim * (d.values.row_bytes(d.coded(), d.coded() / d.value_group) +
                                (d.size - d.coded()) * sizeof(float));
  }
  return d.heads * (d.size * key_bytes + value_bytes);
}

std::string KvCache::key_kernel() const {
  const Data& d = owned(data_, "kv cache");
  return kernel_name(d.target,
                     gemm_slot(*d.target.table, d.kind, d.options.keys.info().layout).slot);
}

std::string KvCache::value_kernel() const {
  const Data& d = owned(data_, "kv cache");
  const ScaleLayout layout = d.unit == 0 ? ScaleLayout::symmetric : d.options.values.info().layout;
  return kernel_name(d.target, gemm_slot(*d.target.table, d.kind, layout).slot);
}

std::string KvCache::explain() const {
  const Data& d = owned(data_, "kv cache");
  const auto rounded = [&](const AnyFormat& format) {
    return d.kind == ActivationKind::int8 && !integer_levels(format.info().levels).exact
               ? ", levels rounded to integers (at most peak / 254 each)"
               : "";
  };
  std::string out;
  out +=
      fmt::format("keys      {} in groups of {} along head_dim, {}{}\n", d.options.keys.info().spec,
                  std::min(d.key_group, d.head_dim), key_kernel(), rounded(d.options.keys));
  out +=
      fmt::format("values    {} in groups of {} along {}, {}{}\n", d.options.values.info().spec,
                  d.unit == 0 ? std::min(d.value_group, d.head_dim) : d.value_group,
                  d.unit == 0 ? "head_dim" : "tokens", value_kernel(), rounded(d.options.values));
  out += fmt::format("target    {} ({})\n", d.target.target, d.target.why);
  out += fmt::format(
      "path      {}: queries and attention weights become {}\n", path_name(d.options.path),
      d.kind == ActivationKind::int8   ? "int8, a scale a row times a power of two a group"
      : d.kind == ActivationKind::bf16 ? "bf16"
                                       : "f32");
  if (d.unit != 0) {
    out += fmt::format("waiting   the last values are f32 until {} tokens are there\n", d.unit);
  }
  return out;
}

}  // namespace nybble
