// Quantizing weights and activations to 4 bits: group ranges, encoding, candidate errors. Written
// once over the primitives of simd/<target>.h; included inside a target's region and namespace.

inline constexpr std::size_t kParts = 16 / kLanes;

/// All-ones in the first n lanes.
NYBBLE_INLINE I first_lanes_mask(std::size_t n) {
  std::int32_t lanes[16] = {};
  for (std::size_t i = 0; i < n; ++i) lanes[i] = -1;
  return iload(lanes);
}

inline void group_ranges(const GroupRangesArgs& args) noexcept {
  for (std::size_t begin = 0, g = 0; begin < args.count; begin += args.group, ++g) {
    const std::size_t count = args.count - begin < args.group ? args.count - begin : args.group;
    const float* x = args.x + begin;
    // Lanes past a short tail repeat the first element, which changes neither end.
    const F first = set1(x[0]);
    F high = first;
    F low = first;
    M bad = nonfinite(first);
    std::size_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      const F v = load(x + i);
      high = max(v, high);
      low = min(v, low);
      bad = either(bad, nonfinite(v));
    }
    for (; i < count; ++i) {
      const F v = set1(x[i]);
      high = max(v, high);
      low = min(v, low);
      bad = either(bad, nonfinite(v));
    }
    args.ranges[g].max = any(bad) ? std::numeric_limits<float>::quiet_NaN() : reduce_max(high);
    args.ranges[g].min = reduce_min(low);
  }
}

/// The rank of z among ascending thresholds by binary search: 4 compares instead of 15. The table
/// holds 15 thresholds and a filler that is never read.
NYBBLE_INLINE I rank_of(const FloatTable& thresholds, F z) {
  I rank = iset1(0);
  rank = increment(rank, greater(z, lookup(thresholds, iadd(rank, iset1(7)))), iset1(8));
  rank = increment(rank, greater(z, lookup(thresholds, iadd(rank, iset1(3)))), iset1(4));
  rank = increment(rank, greater(z, lookup(thresholds, iadd(rank, iset1(1)))), iset1(2));
  rank = increment(rank, greater(z, lookup(thresholds, rank)), iset1(1));
  return rank;
}

/// zero_scaled() of format/element.h, which must not be called here: its code would be shared.
NYBBLE_INLINE float zero_scaled(const ScaleChoice& choice) {
  const bool positive_nan = choice.scale.positive != choice.scale.positive;
  const bool negative_nan = choice.scale.negative != choice.scale.negative;
  if (positive_nan == negative_nan) return 0;
  return negative_nan ? std::numeric_limits<float>::quiet_NaN()
                      : -std::numeric_limits<float>::min();
}

/// An EncodeTable in registers.
struct Encoder {
  FloatTable thresholds;
  FloatTable codes;  ///< by rank, as the f32 bits of the integer
  bool reciprocal;
  bool zero_point;

  explicit NYBBLE_INLINE Encoder(const EncodeTable& table)
      : reciprocal(table.reciprocal), zero_point(table.layout == ScaleLayout::zero_point) {
    float padded[16];
    float ranked[16];
    for (std::size_t i = 0; i < 15; ++i) padded[i] = table.threshold[i];
    padded[15] = 0;
    for (std::size_t i = 0; i < 16; ++i) {
      ranked[i] = std::bit_cast<float>(static_cast<std::int32_t>(table.code[i]));
    }
    thresholds = float_table(padded);
    codes = float_table(ranked);
  }

  NYBBLE_INLINE I operator()(F x, const ScaleChoice& choice) const {
    const F by =
        select(greater(x, zero()), set1(choice.encode_positive), set1(choice.encode_negative));
    F z = reciprocal ? mul(x, by) : div(x, by);
    z = select(equal(x, zero()), set1(zero_scaled(choice)), z);  // 0 / 0 and 0 * Inf, too
    if (zero_point) {
      // max(a, b) is b where a is NaN.
      const F code = max(add(round_even(z), set1(choice.scale.zero)), zero());
      return to_int(min(code, set1(15)));
    }
    return as_int(lookup(codes, rank_of(thresholds, z)));
  }
};

