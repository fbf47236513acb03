// int8 activations x 4-bit weights by integer dots, exact within a group; groups are combined in
// ascending K by one FMA each, so every target gives the same bits. Included inside a target's
// region and namespace, after gemm.inl.h.

/// Both halves of a panel at once, where registers allow; else one after the other.
template <int R>
inline constexpr int kJointParts = (kParts == 1 || R <= 2) ? static_cast<int>(kParts) : 1;

/// What steps share that compute straight from nibbles: blocks of 32 dot groups whose scales are
/// decoded once for all tiles. HalfChunks: groups of 16.
template <ScaleLayout Layout, bool HalfChunks>
struct NibbleStep {
  static constexpr std::size_t kBlockGroups = 32;
  static constexpr int kSides = Layout == ScaleLayout::sign_split ? 2 : 1;

  const GemmArgs& args;
  const PackedPanels& weight;
  std::size_t blocks;
  float scale_multiplier;  ///< folded into the decoded scales
  // Of the current panel and block:
  const std::uint8_t* codes = nullptr;
  const std::uint8_t* zeros = nullptr;
  std::size_t first_group = 0;
  std::size_t end_group = 0;
  alignas(64) float scales[kBlockGroups * kSides * 16];

  NibbleStep(const GemmArgs& gemm, float multiplier)
      : args(gemm),
        weight(*gemm.weight),
        blocks((weight.groups + kBlockGroups - 1) / kBlockGroups),
        scale_multiplier(multiplier) {}

  /// Vectors of 8 k per group.
  [[nodiscard]] NYBBLE_INLINE std::size_t group_vectors() const {
    return HalfChunks ? 2 : weight.group / 8;
  }

  NYBBLE_INLINE void prepare(std::size_t panel, std::size_t block) {
    first_group = block * kBlockGroups;
    end_group =
        weight.groups - first_group < kBlockGroups ? weight.groups : first_group + kBlockGroups;
    codes = weight.codes + panel * weight.code_stride;
    if (Layout == ScaleLayout::zero_point) zeros = weight.zeros + panel * weight.zero_stride;
    decode_scales(weight, panel, first_group, end_group, scale_multiplier, scales);
  }
};

template <ScaleLayout Layout, bool HalfChunks, bool Signed>
struct A8Step : NibbleStep<Layout, HalfChunks> {
  using Base = NibbleStep<Layout, HalfChunks>;
  using Base::args, Base::weight, Base::codes, Base::zeros, Base::scales, Base::first_group;
  using Base::end_group, Base::kSides;

  ByteTable table[2];

  explicit A8Step(const GemmArgs& gemm) : Base(gemm, gemm.weight->tensor_scale) {
    std::uint8_t first[16];
    std::uint8_t second[16];
    for (std::size_t i = 0; i < 16; ++i) {
      const int level = weight.integers[i];
      if (Layout == ScaleLayout::sign_split) {
        first[i] = static_cast<std::uint8_t>(level > 0 ? level : 0);
        second[i] = static_cast<std::uint8_t>(level < 0 ? -level : 0);
      } else {
        first[i] = static_cast<std::uint8_t>(Signed ? level : level + weight.offset);
        second[i] = 0;
      }
    }
    table[0] = byte_table(first);
    table[1] = byte_table(second);
  }

  template <int R>
  NYBBLE_INLINE void tile(std::size_t m, float* acc) const {
    constexpr int kJoint = kJointParts<R>;
    for (std::size_t part = 0; part < kParts; part += kJoint) tile_part<R, kJoint>(m, part, acc);
  }

