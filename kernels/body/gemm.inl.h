// The loops that every GEMM shares: panels, blocks of K, tiles of activation rows. A step does the
// work of one (panel, block, tile). Included inside a target's region and namespace.
//
// Order: a block of activation rows stays in L2, a panel's block of K in L1 while all tiles use it;
// accumulators wait in between. Every output is summed in ascending K by one thread, whatever M and
// the number of threads.

inline constexpr std::size_t kRowBlock =
    192;  ///< activation rows at a time; a multiple of all tiles
static_assert(kRowBlock + kLastRows <= kMostRowsAtOnce);

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

/// Walks the dot groups of a panel in ascending K: where the codes, scales ([sides][16]) and zero
/// points ([16]) of the current one lie. No index is turned into an address, which would take a
/// division: at 1 row that was a third of the time on Cascade Lake.
class GroupCursor {
 public:
  const std::uint8_t *codes, *scales, *zeros;

  NYBBLE_INLINE GroupCursor(const PackedPanels& weight, std::size_t panel)
      : codes(weight.codes + panel * weight.code_stride),
        scales(weight.scales + panel * weight.scale_stride),
        zeros(weight.zeros + panel * weight.zero_stride),
        code_bytes_(weight.group * 8),
        scale_bytes_(16 * weight.scale_size * (weight.layout == ScaleLayout::sign_split ? 2 : 1)),
        groups_per_scale_(weight.groups_per_scale),
        unit_groups_(weight.unit_groups),
        unit_stride_(weight.unit_stride),
        unit_codes_(codes),
        unit_scales_(scales),
        unit_zeros_(zeros) {}

  /// To the same group of the panel that is `panels` further on.
  NYBBLE_INLINE void move(const PackedPanels& weight, std::size_t panels) {
    codes += panels * weight.code_stride;
    scales += panels * weight.scale_stride;
    zeros += panels * weight.zero_stride;
    unit_codes_ += panels * weight.code_stride;
    unit_scales_ += panels * weight.scale_stride;
    unit_zeros_ += panels * weight.zero_stride;
  }
  NYBBLE_INLINE void next() {
    codes += code_bytes_;
    if (++of_scale_ == groups_per_scale_) {
      of_scale_ = 0;
      scales += scale_bytes_;
      zeros += 16;
    }
    if (++of_unit_ == unit_groups_) {
      of_unit_ = 0;
      codes = unit_codes_ += unit_stride_;
      scales = unit_scales_ += unit_stride_;
      zeros = unit_zeros_ += unit_stride_;
    }
  }

 private:
  std::size_t code_bytes_, scale_bytes_;  ///< of a group, of a scale group
  std::size_t groups_per_scale_, unit_groups_, unit_stride_;
  std::size_t of_scale_ = 0, of_unit_ = 0;  ///< groups since the current scale and unit began
  const std::uint8_t *unit_codes_, *unit_scales_, *unit_zeros_;
};

/// The tile that is first to read a panel's nibbles asks for the next ones: as far ahead as the
/// target's header says, into L2 and into L1.
template <int R>
NYBBLE_INLINE void prefetch_ahead(const std::uint8_t* p) {
  if constexpr (R >= kPrefetchFromRows) {
    if constexpr (kPrefetchFar != 0) __builtin_prefetch(p + kPrefetchFar, 0, 2);
    __builtin_prefetch(p + kPrefetchNear, 0, 3);
  }
}

