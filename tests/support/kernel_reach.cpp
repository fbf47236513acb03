#include "tests/support/kernel_reach.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <string_view>

#include "nybble/kernels.h"

namespace nybble::test {

namespace {

std::set<std::string>& reached() {
  static std::set<std::string> names;
  return names;
}

bool all_tests_run() {
  const char* shards = std::getenv("GTEST_TOTAL_SHARDS");
  const bool sharded = shards != nullptr && std::string_view(shards) != "1";
  return GTEST_FLAG_GET(filter) == "*" && !sharded;
}

class KernelReach final : public ::testing::Environment {
 public:
  void TearDown() override {
    if (!all_tests_run()) return;
    for (const KernelInfo& kernel : list_kernels()) {
      if (kernel.supported && !reached().contains(kernel.name)) {
        ADD_FAILURE() << "no test reached kernel " << kernel.name << " (" << kernel.description
                      << ")";
      }
    }
  }
};

}  // namespace

void mark_reached(const std::string& kernel_name) {
  const auto kernels = list_kernels();
  const bool known = std::any_of(kernels.begin(), kernels.end(),
                                 [&](const KernelInfo& k) { return k.name == kernel_name; });
  EXPECT_TRUE(known) << "no kernel is called " << kernel_name;
  reached().insert(kernel_name);
}

void require_all_kernels_reached() {
  ::testing::AddGlobalTestEnvironment(new KernelReach);  // gtest owns it
}

}  // namespace nybble::test