inline void encode(const EncodeArgs& args) noexcept {
  const Encoder encoder(*args.table);
  for (std::size_t begin = 0, g = 0; begin < args.count; begin += args.group, ++g) {
    const std::size_t end = args.count - begin < args.group ? args.count : begin + args.group;
    const ScaleChoice choice = args.choices[g];
    std::size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      store_bytes(args.codes + i, encoder(load(args.x + i), choice), kLanes);
    }
    if (i < end) {
      store_bytes(args.codes + i, encoder(load_partial(args.x + i, end - i), choice), end - i);
    }
  }
}

inline void group_errors(const GroupErrorsArgs& args) noexcept {
  const Encoder encoder(*args.table);
  const FloatTable levels = float_table(args.table->level.data());
  for (std::size_t c = 0; c < args.candidates; ++c) {
    const ScaleChoice choice = args.choices[c];
    const F positive = set1(choice.scale.positive * args.tensor_scale);
    const F negative = set1(choice.scale.negative * args.tensor_scale);
    const F zero_level = set1(choice.scale.zero);
    F positive_sum[kParts];
    F negative_sum[kParts];
    for (std::size_t p = 0; p < kParts; ++p) positive_sum[p] = negative_sum[p] = zero();
    for (std::size_t begin = 0; begin < args.count; begin += 16) {
      for (std::size_t p = 0; p < kParts; ++p) {
        const std::size_t at = begin + p * kLanes;
        if (at >= args.count) break;
        const std::size_t left = args.count - at;
        const bool whole = left >= kLanes;
        const F x = whole ? load(args.x + at) : load_partial(args.x + at, left);
        const F level = lookup(levels, encoder(x, choice));
        const F scale = select(greater(zero(), level), negative, positive);
        const F error = sub(mul(sub(level, zero_level), scale), x);
        F square = mul(error, error);
        if (args.importance != nullptr) {
          const float* weights = args.importance + at;
          square = mul(square, whole ? load(weights) : load_partial(weights, left));
        }
        // Lanes past the end hold x = 0, in which a codebook without a zero would make an error.
        if (!whole) square = as_float(iand(as_int(square), first_lanes_mask(left)));
        const M above = greater(x, zero());
        positive_sum[p] = add(positive_sum[p], select(above, square, zero()));
        negative_sum[p] = add(negative_sum[p], select(above, zero(), square));
      }
    }
    args.positive_errors[c] = reduce_add(positive_sum);
    args.negative_errors[c] = reduce_add(negative_sum);
  }
}

NYBBLE_INLINE F add_square(F sum, F v) { return add(sum, mul(v, v)); }

inline void squared_error(const SquaredErrorArgs& args) noexcept {
  F signal[kParts];
  F noise[kParts];
  for (std::size_t p = 0; p < kParts; ++p) signal[p] = noise[p] = zero();
  std::size_t begin = 0;
  for (; begin + 16 <= args.count; begin += 16) {
    for (std::size_t p = 0; p < kParts; ++p) {
      const F x = load(args.x + begin + p * kLanes);
      signal[p] = add_square(signal[p], x);
      noise[p] = add_square(noise[p], sub(x, load(args.y + begin + p * kLanes)));
    }
  }
  for (std::size_t p = 0; begin < args.count; ++p, begin += kLanes) {
    const std::size_t left = args.count - begin;
    const F x = load_partial(args.x + begin, left);
    signal[p] = add_square(signal[p], x);
    noise[p] = add_square(noise[p], sub(x, load_partial(args.y + begin, left)));
  }
  *args.signal = reduce_add(signal);
  *args.noise = reduce_add(noise);
}
