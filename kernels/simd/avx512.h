// The primitives with AVX-512 F, BW, DQ, VL and VNNI but for table lookups in bytes, which VBMI
// does better: see avx512vnni.h and avx512vbmi.h. 16 lanes. Included inside a target region and
// namespace.

inline constexpr std::size_t kLanes = 16;

using F = __m512;
using I = __m512i;
using M = __mmask16;
/// kLanes dwords of bytes; a struct so that it does not overload like I.
struct B {
  __m512i v;
};
struct FloatTable {
  __m512 v;
};
struct ByteTable {
  __m512i v;
};

NYBBLE_INLINE __mmask16 first_lanes(std::size_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xFFFFU : (1U << n) - 1U);
}

NYBBLE_INLINE F set1(float x) { return _mm512_set1_ps(x); }
NYBBLE_INLINE F zero() { return _mm512_setzero_ps(); }
NYBBLE_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
NYBBLE_INLINE F load_partial(const float* p, std::size_t n) {
  return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
NYBBLE_INLINE void store(float* p, F a) { _mm512_storeu_ps(p, a); }
NYBBLE_INLINE void store_partial(float* p, F a, std::size_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), a);
}

NYBBLE_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
NYBBLE_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
NYBBLE_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
NYBBLE_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
NYBBLE_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
NYBBLE_INLINE F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
NYBBLE_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
NYBBLE_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
NYBBLE_INLINE F abs(F a) { return _mm512_abs_ps(a); }
NYBBLE_INLINE F round_even(F a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

NYBBLE_INLINE M greater(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
NYBBLE_INLINE M equal(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
NYBBLE_INLINE M nonfinite(F a) {
  return _mm512_cmp_ps_mask(abs(a), _mm512_set1_ps(3.402823466e38F), _CMP_NLE_UQ);
}
NYBBLE_INLINE M either(M a, M b) { return static_cast<M>(a | b); }
NYBBLE_INLINE M no_lanes() { return 0; }
NYBBLE_INLINE bool any(M a) { return a != 0; }
NYBBLE_INLINE F select(M m, F yes, F no) { return _mm512_mask_blend_ps(m, no, yes); }

NYBBLE_INLINE float reduce_add(const F* parts) {
  const __m256 s8 =
      _mm256_add_ps(_mm512_castps512_ps256(parts[0]), _mm512_extractf32x8_ps(parts[0], 1));
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
NYBBLE_INLINE float reduce_max(F a) { return _mm512_reduce_max_ps(a); }
/// The largest lane of each of kLanes vectors.
NYBBLE_INLINE F reduce_max_each(const F* v) {
  F pairs[8];
  for (int i = 0; i < 8; ++i) {
    pairs[i] =
        max(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
  }
  F fours[4];  // in each quarter the largest of the quarters of four vectors
  for (int i = 0; i < 4; ++i) {
    const __m512d low = _mm512_castps_pd(pairs[2 * i]);
    const __m512d high = _mm512_castps_pd(pairs[2 * i + 1]);
    fours[i] = max(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                   _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
  }
  const auto join = [](F a, F b) {
    return max(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
  };
  return join(join(fours[0], fours[1]), join(fours[2], fours[3]));
}
NYBBLE_INLINE float reduce_min(F a) { return _mm512_reduce_min_ps(a); }

NYBBLE_INLINE I iset1(std::int32_t x) { return _mm512_set1_epi32(x); }
NYBBLE_INLINE I iload(const std::int32_t* p) { return _mm512_loadu_si512(p); }
NYBBLE_INLINE I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
NYBBLE_INLINE I isub(I a, I b) { return _mm512_sub_epi32(a, b); }
NYBBLE_INLINE I iand(I a, I b) { return _mm512_and_si512(a, b); }
NYBBLE_INLINE I ior(I a, I b) { return _mm512_or_si512(a, b); }
NYBBLE_INLINE I iadd_product16(I acc, I n, std::int32_t x) {
  return _mm512_dpwssd_epi32(acc, n, _mm512_set1_epi32(x));
}
template <int N>
NYBBLE_INLINE I shr(I a) {
  return _mm512_srli_epi32(a, N);
}
template <int N>
NYBBLE_INLINE I shl(I a) {
  return _mm512_slli_epi32(a, N);
}
NYBBLE_INLINE M iequal(I a, I b) { return _mm512_cmpeq_epi32_mask(a, b); }
NYBBLE_INLINE M igreater(I a, I b) { return _mm512_cmpgt_epi32_mask(a, b); }
NYBBLE_INLINE I increment(I a, M m, I by) { return _mm512_mask_add_epi32(a, m, a, by); }
NYBBLE_INLINE F to_float(I a) { return _mm512_cvtepi32_ps(a); }
NYBBLE_INLINE I to_int(F a) { return _mm512_cvttps_epi32(a); }
NYBBLE_INLINE F as_float(I a) { return _mm512_castsi512_ps(a); }
NYBBLE_INLINE I as_int(F a) { return _mm512_castps_si512(a); }
NYBBLE_INLINE std::int32_t reduce_iadd(I a) { return _mm512_reduce_add_epi32(a); }

NYBBLE_INLINE I widen_u8(const std::uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
NYBBLE_INLINE I widen_u16(const std::uint8_t* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
NYBBLE_INLINE F load_f16(const std::uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
NYBBLE_INLINE void store_bytes(void* p, I a, std::size_t n) {
  // Masked narrowing stores are slow on Zen 4; whole vectors take the plain way.
  if (n >= 16) {
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
  } else {
    _mm_mask_storeu_epi8(p, first_lanes(n), _mm512_cvtepi32_epi8(a));
  }
}
/// 4 kLanes integers within -128..127 as bytes.
NYBBLE_INLINE void store_signed_bytes(std::int8_t* p, const I* a) {
  // Packing works within quarters: their dwords come out as (0, 4, 8, 12), (1, 5, ...) ...
  const __m512i bytes =
      _mm512_packs_epi16(_mm512_packs_epi32(a[0], a[1]), _mm512_packs_epi32(a[2], a[3]));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, bytes));
}
NYBBLE_INLINE void store_high_halves(std::uint16_t* p, I a, std::size_t n) {
  const __m256i halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(a, 16));
  if (n >= 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves);
  } else {
    _mm256_mask_storeu_epi16(p, first_lanes(n), halves);
  }
}

NYBBLE_INLINE FloatTable float_table(const float* p) { return {_mm512_loadu_ps(p)}; }
NYBBLE_INLINE F lookup(const FloatTable& t, I index) { return _mm512_permutexvar_ps(index, t.v); }

/// A 16-byte table, four times over.
NYBBLE_INLINE ByteTable byte_table(const std::uint8_t* p) {
  return {_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
NYBBLE_INLINE B load_bytes(const std::uint8_t* p) { return {_mm512_loadu_si512(p)}; }
NYBBLE_INLINE I as_int(B a) { return a.v; }
NYBBLE_INLINE void store_bytes(std::uint8_t* p, B a) { _mm512_storeu_si512(p, a.v); }
// Bytes plus 128 are unsigned, which vpsadbw sums.
NYBBLE_INLINE void store_sums_of_8(std::int64_t* p, B a) {
  const __m512i biased = _mm512_xor_si512(a.v, _mm512_set1_epi8(-128));
  const __m512i sums = _mm512_sad_epu8(biased, _mm512_setzero_si512());
  _mm512_storeu_si512(p, _mm512_sub_epi64(sums, _mm512_set1_epi64(8 * 128)));
}

/// By hand: g++ 12 loads the broadcast into a register of its own first, which made GEMM 5 to 15 %
/// slower.
NYBBLE_INLINE I dot(I acc, B u, const std::int8_t* x) {
  __asm__("vpdpbusd %2%{1to16%}, %1, %0"
          : "+v"(acc)
          : "v"(u.v), "m"(*reinterpret_cast<const std::int32_t*>(x)));
  return acc;
}
/// The same with the four of K in every lane of a register, for when several weights meet them.
NYBBLE_INLINE I dot(I acc, B u, I x) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u.v), "v"(x));
  return acc;
}
NYBBLE_INLINE I broadcast4(const std::int8_t* x) {
  I out;
  __asm__("vpbroadcastd %1, %0" : "=v"(out) : "m"(*reinterpret_cast<const std::int32_t*>(x)));
  return out;
}
NYBBLE_INLINE I dot_signed(I acc, B s, const std::int8_t* x) { return dot(acc, s, x); }
inline constexpr bool kShortRuns = false;  ///< sums of dots need no widening
NYBBLE_INLINE I short_dot(I acc, B u, const std::int8_t* x) { return dot(acc, u, x); }
NYBBLE_INLINE I widen_short(I acc) { return acc; }
inline constexpr int kDotLimit = 255;
inline constexpr bool kUnrolls = kBodiesPerGroupSize;

// What gemm_a8_split.inl.h needs beyond the common names.

/// Added to magnitudes, so that 0 - entry is the entry of the negative value.
inline constexpr int kSplitOffset = 128;
/// What the two sides of a row multiply magnitudes with, the same in all four bytes of the row.
struct SplitBytes {
  __m512i positive, negative;
};
/// The one-byte scales of two groups ([positive 16][negative 16] each), taken apart byte by byte:
/// scale = (1 + mantissa / 4) * 2^(largest - below), `largest` of the two sides.
struct SplitScales {
  __m512i mantissa, below, largest;
  __mmask64 special;  ///< not of that form: zeros and denormals, Inf and NaN
  int bias;           ///< to be added to `largest` for the exponent bits of f32
};
/// E5M2 or E8M0; `groups`: 1 (the second's bytes are not read) or 2.
NYBBLE_INLINE SplitScales split_scales(ScaleType type, const std::uint8_t* p, std::size_t groups) {
  const __m512i code = _mm512_maskz_loadu_epi8(groups < 2 ? 0xFFFFFFFFU : ~__mmask64{0}, p);
  SplitScales out{};
  __m512i exponent = code;
  if (type == ScaleType::e5m2) {
    exponent = _mm512_and_si512(_mm512_srli_epi16(code, 2), _mm512_set1_epi8(0x1F));
    out.mantissa = _mm512_and_si512(code, _mm512_set1_epi8(3));
    out.special = _mm512_cmpeq_epi8_mask(exponent, _mm512_set1_epi8(0x1F));
    out.bias = 112;
  } else {
    out.special = _mm512_cmpeq_epi8_mask(exponent, _mm512_set1_epi8(-1));
  }
  // A unit of 2^-2 of the larger scale must be a normal f32 too.
  out.special |=
      _mm512_cmplt_epu8_mask(exponent, _mm512_set1_epi8(type == ScaleType::e5m2 ? 1 : 3));
  const __m512i other_side = _mm512_permutex_epi64(exponent, 0x4E);
  out.largest = _mm512_max_epu8(exponent, other_side);
  out.below = _mm512_sub_epi8(out.largest, exponent);
  return out;
}
NYBBLE_INLINE bool any_special(__mmask64 special, int group) {
  return static_cast<std::uint32_t>(special >> (32 * group)) != 0;
}
/// 2^(largest + lower) of one of the two groups.
template <int Group>
NYBBLE_INLINE F split_unit(const SplitScales& s, int lower) {
  const __m512i largest = _mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(s.largest, 2 * Group));
  return as_float(shl<23>(iadd(largest, iset1(s.bias + lower))));
}
