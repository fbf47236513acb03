// f32 or bf16 activations x weights decoded to f32 or bf16: a panel's block of K is decoded once
// into L1 and used by all tiles. Included inside a target's region and namespace, after gemm.inl.h.

/// Numbers: what one activation dword holds and how weights are rounded.
struct F32Numbers {
  static constexpr std::size_t kPair = 1;
  static NYBBLE_INLINE F weight(F w) { return w; }
};
/// bf16 numbers in f32 arithmetic, for targets without a bf16 dot product.
struct Bf16AsF32Numbers {
  static constexpr std::size_t kPair = 1;
  static NYBBLE_INLINE F weight(F w) {
    return as_float(iand(round_to_bf16(w), iset1(static_cast<std::int32_t>(0xFFFF0000U))));
  }
};

/// TilePanels: several where there are so few rows that the latency of adding to one sum would be
/// the limit. The order of every sum is the same.
template <class Numbers, std::size_t TilePanels>
struct FloatStep {
  static constexpr std::size_t kTilePanels = TilePanels;
  static constexpr std::size_t kPair = Numbers::kPair;
  /// What registers hold beside weights and activations, where several panels share a tile.
  static constexpr int kMostSums = 8;
  /// Of K, whole groups; the most of one panel: 16 KiB of f32 weights.
  static constexpr std::size_t kBlockValues = 256;
  using Panel = float[kBlockValues / kPair * 16];
  static constexpr std::size_t kScratchBytes = TilePanels * sizeof(Panel);

  const GemmArgs& args;
  const PackedPanels& weight;
  std::size_t block_groups;
  std::size_t blocks;
  FloatTable levels;
  FloatTable negative_levels;
  GroupCursor next;  ///< where the next block of the first panel begins
  std::size_t panels = 1;
  std::size_t first_group = 0;
  std::size_t end_group = 0;
  Panel* const decoded;  ///< TilePanels

  explicit FloatStep(const GemmArgs& gemm)
      : args(gemm),
        weight(*gemm.weight),
        // One group is at most kBlockValues; of small ones, all panels' together are 16 KiB.
        block_groups(weight.group * TilePanels < kBlockValues
                         ? kBlockValues / TilePanels / weight.group
                         : 1),
        blocks((weight.groups + block_groups - 1) / block_groups),
        next(weight, 0),
        decoded(reinterpret_cast<Panel*>(gemm.scratch)) {
    // Sign split: each level in one of two tables, 0 in the other, so that two products and a sum
    // (of which one is zero) need no select.
    float first[16];
    float second[16];
    const bool split = weight.layout == ScaleLayout::sign_split;
    for (std::size_t i = 0; i < 16; ++i) {
      const float level = weight.levels[i];
      first[i] = split && level < 0 ? 0.0F : level;
      second[i] = split && level < 0 ? level : 0.0F;
    }
    levels = float_table(first);
    negative_levels = float_table(second);
  }

  NYBBLE_INLINE void prepare(std::size_t panel, std::size_t count, std::size_t block) {
    const GroupCursor begin = block == 0 ? GroupCursor(weight, panel) : next;
    panels = count;
    first_group = block * block_groups;
    end_group =
        weight.groups - first_group < block_groups ? weight.groups : first_group + block_groups;
    for (std::size_t p = panels; p-- > 0;) {
      next = begin;
      next.move(weight, p);
      switch (weight.layout) {
        case ScaleLayout::symmetric:
          decode<ScaleLayout::symmetric>(next, decoded[p]);
          break;
        case ScaleLayout::zero_point:
          decode<ScaleLayout::zero_point>(next, decoded[p]);
          break;
        case ScaleLayout::sign_split:
          decode<ScaleLayout::sign_split>(next, decoded[p]);
          break;
      }
    }
  }

