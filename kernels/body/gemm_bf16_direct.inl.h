// bf16 activations x weights: levels straight from nibbles into bf16 dots, one f32 scale a group,
// as the integer kernels do. Sign-split weights need two dots for each, so from some rows on it is
// better to decode a panel to bf16 first (gemm_float.inl.h). Included inside a target's region and
// namespace, after gemm_a8.inl.h and simd/avx512bf16.h.

template <ScaleLayout Layout, std::size_t Vectors>
struct Bf16DirectStep : NibbleStep<Layout, Vectors> {
  using Base = NibbleStep<Layout, Vectors>;
  using Base::args, Base::weight, Base::scales, Base::first_group, Base::end_group, Base::kSides;

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
    GroupCursor group = Base::begin;
    const float* x =
        static_cast<const float*>(args.x) + m * args.dwords + first_group * vectors * 4 * R;
    const float* scale = scales;
    for (std::size_t g = first_group; g < end_group; ++g, group.next()) {
      const std::uint8_t* w = group.codes;
      if (first_tile) Base::template decode_scales_of<R, 1>(g, group.scales, 0);
      F sum[kSides][kChains][R];
      for (auto& side : sum) {
        for (auto& chain : side) {
          for (F& s : chain) s = zero();
        }
      }
      for (std::size_t v = 0; v < vectors; ++v) {
        if (first_tile) prefetch_ahead<R>(w);
        const B nibbles = load_bytes(w);
        for (int side = 0; side < kSides; ++side) {
          const F pairs[4] = {
              lookup_words<0>(table[side], nibbles), lookup_words<8>(table[side], nibbles),
              lookup_words<4>(table[side], nibbles), lookup_words<12>(table[side], nibbles)};
          for (int pair = 0; pair < 4; ++pair) {
            for (int r = 0; r < R; ++r) {
              F& s = sum[side][pair % kChains][r];
              s = Bf16Numbers::dot(s, pairs[pair], x + pair * R + r);
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
    if (first_tile) Base::end = group;
    for (int r = 0; r < R; ++r) store(acc_memory + 16 * r, acc[r]);
  }
};

template <ScaleLayout Layout>
inline void gemm_bf16_direct(const GemmArgs& args) {
  with_group_vectors<true>(args.weight->group, [&](auto vectors) {
    gemm_with<Bf16DirectStep<Layout, decltype(vectors)::value>>(args);
  });
}

/// Sign-split weights whose scales have at most two mantissa bits (PackedPanels::one_table): level
/// times scale, exactly, by one lookup and one subtraction in the exponent; the larger side's power
/// of two waits for the group's sum. The first tile of a block decodes it for all others.
template <std::size_t Vectors>
struct Bf16SplitStep : NibbleStep<ScaleLayout::sign_split, Vectors, 256> {
  using Base = NibbleStep<ScaleLayout::sign_split, Vectors, 256>;
  using Base::args, Base::weight, Base::scales, Base::first_group, Base::end_group;

  static constexpr std::size_t kScratchBytes =
      Base::kScratchBytes + Base::kBlockValues / 2 * 16 * sizeof(float);

  SplitWordTable table;
  SplitWords rows[2];    ///< of an even group and the next, while the first tile decodes
  float* const decoded;  ///< [kBlockValues / 2][16]

  explicit Bf16SplitStep(const GemmArgs& gemm)
      : Base(gemm),
        table(split_word_table(weight.levels)),
        decoded(reinterpret_cast<float*>(gemm.scratch + Base::kScratchBytes)) {}

  [[nodiscard]] NYBBLE_INLINE float output_scale(std::size_t /*m*/) const {
    return weight.tensor_scale;
  }

  NYBBLE_INLINE void prepare_group(std::size_t i, const SplitWords& entries, F unit) {
    rows[i % 2] = entries;
    store(scales + i * 16, unit);
  }
  /// Group i, whatever its scales.
  NYBBLE_INLINE void prepare_any(std::size_t i, const std::uint8_t* from) {
    SplitWords entries;
    const F unit = split_words(load_scale(weight.scale_type, from),
                               load_scale(weight.scale_type, from + 16), entries);
    prepare_group(i, entries, unit);
  }
  /// Group i of the block, whose scales lie at `from`, and, in the same block, the next.
  template <int R>
  NYBBLE_INLINE void prepare_pair(std::size_t i, const std::uint8_t* from) {
    prefetch_ahead<R>(from);
    const std::size_t left = end_group - first_group - i;
    const SplitScales both = split_scales(weight.scale_type, from, left);
    if (any_special(both.special, 0)) {
      prepare_any(i, from);
    } else {
      prepare_group(i, split_words_of<0>(both), split_unit<0>(both, 0));
    }
    if (left < 2) return;
    if (any_special(both.special, 1)) {
      prepare_any(i + 1, from + 32);
    } else {
      prepare_group(i + 1, split_words_of<1>(both), split_unit<1>(both, 0));
    }
  }

  template <int R>
  NYBBLE_INLINE void tile(std::size_t m, float* acc_memory, bool first) {
    if (first) {
      tile_of<R, true>(m, acc_memory);
    } else {
      tile_of<R, false>(m, acc_memory);
    }
  }

  template <int R, bool First>
  NYBBLE_INLINE void tile_of(std::size_t m, float* acc_memory) {
    // Independent sums hide the latency of the dot when there are few rows.
    constexpr int kChains = R == 1 ? 4 : R <= 4 ? 2 : 1;
    F acc[R];
    for (int r = 0; r < R; ++r) acc[r] = load(acc_memory + 16 * r);
    const std::size_t vectors = Base::group_vectors();
    const float* x =
        static_cast<const float*>(args.x) + m * args.dwords + first_group * vectors * 4 * R;
    const SplitWordTable local_table = table;
    GroupCursor group = Base::begin;
    for (std::size_t i = 0; i < end_group - first_group; ++i, group.next()) {
      if (First && i % 2 == 0) prepare_pair<R>(i, group.scales);
      F sum[kChains][R];
      for (auto& chain : sum) {
        for (F& s : chain) s = zero();
      }
      const SplitWords entries = rows[i % 2];
      const std::uint8_t* nibbles = group.codes;
      float* w = decoded + i * vectors * 64;
      for (std::size_t v = 0; v < vectors; ++v, nibbles += 64) {
        // Decoding and dots take turns within the scheduler's reach.
        const B both = load_bytes(nibbles);
        const auto pair = [&](int chain, auto shift) {
          F weights;
          if constexpr (First) {
            weights = lookup_split_words<decltype(shift)::value>(local_table, entries, both);
            store(w, weights);
          } else {
            weights = load(w);
          }
          for (int r = 0; r < R; ++r) {
            F& s = sum[chain % kChains][r];
            s = Bf16Numbers::dot(s, weights, x + r);
          }
          w += 16;
          x += R;
        };
        if (First) prefetch_ahead<R>(nibbles);
        pair(0, std::integral_constant<int, 0>{});
        pair(1, std::integral_constant<int, 8>{});
        pair(2, std::integral_constant<int, 4>{});
        pair(3, std::integral_constant<int, 12>{});
      }
      const F by = load(scales + i * 16);
      for (int r = 0; r < R; ++r) {
        F total = sum[0][r];
        for (int c = 1; c < kChains; ++c) total = add(total, sum[c][r]);
        acc[r] = fma(total, by, acc[r]);
      }
    }
    if constexpr (First) Base::end = group;
    for (int r = 0; r < R; ++r) store(acc_memory + 16 * r, acc[r]);
  }
};

inline void gemm_bf16_one_table(const GemmArgs& args) {
  with_group_vectors<true>(args.weight->group, [&](auto vectors) {
    gemm_with<Bf16SplitStep<decltype(vectors)::value>>(args);
  });
}
