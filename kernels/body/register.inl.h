// Every slot that the bodies fill. Included after a target's region ends: registering runs on any
// CPU, so no wide instruction may be in it.

inline void register_all(KernelTable& table) {
#define NYBBLE_KERNEL_SLOT(name, args, description) table.name = name;
#include "kernels/slots.def"
#undef NYBBLE_KERNEL_SLOT
  table.max_tile = kMaxTile;
  table.dot_limit = kDotLimit;
  table.a16_pair = 1;
}
