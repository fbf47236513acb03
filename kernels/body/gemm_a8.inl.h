// int8 activations x 4-bit weights by integer dots, exact within a group; groups are combined in
// ascending K by one FMA each, so every target gives the same bits. A group costs a row its dots,
// one subtraction (GemmArgs::x_magic) and one FMA. Included inside a target's region and namespace,
// after gemm.inl.h.

/// Both halves of a panel at once, so that they share the activations in registers; one after the
/// other where that is more sums than registers.
template <int R, int Sides>
inline constexpr int kJointParts = kParts == 1 || R* Sides <= 4 ? static_cast<int>(kParts) : 1;

/// What steps share that compute straight from nibbles. The first tile of a block decodes the
/// scales for all others and asks for the nibbles to come. Vectors: of 8 k in a group, where known
/// (loops without branches are 10 % faster); 0: at run time. BlockValues: of K, so that nibbles of
/// a panel's block, its scales and a tile's activations lie in L1 together.
template <ScaleLayout Layout, std::size_t Vectors, std::size_t BlockValues = 1024,
          std::size_t TilePanels = 1>
struct NibbleStep {
  static constexpr std::size_t kTilePanels = TilePanels;
  static constexpr std::size_t kBlockValues = BlockValues;
  static constexpr std::size_t kMaxGroups = kBlockValues / (Vectors != 0 ? 8 * Vectors : 16);
  static constexpr int kSides = Layout == ScaleLayout::sign_split ? 2 : 1;
  static constexpr std::size_t kScratchBytes =
      kMaxGroups * kSides * kTilePanels * 16 * sizeof(float);

  const GemmArgs& args;
  const PackedPanels& weight;
  std::size_t block_groups;
  std::size_t blocks;
  // Of the current panels and block:
  GroupCursor begin;  ///< at first_group of the first panel
  GroupCursor end;    ///< at end_group, once the first tile has been there
  std::size_t panels = 1;
  std::size_t first_group = 0;
  std::size_t end_group = 0;
  float* const scales;  ///< [kMaxGroups][kTilePanels][kSides][16]

  explicit NibbleStep(const GemmArgs& gemm)
      : args(gemm),
        weight(*gemm.weight),
        block_groups(kBlockValues / weight.group),
        blocks((weight.groups + block_groups - 1) / block_groups),
        begin(weight, 0),
        end(begin),
        scales(reinterpret_cast<float*>(gemm.scratch)) {}

  /// Vectors of 8 k per group.
  [[nodiscard]] NYBBLE_INLINE std::size_t group_vectors() const {
    return Vectors != 0 ? Vectors : weight.group / 8;
  }

  NYBBLE_INLINE void prepare(std::size_t panel, std::size_t count, std::size_t block) {
    panels = count;
    first_group = block * block_groups;
    end_group =
        weight.groups - first_group < block_groups ? weight.groups : first_group + block_groups;
    begin = block == 0 ? GroupCursor(weight, panel) : end;
  }

  /// The scales of group g, which lie at `from`, for P vectors of lanes from `part` on, to where
  /// they wait for all tiles.
  template <int R, int P>
  NYBBLE_INLINE void decode_scales_of(std::size_t g, const std::uint8_t* from, std::size_t part) {
    prefetch_ahead<R>(from);
    for (std::size_t side = 0; side < kSides; ++side) {
      for (std::size_t p = part; p < part + P; ++p) {
        store(scales + ((g - first_group) * kSides + side) * 16 + p * kLanes,
              load_scale(weight.scale_type, from + (side * 16 + p * kLanes) * weight.scale_size));
      }
    }
  }
};

/// run(constant) with the Vectors of NibbleStep for a group size, if `common`: what many use is
/// worth bodies of its own, the rest is not worth the time to compile them.
template <bool Common, class Run>
NYBBLE_INLINE void with_group_vectors(std::size_t group, Run run) {
  if constexpr (kUnrolls && Common) {
    if (group == 16) return run(std::integral_constant<std::size_t, 2>{});
    if (group == 32) return run(std::integral_constant<std::size_t, 4>{});
  }
  run(std::integral_constant<std::size_t, 0>{});
}

