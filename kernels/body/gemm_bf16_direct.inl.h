// bf16 activations x weights: levels straight from nibbles into bf16 dots, one f32 scale a group,
// as the integer kernels do. Sign-split weights need two dots for each, so from some rows on it is
// better to decode a panel to bf16 first (gemm_float.inl.h). Included inside a target's region and
// namespace, after gemm_a8.inl.h and simd/avx512bf16.h.

template <ScaleLayout Layout, bool HalfChunks>
struct Bf16DirectStep : NibbleStep<Layout, HalfChunks> {
  using Base = NibbleStep<Layout, HalfChunks>;
  using Base::args, Base::weight, Base::codes, Base::scales, Base::first_group, Base::end_group;
  using Base::kSides;

  WordTable table[2];

  explicit Bf16DirectStep(const GemmArgs& gemm) : Base(gemm) {
    float first[16];
    float second[16];
    for (std::size_t i = 0; i < 16; ++i) {
      const float level = weight.levels[i];
      const bool split = Layout == ScaleLayout::sign_split && level < 0;
      first[i] = split ? 0 : level;
      second[i] = split ? level : 0;
    }
    table[0] = bf16_table(first);
    table[1] = bf16_table(second);
  }

  [[nodiscard]] NYBBLE_INLINE float output_scale(std::size_t /*m*/) const {
    return weight.tensor_scale;
  }

  template <int R>
  NYBBLE_INLINE void tile(std::size_t m, float* acc_memory, bool first_tile) {
    // Independent sums hide the latency of the dot when there are few rows.
    constexpr int kChains = R == 1 ? 4 : R == 2 ? 2 : 1;
    F acc[R];
    for (int r = 0; r < R; ++r) acc[r] = load(acc_memory + 16 * r);
    const std::size_t vectors = Base::group_vectors();
    const std::uint8_t* w = codes + first_group * vectors * 64;
    const float* x =
        static_cast<const float*>(args.x) + m * args.dwords + first_group * vectors * 4 * R;
    const float* scale = scales;
    for (std::size_t g = first_group; g < end_group; ++g) {
      if (first_tile) Base::template decode_scales_of<1>(g, 0);
      F sum[kSides][kChains][R];
      for (auto& side : sum) {
        for (auto& chain : side) {
          for (F& s : chain) s = zero();
        }
      }
      for (std::size_t v = 0; v < vectors; ++v) {
        if (first_tile) prefetch_ahead(w, kPrefetchFar, kPrefetchNear);
        const B nibbles = load_bytes(w);
        for (int side = 0; side < kSides; ++side) {
          const F pairs[4] = {
              lookup_words<0>(table[side], nibbles), lookup_words<8>(table[side], nibbles),
              lookup_words<4>(table[side], nibbles), lookup_words<12>(table[side], nibbles)};
          for (int i = 0; i < 4; ++i) {
            for (int r = 0; r < R; ++r) {
              F& s = sum[side][i % kChains][r];
              s = Bf16Numbers::dot(s, pairs[i], x + i * R + r);
            }
          }
        }
        w += 64;
        x += 4 * R;
      }
      for (int side = 0; side < kSides; ++side) {
        const F by = load(scale + side * 16);
        for (int r = 0; r < R; ++r) {
          F total = sum[side][0][r];
          for (int c = 1; c < kChains; ++c) total = add(total, sum[side][c][r]);
          acc[r] = fma(total, by, acc[r]);
        }
      }
      scale += kSides * 16;
    }
    for (int r = 0; r < R; ++r) store(acc_memory + 16 * r, acc[r]);
  }
};

template <ScaleLayout Layout>
inline void gemm_bf16_direct(const GemmArgs& args) {
  if (args.weight->group == 16) {
    Bf16DirectStep<Layout, true> step(args);
    gemm_loops(args, step);
  } else {
    Bf16DirectStep<Layout, false> step(args);
    gemm_loops(args, step);
  }
}
