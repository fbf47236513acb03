// Products of f32 matrices. Included inside a target's region and namespace.

/// Vectors of columns and rows of a tile: 24 sums, 4 weights and a broadcast fill 32 registers, 12,
/// 2 and 1 most of 16.
inline constexpr std::size_t kDenseVectors = kLanes == 16 ? 4 : 2;
inline constexpr std::size_t kDenseRows = 6;

template <std::size_t Rows>
NYBBLE_INLINE void dense_tile(const DenseUpdateArgs& args, std::size_t row, std::size_t col) {
  F sum[Rows][kDenseVectors];
  for (std::size_t r = 0; r < Rows; ++r) {
    for (std::size_t v = 0; v < kDenseVectors; ++v) sum[r][v] = zero();
  }
  const float* a = args.a + row * args.a_stride;
  const float* b = args.b + col;
  for (std::size_t k = 0; k < args.depth; ++k, b += kDenseCols) {
    F column[kDenseVectors];
    for (std::size_t v = 0; v < kDenseVectors; ++v) column[v] = load(b + v * kLanes);
    for (std::size_t r = 0; r < Rows; ++r) {
      const F x = set1(a[r * args.a_stride + k]);
      for (std::size_t v = 0; v < kDenseVectors; ++v) sum[r][v] = fma(x, column[v], sum[r][v]);
    }
  }
  for (std::size_t r = 0; r < Rows; ++r) {
    float* c = args.c + (row + r) * args.c_stride + col;
    for (std::size_t v = 0; v < kDenseVectors; ++v) {
      const std::size_t done = col + v * kLanes;
      if (done >= args.cols) break;
      const std::size_t left = args.cols - done;
      const F before = load_partial(c + v * kLanes, left);
      store_partial(c + v * kLanes, args.subtract ? sub(before, sum[r][v]) : add(before, sum[r][v]),
                    left);
    }
  }
}

inline void dense_update(const DenseUpdateArgs& args) noexcept {
  for (std::size_t row = 0; row < args.rows;) {
    const std::size_t rows = args.rows - row < kDenseRows ? 1 : kDenseRows;
    for (std::size_t col = 0; col < args.cols; col += kDenseVectors * kLanes) {
      if (rows == kDenseRows) {
        dense_tile<kDenseRows>(args, row, col);
      } else {
        dense_tile<1>(args, row, col);
      }
    }
    row += rows;
  }
}
