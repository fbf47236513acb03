#include "src/quantize/encode_row.h"

#include <algorithm>

#include "nybble/format/nf4.h"

namespace nybble {

void encode_row(const kernels::KernelTable& table, const AnyFormat& format, const float* x,
                std::size_t count, std::size_t group, TensorScale tensor, const ScaleSearch& search,
                const RowScratch& scratch, std::uint8_t* codes) {
  const std::size_t groups = (count + group - 1) / group;
  const EncodeTable& encode = format.encode_table();
  table.group_ranges({x, count, group, scratch.ranges.data()});
  if (format.candidate_count() == 1 && search.grid == 1) {
    format.choose(scratch.ranges.first(groups), tensor, 1, scratch.choices.data());
  } else {
    for (std::size_t g = 0; g < groups; ++g) {
      const std::size_t begin = g * group;
      const std::size_t size = std::min(group, count - begin);
      if (search.moment != nullptr) {
        const float* block = search.moment + begin * search.moment_stride + begin;
        scratch.choices[g] =
            search_group_output(format, search, x + begin, block, size, scratch.ranges[g], tensor);
        continue;
      }
      scratch.choices[g] =
          search_group(table, format, search, x + begin,
                       search.importance == nullptr ? nullptr : search.importance + begin, size,
                       scratch.ranges[g], tensor);
    }
  }

  // bitsandbytes divides in a block that is shorter than the others, and floors what it stores.
  const std::size_t whole = format.info().flattened_blocks ? count / group * group : count;
  table.encode({&encode, x, whole, group, scratch.choices.data(), codes});
  if (whole != count) {
    ScaleChoice& last = scratch.choices[groups - 1];
    const float scale = last.scale.positive == last.scale.positive
                            ? std::max(last.scale.positive, BnbScale::kSmallestAbsmax)
                            : last.scale.positive;
    last = {{scale, scale, 0}, scale, scale};
    EncodeTable dividing = encode;
    dividing.reciprocal = false;
    table.encode({&dividing, x + whole, count - whole, group, &last, codes + whole});
  }
}

}  // namespace nybble
