// Activations on the fly: int8, bf16, and what 4-bit codes stand for. Included inside a target's
// region and namespace, after quantize.inl.h.

/// The sum of each sum group of `count` values.
NYBBLE_INLINE void sum_groups(const std::int8_t* q, std::size_t count, std::size_t sum_group,
                              std::int32_t* sums) {
  constexpr std::size_t kBytes = 4 * kLanes;
  const auto* from = reinterpret_cast<const std::uint8_t*>(q);
  std::int64_t eights[kBytes / 8];
  std::size_t begin = 0;
  const auto small_groups = [&](auto group) {
    constexpr std::size_t kEights = decltype(group)::value / 8;
    for (; begin + kBytes <= count; begin += kBytes) {
      store_sums_of_8(eights, load_bytes(from + begin));
      for (std::size_t i = 0; i < kBytes / 8; i += kEights) {
        std::int64_t sum = 0;
        for (std::size_t k = 0; k < kEights; ++k) sum += eights[i + k];
        *sums++ = static_cast<std::int32_t>(sum);
      }
    }
  };
  if (sum_group == 16) small_groups(std::integral_constant<std::size_t, 16>{});
  if (sum_group == 32) small_groups(std::integral_constant<std::size_t, 32>{});
  for (; begin < count; begin += sum_group) {
    const std::size_t end = count - begin < sum_group ? count : begin + sum_group;
    std::int64_t sum = 0;
    std::size_t i = begin;
    for (; i + kBytes <= end; i += kBytes) {
      store_sums_of_8(eights, load_bytes(from + i));
      for (std::size_t k = 0; k < kBytes / 8; ++k) sum += eights[k];
    }
    for (; i < end; ++i) sum += q[i];
    *sums++ = static_cast<std::int32_t>(sum);
  }
}

/// The largest |x| of each group, in its shift's place; returns whether an x is Inf or NaN.
NYBBLE_INLINE bool group_peaks(const QuantizeInt8Args& args) {
  F poison = zero();  // NaN once times 0 is
  std::size_t begin = 0;
  std::size_t g = 0;
  if (args.group % kLanes == 0) {
    // kLanes groups share their reduction: one by one, that took most of the time.
    for (; begin + kLanes * args.group <= args.count; g += kLanes) {
      F largest[kLanes];
      for (F& of_group : largest) {
        of_group = zero();
        for (std::size_t i = 0; i < args.group; i += kLanes, begin += kLanes) {
          const F v = load(args.x + begin);
          of_group = max(of_group, abs(v));
          poison = fma(v, zero(), poison);
        }
      }
      store(args.shifts + g, reduce_max_each(largest));
    }
  }
  for (; begin < args.count; begin += args.group, ++g) {
    const std::size_t end = args.count - begin < args.group ? args.count : begin + args.group;
    F largest = zero();
    for (std::size_t i = begin; i < end; i += kLanes) {
      const F v = end - i >= kLanes ? load(args.x + i) : load_partial(args.x + i, end - i);
      largest = max(largest, abs(v));
      poison = fma(v, zero(), poison);
    }
    args.shifts[g] = reduce_max(largest);
  }
  return any(nonfinite(poison));
}

/// x * inverse of the group, rounded, where Vectors of kLanes make a group (4: or any multiple).
/// Returns how many values were done.
template <std::size_t Vectors, class Inverse>
NYBBLE_INLINE std::size_t round_groups(const QuantizeInt8Args& args, const Inverse& inverse) {
  const std::size_t step = Vectors < 4 ? 4 * kLanes : args.group;
  std::size_t begin = 0;
  std::size_t g = 0;
  for (; begin + step <= args.count; g += Vectors < 4 ? 4 / Vectors : 1) {
    for (const std::size_t end = begin + step; begin < end; begin += 4 * kLanes) {
      I rounded[4];
      for (std::size_t i = 0; i < 4; ++i) {
        const F scaled = mul(load(args.x + begin + i * kLanes), set1(inverse(g + i / Vectors)));
        rounded[i] = to_int(round_even(scaled));
      }
      store_signed_bytes(args.q + begin, rounded);
    }
  }
  return begin;
}