/// XScaled: activation groups have f32 scales of their own (GemmArgs::x_scales).
template <ScaleLayout Layout, std::size_t Vectors, bool Signed, bool XScaled>
struct A8Step : NibbleStep<Layout, Vectors> {
  using Base = NibbleStep<Layout, Vectors>;
  using Base::args, Base::weight, Base::scales, Base::first_group, Base::end_group, Base::kSides;

  ByteTable table[2];
  std::size_t run_vectors;  ///< that 16-bit sums hold; kShortRuns only

  explicit A8Step(const GemmArgs& gemm) : Base(gemm) {
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
    run_vectors = Base::group_vectors() < 4 ? 2 : 4;
    if constexpr (kShortRuns) {
      int peak = 0;
      for (std::size_t i = 0; i < 16; ++i) {
        peak = first[i] > peak ? first[i] : peak;
        peak = second[i] > peak ? second[i] : peak;
      }
      // Each vector adds two dots of two products of up to 127 * peak to 16 bits.
      while (run_vectors > 1 && 127 * peak * 4 * static_cast<int>(run_vectors) > 32767) {
        run_vectors /= 2;
      }
    }
  }

  [[nodiscard]] NYBBLE_INLINE float output_scale(std::size_t m) const { return args.row_scales[m]; }

  template <int R>
  NYBBLE_INLINE void tile(std::size_t m, float* acc, bool first) {
    constexpr int kJoint = kJointParts<R, kSides>;
    for (std::size_t part = 0; part < kParts; part += kJoint) {
      tile_part<R, kJoint>(m, part, acc, first);
    }
  }

  /// 8 of K of all rows of the tile into their sums.
  template <int R, int P, class Dot>
  NYBBLE_INLINE void add_dots(I (&sum)[kSides][P][R], const std::uint8_t* w, const std::int8_t* x,
                              Dot dot_of) const {
    B nibbles[P];
    for (int p = 0; p < P; ++p) {
      nibbles[p] = load_bytes(w + static_cast<std::size_t>(p) * kLanes * 4);
    }
    for (int side = 0; side < kSides; ++side) {
      const auto add = [&](const std::int8_t* four_of_rows, auto lookup_half)
          __attribute__((always_inline)) {
        B weights[P];
        for (int p = 0; p < P; ++p) weights[p] = lookup_half(table[side], nibbles[p]);
        // All rows between two dots into one sum: their latency hides.
        for (int r = 0; r < R; ++r) {
          if constexpr (P == 1) {
            sum[side][0][r] = dot_of(sum[side][0][r], weights[0], four_of_rows + 4 * r);
          } else {
            const I four = broadcast4(four_of_rows + 4 * r);
            for (int p = 0; p < P; ++p) {
              sum[side][p][r] = dot_of(sum[side][p][r], weights[p], four);
            }
          }
        }
      };
      add(x, [](const ByteTable& t, B a) { return lookup_low(t, a); });
      add(x + 4 * R, [](const ByteTable& t, B a) { return lookup_high(t, a); });
    }
  }

