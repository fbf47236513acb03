#include <gtest/gtest.h>

#include "tests/support/kernel_reach.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  nybble::test::require_all_kernels_reached();
  return RUN_ALL_TESTS();
}
