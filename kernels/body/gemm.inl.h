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
      const F special = select(iequal(magnitude, iset1(0x7C)),
                               set1(std::numeric_limits<float>::infinity()), nan);
      return select(igreater(magnitude, iset1(0x7B)), special, value);
    }
  }
  return nan;
}

/// Where a panel's scales of one dot group begin, and how to get to the next group's.
struct ScaleCursor {
  const std::uint8_t* base;
  std::size_t bytes;  ///< of one side: 16 scales
  std::size_t sides;
  std::size_t groups_per_scale;

  ScaleCursor(const PackedPanels& weight, std::size_t panel)
      : base(weight.scales + panel * weight.scale_stride),
        bytes(16 * weight.scale_size),
        sides(weight.layout == ScaleLayout::sign_split ? 2 : 1),
        groups_per_scale(weight.groups_per_scale) {}
  [[nodiscard]] NYBBLE_INLINE const std::uint8_t* at(std::size_t g) const {
    return base + (groups_per_scale == 1 ? g : g / groups_per_scale) * sides * bytes;
  }
};

/// All scales of groups [begin, end) of a panel as f32: out[g][side][16].
inline void decode_scales(const PackedPanels& weight, std::size_t panel, std::size_t begin,
                          std::size_t end, float* out) {
  const ScaleCursor cursor(weight, panel);
  for (std::size_t g = begin; g < end; ++g) {
    for (std::size_t i = 0; i < cursor.sides * 16; i += kLanes, out += kLanes) {
      store(out, load_scale(weight.scale_type, cursor.at(g) + i * weight.scale_size));
    }
  }
}

/// How far ahead the tile that is first to read a panel's nibbles asks for the next ones: into L2
/// and into L1. Measured on Zen 4 with cold weights: 1.5 times the speed at 2 to 8 rows (the
/// hardware stops at 4 KiB pages and where arithmetic fills the reorder buffer), nothing lost at 1.
inline constexpr std::size_t kPrefetchFar = 16384;
inline constexpr std::size_t kPrefetchNear = 1024;

NYBBLE_INLINE void prefetch_ahead(const std::uint8_t* p, std::size_t far, std::size_t near) {
  __builtin_prefetch(p + far, 0, 2);
  __builtin_prefetch(p + near, 0, 3);
}

/// Step: `void prepare(panel, block)`, `template <int R> void tile(m, float* acc, bool first)`, where
/// `first` says that no tile has seen this block of the panel, and `float output_scale(m)`; see
/// gemm_a8 and gemm_float.
template <class Step>
NYBBLE_INLINE void gemm_loops(const GemmArgs& args, Step& step) {
  alignas(64) float acc[kRowBlock * 16];
  const PackedPanels& weight = *args.weight;
  for (std::size_t m_begin = 0; m_begin < args.m; m_begin += kRowBlock) {
    const std::size_t m_end = args.m - m_begin < kRowBlock ? args.m : m_begin + kRowBlock;
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
            case 12:
              if constexpr (kMaxTile >= 12) step.template tile<12>(m, to, m == m_begin);
              break;
            case 8:
              if constexpr (kMaxTile >= 8) step.template tile<8>(m, to, m == m_begin);
              break;
            case 4:
              step.template tile<4>(m, to, m == m_begin);
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