  template <int R, int P>
  NYBBLE_INLINE void tile_part(std::size_t m, std::size_t part, float* acc_memory) const {
    F acc[P][R];
    for (int p = 0; p < P; ++p) {
      for (int r = 0; r < R; ++r) {
        acc[p][r] = load(acc_memory + 16 * r + (part + static_cast<std::size_t>(p)) * kLanes);
      }
    }
    const std::size_t vectors = Base::group_vectors();
    const std::uint8_t* w = codes + first_group * vectors * 64 + part * kLanes * 4;
    const auto* x = static_cast<const std::int8_t*>(args.x) +
                    4 * (m * args.dwords + first_group * vectors * 2 * R);
    const float* x_scale = args.x_scales + m * weight.groups + first_group * R;
    const std::int32_t* x_bias = args.x_bias + m * weight.groups + first_group * R;
    const float* scale = scales + part * kLanes;
    for (std::size_t g = first_group; g < end_group; ++g) {
      I sum[kSides][P][R];
      for (int p = 0; p < P; ++p) {
        for (int r = 0; r < R; ++r) {
          if constexpr (Layout == ScaleLayout::zero_point) {
            const I zero_level = widen_u8(zeros + g / weight.groups_per_scale * 16 +
                                          (part + static_cast<std::size_t>(p)) * kLanes);
            sum[0][p][r] = imul(zero_level, iset1(x_bias[r]));
          } else if constexpr (Layout == ScaleLayout::sign_split) {
            sum[0][p][r] = sum[1][p][r] = iset1(0);
          } else {
            sum[0][p][r] = iset1(x_bias[r]);
          }
        }
      }
      for (std::size_t v = 0; v < vectors; ++v) {
        for (int p = 0; p < P; ++p) {
          const B nibbles = load_bytes(w + static_cast<std::size_t>(p) * kLanes * 4);
          for (int side = 0; side < kSides; ++side) {
            const B low = lookup_low(table[side], nibbles);
            const B high = lookup_high(table[side], nibbles);
            for (int r = 0; r < R; ++r) {
              I& s = sum[side][p][r];
              if constexpr (Signed) {
                s = dot_signed(s, low, x + 4 * r);
                s = dot_signed(s, high, x + 4 * (R + r));
              } else {
                s = dot(s, low, x + 4 * r);
                s = dot(s, high, x + 4 * (R + r));
              }
            }
          }
        }
        w += 64;
        x += 8 * R;
      }
      for (int p = 0; p < P; ++p) {
        const F first = load(scale + p * static_cast<int>(kLanes));
        for (int r = 0; r < R; ++r) {
          const F by = set1(x_scale[r]);
          acc[p][r] = fma(to_float(sum[0][p][r]), mul(first, by), acc[p][r]);
          if constexpr (Layout == ScaleLayout::sign_split) {
            const F second = load(scale + 16 + p * static_cast<int>(kLanes));
            acc[p][r] = fnma(to_float(sum[1][p][r]), mul(second, by), acc[p][r]);
          }
        }
      }
      scale += kSides * 16;
      x_scale += R;
      x_bias += R;
    }
    for (int p = 0; p < P; ++p) {
      for (int r = 0; r < R; ++r) {
        store(acc_memory + 16 * r + (part + static_cast<std::size_t>(p)) * kLanes, acc[p][r]);
      }
    }
  }
};

template <ScaleLayout Layout, bool Signed>
inline void gemm_a8(const GemmArgs& args) {
  if (args.weight->group == 16) {
    A8Step<Layout, true, Signed> step(args);
    gemm_loops(args, step, 1.0F);
  } else {
    A8Step<Layout, false, Signed> step(args);
    gemm_loops(args, step, 1.0F);
  }
}

inline void gemm_a8_symmetric(const GemmArgs& args) noexcept {
  if constexpr (kDotLimit < 255) {
    if (args.weight->signed_dot) return gemm_a8<ScaleLayout::symmetric, true>(args);
  }
  gemm_a8<ScaleLayout::symmetric, false>(args);
}
inline void gemm_a8_zero_point(const GemmArgs& args) noexcept {
  gemm_a8<ScaleLayout::zero_point, false>(args);
}
inline void gemm_a8_sign_split(const GemmArgs& args) noexcept {
  gemm_a8<ScaleLayout::sign_split, false>(args);
}
