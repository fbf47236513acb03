// The loops that every GEMM shares: panels, blocks of K, tiles of activation rows. A step does the
// work of one (panel, block, tile). Included inside a target's region and namespace.
//
// Order: a block of activation rows stays in L2, a panel's block of K in L1 while all tiles use it;
// accumulators wait in between. Every output is summed in ascending K by one thread, whatever M and
// the number of threads.

inline constexpr std::size_t kRowBlock =
    192;  ///< activation rows at a time; a multiple of all tiles

/// kLanes scales as f32; p points at the first one's bytes.
NYBBLE_INLINE F load_scale(ScaleType type, const std::uint8_t* p) {
  const auto minifloat = [&](auto shift, float unit) {
    // Exponent and mantissa moved under f32's; one exact product corrects the bias, denormals too.
    const I code = widen_u8(p);
    const F magnitude = mul(as_float(shift(iand(code, iset1(0x7F)))), set1(unit));
    return as_float(ior(as_int(magnitude), shl<24>(iand(code, iset1(0x80)))));
  };
  const F nan = set1(std::numeric_limits<float>::quiet_NaN());
  switch (type) {
    case ScaleType::f32:
      return load(reinterpret_cast<const float*>(p));
    case ScaleType::f16:
      return load_f16(p);
    case ScaleType::bf16:
      return as_float(shl<16>(widen_u16(p)));
    case ScaleType::e8m0: {
      const I code = widen_u8(p);
      const F tiny =
          select(iequal(code, iset1(0)), as_float(iset1(0x00400000)), as_float(shl<23>(code)));
      return select(iequal(code, iset1(255)), nan, tiny);
    }
    case ScaleType::e4m3:
    case ScaleType::e4m3x480: {
      const std::int32_t nan_code = type == ScaleType::e4m3 ? 0x7F : -1;
      const F value = minifloat([](I a) { return shl<20>(a); }, 0x1p120F);
      return select(iequal(iand(widen_u8(p), iset1(0x7F)), iset1(nan_code)), nan, value);
    }
    case ScaleType::e5m2: {
      const F value = minifloat([](I a) { return shl<21>(a); }, 0x1p112F);
      const I magnitude = iand(widen_u8(p), iset1(0x7F));
      const F special =
          select(iequal(magnitude, iset1(0x7C)), set1(std::numeric_limits<float>::infinity()), nan);
      return select(igreater(magnitude, iset1(0x7B)), special, value);
    }
  }
  return nan;
}

/// Where codes, scales and zero points of a panel's dot groups lie.
struct GroupPlaces {
  const std::uint8_t* panel_codes;
  const std::uint8_t* panel_scales;
  const std::uint8_t* panel_zeros;
  std::size_t code_bytes, scale_bytes;  ///< of a group
  std::size_t groups_per_scale, unit_stride, head;
  unsigned unit_shift;

  NYBBLE_INLINE GroupPlaces(const PackedPanels& weight, std::size_t panel)
      : panel_codes(weight.codes + panel * weight.code_stride),
        panel_scales(weight.scales + panel * weight.scale_stride),
        panel_zeros(weight.zeros + panel * weight.zero_stride),
        code_bytes(weight.group * 8),
        scale_bytes(16 * weight.scale_size * (weight.layout == ScaleLayout::sign_split ? 2 : 1)),
        groups_per_scale(weight.groups_per_scale),
        unit_stride(weight.unit_stride),
        head(weight.unit_stride - (code_bytes << weight.unit_shift)),
        unit_shift(weight.unit_shift) {}
  [[nodiscard]] NYBBLE_INLINE const std::uint8_t* codes(std::size_t g) const {
    return panel_codes + g * code_bytes + (g >> unit_shift) * head;
  }
  /// [sides][16]
  [[nodiscard]] NYBBLE_INLINE const std::uint8_t* scales(std::size_t g) const {
    return panel_scales + (g >> unit_shift) * unit_stride + scale_in_unit(g) * scale_bytes;
  }
  [[nodiscard]] NYBBLE_INLINE const std::uint8_t* zeros(std::size_t g) const {
    return panel_zeros + (g >> unit_shift) * unit_stride + scale_in_unit(g) * 16;
  }

