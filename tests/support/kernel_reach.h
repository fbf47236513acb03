#pragma once

#include <string>

namespace nybble::test {

/// To be called by a test that checked what the kernel of this name (KernelInfo::name) computes.
/// Names that no kernel has are an error.
void mark_reached(const std::string& kernel_name);

/// Adds the check that every kernel this CPU can run was reached. It is made once all tests have
/// run, and only when all of them did: not under a --gtest_filter, not in a shard.
void require_all_kernels_reached();

}  // namespace nybble::test
