#pragma once

// Whether sanitizers are at work: g++ says so by macros, clang by features.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NYBBLE_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define NYBBLE_TEST_SANITIZED 1
#endif
#endif
#if !defined(NYBBLE_TEST_SANITIZED)
#define NYBBLE_TEST_SANITIZED 0
#endif
