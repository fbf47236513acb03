// What AVX-512 BF16 adds to simd/avx512vnni.h. Included inside a target region and namespace.

/// Two bf16 a dword and vdpbf16ps: sums of two products a lane. The instruction takes denormals as
/// zero.
struct Bf16Numbers {
  static constexpr std::size_t kPair = 2;
  static NYBBLE_INLINE I pair(F even, F odd) {
    const I high = iset1(static_cast<std::int32_t>(0xFFFF0000U));
    return ior(shr<16>(round_to_bf16(even)), iand(round_to_bf16(odd), high));
  }
  static NYBBLE_INLINE F dot(F acc, F weights, const float* x) {
    __asm__("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(weights), "m"(*x));
    return acc;
  }
};