inline void quantize_int8(const QuantizeInt8Args& args) noexcept {
  const bool bad = group_peaks(args);
  const std::size_t groups = (args.count + args.group - 1) / args.group;
  F largest = zero();
  for (std::size_t g = 0; g < groups; g += kLanes) {
    largest = max(largest, load_partial(args.shifts + g, groups - g));
  }
  // The floor keeps 1 / (scale * shift) finite for rows of zeros and denormals.
  const float peak = reduce_max(largest) / 127.0F;
  const float row_scale = peak > 0x1p-80F ? peak : 0x1p-80F;
  const float inverse_scale = 1.0F / row_scale;
  *args.row_scale = bad ? std::numeric_limits<float>::quiet_NaN() : row_scale;
  for (std::size_t g = 0; g < groups; g += kLanes) {
    // Up to a power of two: the exponent of the ratio, plus one unless its mantissa is zero.
    const std::size_t left = groups - g;
    const F ratio = div(div(load_partial(args.shifts + g, left), set1(127)), set1(row_scale));
    const I up = iand(iadd(as_int(ratio), iset1(0x007FFFFF)), iset1(0x7F800000));
    const F shift = select(greater(set1(1), ratio), as_float(up), set1(1));
    const F smallest = set1(0x1p-40F);
    store_partial(args.shifts + g, select(greater(ratio, smallest), shift, smallest), left);
  }
  if (bad) {
    for (std::size_t i = 0; i < args.count; ++i) args.q[i] = 0;
  } else {
    const auto inverse = [&](std::size_t g) {
      // 1 / shift, a power of two.
      const std::uint32_t bits = 0x7F000000U - std::bit_cast<std::uint32_t>(args.shifts[g]);
      return inverse_scale * std::bit_cast<float>(bits);
    };
    std::size_t begin = 0;
    if (args.group % (4 * kLanes) == 0) {
      begin = round_groups<4>(args, inverse);
    } else if (args.group == kLanes) {
      begin = round_groups<1>(args, inverse);
    } else if (args.group == 2 * kLanes) {
      begin = round_groups<2>(args, inverse);
    }
    for (std::size_t g = begin / args.group; begin < args.count; ++g) {
      const std::size_t of_next = (g + 1) * args.group;
      const std::size_t end = args.count < of_next ? args.count : of_next;
      for (; begin < end; begin += kLanes) {
        const std::size_t n = end - begin < kLanes ? end - begin : kLanes;
        const F scaled = mul(load_partial(args.x + begin, n), set1(inverse(g)));
        store_bytes(args.q + begin, to_int(round_even(scaled)), n);
      }
      begin = end;
    }
  }
  sum_groups(args.q, args.count, args.sum_group, args.sums);
}

inline void codes_to_int8(const CodesToInt8Args& args) noexcept {
  constexpr std::size_t kBytes = 4 * kLanes;
  std::size_t begin = 0;
  std::size_t g = 0;
  while (begin < args.count) {
    // Groups with the same zero: all of them but for zero points.
    const float zero_level = args.choices[g].scale.zero;
    std::size_t end = begin;
    for (; end < args.count && args.choices[g].scale.zero == zero_level; ++g) end += args.group;
    if (end > args.count) end = args.count;
    std::uint8_t values[16];
    for (std::size_t i = 0; i < 16; ++i) {
      values[i] = static_cast<std::uint8_t>(args.levels[i] - static_cast<int>(zero_level));
    }
    const ByteTable table = byte_table(values);
    auto* q = reinterpret_cast<std::uint8_t*>(args.q);
    for (; begin + kBytes <= end; begin += kBytes) {
      store_bytes(q + begin, lookup_low(table, load_bytes(args.codes + begin)));
    }
    if (begin < end) {
      std::uint8_t tail[kBytes] = {};
      std::memcpy(tail, args.codes + begin, end - begin);
      store_bytes(tail, lookup_low(table, load_bytes(tail)));
      std::memcpy(q + begin, tail, end - begin);
      begin = end;
    }
  }
  sum_groups(args.q, args.count, args.sum_group, args.sums);
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

inline void codes_to_bf16(const CodesToBf16Args& args) noexcept {
  for (std::size_t begin = 0, g = 0; begin < args.count; begin += args.group, ++g) {
    const std::size_t end = args.count - begin < args.group ? args.count : begin + args.group;
    // A group has 16 values at most: round those.
    const GroupScale scale = args.choices[g].scale;
    const F positive = set1(scale.positive * args.tensor_scale);
    const F negative = set1(scale.negative * args.tensor_scale);
    float values[16];
    for (std::size_t i = 0; i < 16; i += kLanes) {
      const F level = load(args.levels + i);
      const F by = select(greater(zero(), level), negative, positive);
      store(values + i, as_float(round_to_bf16(mul(sub(level, set1(scale.zero)), by))));
    }
    const FloatTable table = float_table(values);
    std::size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      store_high_halves(args.bits + i, as_int(lookup(table, widen_u8(args.codes + i))), kLanes);
    }
    for (; i < end; ++i) {
      args.bits[i] = static_cast<std::uint16_t>(
          std::bit_cast<std::uint32_t>(values[args.codes[i] & 15]) >> 16);
    }
  }
}