/// Step: `kTilePanels`, how many panels it computes at a time (the last may be alone);
/// `void prepare(panel, count, block)`, called for all blocks of a panel in ascending order;
/// `template <int R> void tile(m, float* acc, bool first)`, where acc is [R][count][16] and `first`
/// says that no tile has seen this block of the panels; and `float output_scale(m)`. See gemm_a8
/// and gemm_float.
template <class Step>
NYBBLE_INLINE void gemm_loops(const GemmArgs& args, Step& step) {
  auto* const acc = reinterpret_cast<float*>(args.scratch + Step::kScratchBytes);
  const PackedPanels& weight = *args.weight;
  std::size_t m_end = 0;
  for (std::size_t m_begin = 0; m_begin < args.m; m_begin = m_end) {
    // The last rows, which smaller tiles share among them, stay together.
    m_end = args.m - m_begin < kRowBlock + kLastRows ? args.m : m_begin + kRowBlock;
    std::size_t panels = 1;
    for (std::size_t panel = args.panel_begin; panel < args.panel_end; panel += panels) {
      panels = args.panel_end - panel < Step::kTilePanels ? 1 : Step::kTilePanels;
      const std::size_t row_values = panels * 16;
      const std::size_t row = panel * 16;
      const std::size_t count = weight.rows - row < row_values ? weight.rows - row : row_values;
      const auto y_row = [&](std::size_t m) {
        const std::size_t to = args.y_rows == nullptr ? m : args.y_rows[m];
        return args.y + to * args.y_stride + row;
      };
      for (std::size_t i = 0; i < (m_end - m_begin) * row_values; i += kLanes) {
        store(acc + i, zero());
      }
      for (std::size_t block = 0; block < step.blocks; ++block) {
        step.prepare(panel, panels, block);
        for (std::size_t m = m_begin; m < m_end;) {
          // Tiles are cut over all of M, so a block that is a multiple of every tile meets them
          // whole.
          const std::size_t rows = tile_rows(args.m - m, kMaxTile);
          float* to = acc + (m - m_begin) * row_values;
          const auto tile = [&](auto constant) __attribute__((always_inline)) {
            constexpr std::size_t kRows = decltype(constant)::value;
            if constexpr (is_tile(kRows, kMaxTile)) {
              step.template tile<static_cast<int>(kRows)>(m, to, m == m_begin);
            }
          };
          switch (rows) {
            case 8:
              tile(std::integral_constant<std::size_t, 8>{});
              break;
            case 7:
              tile(std::integral_constant<std::size_t, 7>{});
              break;
            case 6:
              tile(std::integral_constant<std::size_t, 6>{});
              break;
            case 5:
              tile(std::integral_constant<std::size_t, 5>{});
              break;
            case 4:
              tile(std::integral_constant<std::size_t, 4>{});
              break;
            case 3:
              tile(std::integral_constant<std::size_t, 3>{});
              break;
            case 2:
              tile(std::integral_constant<std::size_t, 2>{});
              break;
            default:
              tile(std::integral_constant<std::size_t, 1>{});
              break;
          }
          if (block + 1 == step.blocks) {
            // Their lines come while the tiles are still busy.
            for (std::size_t r = m; r < m + rows; ++r) {
              for (std::size_t i = 0; i < count; i += 16) __builtin_prefetch(y_row(r) + i, 1);
            }
          }
          m += rows;
        }
      }
      for (std::size_t m = m_begin; m < m_end; ++m) {
        const F times = set1(step.output_scale(m));
        float* y = y_row(m);
        const float* from = acc + (m - m_begin) * row_values;
        for (std::size_t i = 0; i < count; i += kLanes) {
          store_partial(y + i, mul(load(from + i), times), count - i);
        }
      }
    }
  }
}

/// A product by steps of one kind. `kScratchBytes`: of their own arrays, which lie in scratch,
/// whole cache lines. Out of line, so that the stack of only one of them is taken.
template <class Step>
__attribute__((noinline)) void gemm_with(const GemmArgs& given) {
  if (given.scratch_bytes != nullptr) {
    const std::size_t rows = given.m < kRowBlock + kLastRows ? given.m : kRowBlock + kLastRows - 1;
    *given.scratch_bytes = Step::kScratchBytes + rows * Step::kTilePanels * 16 * sizeof(float);
    return;
  }
  // Copies: writing to scratch could change what is not local, as far as a compiler knows.
  const PackedPanels weight = *given.weight;
  GemmArgs args = given;
  args.weight = &weight;
  Step step(args);
  gemm_loops(args, step);
}
