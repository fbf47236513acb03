// int8 activations x 4-bit weights for CPUs whose two dots a cycle ask for more operands than two
// loads a cycle bring: two panels at a time share the activations in registers, and the first tile
// of a block decodes weights to bytes for all others. Measured on Cascade Lake (612 GOP/s a core),
// data in L1, group 32: 461 GOP/s with 2 panels x 6 rows, 388 with 1 x 8, 424 with 1 x 12; group
// 128: 555, 435 and 496. The same bits as gemm_a8.inl.h. Included inside a target's region and
// namespace, after gemm_a8.inl.h.

/// How weights of a layout become bytes for the dot. Group: what decoding a group of a panel needs
/// beside its nibbles; load_group() gets it for the panel that is `panel` behind the one of the
/// cursor and stores the group's scales, [sides][16], for all tiles.
struct SymmetricDecoder {
  static constexpr ScaleLayout kLayout = ScaleLayout::symmetric;
  struct Group {};
  ByteTable table;

  explicit SymmetricDecoder(const PackedPanels& weight) {
    std::uint8_t bytes[16];
    for (std::size_t i = 0; i < 16; ++i) {
      bytes[i] = static_cast<std::uint8_t>(weight.integers[i] + weight.offset);
    }
    table = byte_table(bytes);
  }
  NYBBLE_INLINE Group load_group(const PackedPanels& weight, const GroupCursor& at,
                                 std::size_t panel, float* scale) const {
    store(scale, load_scale(weight.scale_type, at.scales + panel * weight.scale_stride));
    return {};
  }
  NYBBLE_INLINE void decode(const Group& /*group*/, B nibbles, B& low, B& high) const {
    low = lookup_low(table, nibbles);
    high = lookup_high(table, nibbles);
  }
};

/// Zero points are subtracted in bytes, under an offset that keeps the difference positive.
struct ZeroPointDecoder {
  static constexpr ScaleLayout kLayout = ScaleLayout::zero_point;
  struct Group {
    B zeros;
  };
  SymmetricDecoder codes;

  explicit ZeroPointDecoder(const PackedPanels& weight) : codes(weight) {}
  NYBBLE_INLINE Group load_group(const PackedPanels& weight, const GroupCursor& at,
                                 std::size_t panel, float* scale) const {
    codes.load_group(weight, at, panel, scale);
    return {four_times(at.zeros + panel * weight.zero_stride)};
  }
  NYBBLE_INLINE void decode(const Group& group, B nibbles, B& low, B& high) const {
    codes.decode({}, nibbles, low, high);
    low = subtract_bytes(low, group.zeros);
    high = subtract_bytes(high, group.zeros);
  }
};

/// Both signs by one dot: see gemm_a8_split.inl.h, whose bits these are.
struct SplitDecoder {
  static constexpr ScaleLayout kLayout = ScaleLayout::sign_split;
  struct Group {
    SplitBytes factors;
    bool exact;
  };
  SplitByteTable table;

  explicit SplitDecoder(const PackedPanels& weight) : table(split_magnitudes(weight)) {}
  NYBBLE_INLINE Group load_group(const PackedPanels& weight, const GroupCursor& at,
                                 std::size_t panel, float* scale) const {
    const std::uint8_t* from = at.scales + panel * weight.scale_stride;
    const SplitScales one = split_scales(weight.scale_type, from, 1);
    I entries;
    const bool exact = any_special(split_entries(one, entries), 0);
    store(scale, exact ? load_scale(weight.scale_type, from) : split_unit<0>(one, -2));
    if (exact) store(scale + 16, load_scale(weight.scale_type, from + 16));
    return {split_rows<0>(entries), exact};
  }
  NYBBLE_INLINE void decode(const Group& group, B nibbles, B& low, B& high) const {
    low = lookup_split_low(table, group.factors, nibbles);
    high = lookup_split_high(table, group.factors, nibbles);
  }
};

/// XScaled: activation groups have f32 scales of their own (GemmArgs::x_scales).
template <class Decoder, std::size_t Vectors, bool XScaled>
struct A8PanelsStep : NibbleStep<Decoder::kLayout, Vectors, 512, 2> {
  using Base = NibbleStep<Decoder::kLayout, Vectors, 512, 2>;
  using Base::args, Base::weight, Base::scales, Base::first_group, Base::end_group, Base::kSides,
      Base::kTilePanels;

  static constexpr bool kSplit = Decoder::kLayout == ScaleLayout::sign_split;
  using Panel = std::uint8_t[Base::kBlockValues * 16];
  static constexpr std::size_t kScratchBytes = Base::kScratchBytes + kTilePanels * sizeof(Panel);

