#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "kernels/kernels.h"
#include "nybble/format/format.h"
#include "src/quantize/group_search.h"

namespace nybble {

/// What one row's encoding needs beside the row: filled by encode_row.
struct RowScratch {
  std::span<GroupRange> ranges;    ///< one a group
  std::span<ScaleChoice> choices;  ///< one a group: the result
};

/// Chooses every group's scale and encodes `count` values (the last group may be shorter): one code
/// a byte, what is stored in scratch.choices. Allocates nothing, but for a search with a
/// moment.
void encode_row(const kernels::KernelTable& table, const AnyFormat& format, const float* x,
                std::size_t count, std::size_t group, TensorScale tensor, const ScaleSearch& search,
                const RowScratch& scratch, std::uint8_t* codes);

}  // namespace nybble
