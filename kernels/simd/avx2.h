// The primitives with AVX2, FMA and F16C: 8 lanes. Included inside a target region and namespace.

inline constexpr std::size_t kLanes = 8;

using F = __m256;
using I = __m256i;
using M = __m256;  // all-ones lanes
/// kLanes dwords of bytes; a struct so that it does not overload like I.
struct B {
  __m256i v;
};
struct FloatTable {
  __m256 low, high;
};
struct ByteTable {
  __m256i v;
};

/// Lane mask of the first n lanes.
NYBBLE_INLINE __m256i first_lanes(std::size_t n) {
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n < 8 ? n : 8)), index);
}

NYBBLE_INLINE F set1(float x) { return _mm256_set1_ps(x); }
NYBBLE_INLINE F zero() { return _mm256_setzero_ps(); }
NYBBLE_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
NYBBLE_INLINE F load_partial(const float* p, std::size_t n) {
  return _mm256_maskload_ps(p, first_lanes(n));
}
NYBBLE_INLINE void store(float* p, F a) { _mm256_storeu_ps(p, a); }
NYBBLE_INLINE void store_partial(float* p, F a, std::size_t n) {
  _mm256_maskstore_ps(p, first_lanes(n), a);
}

NYBBLE_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
NYBBLE_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
NYBBLE_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
NYBBLE_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
NYBBLE_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
NYBBLE_INLINE F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
NYBBLE_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
NYBBLE_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
NYBBLE_INLINE F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a); }
NYBBLE_INLINE F round_even(F a) {
  return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

NYBBLE_INLINE M greater(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
NYBBLE_INLINE M equal(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
NYBBLE_INLINE M nonfinite(F a) {
  return _mm256_cmp_ps(abs(a), _mm256_set1_ps(3.402823466e38F), _CMP_NLE_UQ);
}
NYBBLE_INLINE M either(M a, M b) { return _mm256_or_ps(a, b); }
NYBBLE_INLINE M no_lanes() { return _mm256_setzero_ps(); }
NYBBLE_INLINE bool any(M a) { return _mm256_movemask_ps(a) != 0; }
NYBBLE_INLINE F select(M m, F yes, F no) { return _mm256_blendv_ps(no, yes, m); }

NYBBLE_INLINE float reduce_add(const F* parts) {
  const __m256 s8 = _mm256_add_ps(parts[0], parts[1]);
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
NYBBLE_INLINE float reduce_max(F a) {
  const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}
/// The largest lane of each of kLanes vectors.
NYBBLE_INLINE F reduce_max_each(const F* v) {
  F pairs[4];
  for (int i = 0; i < 4; ++i) {
    pairs[i] =
        max(_mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]));
  }
  F fours[2];  // in each half the largest of the halves of four vectors
  for (int i = 0; i < 2; ++i) {
    const __m256d low = _mm256_castps_pd(pairs[2 * i]);
    const __m256d high = _mm256_castps_pd(pairs[2 * i + 1]);
    fours[i] = max(_mm256_castpd_ps(_mm256_unpacklo_pd(low, high)),
                   _mm256_castpd_ps(_mm256_unpackhi_pd(low, high)));
  }
  return max(_mm256_permute2f128_ps(fours[0], fours[1], 0x20),
             _mm256_permute2f128_ps(fours[0], fours[1], 0x31));
}
NYBBLE_INLINE float reduce_min(F a) {
  const __m128 s4 = _mm_min_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 s2 = _mm_min_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_min_ss(s2, _mm_movehdup_ps(s2)));
}

NYBBLE_INLINE I iset1(std::int32_t x) { return _mm256_set1_epi32(x); }
NYBBLE_INLINE I iload(const std::int32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
NYBBLE_INLINE I iadd(I a, I b) { return _mm256_add_epi32(a, b); }
NYBBLE_INLINE I isub(I a, I b) { return _mm256_sub_epi32(a, b); }
NYBBLE_INLINE I iand(I a, I b) { return _mm256_and_si256(a, b); }
NYBBLE_INLINE I ior(I a, I b) { return _mm256_or_si256(a, b); }
NYBBLE_INLINE I iadd_product16(I acc, I n, std::int32_t x) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(n, _mm256_set1_epi32(x)));
}
template <int N>
NYBBLE_INLINE I shr(I a) {
  return _mm256_srli_epi32(a, N);
}
template <int N>
NYBBLE_INLINE I shl(I a) {
  return _mm256_slli_epi32(a, N);
}
NYBBLE_INLINE M iequal(I a, I b) { return _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)); }
NYBBLE_INLINE M igreater(I a, I b) { return _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b)); }
NYBBLE_INLINE I increment(I a, M m, I by) {
  return _mm256_add_epi32(a, _mm256_and_si256(_mm256_castps_si256(m), by));
}
NYBBLE_INLINE F to_float(I a) { return _mm256_cvtepi32_ps(a); }
NYBBLE_INLINE I to_int(F a) { return _mm256_cvttps_epi32(a); }
NYBBLE_INLINE F as_float(I a) { return _mm256_castsi256_ps(a); }
NYBBLE_INLINE I as_int(F a) { return _mm256_castps_si256(a); }
NYBBLE_INLINE std::int32_t reduce_iadd(I a) {
  const __m128i s4 = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  const __m128i s2 = _mm_add_epi32(s4, _mm_unpackhi_epi64(s4, s4));
  return _mm_cvtsi128_si32(_mm_add_epi32(s2, _mm_shuffle_epi32(s2, 1)));
}