  Decoder decoder;
  bool exact[kTilePanels][Base::kMaxGroups] = {};  ///< groups that take two dots: kSplit only
  bool any_exact = false;
  /// While the first tile waits for memory, later ones would leave it idle: they share in asking
  /// for the nibbles of the next block, into L2. Cold, two threads: 4 % at 12 and 16 rows, 4 to 8 %
  /// at 32, nothing at 8.
  const std::uint8_t* ahead = nullptr;
  const std::uint8_t* ahead_end = nullptr;
  const std::uint8_t* next_panels = nullptr;  ///< where the next block is not in the same panels
  std::size_t ahead_lines = 0;                ///< of each panel, a group of a tile
  Panel* const decoded;                       ///< kTilePanels

  explicit A8PanelsStep(const GemmArgs& gemm)
      : Base(gemm),
        decoder(*gemm.weight),
        decoded(reinterpret_cast<Panel*>(gemm.scratch + Base::kScratchBytes)) {
    const std::size_t tiles = (args.m < kRowBlock ? args.m : kRowBlock) / kMaxTile;
    if (tiles != 0) ahead_lines = (block_lines() / Base::block_groups + tiles) / tiles;
  }

  /// Cache lines of a panel's block of nibbles, with what scales and zeros lie between.
  [[nodiscard]] NYBBLE_INLINE std::size_t block_lines() const {
    return weight.code_stride * Base::block_groups / weight.groups / 64 + 1;
  }

  NYBBLE_INLINE void prepare(std::size_t panel, std::size_t count, std::size_t block) {
    Base::prepare(panel, count, block);
    ahead = ahead_end = nullptr;
    next_panels =
        block + 1 == Base::blocks ? weight.codes + (panel + count) * weight.code_stride : nullptr;
  }

  [[nodiscard]] NYBBLE_INLINE float output_scale(std::size_t m) const { return args.row_scales[m]; }

  /// What a tile does about nibbles.
  enum class Decode {
    here,          ///< for itself: it is the only tile
    keep,          ///< for all others too
    done,          ///< nothing: the first tile did
    done_no_exact  ///< and there is no exact group
  };

  template <int R>
  NYBBLE_INLINE void tile(std::size_t m, float* acc, bool first) {
    // The first of several tiles is a large one: see tile_rows.
    if constexpr (kSplit) {
      if (first) any_exact = false;
      if (!first && !any_exact) return tile_of_panels<R, Decode::done_no_exact>(m, acc);
    }
    if (!first) return tile_of_panels<R, Decode::done>(m, acc);
    if constexpr (R == kMaxTile) {
      if (args.m > R) return tile_of_panels<R, Decode::keep>(m, acc);
    }
    tile_of_panels<R, Decode::here>(m, acc);
  }

  template <int R, Decode Mode>
  NYBBLE_INLINE void tile_of_panels(std::size_t m, float* acc) {
    // More than 6 rows of two panels are more sums than registers.
    if constexpr (R <= 6) {
      if (Base::panels == 2) return tile_of<R, 2, Mode>(m, 0, acc);
    }
    for (std::size_t p = 0; p < Base::panels; ++p) tile_of<R, 1, Mode>(m, p, acc);
  }

  /// 4 of K of R rows and P panels.
  template <int R, int P>
  static NYBBLE_INLINE void add_dots(I (&sum)[P][R], const B (&w)[P], const std::int8_t* x) {
    for (int r = 0; r < R; ++r) {
      if constexpr (P == 1) {
        sum[0][r] = dot(sum[0][r], w[0], x + 4 * r);
      } else {
        const I four = broadcast4(x + 4 * r);
        for (int p = 0; p < P; ++p) sum[p][r] = dot(sum[p][r], w[p], four);
      }
    }
  }