  /// A block of one panel; `group` ends behind it.
  template <ScaleLayout Layout>
  NYBBLE_INLINE void decode(GroupCursor& group, float* to) {
    constexpr std::size_t kSides = Layout == ScaleLayout::sign_split ? 2 : 1;
    const std::size_t vectors = weight.group / 8;
    const std::size_t pieces = (end_group - first_group) * kParts;
    for (std::size_t piece = 0; piece < pieces; ++piece) {
      const std::size_t part = piece % kParts;
      const std::uint8_t* codes = group.codes;
      const std::uint8_t* scales = group.scales + part * kLanes * weight.scale_size;
      const F positive = load_scale(weight.scale_type, scales);
      const F negative =
          kSides == 2 ? load_scale(weight.scale_type, scales + 16 * weight.scale_size) : positive;
      F zero_level = zero();
      if constexpr (Layout == ScaleLayout::zero_point) {
        zero_level = to_float(widen_u8(group.zeros + part * kLanes));
      }
      if (part == 0) prefetch_ahead<2>(scales);
      float* out = to + piece / kParts * weight.group / kPair * 16 + part * kLanes;
      for (std::size_t v = 0; v < vectors; ++v) {
        if (part == 0) prefetch_ahead<2>(codes + v * 64);
        const I x = as_int(load_bytes(codes + v * 64 + part * kLanes * 4));
        const auto value = [&](I nibble) {
          F w = lookup(levels, nibble);
          if constexpr (Layout == ScaleLayout::zero_point) w = sub(w, zero_level);
          w = mul(w, positive);
          if constexpr (Layout == ScaleLayout::sign_split) {
            w = add(w, mul(lookup(negative_levels, nibble), negative));
          }
          return w;
        };
        // k = 0..3 from the low nibbles of bytes 0..3, k = 4..7 from the high ones.
        const F k[8] = {value(x),         value(shr<8>(x)),  value(shr<16>(x)), value(shr<24>(x)),
                        value(shr<4>(x)), value(shr<12>(x)), value(shr<20>(x)), value(shr<28>(x))};
        if constexpr (kPair == 1) {
          for (std::size_t i = 0; i < 8; ++i) store(out + 16 * i, Numbers::weight(k[i]));
        } else {
          store(out, as_float(Numbers::pair(k[0], k[2])));
          store(out + 16, as_float(Numbers::pair(k[1], k[3])));
          store(out + 32, as_float(Numbers::pair(k[4], k[6])));
          store(out + 48, as_float(Numbers::pair(k[5], k[7])));
        }
        out += 16 * 8 / kPair;
      }
      if (part + 1 == kParts) group.next();
    }
  }

  [[nodiscard]] NYBBLE_INLINE float output_scale(std::size_t /*m*/) const {
    return weight.tensor_scale;
  }

  template <int R>
  NYBBLE_INLINE void tile(std::size_t m, float* acc, bool /*first*/) const {
    constexpr int kPanels = static_cast<int>(TilePanels);
    if constexpr (kPanels > 1 && R * kPanels * static_cast<int>(kParts) <= kMostSums) {
      if (panels == TilePanels) return tile_of<R, kPanels>(m, 0, acc);
    }
    for (std::size_t p = 0; p < panels; ++p) tile_of<R, 1>(m, p, acc);
  }

  /// P panels from the current ones' `panel` on.
  template <int R, int P>
  NYBBLE_INLINE void tile_of(std::size_t m, std::size_t panel, float* acc_memory) const {
    constexpr int kVectors = P * static_cast<int>(kParts);
    const auto place = [&](int v, int r) {
      const auto part = static_cast<std::size_t>(v);
      return acc_memory + 16 * (static_cast<std::size_t>(r) * panels + panel) + part * kLanes;
    };
    F acc[kVectors][R];
    for (int v = 0; v < kVectors; ++v) {
      for (int r = 0; r < R; ++r) acc[v][r] = load(place(v, r));
    }
    const std::size_t first = first_group * weight.group / kPair;
    const std::size_t count = (end_group - first_group) * weight.group / kPair;
    const float* x = static_cast<const float*>(args.x) + m * args.dwords + first * R;
    const float* w = decoded[panel];
    for (std::size_t u = 0; u < count; ++u, w += 16, x += R) {
      for (int v = 0; v < kVectors; ++v) {
        constexpr std::size_t kPanelFloats = sizeof(decoded[0]) / sizeof(float);
        const auto of_panel = static_cast<std::size_t>(v) / kParts;
        const auto part = static_cast<std::size_t>(v) % kParts;
        const F weights = load(w + of_panel * kPanelFloats + part * kLanes);
        for (int r = 0; r < R; ++r) {
          if constexpr (kPair == 1) {
            acc[v][r] = fma(weights, set1(x[r]), acc[v][r]);
          } else {
            acc[v][r] = Numbers::dot(acc[v][r], weights, x + r);
          }
        }
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      for (int r = 0; r < R; ++r) store(place(v, r), acc[v][r]);
    }
  }
};

/// With bf16, level x block scale is exact for MXFP4, NVFP4 and AMXFP4; the tensor scale waits for
/// the output.
template <class Numbers>
inline void gemm_float(const GemmArgs& args) {
  // Measured on Cascade Lake, M = 1: see bench/README.md.
  if (args.m * kParts <= 2) {
    return gemm_with<FloatStep<Numbers, 4>>(args);
  }
  gemm_with<FloatStep<Numbers, 1>>(args);
}

inline void gemm_a32(const GemmArgs& args) noexcept { gemm_float<F32Numbers>(args); }

/// Whether bf16 holds every level x scale: 2 significant bits and at most 4.
NYBBLE_INLINE bool products_fit_bf16(const PackedPanels& weight) {
  if (weight.scale_size != 1 || weight.layout == ScaleLayout::zero_point) return false;
  for (const float level : weight.levels) {
    if ((std::bit_cast<std::uint32_t>(level) & 0x3FFFFFU) != 0) return false;
  }
  return true;
}

/// a16 where there is no bf16 dot. Rounding weights takes most of decoding them.
inline void gemm_a16(const GemmArgs& args) noexcept {
  if (products_fit_bf16(*args.weight)) return gemm_float<F32Numbers>(args);
  gemm_float<Bf16AsF32Numbers>(args);
}
