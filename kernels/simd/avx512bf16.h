// What AVX-512 BF16 adds to simd/avx512vbmi.h. Included inside a target region and namespace.

/// 16 bf16 levels, twice over: vpermw reads 5 bits of each 16-bit index, so what lies above a
/// nibble needs no masking.
struct WordTable {
  __m512i v;
};
NYBBLE_INLINE WordTable bf16_table(const float* levels) {
  alignas(64) std::uint16_t words[32];
  store_high_halves(words, round_to_bf16(load(levels)), 16);
  store_high_halves(words + 16, round_to_bf16(load(levels)), 16);
  return {_mm512_load_si512(words)};
}
/// The levels of nibble `Shift / 4` of each 16-bit word: pairs (k, k + 2) of each row.
template <int Shift>
NYBBLE_INLINE F lookup_words(const WordTable& t, B a) {
  return _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_srli_epi16(a.v, Shift), t.v));
}

/// Sign-split levels times the mantissas of their scales, exact in bf16: 64 entries, indexed by
/// code and 2 bits of mantissa.
struct SplitWordTable {
  __m512i low, high;
};
NYBBLE_INLINE SplitWordTable split_word_table(const float* levels) {
  alignas(64) std::uint16_t words[64];
  for (int i = 0; i < 4; ++i) {
    const F by = mul(load(levels), set1(1.0F + 0.25F * static_cast<float>(i)));
    // No negative zero: see lookup_split_words.
    const F value = select(equal(by, zero()), zero(), by);
    store_high_halves(words + 16 * i, round_to_bf16(value), 16);
  }
  return {_mm512_load_si512(words), _mm512_load_si512(words + 32)};
}
/// For both halves of each row's dword: bits 4 and 5 are the side's mantissa, bits 7 to 13 the
/// power of two by which it is below the larger side.
struct SplitWords {
  __m512i positive, negative;
};
/// Returns the larger power of two; NaN where a scale is not finite. What is 2^-120 of it or less
/// counts as nothing, denormal scales too.
NYBBLE_INLINE F split_words(F positive, F negative, SplitWords& out) {
  const __m512i p = as_int(positive);
  const __m512i n = as_int(negative);
  const __m512i p_exponent = _mm512_srli_epi32(p, 23);
  const __m512i n_exponent = _mm512_srli_epi32(n, 23);
  const __m512i largest = _mm512_max_epi32(p_exponent, n_exponent);
  const auto entry = [&](__m512i bits, __m512i exponent) {
    const __m512i below = _mm512_min_epi32(_mm512_sub_epi32(largest, exponent), iset1(120));
    const __m512i mantissa = _mm512_and_si512(_mm512_srli_epi32(bits, 21), iset1(3));
    const __m512i word =
        _mm512_or_si512(_mm512_slli_epi32(mantissa, 4), _mm512_slli_epi32(below, 7));
    return _mm512_or_si512(word, _mm512_slli_epi32(word, 16));
  };
  out.positive = entry(p, p_exponent);
  out.negative = entry(n, n_exponent);
  return select(iequal(largest, iset1(255)), set1(std::numeric_limits<float>::quiet_NaN()),
                as_float(shl<23>(largest)));
}
/// The same for one of two groups of which none is special; `unit` is the larger power of two.
template <int Group>
NYBBLE_INLINE SplitWords split_words_of(const SplitScales& s) {
  const __m512i below = _mm512_min_epu8(s.below, _mm512_set1_epi8(120));
  const __m512i low = _mm512_or_si512(
      _mm512_slli_epi16(s.mantissa, 4),
      _mm512_and_si512(_mm512_slli_epi16(below, 7), _mm512_set1_epi8(static_cast<char>(0x80))));
  const __m512i high = _mm512_and_si512(_mm512_srli_epi16(below, 1), _mm512_set1_epi8(0x7F));
  // Bytes (low, high, low, high) of each row.
  static constexpr RowIndices kPositive(32 * Group, 64);
  static constexpr RowIndices kNegative(32 * Group + 16, 64);
  return {_mm512_permutex2var_epi8(low, _mm512_load_si512(kPositive.bytes), high),
          _mm512_permutex2var_epi8(low, _mm512_load_si512(kNegative.bytes), high)};
}
/// lookup_words with a scale per side. Lowering an exponent is a saturating subtraction, under
/// which a zero stays what it is.
template <int Shift>
NYBBLE_INLINE F lookup_split_words(const SplitWordTable& t, const SplitWords& rows, B a) {
  const __m512i x = _mm512_srli_epi16(a.v, Shift);
  const __mmask32 negative = _mm512_test_epi16_mask(x, _mm512_set1_epi16(8));
  const __m512i row = _mm512_mask_blend_epi16(negative, rows.positive, rows.negative);
  // (x & 15) | row
  const __m512i index = _mm512_ternarylogic_epi32(x, _mm512_set1_epi16(15), row, 0xEA);
  const __m512i entry = _mm512_permutex2var_epi16(t.low, index, t.high);
  return _mm512_castsi512_ps(
      _mm512_subs_epu16(entry, _mm512_and_si512(row, _mm512_set1_epi16(0x3F80))));
}

/// Two bf16 a dword and vdpbf16ps: sums of two products a lane. The instruction takes denormals as
/// zero.
struct Bf16Numbers {
  static constexpr std::size_t kPair = 2;
  static NYBBLE_INLINE I pair(F even, F odd) {
    const I high = iset1(static_cast<std::int32_t>(0xFFFF0000U));
    return ior(shr<16>(round_to_bf16(even)), iand(round_to_bf16(odd), high));
  }
  /// By hand: g++ 12 does not fold the broadcast into the intrinsic's operand, which made GEMM 1.4
  /// times slower (clang 14 does).
  static NYBBLE_INLINE F dot(F acc, F weights, const float* x) {
    __asm__("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(weights), "m"(*x));
    return acc;
  }
};
