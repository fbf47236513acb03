// Activations on the fly: int8, bf16, and what 4-bit codes stand for. Included inside a target's
// region and namespace, after quantize.inl.h.

/// Calls q(at, left) for every vector of [begin, end), which stores it and returns its integers,
/// and writes the sum of each sum group to sums[at / sum_group].
template <class Quantize>
NYBBLE_INLINE void for_sum_groups(std::size_t begin, std::size_t end, std::size_t sum_group,
                                  std::int32_t* sums, Quantize quantize) {
  for (std::size_t from = begin; from < end; from += sum_group) {
    const std::size_t to = end - from < sum_group ? end : from + sum_group;
    I sum = iset1(0);
    for (std::size_t i = from; i < to; i += kLanes) {
      sum = iadd(sum, quantize(i, to - i < kLanes ? to - i : kLanes));
    }
    sums[from / sum_group] = reduce_iadd(sum);
  }
}

inline void quantize_int8(const QuantizeInt8Args& args) noexcept {
  // First every group's peak, in its shift's place.
  F largest_of_row = zero();
  M bad = no_lanes();
  for (std::size_t begin = 0, g = 0; begin < args.count; begin += args.group, ++g) {
    const std::size_t end = args.count - begin < args.group ? args.count : begin + args.group;
    F largest = zero();
    std::size_t i = begin;
    for (; i < end; i += kLanes) {
      const F v = end - i >= kLanes ? load(args.x + i) : load_partial(args.x + i, end - i);
      largest = max(largest, abs(v));
      bad = either(bad, nonfinite(v));
    }
    largest_of_row = max(largest_of_row, largest);
    args.shifts[g] = reduce_max(largest);
  }
  // The floor keeps 1 / (scale * shift) finite for rows of zeros and denormals.
  const float peak = reduce_max(largest_of_row) / 127.0F;
  const float row_scale = peak > 0x1p-80F ? peak : 0x1p-80F;
  const float inverse_scale = 1.0F / row_scale;
  *args.row_scale = any(bad) ? std::numeric_limits<float>::quiet_NaN() : row_scale;
  for (std::size_t begin = 0, g = 0; begin < args.count; begin += args.group, ++g) {
    const std::size_t end = args.count - begin < args.group ? args.count : begin + args.group;
    // Up to a power of two: the exponent of the ratio, plus one unless its mantissa is zero.
    const float ratio = args.shifts[g] / 127.0F / row_scale;
    const std::uint32_t up = (std::bit_cast<std::uint32_t>(ratio) + 0x007FFFFFU) & 0x7F800000U;
    const float shift =
        ratio > 0x1p-40F ? (ratio < 1.0F ? std::bit_cast<float>(up) : 1.0F) : 0x1p-40F;
    args.shifts[g] = shift;
    const F inverse = set1(inverse_scale * (1.0F / shift));
    for_sum_groups(begin, end, args.sum_group, args.sums, [&](std::size_t at, std::size_t left) {
      const F v = left >= kLanes ? load(args.x + at) : load_partial(args.x + at, left);
      const F q = round_even(mul(v, inverse));
      const I bits = to_int(any(bad) ? zero() : q);
      store_bytes(args.q + at, bits, left);
      return bits;
    });
  }
}

inline void codes_to_int8(const CodesToInt8Args& args) noexcept {
  float as_floats[16];
  for (std::size_t i = 0; i < 16; ++i) {
    as_floats[i] = std::bit_cast<float>(static_cast<std::int32_t>(args.levels[i]));
  }
  const FloatTable levels = float_table(as_floats);
  for (std::size_t begin = 0, g = 0; begin < args.count; begin += args.group, ++g) {
    const std::size_t end = args.count - begin < args.group ? args.count : begin + args.group;
    const I zero_level = iset1(static_cast<std::int32_t>(args.choices[g].scale.zero));
    for_sum_groups(begin, end, args.sum_group, args.sums, [&](std::size_t at, std::size_t left) {
      std::uint8_t tail[kLanes] = {};
      const std::uint8_t* codes = args.codes + at;
      if (left < kLanes) {
        for (std::size_t i = 0; i < left; ++i) tail[i] = codes[i];
        codes = tail;
      }
      I q = isub(as_int(lookup(levels, widen_u8(codes))), zero_level);
      store_bytes(args.q + at, q, left);
      if (left < kLanes) q = iand(q, first_lanes_mask(left));
      return q;
    });
  }
}

inline void codes_to_float(const CodesToFloatArgs& args) noexcept {
  const FloatTable levels = float_table(args.levels);
  for (std::size_t begin = 0, g = 0; begin < args.count; begin += args.group, ++g) {
    const std::size_t end = args.count - begin < args.group ? args.count : begin + args.group;
    const GroupScale scale = args.choices[g].scale;
    const float above = scale.positive * args.tensor_scale;
    const float below = scale.negative * args.tensor_scale;
    const F positive = set1(above);
    const F negative = set1(below);
    const F zero_level = set1(scale.zero);
    std::size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      const F level = lookup(levels, widen_u8(args.codes + i));
      const F by = select(greater(zero(), level), negative, positive);
      store(args.values + i, mul(sub(level, zero_level), by));
    }
    for (; i < end; ++i) {
      const float level = args.levels[args.codes[i] & 15];
      args.values[i] = (level - scale.zero) * (level < 0 ? below : above);
    }
  }
}

/// Nearest bf16, ties to even, in the high half of each lane; NaN stays NaN. Not vcvtneps2bf16,
/// which flushes denormals.
NYBBLE_INLINE I round_to_bf16(F x) {
  const I bits = as_int(x);
  const I lowest = iand(shr<16>(bits), iset1(1));
  const I rounded = iadd(iadd(bits, iset1(0x7FFF)), lowest);
  const M is_nan = igreater(iand(bits, iset1(0x7FFFFFFF)), iset1(0x7F800000));
  return as_int(select(is_nan, as_float(iset1(0x7FC00000)), as_float(rounded)));
}

inline void round_bf16(const RoundBf16Args& args) noexcept {
  std::size_t i = 0;
  for (; i + kLanes <= args.count; i += kLanes) {
    store_high_halves(args.bits + i, round_to_bf16(load(args.x + i)), kLanes);
  }
  if (i < args.count) {
    store_high_halves(args.bits + i, round_to_bf16(load_partial(args.x + i, args.count - i)),
                      args.count - i);
  }
}
