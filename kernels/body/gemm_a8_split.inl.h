// int8 activations x sign-split weights by one integer dot (AMXFP4 with E5M2 or E8M0 scales; see
// PackedPanels::one_table). In units of the step times a quarter of the larger scale's power of
// two, level times scale is an integer on the larger side (48 to 84 for the largest level of E2M1)
// and an integer shifted down on the other. Shifts of 1 to 3 round to the nearest integer, which
// moves a value by at most half a unit, 1/96 of the group's largest; groups where a row needs more,
// or lacks a side, take the two exact dots of gemm_a8. The first tile of a block decodes to bytes
// for all others: decoding in every tile needs more registers than there are beside 8 rows' sums
// (half the speed). Included inside a target's region and namespace, after gemm_a8.inl.h.

/// Factors of one of two groups.
template <int Group>
NYBBLE_INLINE SplitBytes split_rows(__m512i entries) {
  return {four_times<2 * Group>(entries), four_times<2 * Group + 1>(entries)};
}
NYBBLE_INLINE B lookup_split_low(const SplitByteTable& t, const SplitBytes& rows, B a) {
  return lookup_split<8>(t, rows, a.v, a.v);
}
NYBBLE_INLINE B lookup_split_high(const SplitByteTable& t, const SplitBytes& rows, B a) {
  return lookup_split<128>(t, rows, a.v, _mm512_srli_epi16(a.v, 4));
}

inline SplitByteTable split_magnitudes(const PackedPanels& weight) {
  std::uint8_t magnitudes[128];
  for (std::size_t i = 0; i < 128; ++i) {
    // Entry: magnitude of the code, 2 bits of mantissa, 2 bits of shift.
    const float product = static_cast<float>(weight.integers[i % 8]) *
                          static_cast<float>(4 + i / 8 % 4) / static_cast<float>(1 << (i / 32));
    magnitudes[i] =
        static_cast<std::uint8_t>(static_cast<float>(kSplitOffset) + std::floor(product + 0.5F));
  }
  return split_byte_table(magnitudes);
}

/// A group of one panel by two exact dots a row, added to acc[R]. Rare, so out of line.
template <int R>
__attribute__((noinline)) void add_exact_group(const PackedPanels& weight,
                                               const std::uint8_t* nibbles, const std::int8_t* x,
                                               const float* x_magic, const float* scale, F* acc) {
  for (int side = 0; side < 2; ++side) {
    std::uint8_t magnitudes[16] = {};
    for (std::size_t i = 0; i < 8; ++i) {
      magnitudes[i + (side == 0 ? 0 : 8)] = static_cast<std::uint8_t>(weight.integers[i]);
    }
    const ByteTable table = byte_table(magnitudes);
    I sum[R];
    for (int r = 0; r < R; ++r) sum[r] = as_int(set1(x_magic[r]));
    for (std::size_t v = 0; v < weight.group / 8; ++v) {
      const B both = load_bytes(nibbles + v * 64);
      const B low = lookup_low(table, both);
      const B high = lookup_high(table, both);
      const std::int8_t* four = x + v * 8 * R;
      for (int r = 0; r < R; ++r) sum[r] = dot(sum[r], low, four + 4 * r);
      for (int r = 0; r < R; ++r) sum[r] = dot(sum[r], high, four + 4 * (R + r));
    }
    const F by = load(scale + side * 16);
    for (int r = 0; r < R; ++r) {
      const F value = sub(as_float(sum[r]), set1(x_magic[r]));
      acc[r] = side == 0 ? fma(value, by, acc[r]) : fnma(value, by, acc[r]);
    }
  }
}

template <std::size_t Vectors>
struct A8SplitStep : NibbleStep<ScaleLayout::sign_split, Vectors, 512> {
  using Base = NibbleStep<ScaleLayout::sign_split, Vectors, 512>;
  using Base::args, Base::weight, Base::scales, Base::first_group, Base::end_group;

  static constexpr std::size_t kScratchBytes = Base::kScratchBytes + Base::kBlockValues * 16;

  SplitByteTable table;
  /// Per group: two dots, or one with decoded weights in units of scales[g][0].
  bool exact_dots[Base::kMaxGroups];
  SplitBytes rows[2];           ///< of an even group and the next, while the first tile decodes
  std::uint8_t* const decoded;  ///< [kBlockValues][16]

  explicit A8SplitStep(const GemmArgs& gemm)
      : Base(gemm),
        table(split_magnitudes(*gemm.weight)),
        decoded(reinterpret_cast<std::uint8_t*>(gemm.scratch + Base::kScratchBytes)) {}

  [[nodiscard]] NYBBLE_INLINE float output_scale(std::size_t m) const { return args.row_scales[m]; }

