#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "nybble/io/npy.h"

namespace nybble::io {

constexpr std::size_t kNpyMaxRank = 64;  // numpy's own limit

struct NpyHeader {
  NpyType type = NpyType::f32;
  bool fortran_order = false;
  std::vector<std::size_t> shape;
};

/// Parses the dict of an npy header: exactly the three keys, in any order and spacing. Throws
/// bad_file, or unsupported for a dtype not in NpyType, starting with `name`.
NpyHeader parse_npy_header(std::string_view text, const std::string& name);

}  // namespace nybble::io
