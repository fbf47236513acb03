#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/registry.h"

namespace nybble::kernels {

/// What cores that run the same targets differ in, as far as it decides which kernel is fastest.
enum class CoreKind : std::uint8_t {
  any,        ///< nothing is known that would: the last target in the line
  one_dot,    ///< one 512-bit integer dot or bf16 dot a cycle
  two_dots,   ///< two 512-bit integer dots a cycle
  slow_bf16,  ///< two integer dots, and bf16 dots at half the speed of f32 multiply-adds
};

/// Its name and, in a few words, what it means.
const char* core_kind_name(CoreKind kind);
const char* describe(CoreKind kind);

/// From CPUID's vendor, family and model, extended fields added in.
CoreKind core_kind(std::string_view vendor, unsigned family, unsigned model);
/// This CPU's, or what the environment variable NYBBLE_CORE says. Throws bad_option for an unknown
/// name there.
CoreKind core_kind();

/// On cores of a kind, from so many rows on, a slot's kernel for weights in some dot groups is this
/// target's.
struct CoreRule {
  Slot slot;
  std::size_t least_group, most_group;
  std::size_t from_rows;
  TargetId target;
  const char* why;
};
/// By slot and groups, ascending in rows.
std::span<const CoreRule> core_rules(CoreKind kind);

}  // namespace nybble::kernels
