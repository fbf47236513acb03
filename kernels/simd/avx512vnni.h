// What simd/avx512.h leaves open, without VBMI. Included inside a target region and namespace.

inline constexpr std::size_t kMaxTile = 6;
/// See prefetch_ahead. Measured on Cascade Lake, 1 to 8 rows, share of the roofline: 85, 82, 71, 52
/// % with this, 74, 71, 63, 48 % without, 75, 75, 66, 49 % with Zen 4's distances.
inline constexpr int kPrefetchFromRows = 1;
inline constexpr std::size_t kPrefetchFar = 0;
inline constexpr std::size_t kPrefetchNear = 1024;

NYBBLE_INLINE B lookup_low(const ByteTable& t, B a) {
  return {_mm512_shuffle_epi8(t.v, _mm512_and_si512(a.v, _mm512_set1_epi8(15)))};
}
NYBBLE_INLINE B lookup_high(const ByteTable& t, B a) {
  return {
      _mm512_shuffle_epi8(t.v, _mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15)))};
}

NYBBLE_INLINE B subtract_bytes(B a, B b) { return {_mm512_sub_epi8(a.v, b.v)}; }
/// Byte 4 r + t is byte r of 16.
NYBBLE_INLINE B four_times(__m128i bytes) {
  const __m512i spread = _mm512_set4_epi32(0x0C0C0C0C, 0x08080808, 0x04040404, 0);
  return {_mm512_shuffle_epi8(_mm512_cvtepu8_epi32(bytes), spread)};
}
NYBBLE_INLINE B four_times(const std::uint8_t* p) {
  return four_times(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// What gemm_a8_split.inl.h needs.

/// Magnitudes times 4.
struct SplitByteTable {
  __m512i v;
};
/// From the 128 entries of kSplitOffset + magnitude * (4 + mantissa) / 2^below that VBMI looks up:
/// the first 8 have neither mantissa nor shift.
NYBBLE_INLINE SplitByteTable split_byte_table(const std::uint8_t* p) {
  const __m512i first = byte_table(p).v;
  return {_mm512_xor_si512(first, _mm512_set1_epi8(static_cast<char>(kSplitOffset)))};
}
/// Byte 4 r + t of the result is byte r of 16, those of a quarter.
template <int Quarter>
NYBBLE_INLINE __m512i four_times(__m512i bytes) {
  return four_times(_mm512_extracti32x4_epi32(bytes, Quarter)).v;
}
/// What split_rows spreads: (4 + mantissa) * 2^(5 - below). Returns which bytes have none.
NYBBLE_INLINE __mmask64 split_entries(const SplitScales& s, __m512i& entries) {
  const __m512i factors = _mm512_broadcast_i32x4(
      _mm_setr_epi8(static_cast<char>(128), static_cast<char>(160), static_cast<char>(192),
                    static_cast<char>(224), 64, 80, 96, 112, 32, 40, 48, 56, 16, 20, 24, 28));
  const __m512i below = _mm512_and_si512(_mm512_slli_epi16(s.below, 2), _mm512_set1_epi8(12));
  entries = _mm512_shuffle_epi8(factors, _mm512_or_si512(s.mantissa, below));
  return s.special | _mm512_cmpgt_epu8_mask(s.below, _mm512_set1_epi8(3));
}
/// One side's factor by the sign (bit Sign of each byte of `a`) times the magnitude, a quarter unit
/// rounded up: vpmulhrsw, even and odd bytes apart.
template <int Sign>
NYBBLE_INLINE B lookup_split(const SplitByteTable& t, const SplitBytes& rows, __m512i a,
                             __m512i nibbles) {
  const __m512i low_bytes = _mm512_set1_epi16(0x00FF);
  const __mmask64 negative = _mm512_test_epi8_mask(a, _mm512_set1_epi8(static_cast<char>(Sign)));
  const __m512i factor = _mm512_mask_blend_epi8(negative, rows.positive, rows.negative);
  const __m512i quarters = _mm512_shuffle_epi8(t.v, _mm512_and_si512(nibbles, _mm512_set1_epi8(7)));
  const __m512i even =
      _mm512_mulhrs_epi16(_mm512_slli_epi16(quarters, 8), _mm512_and_si512(factor, low_bytes));
  const __m512i odd =
      _mm512_mulhrs_epi16(_mm512_andnot_si512(low_bytes, quarters), _mm512_srli_epi16(factor, 8));
  // even | odd << 8 | kSplitOffset
  const __m512i entry = _mm512_ternarylogic_epi32(
      even, _mm512_slli_epi16(odd, 8), _mm512_set1_epi8(static_cast<char>(kSplitOffset)), 0xFE);
  return {_mm512_mask_sub_epi8(entry, negative, _mm512_setzero_si512(), entry)};
}