  template <int R, int P>
  NYBBLE_INLINE void tile_part(std::size_t m, std::size_t part, float* acc_memory, bool first) {
    F acc[P][R];
    for (int p = 0; p < P; ++p) {
      for (int r = 0; r < R; ++r) {
        acc[p][r] = load(acc_memory + 16 * r + (part + static_cast<std::size_t>(p)) * kLanes);
      }
    }
    const std::size_t vectors = Base::group_vectors();
    GroupCursor group = Base::begin;
    const auto* x = static_cast<const std::int8_t*>(args.x) +
                    4 * (m * args.dwords + first_group * vectors * 2 * R);
    const std::size_t at = m * weight.groups + first_group * R;
    const std::int32_t* x_start = args.x_start + at;
    const float* x_magic = args.x_magic + at;
    const std::int32_t* x_bias = args.x_bias + at;
    const float* x_scale = XScaled ? args.x_scales + at : nullptr;
    const float* scale = scales + part * kLanes;
    for (std::size_t g = first_group; g < end_group; ++g, group.next()) {
      if (first) Base::template decode_scales_of<R, P>(g, group.scales, part);
      const std::uint8_t* w = group.codes + part * kLanes * 4;
      I sum[kSides][P][R];
      for (int p = 0; p < P; ++p) {
        for (int r = 0; r < R; ++r) {
          sum[0][p][r] = iset1(x_start[r]);
          if constexpr (Layout == ScaleLayout::zero_point) {
            const I zero_level =
                widen_u8(group.zeros + (part + static_cast<std::size_t>(p)) * kLanes);
            sum[0][p][r] = iadd_product16(sum[0][p][r], zero_level, x_bias[r]);
          } else if constexpr (Layout == ScaleLayout::sign_split) {
            sum[1][p][r] = iset1(x_start[r]);
          }
        }
      }
      if constexpr (kShortRuns && !Signed) {
        for (std::size_t v = 0; v < vectors; v += run_vectors) {
          I run[kSides][P][R];
          for (auto& side : run) {
            for (auto& rows : side) {
              for (I& s : rows) s = iset1(0);
            }
          }
          for (std::size_t i = 0; i < run_vectors; ++i) {
            if (first && part == 0) prefetch_ahead<R>(w);
            add_dots<R, P>(run, w, x, [](I s, const B& weights, auto four) {
              return short_dot(s, weights, four);
            });
            w += 64;
            x += 8 * R;
          }
          for (int side = 0; side < kSides; ++side) {
            for (int p = 0; p < P; ++p) {
              for (int r = 0; r < R; ++r) {
                sum[side][p][r] = iadd(sum[side][p][r], widen_short(run[side][p][r]));
              }
            }
          }
        }
      } else {
        for (std::size_t v = 0; v < vectors; ++v) {
          if (first && part == 0) prefetch_ahead<R>(w);
          add_dots<R, P>(sum, w, x, [](I s, const B& weights, auto four) {
            return Signed ? dot_signed(s, weights, four) : dot(s, weights, four);
          });
          w += 64;
          x += 8 * R;
        }
      }
      for (int p = 0; p < P; ++p) {
        for (int side = 0; side < kSides; ++side) {
          const F by = load(scale + side * 16 + p * static_cast<int>(kLanes));
          for (int r = 0; r < R; ++r) {
            const F value = sub(as_float(sum[side][p][r]), set1(x_magic[r]));
            const F times = XScaled ? mul(by, set1(x_scale[r])) : by;
            acc[p][r] = side == 0 ? fma(value, times, acc[p][r]) : fnma(value, times, acc[p][r]);
          }
        }
      }
      scale += kSides * 16;
      x_start += R;
      x_magic += R;
      x_bias += R;
      if constexpr (XScaled) x_scale += R;
    }
    if (first) Base::end = group;
    for (int p = 0; p < P; ++p) {
      for (int r = 0; r < R; ++r) {
        store(acc_memory + 16 * r + (part + static_cast<std::size_t>(p)) * kLanes, acc[p][r]);
      }
    }
  }
};

template <ScaleLayout Layout, bool Signed>
inline void gemm_a8(const GemmArgs& args) {
  // Both codebooks of W4A4 through integers are never sign-split.
  if constexpr (Layout != ScaleLayout::sign_split) {
    if (args.x_scales != nullptr) {
      return gemm_with<A8Step<Layout, 0, Signed, true>>(args);
    }
  }
  with_group_vectors<!Signed>(args.weight->group, [&](auto vectors) {
    gemm_with<A8Step<Layout, decltype(vectors)::value, Signed, false>>(args);
  });
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
