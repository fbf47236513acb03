// The primitives in plain C++: 16 lanes as arrays. Included inside a target's namespace.
// Every simd/<target>.h defines the same names; the bodies know nothing else.

inline constexpr std::size_t kLanes = 16;

struct F {
  float v[16];
};
struct I {
  std::int32_t v[16];
};
struct M {
  bool v[16];
};
/// kLanes dwords of bytes.
struct B {
  std::uint8_t v[64];
};
struct FloatTable {
  float v[16];
};
struct ByteTable {
  std::uint8_t v[16];
};

#define NYBBLE_LANES for (std::size_t i = 0; i < 16; ++i)

template <class Out, class Op>
NYBBLE_INLINE Out each(Op op) {
  Out out;
  NYBBLE_LANES out.v[i] = op(i);
  return out;
}

NYBBLE_INLINE F set1(float x) {
  return each<F>([&](std::size_t) { return x; });
}
NYBBLE_INLINE F zero() { return set1(0); }
NYBBLE_INLINE F load(const float* p) {
  return each<F>([&](std::size_t i) { return p[i]; });
}
NYBBLE_INLINE F load_partial(const float* p, std::size_t n) {
  return each<F>([&](std::size_t i) { return i < n ? p[i] : 0.0F; });
}
NYBBLE_INLINE void store(float* p, F a) { NYBBLE_LANES p[i] = a.v[i]; }
NYBBLE_INLINE void store_partial(float* p, F a, std::size_t n) {
  for (std::size_t i = 0; i < n && i < 16; ++i) p[i] = a.v[i];
}

