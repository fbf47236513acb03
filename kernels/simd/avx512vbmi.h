// What simd/avx512.h leaves open, with VBMI. Included inside a target region and namespace.

inline constexpr std::size_t kMaxTile = 8;
/// See prefetch_ahead. Measured on Zen 4 with cold weights: 1.5 times the speed at 2 to 8 rows,
/// where arithmetic fills the reorder buffer; at 1 row the hardware alone is up to 1.3 times
/// faster.
inline constexpr int kPrefetchFromRows = 2;
inline constexpr std::size_t kPrefetchFar = 16384;
inline constexpr std::size_t kPrefetchNear = 1024;

// vpermb reads 6 bits of each index and the table is there four times, so neither the high nibble
// nor what a 16-bit shift drags in needs masking.
NYBBLE_INLINE B lookup_low(const ByteTable& t, B a) { return {_mm512_permutexvar_epi8(a.v, t.v)}; }
NYBBLE_INLINE B lookup_high(const ByteTable& t, B a) {
  return {_mm512_permutexvar_epi8(_mm512_srli_epi16(a.v, 4), t.v)};
}

// What gemm_a8_split.inl.h needs.

/// 128 entries, kSplitOffset + magnitude.
struct SplitByteTable {
  __m512i low, high;
};
NYBBLE_INLINE SplitByteTable split_byte_table(const std::uint8_t* p) {
  return {_mm512_loadu_si512(p), _mm512_loadu_si512(p + 64)};
}
/// Indices of a byte permutation: byte first + r for the four bytes of each row r; odd bytes from
/// `second_operand` on.
struct RowIndices {
  alignas(64) std::uint8_t bytes[64];
  constexpr RowIndices(int first, int second_operand) : bytes{} {
    for (int i = 0; i < 64; ++i) {
      bytes[i] = static_cast<std::uint8_t>(first + i / 4 + (i % 2 != 0 ? second_operand : 0));
    }
  }
};
/// Byte 4 r + t of the result is byte r of 16, those of a quarter.
template <int Quarter>
NYBBLE_INLINE __m512i four_times(__m512i bytes) {
  static constexpr RowIndices kIndices(16 * Quarter, 0);
  return _mm512_permutexvar_epi8(_mm512_load_si512(kIndices.bytes), bytes);
}
/// What split_rows spreads: bits 3 to 6 of the table's index. Returns which bytes have none.
NYBBLE_INLINE __mmask64 split_entries(const SplitScales& s, __m512i& entries) {
  entries = _mm512_or_si512(_mm512_slli_epi16(s.mantissa, 3), _mm512_slli_epi16(s.below, 5));
  return s.special | _mm512_cmpgt_epu8_mask(s.below, _mm512_set1_epi8(3));
}
/// One side's entry by the sign (bit Sign of each byte of `a`), then plus or minus its magnitude.
template <int Sign>
NYBBLE_INLINE B lookup_split(const SplitByteTable& t, const SplitBytes& rows, __m512i a,
                             __m512i nibbles) {
  const __mmask64 negative = _mm512_test_epi8_mask(a, _mm512_set1_epi8(static_cast<char>(Sign)));
  const __m512i row = _mm512_mask_blend_epi8(negative, rows.positive, rows.negative);
  // (nibbles & 7) | row
  const __m512i index = _mm512_ternarylogic_epi32(nibbles, _mm512_set1_epi8(7), row, 0xEA);
  const __m512i entry = _mm512_permutex2var_epi8(t.low, index, t.high);
  return {_mm512_mask_sub_epi8(entry, negative, _mm512_setzero_si512(), entry)};
}
