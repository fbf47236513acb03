// What attention needs beside its two products, which are GEMMs: weights from scores, and weights
// times the scales of tokens. Included inside a target's region and namespace, after gemm.inl.h.

/// exp(z) for z <= 0, within 3 units in the last place; 0 below -87. z = n ln 2 + r, then the
/// Taylor series of exp(r), |r| <= ln 2 / 2, whose next term is below 6e-9.
NYBBLE_INLINE F exp_of_negative(F z) {
  const F lowest = set1(-87.0F);
  const F clamped = max(z, lowest);
  const F n = round_even(mul(clamped, set1(0x1.715476p+0F)));
  // ln 2 in two parts: the first has few bits, so that n times it is exact.
  F r = fnma(n, set1(0x1.62e4p-1F), clamped);
  r = fnma(n, set1(0x1.7f7d1cp-20F), r);
  F sum = set1(1.0F / 5040);
  for (const float coefficient : {1.0F / 720, 1.0F / 120, 1.0F / 24, 1.0F / 6, 0.5F, 1.0F, 1.0F}) {
    sum = fma(sum, r, set1(coefficient));
  }
  const F power = as_float(shl<23>(iadd(to_int(n), iset1(127))));
  return select(greater(lowest, z), zero(), mul(sum, power));
}

inline void softmax_weights(const SoftmaxWeightsArgs& args) noexcept {
  const F scale = set1(args.scale);
  const std::size_t whole = args.count / kLanes * kLanes;
  const std::size_t left = args.count - whole;
  // A score of the row, which changes no maximum, fills the lanes past its end.
  const F filler = mul(set1(args.x[0]), scale);
  const M present = iequal(first_lanes_mask(left), iset1(-1));
  const auto scores = [&](std::size_t i) {
    if (i < whole) return mul(load(args.x + i), scale);
    return select(present, mul(load_partial(args.x + i, left), scale), filler);
  };
  F high = filler;
  M bad = nonfinite(filler);
  for (std::size_t i = 0; i < args.count; i += kLanes) {
    const F v = scores(i);
    high = max(v, high);
    bad = either(bad, nonfinite(v));
  }
  const bool spoiled = any(bad);
  const F highest = set1(spoiled ? 0.0F : reduce_max(high));
  F sums[kParts];
  for (F& sum : sums) sum = zero();
  for (std::size_t begin = 0; begin < args.count; begin += 16) {
    for (std::size_t p = 0; p < kParts; ++p) {
      const std::size_t i = begin + p * kLanes;
      if (i >= args.count) break;
      F weight = spoiled ? zero() : exp_of_negative(sub(scores(i), highest));
      if (i < whole) {
        store(args.x + i, weight);
      } else {
        store_partial(args.x + i, weight, left);
        weight = select(present, weight, zero());
      }
      sums[p] = add(sums[p], weight);
    }
  }
  *args.sum = spoiled ? std::numeric_limits<float>::quiet_NaN() : reduce_add(sums);
}

inline void scale_weights(const ScaleWeightsArgs& args) noexcept {
  const PackedPanels& tokens = *args.tokens;
  const std::size_t sides = tokens.layout == ScaleLayout::sign_split ? 2 : 1;
  for (std::size_t panel = 0; panel * 16 < args.count; ++panel) {
    const std::uint8_t* from = tokens.scales + panel * tokens.scale_stride +
                               (args.group * sides + args.side) * 16 * tokens.scale_size;
    for (std::size_t i = 0; i < 16; i += kLanes) {
      store(args.scales + panel * 16 + i,
            load_scale(tokens.scale_type, from + i * tokens.scale_size));
    }
  }
  for (std::size_t row = 0; row < args.rows; ++row) {
    const float* x = args.x + row * args.x_stride;
    float* y = args.y + row * args.y_stride;
    F sums[kParts];
    for (F& sum : sums) sum = zero();
    for (std::size_t begin = 0; begin < args.count; begin += 16) {
      for (std::size_t p = 0; p < kParts; ++p) {
        const std::size_t i = begin + p * kLanes;
        if (i >= args.count) break;
        const F value = mul(load_partial(x + i, args.count - i), load(args.scales + i));
        store_partial(y + i, value, args.count - i);
        if (tokens.layout != ScaleLayout::zero_point) continue;
        const F level = to_float(widen_u8(tokens.zeros + begin / 16 * tokens.zero_stride +
                                          args.group * 16 + p * kLanes));
        sums[p] = fma(value, sub(level, set1(kMiddleLevel)), sums[p]);
      }
    }
    if (tokens.layout == ScaleLayout::zero_point) args.zero_sums[row] = reduce_add(sums);
  }
}