NYBBLE_INLINE I widen_u8(const std::uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
NYBBLE_INLINE I widen_u16(const std::uint8_t* p) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
NYBBLE_INLINE F load_f16(const std::uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
NYBBLE_INLINE void store_bytes(void* p, I a, std::size_t n) {
  const __m256i pick = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  const __m256i bytes = _mm256_shuffle_epi8(a, pick);
  const __m128i both =
      _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
  if (n >= 8) {
    _mm_storel_epi64(static_cast<__m128i*>(p), both);
    return;
  }
  std::uint64_t word = static_cast<std::uint64_t>(_mm_cvtsi128_si64(both));
  auto* to = static_cast<std::uint8_t*>(p);
  for (std::size_t i = 0; i < n; ++i, word >>= 8) to[i] = static_cast<std::uint8_t>(word);
}
/// 4 kLanes integers within -128..127 as bytes.
NYBBLE_INLINE void store_signed_bytes(std::int8_t* p, const I* a) {
  // Packing works within halves: their dwords come out as (0, 2, 4, 6), (1, 3, 5, 7).
  const __m256i bytes =
      _mm256_packs_epi16(_mm256_packs_epi32(a[0], a[1]), _mm256_packs_epi32(a[2], a[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permutevar8x32_epi32(bytes, order));
}
NYBBLE_INLINE void store_high_halves(std::uint16_t* p, I a, std::size_t n) {
  const __m256i high = _mm256_srli_epi32(a, 16);
  const __m128i packed =
      _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  if (n >= 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
    return;
  }
  alignas(16) std::uint16_t halves[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(halves), packed);
  for (std::size_t i = 0; i < n; ++i) p[i] = halves[i];
}

NYBBLE_INLINE FloatTable float_table(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
NYBBLE_INLINE F lookup(const FloatTable& t, I index) {
  // vpermps reads 3 bits of the index; bit 3, moved to the sign, picks the half.
  const __m256 high = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(t.low, index),
                          _mm256_permutevar8x32_ps(t.high, index), high);
}

NYBBLE_INLINE ByteTable byte_table(const std::uint8_t* p) {
  return {_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
NYBBLE_INLINE B load_bytes(const std::uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
NYBBLE_INLINE I as_int(B a) { return a.v; }
NYBBLE_INLINE B lookup_low(const ByteTable& t, B a) {
  return {_mm256_shuffle_epi8(t.v, _mm256_and_si256(a.v, _mm256_set1_epi8(15)))};
}
NYBBLE_INLINE B lookup_high(const ByteTable& t, B a) {
  return {
      _mm256_shuffle_epi8(t.v, _mm256_and_si256(_mm256_srli_epi16(a.v, 4), _mm256_set1_epi8(15)))};
}

NYBBLE_INLINE void store_bytes(std::uint8_t* p, B a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v);
}
// Bytes plus 128 are unsigned, which vpsadbw sums.
NYBBLE_INLINE void store_sums_of_8(std::int64_t* p, B a) {
  const __m256i biased = _mm256_xor_si256(a.v, _mm256_set1_epi8(-128));
  const __m256i sums = _mm256_sad_epu8(biased, _mm256_setzero_si256());
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm256_sub_epi64(sums, _mm256_set1_epi64x(8 * 128)));
}

NYBBLE_INLINE I broadcast4(const std::int8_t* x) {
  std::int32_t four;
  std::memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}
// vpmaddubsw saturates its 16-bit sums of two products: exact up to u8 weights of 128.
NYBBLE_INLINE I dot(I acc, B u, I x) {
  const __m256i pairs = _mm256_maddubs_epi16(u.v, x);
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
/// Weights within +-127 as |w| times x with the sign of w: 127 * 127 * 2 fits.
NYBBLE_INLINE I dot_signed(I acc, B s, I x) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(s.v), _mm256_sign_epi8(x, s.v));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
/// Sums of two products stay in 16 bits over a run of dots, widened once: one multiplication and
/// one addition a dot instead of three instructions.
inline constexpr bool kShortRuns = true;
NYBBLE_INLINE I short_dot(I acc, B u, I x) {
  return _mm256_add_epi16(acc, _mm256_maddubs_epi16(u.v, x));
}
NYBBLE_INLINE I dot(I acc, B u, const std::int8_t* x) { return dot(acc, u, broadcast4(x)); }
NYBBLE_INLINE I dot_signed(I acc, B s, const std::int8_t* x) {
  return dot_signed(acc, s, broadcast4(x));
}
NYBBLE_INLINE I short_dot(I acc, B u, const std::int8_t* x) {
  return short_dot(acc, u, broadcast4(x));
}
NYBBLE_INLINE I widen_short(I acc) { return _mm256_madd_epi16(acc, _mm256_set1_epi16(1)); }
inline constexpr int kDotLimit = 128;
inline constexpr std::size_t kMaxTile = 4;
/// See prefetch_ahead. Measured on Zen 4 with cold weights: 1.5 times the speed at 2 to 8 rows,
/// where arithmetic fills the reorder buffer; at 1 row the hardware alone is up to 1.3 times
/// faster.
inline constexpr int kPrefetchFromRows = 2;
inline constexpr std::size_t kPrefetchFar = 16384;
inline constexpr std::size_t kPrefetchNear = 1024;
inline constexpr bool kUnrolls = kBodiesPerGroupSize;