  NYBBLE_INLINE void prepare_group(std::size_t i, const std::uint8_t* from,
                                   const SplitBytes& entries, F unit, bool exact) {
    rows[i % 2] = entries;
    exact_dots[i] = exact;
    store(scales + i * 32, unit);
    if (!exact) return;
    store(scales + i * 32, load_scale(weight.scale_type, from));
    store(scales + i * 32 + 16, load_scale(weight.scale_type, from + 16));
  }
  /// Group i of the block, whose scales lie at `from`, and, in the same block, the next.
  template <int R>
  NYBBLE_INLINE void prepare_pair(std::size_t i, const std::uint8_t* from) {
    prefetch_ahead<R>(from);
    const std::size_t left = end_group - first_group - i;
    const SplitScales both = split_scales(weight.scale_type, from, left);
    I entries;
    const auto not_in_table = split_entries(both, entries);
    prepare_group(i, from, split_rows<0>(entries), split_unit<0>(both, -2),
                  any_special(not_in_table, 0));
    if (left < 2) return;
    prepare_group(i + 1, from + 32, split_rows<1>(entries), split_unit<1>(both, -2),
                  any_special(not_in_table, 1));
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
    F acc[R];
    for (int r = 0; r < R; ++r) acc[r] = load(acc_memory + 16 * r);
    const std::size_t vectors = Base::group_vectors();
    const auto* x = static_cast<const std::int8_t*>(args.x) +
                    4 * (m * args.dwords + first_group * vectors * 2 * R);
    const std::size_t at = m * weight.groups + first_group * R;
    const std::int32_t* x_start = args.x_start + at;
    const float* x_magic = args.x_magic + at;
    // A copy: stores of decoded bytes could change the member, as far as a compiler knows.
    const SplitByteTable local_table = table;
    GroupCursor group = Base::begin;
    for (std::size_t i = 0; i < end_group - first_group; ++i, group.next()) {
      if (First && i % 2 == 0) prepare_pair<R>(i, group.scales);
      const float* scale = scales + i * 32;
      I sum[R];
      if (!exact_dots[i]) {
        // Independent sums hide the latency of the dot when there are few rows.
        constexpr int kChains = R <= 2 ? 2 : 1;
        I second[R];
        for (int r = 0; r < R; ++r) {
          sum[r] = iset1(x_start[r]);
          second[r] = iset1(0);
        }
        // Decoding and dots take turns within the scheduler's reach.
        const SplitBytes entries = rows[i % 2];
        const std::uint8_t* nibbles = group.codes;
        std::uint8_t* w = decoded + i * vectors * 128;
        for (std::size_t v = 0; v < vectors; ++v, w += 128, nibbles += 64) {
          B low;
          B high;
          if constexpr (First) {
            prefetch_ahead<R>(nibbles);
            const B both = load_bytes(nibbles);
            low = lookup_split_low(local_table, entries, both);
            high = lookup_split_high(local_table, entries, both);
            store_bytes(w, low);
            store_bytes(w + 64, high);
          } else {
            low = load_bytes(w);
            high = load_bytes(w + 64);
          }
          I(&sum_of_high)[R] = kChains == 2 ? second : sum;
          for (int r = 0; r < R; ++r) sum[r] = dot(sum[r], low, x + 4 * r);
          for (int r = 0; r < R; ++r) {
            sum_of_high[r] = dot(sum_of_high[r], high, x + 4 * (R + r));
          }
          x += 8 * R;
        }
        const F by = load(scale);
        for (int r = 0; r < R; ++r) {
          if (kChains == 2) sum[r] = iadd(sum[r], second[r]);
          acc[r] = fma(sub(as_float(sum[r]), set1(x_magic[r])), by, acc[r]);
        }
      } else {
        F copy[R];  // so that the sums can stay in registers
        for (int r = 0; r < R; ++r) copy[r] = acc[r];
        add_exact_group<R>(weight, group.codes, x, x_magic, scale, copy);
        for (int r = 0; r < R; ++r) acc[r] = copy[r];
        x += vectors * 8 * R;
      }
      x_start += R;
      x_magic += R;
    }
    if constexpr (First) Base::end = group;
    for (int r = 0; r < R; ++r) store(acc_memory + 16 * r, acc[r]);
  }
};

inline void gemm_a8_one_table(const GemmArgs& args) {
  with_group_vectors<true>(args.weight->group, [&](auto vectors) {
    gemm_with<A8SplitStep<decltype(vectors)::value>>(args);
  });
}

inline void gemm_a8_split(const GemmArgs& args) noexcept {
  if (args.weight->one_table) return gemm_a8_one_table(args);
  gemm_a8_sign_split(args);
}