NYBBLE_INLINE F add(F a, F b) {
  return each<F>([&](std::size_t i) { return a.v[i] + b.v[i]; });
}
NYBBLE_INLINE F sub(F a, F b) {
  return each<F>([&](std::size_t i) { return a.v[i] - b.v[i]; });
}
NYBBLE_INLINE F mul(F a, F b) {
  return each<F>([&](std::size_t i) { return a.v[i] * b.v[i]; });
}
NYBBLE_INLINE F div(F a, F b) {
  return each<F>([&](std::size_t i) { return a.v[i] / b.v[i]; });
}
NYBBLE_INLINE F fma(F a, F b, F c) {
  return each<F>([&](std::size_t i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
/// c - a * b, rounded once.
NYBBLE_INLINE F fnma(F a, F b, F c) {
  return each<F>([&](std::size_t i) { return std::fma(-a.v[i], b.v[i], c.v[i]); });
}
NYBBLE_INLINE F max(F a, F b) {
  return each<F>([&](std::size_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
NYBBLE_INLINE F min(F a, F b) {
  return each<F>([&](std::size_t i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
NYBBLE_INLINE F abs(F a) {
  return each<F>([&](std::size_t i) { return std::fabs(a.v[i]); });
}
NYBBLE_INLINE F round_even(F a) {
  return each<F>([&](std::size_t i) { return std::nearbyint(a.v[i]); });
}

NYBBLE_INLINE M greater(F a, F b) {
  return each<M>([&](std::size_t i) { return a.v[i] > b.v[i]; });
}
NYBBLE_INLINE M equal(F a, F b) {
  return each<M>([&](std::size_t i) { return a.v[i] == b.v[i]; });
}
/// Inf or NaN.
NYBBLE_INLINE M nonfinite(F a) {
  return each<M>([&](std::size_t i) { return !(std::fabs(a.v[i]) <= 3.402823466e38F); });
}
NYBBLE_INLINE M either(M a, M b) {
  return each<M>([&](std::size_t i) { return a.v[i] || b.v[i]; });
}
NYBBLE_INLINE M no_lanes() {
  return each<M>([](std::size_t) { return false; });
}
NYBBLE_INLINE bool any(M a) {
  bool out = false;
  NYBBLE_LANES out = out || a.v[i];
  return out;
}
NYBBLE_INLINE F select(M m, F yes, F no) {
  return each<F>([&](std::size_t i) { return m.v[i] ? yes.v[i] : no.v[i]; });
}

/// Sum of kParts vectors in the fixed order: lane i with i + 8, then + 4, + 2, + 1.
NYBBLE_INLINE float reduce_add(const F* parts) {
  float s[16];
  NYBBLE_LANES s[i] = parts[0].v[i];
  for (std::size_t half = 8; half != 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) s[i] += s[i + half];
  }
  return s[0];
}
NYBBLE_INLINE float reduce_max(F a) {
  float out = a.v[0];
  NYBBLE_LANES out = a.v[i] > out ? a.v[i] : out;
  return out;
}
/// The largest lane of each of kLanes vectors.
NYBBLE_INLINE F reduce_max_each(const F* v) {
  return each<F>([&](std::size_t i) { return reduce_max(v[i]); });
}
NYBBLE_INLINE float reduce_min(F a) {
  float out = a.v[0];
  NYBBLE_LANES out = a.v[i] < out ? a.v[i] : out;
  return out;
}

NYBBLE_INLINE I iset1(std::int32_t x) {
  return each<I>([&](std::size_t) { return x; });
}
NYBBLE_INLINE I iload(const std::int32_t* p) {
  return each<I>([&](std::size_t i) { return p[i]; });
}
NYBBLE_INLINE I iadd(I a, I b) {
  return each<I>([&](std::size_t i) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v[i]) +
                                     static_cast<std::uint32_t>(b.v[i]));
  });
}
NYBBLE_INLINE I isub(I a, I b) {
  return each<I>([&](std::size_t i) { return a.v[i] - b.v[i]; });
}
NYBBLE_INLINE I iand(I a, I b) {
  return each<I>([&](std::size_t i) { return a.v[i] & b.v[i]; });
}
NYBBLE_INLINE I ior(I a, I b) {
  return each<I>([&](std::size_t i) { return a.v[i] | b.v[i]; });
}
/// acc + n * x for integers within 16 bits, n >= 0.
NYBBLE_INLINE I iadd_product16(I acc, I n, std::int32_t x) {
  return each<I>([&](std::size_t i) { return acc.v[i] + n.v[i] * x; });
}
template <int N>
NYBBLE_INLINE I shr(I a) {
  return each<I>([&](std::size_t i) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v[i]) >> N);
  });
}
template <int N>
NYBBLE_INLINE I shl(I a) {
  return each<I>([&](std::size_t i) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v[i]) << N);
  });
}
NYBBLE_INLINE M iequal(I a, I b) {
  return each<M>([&](std::size_t i) { return a.v[i] == b.v[i]; });
}
NYBBLE_INLINE M igreater(I a, I b) {
  return each<M>([&](std::size_t i) { return a.v[i] > b.v[i]; });
}
/// a + 1 where m.
NYBBLE_INLINE I increment(I a, M m, I by) {
  return each<I>([&](std::size_t i) { return m.v[i] ? a.v[i] + by.v[i] : a.v[i]; });
}
NYBBLE_INLINE F to_float(I a) {
  return each<F>([&](std::size_t i) { return static_cast<float>(a.v[i]); });
}
/// For values already rounded and within int32.
NYBBLE_INLINE I to_int(F a) {
  return each<I>([&](std::size_t i) { return static_cast<std::int32_t>(a.v[i]); });
}
NYBBLE_INLINE F as_float(I a) {
  return each<F>([&](std::size_t i) { return std::bit_cast<float>(a.v[i]); });
}
NYBBLE_INLINE I as_int(F a) {
  return each<I>([&](std::size_t i) { return std::bit_cast<std::int32_t>(a.v[i]); });
}
NYBBLE_INLINE std::int32_t reduce_iadd(I a) {
  std::int32_t out = 0;
  NYBBLE_LANES out += a.v[i];
  return out;
}

NYBBLE_INLINE I widen_u8(const std::uint8_t* p) {
  return each<I>([&](std::size_t i) { return static_cast<std::int32_t>(p[i]); });
}
NYBBLE_INLINE I widen_u16(const std::uint8_t* p) {
  return each<I>([&](std::size_t i) {
    std::uint16_t half;
    std::memcpy(&half, p + 2 * i, 2);
    return static_cast<std::int32_t>(half);
  });
}
/// kLanes IEEE halves.
NYBBLE_INLINE F load_f16(const std::uint8_t* p) {
  return each<F>([&](std::size_t i) {
    std::uint16_t half;
    std::memcpy(&half, p + 2 * i, 2);
    return Float16{half}.to_float();
  });
}
/// The low byte of each lane, the first n of them.
NYBBLE_INLINE void store_bytes(void* p, I a, std::size_t n) {
  auto* bytes = static_cast<std::uint8_t*>(p);
  for (std::size_t i = 0; i < n && i < 16; ++i) bytes[i] = static_cast<std::uint8_t>(a.v[i]);
}
/// 4 kLanes integers within -128..127 as bytes.
NYBBLE_INLINE void store_signed_bytes(std::int8_t* p, const I* a) {
  for (std::size_t part = 0; part < 4; ++part) store_bytes(p + part * kLanes, a[part], kLanes);
}
/// The high half of each lane, the first n of them.
NYBBLE_INLINE void store_high_halves(std::uint16_t* p, I a, std::size_t n) {
  for (std::size_t i = 0; i < n && i < 16; ++i) {
    p[i] = static_cast<std::uint16_t>(static_cast<std::uint32_t>(a.v[i]) >> 16);
  }
}

