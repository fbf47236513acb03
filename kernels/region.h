#pragma once

// Opens and closes the region of a target file in which the compiler may use wide instructions. All
// headers are included before: what they define inline must stay baseline code, because the linker
// shares it with the rest of the program (design: "No wide instruction outside its target").
#define NYBBLE_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define NYBBLE_REGION_BEGIN(features) \
  NYBBLE_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define NYBBLE_REGION_END _Pragma("clang attribute pop")
#else
// g++ 12 warns about its own intrinsics (_mm512_undefined) and about lambdas that return vectors.
#define NYBBLE_REGION_BEGIN(features)                                               \
  _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"")                       \
      _Pragma("GCC diagnostic ignored \"-Wuninitialized\"")                         \
          _Pragma("GCC diagnostic ignored \"-Wpsabi\"") _Pragma("GCC push_options") \
              NYBBLE_PRAGMA(GCC target(features))
#define NYBBLE_REGION_END _Pragma("GCC pop_options")
#endif

#define NYBBLE_INLINE inline __attribute__((always_inline))

#if defined(__has_feature)
#define NYBBLE_HAS_FEATURE(name) __has_feature(name)
#else
#define NYBBLE_HAS_FEATURE(name) 0
#endif

namespace nybble::kernels {

/// Whether common group sizes have bodies of their own. Not where nothing is optimised or
/// sanitizers are at work: it is the same code with a constant, and takes compilers minutes.
#if !defined(__OPTIMIZE__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
    NYBBLE_HAS_FEATURE(address_sanitizer) || NYBBLE_HAS_FEATURE(thread_sanitizer)
inline constexpr bool kBodiesPerGroupSize = false;
#define NYBBLE_INLINE_TILE __attribute__((noinline))
#else
inline constexpr bool kBodiesPerGroupSize = true;
#define NYBBLE_INLINE_TILE NYBBLE_INLINE
#endif

}  // namespace nybble::kernels