  /// P panels from the current ones' `panel` on.
  template <int R, int P, Decode Mode>
  NYBBLE_INLINE_TILE void tile_of(std::size_t m, std::size_t panel, float* acc_memory) {
    F acc[P][R];
    const auto place = [&](int p, int r) {
      return acc_memory + 16 * (static_cast<std::size_t>(r) * Base::panels + panel +
                                static_cast<std::size_t>(p));
    };
    for (int p = 0; p < P; ++p) {
      for (int r = 0; r < R; ++r) acc[p][r] = load(place(p, r));
    }
    const std::size_t vectors = Base::group_vectors();
    const auto* x = static_cast<const std::int8_t*>(args.x) +
                    4 * (m * args.dwords + first_group * vectors * 2 * R);
    const std::size_t at = m * weight.groups + first_group * R;
    const std::int32_t* x_start = args.x_start + at;
    const float* x_magic = args.x_magic + at;
    const float* x_scale = XScaled ? args.x_scales + at : nullptr;
    constexpr bool kDecodes = Mode == Decode::here || Mode == Decode::keep;
    const std::size_t next_tile = 4 * R * args.dwords;
    const Decoder local_decoder = decoder;
    GroupCursor group = Base::begin;
    group.move(weight, panel);
    const std::size_t to_next = weight.code_stride;
    std::uint8_t* bytes = decoded[panel];
    float* scale = scales + panel * kSides * 16;
    for (std::size_t g = first_group; g < end_group; ++g, group.next()) {
      typename Decoder::Group rows[P];
      if constexpr (kDecodes) {
        for (int p = 0; p < P; ++p) {
          const auto offset = static_cast<std::size_t>(p);
          prefetch_ahead<R>(group.scales + offset * weight.scale_stride);
          rows[p] = local_decoder.load_group(weight, group, offset, scale + p * kSides * 16);
          if constexpr (kSplit) {
            exact[panel + offset][g - first_group] = rows[p].exact;
            any_exact = any_exact || rows[p].exact;
          }
        }
      }
      I sum[P][R];
      for (int r = 0; r < R; ++r) {
        for (int p = 0; p < P; ++p) sum[p][r] = iset1(x_start[r]);
      }
      // The next tile's activations, which would else come from L2 only when they are wanted.
      for (std::size_t i = 0; i < 8 * R * vectors; i += 64) __builtin_prefetch(x + next_tile + i);
      if (!kDecodes && ahead < ahead_end) {
        for (std::size_t i = 0; i < ahead_lines; ++i, ahead += 64) {
          __builtin_prefetch(ahead, 0, 2);
          if (P == 2) __builtin_prefetch(ahead + to_next, 0, 2);
        }
      }
      const std::uint8_t* nibbles = group.codes;
      for (std::size_t v = 0; v < vectors; ++v, bytes += 128, x += 8 * R) {
        B low[P];
        B high[P];
        for (int p = 0; p < P; ++p) {
          std::uint8_t* w = bytes + static_cast<std::size_t>(p) * sizeof(decoded[0]);
          if constexpr (kDecodes) {
            const std::uint8_t* from = nibbles + v * 64 + static_cast<std::size_t>(p) * to_next;
            prefetch_ahead<R>(from);
            local_decoder.decode(rows[p], load_bytes(from), low[p], high[p]);
            if constexpr (Mode == Decode::keep) {
              store_bytes(w, low[p]);
              store_bytes(w + 64, high[p]);
            }
          } else {
            low[p] = load_bytes(w);
            high[p] = load_bytes(w + 64);
          }
        }
        add_dots<R, P>(sum, low, x);
        add_dots<R, P>(sum, high, x + 4 * R);
      }
      for (int p = 0; p < P; ++p) {
        if constexpr (kSplit && Mode != Decode::done_no_exact) {
          if (exact[panel + static_cast<std::size_t>(p)][g - first_group]) {
            // What the one dot gave is void. A copy, so that the sums can stay in registers.
            F copy[R];
            for (int r = 0; r < R; ++r) copy[r] = acc[p][r];
            add_exact_group<R>(weight, group.codes + static_cast<std::size_t>(p) * to_next,
                               x - vectors * 8 * R, x_magic, scale + p * kSides * 16, copy);
            for (int r = 0; r < R; ++r) acc[p][r] = copy[r];
            continue;
          }
        }
        const F by = load(scale + p * kSides * 16);
        for (int r = 0; r < R; ++r) {
          const F times = XScaled ? mul(by, set1(x_scale[r])) : by;
          acc[p][r] = fma(sub(as_float(sum[p][r]), set1(x_magic[r])), times, acc[p][r]);
        }
      }
      scale += kTilePanels * kSides * 16;
      x_start += R;
      x_magic += R;
      if constexpr (XScaled) x_scale += R;
    }
    if constexpr (kDecodes) {
      if (panel == 0) Base::end = group;
      ahead = next_panels != nullptr ? next_panels : Base::end.codes;
      ahead_end = ahead + 64 * block_lines();
    }
    for (int p = 0; p < P; ++p) {
      for (int r = 0; r < R; ++r) store(place(p, r), acc[p][r]);
    }
  }
};

template <class Decoder>
inline void gemm_a8_panels(const GemmArgs& args) noexcept {
  if constexpr (Decoder::kLayout != ScaleLayout::sign_split) {
    if (args.x_scales != nullptr) {
      return gemm_with<A8PanelsStep<Decoder, 0, true>>(args);
    }
  }
  const auto run = [&](auto vectors) {
    gemm_with<A8PanelsStep<Decoder, decltype(vectors)::value, false>>(args);
  };
  if constexpr (Decoder::kLayout == ScaleLayout::symmetric) {
    return with_group_vectors<true>(args.weight->group, run);
  }
  // Others have groups of 16 too seldom for bodies of their own.
  if constexpr (kUnrolls) {
    if (args.weight->group == 32) return run(std::integral_constant<std::size_t, 4>{});
  }
  run(std::integral_constant<std::size_t, 0>{});
}