NYBBLE_INLINE FloatTable float_table(const float* p) {
  FloatTable t;
  NYBBLE_LANES t.v[i] = p[i];
  return t;
}
/// table[index & 15].
NYBBLE_INLINE F lookup(const FloatTable& t, I index) {
  return each<F>([&](std::size_t i) { return t.v[index.v[i] & 15]; });
}

NYBBLE_INLINE ByteTable byte_table(const std::uint8_t* p) {
  ByteTable t;
  NYBBLE_LANES t.v[i] = p[i];
  return t;
}
NYBBLE_INLINE B load_bytes(const std::uint8_t* p) {
  B b;
  std::memcpy(b.v, p, 64);
  return b;
}
NYBBLE_INLINE I as_int(B a) {
  I out;
  std::memcpy(out.v, a.v, 64);
  return out;
}
/// table[byte & 15] and table[byte >> 4], byte by byte.
NYBBLE_INLINE B lookup_low(const ByteTable& t, B a) {
  B out;
  for (std::size_t i = 0; i < 64; ++i) out.v[i] = t.v[a.v[i] & 15];
  return out;
}
NYBBLE_INLINE B lookup_high(const ByteTable& t, B a) {
  B out;
  for (std::size_t i = 0; i < 64; ++i) out.v[i] = t.v[a.v[i] >> 4];
  return out;
}

NYBBLE_INLINE void store_bytes(std::uint8_t* p, B a) { std::memcpy(p, a.v, 64); }
/// kLanes / 2 sums of 8 signed bytes each.
NYBBLE_INLINE void store_sums_of_8(std::int64_t* p, B a) {
  for (std::size_t i = 0; i < 8; ++i) {
    p[i] = 0;
    for (std::size_t t = 0; t < 8; ++t) p[i] += static_cast<std::int8_t>(a.v[8 * i + t]);
  }
}

/// The same 4 bytes in every lane.
NYBBLE_INLINE I broadcast4(const std::int8_t* x) {
  std::int32_t four;
  std::memcpy(&four, x, 4);
  return iset1(four);
}
/// acc + the dot product of each lane's 4 unsigned bytes with the same 4 signed bytes at x.
NYBBLE_INLINE I dot(I acc, B u, const std::int8_t* x) {
  return each<I>([&](std::size_t i) {
    std::int32_t sum = acc.v[i];
    for (std::size_t t = 0; t < 4; ++t) sum += u.v[4 * i + t] * x[t];
    return sum;
  });
}
/// The same with signed weights; only called by targets whose dot() can saturate.
NYBBLE_INLINE I dot_signed(I acc, B s, const std::int8_t* x) {
  return each<I>([&](std::size_t i) {
    std::int32_t sum = acc.v[i];
    for (std::size_t t = 0; t < 4; ++t) sum += static_cast<std::int8_t>(s.v[4 * i + t]) * x[t];
    return sum;
  });
}
inline constexpr bool kShortRuns = false;  ///< sums of dots need no widening
NYBBLE_INLINE I short_dot(I acc, B u, const std::int8_t* x) { return dot(acc, u, x); }
NYBBLE_INLINE I widen_short(I acc) { return acc; }
inline constexpr int kDotLimit = 255;
inline constexpr std::size_t kMaxTile = 2;
/// See prefetch_ahead.
inline constexpr int kPrefetchFromRows = 2;
inline constexpr std::size_t kPrefetchFar = 16384;
inline constexpr std::size_t kPrefetchNear = 1024;
inline constexpr bool kUnrolls = false;  ///< bodies for known group sizes: compilers take minutes

#undef NYBBLE_LANES
