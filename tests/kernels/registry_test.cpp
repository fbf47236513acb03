#include "nybble/format/registry.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "nybble/error.h"
#include "nybble/kernels.h"
#include "nybble/linear/linear.h"
#include "nybble/quantize/rtn.h"
#include "tests/support/environment.h"
#include "tests/support/random.h"

namespace nybble::test {
namespace {

ErrorCode code_of(const std::string& target) {
  try {
    select_target(target);
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(target), std::string::npos) << error.what();
    return error.code();
  }
  return ErrorCode{};
}

TEST(Registry, ScalarFillsEverySlotAndRunsAnywhere) {
  std::set<std::string> slots;
  std::set<std::string> scalar;
  std::set<std::string> names;
  for (const KernelInfo& kernel : list_kernels()) {
    slots.insert(kernel.slot);
    EXPECT_TRUE(names.insert(kernel.name).second) << kernel.name << " is listed twice";
    if (kernel.target == "scalar") scalar.insert(kernel.slot);
  }
  EXPECT_EQ(slots, scalar);
  EXPECT_TRUE(list_targets().front().supported);
}

TEST(Registry, ForcingIsAnErrorOrObeyed) {
  EXPECT_EQ(code_of("avx9000"), ErrorCode::bad_option);
  for (const TargetInfo& target : list_targets()) {
    if (target.supported) {
      EXPECT_EQ(select_target(target.name), target.name);
      const ForcedTarget forced(target.name);
      EXPECT_EQ(select_target(), target.name);
    } else {
      EXPECT_EQ(code_of(target.name), ErrorCode::unsupported);
    }
  }
  const ForcedTarget forced("nonsense");
  EXPECT_THROW(select_target(), Error);
  EXPECT_EQ(select_target("scalar"), "scalar");  // the caller's word beats the environment
}

TEST(Registry, ExplainNamesTheKernelThatRuns) {
  SerialExecutor executor;
  const std::vector<float> weight = normal_values(32 * 64, 1);
  const QuantizedMatrix q = quantize_rtn({weight.data(), 32, 64}, parse_format("int4"), executor);
  for (const TargetInfo& target : list_targets()) {
    if (!target.supported) continue;
    const QuantizedLinear linear(q, {.path = Path::a8, .target = target.name}, executor);
    EXPECT_NE(linear.explain().find(linear.kernel()), std::string::npos);
    EXPECT_NE(linear.explain().find(target.name), std::string::npos);
  }
}

}  // namespace
}  // namespace nybble::test
