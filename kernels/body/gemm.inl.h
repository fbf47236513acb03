// The loops that every GEMM shares: panels, blocks of K, tiles of activation rows. A step does the
// work of one (panel, block, tile). Included inside a target's region and namespace.
//
// Order: a block of activation rows stays in L2, a panel's block of K in L1 while all tiles use it;
// accumulators wait in between. Every output is summed in ascending K by one thread, whatever M and
// the number of threads.

inline constexpr std::size_t kRowBlock =
    192;  ///< activation rows at a time; a multiple of all tiles

/// All scales of groups [begin, end) of a panel as f32, times the tensor scale: out[g][side][16].
inline void decode_scales(const PackedPanels& weight, std::size_t panel, std::size_t begin,
                          std::size_t end, float multiplier, float* out) {
  const std::size_t sides = weight.layout == ScaleLayout::sign_split ? 2 : 1;
  const F times = set1(multiplier);
  const std::uint8_t* base = weight.scales + panel * weight.scale_stride;
  const auto run = [&](std::size_t bytes, auto decode) {
    for (std::size_t g = begin; g < end; ++g) {
      const std::uint8_t* from = base + g / weight.groups_per_scale * sides * 16 * bytes;
      for (std::size_t i = 0; i < sides * 16; i += kLanes) {
        store(out, mul(decode(from + i * bytes), times));
        out += kLanes;
      }
    }
  };
  const auto minifloat = [&](const std::uint8_t* p, auto shift, float unit) {
    // Exponent and mantissa moved under f32's; one exact product corrects the bias, denormals too.
    const I code = widen_u8(p);
    const F magnitude = mul(as_float(shift(iand(code, iset1(0x7F)))), set1(unit));
    return as_float(ior(as_int(magnitude), shl<24>(iand(code, iset1(0x80)))));
  };
  const F nan = set1(std::numeric_limits<float>::quiet_NaN());
  switch (weight.scale_type) {
    case ScaleType::f32:
      run(4, [](const std::uint8_t* p) { return load(reinterpret_cast<const float*>(p)); });
      break;
    case ScaleType::f16:
      run(2, [](const std::uint8_t* p) { return load_f16(p); });
      break;
    case ScaleType::bf16:
      run(2, [](const std::uint8_t* p) { return as_float(shl<16>(widen_u16(p))); });
      break;
    case ScaleType::e8m0:
      run(1, [&](const std::uint8_t* p) {
        const I code = widen_u8(p);
        const F tiny =
            select(iequal(code, iset1(0)), as_float(iset1(0x00400000)), as_float(shl<23>(code)));
        return select(iequal(code, iset1(255)), nan, tiny);
      });
      break;
    case ScaleType::e4m3:
    case ScaleType::e4m3x480: {
      const std::int32_t nan_code = weight.scale_type == ScaleType::e4m3 ? 0x7F : -1;
      run(1, [&](const std::uint8_t* p) {
        const F value = minifloat(
            p, [](I a) { return shl<20>(a); }, 0x1p120F);
        return select(iequal(iand(widen_u8(p), iset1(0x7F)), iset1(nan_code)), nan, value);
      });
      break;
    }
    case ScaleType::e5m2:
      run(1, [&](const std::uint8_t* p) {
        const F value = minifloat(
            p, [](I a) { return shl<21>(a); }, 0x1p112F);
        const I magnitude = iand(widen_u8(p), iset1(0x7F));
        const F special = select(iequal(magnitude, iset1(0x7C)),
                                 set1(std::numeric_limits<float>::infinity()), nan);
        return select(igreater(magnitude, iset1(0x7B)), special, value);
      });
      break;
  }
}

/// Step: `template <int R> void tile(const float* x, ..., float* acc)`; see gemm_a8 and gemm_float.
template <class Step>
NYBBLE_INLINE void gemm_loops(const GemmArgs& args, Step& step, float output_scale) {
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
              if constexpr (kMaxTile >= 12) step.template tile<12>(m, to);
              break;
            case 8:
              if constexpr (kMaxTile >= 8) step.template tile<8>(m, to);
              break;
            case 4:
              step.template tile<4>(m, to);
              break;
            case 2:
              step.template tile<2>(m, to);
              break;
            default:
              step.template tile<1>(m, to);
              break;
          }
          m += rows;
        }
      }
      const std::size_t row = panel * 16;
      const std::size_t count = weight.rows - row < 16 ? weight.rows - row : 16;
      const F times = set1(output_scale);
      for (std::size_t m = m_begin; m < m_end; ++m) {
        float* y = args.y + m * args.y_stride + row;
        const float* from = acc + (m - m_begin) * 16;
        for (std::size_t i = 0; i < count; i += kLanes) {
          store_partial(y + i, mul(load(from + i), times), count - i);
        }
      }
    }
  }
}
