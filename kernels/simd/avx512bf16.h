// What AVX-512 BF16 adds to simd/avx512vnni.h. Included inside a target region and namespace.

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