 private:
  [[nodiscard]] NYBBLE_INLINE std::size_t scale_in_unit(std::size_t g) const {
    const std::size_t within = g & ((std::size_t{1} << unit_shift) - 1);
    return groups_per_scale == 1 ? within : within / groups_per_scale;
  }
};

/// How far ahead the tile that is first to read a panel's nibbles asks for the next ones: into L2
/// and into L1. Measured on Zen 4 with cold weights: 1.5 times the speed at 2 to 8 rows, where
/// arithmetic fills the reorder buffer; at 1 row the hardware alone is up to 1.3 times faster.
inline constexpr std::size_t kPrefetchFar = 16384;
inline constexpr std::size_t kPrefetchNear = 1024;

template <int R>
NYBBLE_INLINE void prefetch_ahead(const std::uint8_t* p) {
  if constexpr (R > 1) {
    __builtin_prefetch(p + kPrefetchFar, 0, 2);
    __builtin_prefetch(p + kPrefetchNear, 0, 3);
  }
}

/// Step: `void prepare(panel, block)`, `template <int R> void tile(m, float* acc, bool first)`,
/// where `first` says that no tile has seen this block of the panel, and `float output_scale(m)`;
/// see gemm_a8 and gemm_float.
template <class Step>
NYBBLE_INLINE void gemm_loops(const GemmArgs& args, Step& step) {
  alignas(64) float acc[(kRowBlock + kLastRows) * 16];
  const PackedPanels& weight = *args.weight;
  std::size_t m_end = 0;
  for (std::size_t m_begin = 0; m_begin < args.m; m_begin = m_end) {
    // The last rows, which smaller tiles share among them, stay together.
    m_end = args.m - m_begin < kRowBlock + kLastRows ? args.m : m_begin + kRowBlock;
    for (std::size_t panel = args.panel_begin; panel < args.panel_end; ++panel) {
      for (std::size_t i = 0; i < (m_end - m_begin) * 16; i += kLanes) store(acc + i, zero());
      for (std::size_t block = 0; block < step.blocks; ++block) {
        step.prepare(panel, block);
        for (std::size_t m = m_begin; m < m_end;) {
          // Tiles are cut over all of M, so a block that is a multiple of every tile meets them
          // whole.
          const std::size_t rows = tile_rows(args.m - m, kMaxTile);
          float* to = acc + (m - m_begin) * 16;
          switch (rows) {
            case 8:
              if constexpr (kMaxTile >= 8) step.template tile<8>(m, to, m == m_begin);
              break;
            case 6:
              if constexpr (kMaxTile >= 8) step.template tile<6>(m, to, m == m_begin);
              break;
            case 4:
              if constexpr (kMaxTile >= 4) step.template tile<4>(m, to, m == m_begin);
              break;
            case 3:
              if constexpr (kMaxTile >= 4) step.template tile<3>(m, to, m == m_begin);
              break;
            case 2:
              step.template tile<2>(m, to, m == m_begin);
              break;
            default:
              step.template tile<1>(m, to, m == m_begin);
              break;
          }
          m += rows;
        }
      }
      const std::size_t row = panel * 16;
      const std::size_t count = weight.rows - row < 16 ? weight.rows - row : 16;
      for (std::size_t m = m_begin; m < m_end; ++m) {
        const F times = set1(step.output_scale(m));
        const std::size_t to = args.y_rows == nullptr ? m : args.y_rows[m];
        float* y = args.y + to * args.y_stride + row;
        const float* from = acc + (m - m_begin) * 16;
        for (std::size_t i = 0; i < count; i += kLanes) {
          store_partial(y + i, mul(load(from + i), times), count - i);
        }
      }
    }
  }
}
