#pragma once

#include <cstddef>
#include <cstdint>

#include "nybble/format/format.h"

/// The contract of kernels: pure functions of their arguments. No allocation, threads, globals,
/// exceptions or logging; all pointers valid, all sizes checked by the caller.
namespace nybble::kernels {

/// Weights are packed in panels of 16 rows, K in chunks of 32.
inline constexpr std::size_t kPanelRows = 16;
inline constexpr std::size_t kChunk = 32;
inline constexpr std::size_t kChunkBytes = kPanelRows * kChunk / 2;

struct GroupRangesArgs {
  const float* x;
  std::size_t count;  ///< values; the last group may be shorter
  std::size_t group;
  GroupRange* ranges;
};

struct EncodeArgs {
  const EncodeTable* table;
  const float* x;
  std::size_t count;
  std::size_t group;
  const ScaleChoice* choices;  ///< one a group
  std::uint8_t* codes;         ///< `count` bytes
};

struct GroupErrorsArgs {
  const EncodeTable* table;
  const float* x;
  const float* importance;  ///< weight of each squared error, or null
  std::size_t count;
  const ScaleChoice* choices;  ///< the candidates
  std::size_t candidates;
  float tensor_scale;
  /// One a candidate: sums over the elements > 0 and over all others, f32, in 16 interleaved
  /// partial sums added pairwise (i with i + 8, then + 4, + 2, + 1): the same on every target.
  float* positive_errors;
  float* negative_errors;
};

/// A row of activations as x ~ q * shift(group) * row_scale: one f32 scale a row, a power of two a
/// group. That costs at most a bit of the smaller groups' resolution against a scale of their own,
/// and GEMM applies it for nothing (see GemmArgs::x_magic).
struct QuantizeInt8Args {
  const float* x;
  std::size_t count;
  std::size_t group;      ///< values that share a shift
  std::size_t sum_group;  ///< values per sum; divides `group` or is equal to it
  std::int8_t* q;         ///< `count` values in -127..127; 0 if the row has Inf or NaN
  float* row_scale;       ///< max(absmax / 127, 2^-80); NaN if the row has Inf or NaN
  float* shifts;          ///< one a group: 2^-40 ... 1, the least that keeps |q| <= 127
  std::int32_t* sums;     ///< one a sum group: the sum of its q
};

struct CodesToInt8Args {
  const std::uint8_t* codes;
  std::size_t count;
  std::size_t group;
  std::size_t sum_group;       ///< values per sum; divides `group` or is equal to it
  const std::int8_t* levels;   ///< 16
  const ScaleChoice* choices;  ///< only scale.zero is read: q = level - zero, within int8
  std::int8_t* q;
  std::int32_t* sums;
};

struct CodesToFloatArgs {
  const std::uint8_t* codes;
  std::size_t count;
  std::size_t group;
  const float* levels;  ///< 16
  const ScaleChoice* choices;
  float tensor_scale;
  float* values;  ///< (level - zero) * (scale * tensor_scale)
};

/// What became of a row: sums of squares in f32, in 16 interleaved partial sums added pairwise as
/// GroupErrorsArgs': the same on every target.
struct SquaredErrorArgs {
  const float* x;
  const float* y;
  std::size_t count;
  float* signal;  ///< of x
  float* noise;   ///< of x - y
};

struct RoundBf16Args {
  const float* x;
  std::size_t count;
  std::uint16_t* bits;  ///< nearest, ties to even; NaN stays NaN
};

/// What a kernel sees of a PackedMatrix. Chunk c of unit u of panel p: 256 bytes at codes + p *
/// code_stride + u * unit_stride + 256 c, as 4 vectors of 64 bytes; byte 4 r + t of vector j holds,
/// of row 16 p + r, k = 32 c + 8 j + t in its low and k + 4 in its high nibble (c counted from the
/// unit's first value). So after a table lookup each 32-bit lane is 4 consecutive k of one row:
/// what integer dot instructions take, with no horizontal sum ever.
struct PackedPanels {
  const std::uint8_t* codes;
  const std::uint8_t* scales;  ///< unit: [scale groups][1 or 2 sides][16] of scale_type
  const std::uint8_t* zeros;   ///< unit: [scale groups][16], zero-point layout only
  std::size_t code_stride;     ///< bytes a panel
  std::size_t scale_stride;
  std::size_t zero_stride;
  std::size_t rows;              ///< N
  std::size_t group;             ///< values of K per dot group: 16 or a multiple of 32
  std::size_t groups;            ///< dot groups along the padded K
  std::size_t groups_per_scale;  ///< consecutive dot groups that share a scale
  /// A panel is cut into units of unit_groups dot groups (whole scale groups), unit_stride bytes
  /// apart for codes, scales and zeros alike: so all three can lie in one stream. 0: one unit.
  std::size_t unit_groups = 0;
  std::size_t unit_stride = 0;
  ScaleType scale_type;
  std::size_t scale_size;  ///< bytes of one
  ScaleLayout layout;
  float tensor_scale;
  float levels[16];
  /// a8: level ~ integer * step, integers within +-127; the dot takes integer + offset as u8, or
  /// the signed integer itself where signed_dot is set.
  std::int8_t integers[16];
  float integer_step;
  int offset;
  bool signed_dot;
  /// Sign split only: bit 3 of a code is its sign, and scales are positive with at most two
  /// mantissa bits (E5M2, E8M0), so that one table indexed by code and mantissa decodes both sides.
  bool one_table = false;
};

/// 1.5 * 2^23: adding an integer n to its bits, |n| < 2^22, adds n to its value.
inline constexpr float kMagic = 0x1.8p23F;

/// GEMMs keep the sums of fewer rows of activations at a time.
inline constexpr std::size_t kMostRowsAtOnce = 256;

/// One linear product over a range of panels. Activations come in tiles of R rows (tile_rows
/// below), interleaved: dword u of row r of a tile at [u * R + r], a dword being 4 int8, 2 bf16 or
/// 1 f32 along K; tile of rows m0.. starts at dword m0 * dwords.
struct GemmArgs {
  const PackedPanels* weight;
  std::size_t panel_begin;
  std::size_t panel_end;
  std::size_t m;
  const void* x;
  std::size_t dwords;  ///< per row: padded K / 4, / 2 or / 1
  /// Integer dots only, per row and dot group at [m0 * groups + g * R + r]. A dot starts at
  /// x_start, the bits of x_magic plus the correction for the weights' offset, so that its bits are
  /// those of the f32 x_magic + shift * dot: one subtraction makes it a float and applies the
  /// shift, exactly while |dot| < 2^22. x_magic = kMagic * shift.
  const std::int32_t* x_start;
  const float* x_magic;
  const std::int32_t* x_bias;  ///< zero points: -sum(q), within 16 bits
  const float* x_scales;       ///< f32 scales of activation groups, or null: shifts say it all
  const float* row_scales;     ///< one a row of x: what its outputs are multiplied with
  float* y;                    ///< M x N
  std::size_t y_stride;
  const std::uint32_t* y_rows = nullptr;  ///< the row of y that row m goes to; null: m
  /// Memory of this call alone, 64-byte aligned, of what `scratch_bytes` says: too much for stacks.
  std::byte* scratch = nullptr;
  /// Not null: nothing is computed, but told how much scratch that takes. Asked with the `weight`,
  /// `m` and x_scales (null or not) of the product.
  std::size_t* scratch_bytes = nullptr;
};

/// A row of attention scores becomes weights that are not yet divided by their sum.
struct SoftmaxWeightsArgs {
  float* x;  ///< `count` >= 1 scores, replaced by exp(scale * x - max(scale * x))
  std::size_t count;
  float scale;
  float* sum;  ///< of the weights; NaN (and all weights 0) where a score is Inf or NaN
};

/// The middle of zero-point codes 0..15: products take code - 8, zero sums put the rest right.
inline constexpr float kMiddleLevel = 8;

/// Attention weights times the scales of one group of values of every token.
struct ScaleWeightsArgs {
  const PackedPanels* tokens;  ///< panels of 16 tokens: only scales and zeros are read
  std::size_t group;
  std::size_t side;   ///< 1: the scales of negative levels
  std::size_t count;  ///< tokens
  std::size_t rows;   ///< of x and y
  const float* x;
  std::size_t x_stride;
  float* scales;  ///< scratch: `count` rounded up to 16
  float* y;       ///< x times scale
  std::size_t y_stride;
  float* zero_sums;  ///< zero-point layout: one a row, the sum of y * (zero - 8)
};

/// codes_to_float, rounded as round_bf16 rounds.
struct CodesToBf16Args {
  const std::uint8_t* codes;
  std::size_t count;
  std::size_t group;
  const float* levels;  ///< 16
  const ScaleChoice* choices;
  float tensor_scale;
  std::uint16_t* bits;
};

/// Columns of b that dense_update takes at a time.
inline constexpr std::size_t kDenseCols = 64;

/// c += a b, or c -= a b: what the calibrated quantizers spend their time in. Each element is a sum
/// from 0 in ascending depth by FMA, then added: the same bits on every target.
struct DenseUpdateArgs {
  const float* a;  ///< rows x depth
  std::size_t a_stride;
  const float* b;  ///< depth x kDenseCols, contiguous; columns from `cols` on are only read
  float* c;        ///< rows x cols
  std::size_t c_stride;
  std::size_t rows;
  std::size_t depth;
  std::size_t cols;  ///< 1 to kDenseCols
  bool subtract;
};

#define NYBBLE_KERNEL_SLOT(name, args, description) \
  using name##_fn = void (*)(const args&) noexcept;
#include "kernels/slots.def"
#undef NYBBLE_KERNEL_SLOT

/// The slots by name, in the order of slots.def.
enum class Slot : std::uint8_t {
#define NYBBLE_KERNEL_SLOT(name, args, description) name,
#include "kernels/slots.def"
#undef NYBBLE_KERNEL_SLOT
};

/// The kernels of one target. Every slot is callable.
struct KernelTable {
#define NYBBLE_KERNEL_SLOT(name, args, description) name##_fn name = nullptr;
#include "kernels/slots.def"
#undef NYBBLE_KERNEL_SLOT
  std::size_t max_tile = 1;   ///< activation rows a GEMM tile takes at most
  int dot_limit = 255;        ///< largest u8 weight its integer dot takes without saturating
  int split_offset = 0;       ///< what its a8 kernel for one_table weights wants as their offset
  int zero_point_offset = 0;  ///< what its a8 kernel for zero points wants as the weights' offset
  std::size_t a16_pair = 1;   ///< bf16 values a dword of a16 activations holds: 2 = native dot
};

/// Rows of the next activation tile when `remaining` are left: the largest, but with no scrap of
/// one or two rows behind it that costs as much as a tile of four. Tiles of 6 are for targets that
/// compute two panels at a time; up to 8 rows are one tile there, which then decodes for itself.
constexpr std::size_t tile_rows(std::size_t remaining, std::size_t max_tile) {
  if (max_tile == 6) return remaining <= 8 ? remaining : 6;
  if (max_tile >= 8) {
    if (remaining >= 8 && remaining != 9 && remaining != 10) return 8;
    if (remaining >= 6 && remaining != 7) return 6;
  }
  if (remaining >= 4 && remaining != 5 && max_tile >= 4) return 4;
  if (remaining >= 3 && max_tile >= 4) return 3;
  return remaining >= 2 && max_tile >= 2 ? 2 : 1;
}
/// Whether tile_rows returns `rows` for some number of rows.
constexpr bool is_tile(std::size_t rows, std::size_t max_tile) {
  for (std::size_t remaining = 1; remaining <= 16; ++remaining) {
    if (tile_rows(remaining, max_tile) == rows) return true;
  }
  return false;
}
/// From so many rows on, the next tile is of max_tile rows.
inline constexpr std::size_t kLastRows = 11;

}  // namespace nybble::kernels
