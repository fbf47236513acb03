#include "nybble/format/iq4_nl.h"

#include <gtest/gtest.h>

#include "nybble/format/registry.h"
#include "nybble/quantize/rtn.h"
#include "tests/support/random.h"

namespace nybble::test {
namespace {

TEST(Iq4Nl, TheLargestMagnitudeOfEitherSignBecomesMinus127) {
  SerialExecutor executor;
  for (const float largest : {127.0F, -127.0F, 0.125F, -3.0F}) {
    std::vector<float> x(32, largest / 3);
    x[5] = largest;
    x[6] = largest * -0.97F;
    const QuantizedMatrix q = quantize_rtn({x.data(), 1, 32}, parse_format("iq4_nl"), executor);
    EXPECT_EQ(q.code(0, 5), 0);
    EXPECT_EQ(std::signbit(q.scale(0, 0).positive), largest > 0);
    EXPECT_NEAR(q.value(0, 5), largest, std::fabs(largest) * 0x1p-11);
    EXPECT_EQ(q.code(0, 6), 15);  // 113 is as far as the other side goes
  }
}

TEST(Iq4Nl, IsBetterThanInt4OnNormalWeights) {
  SerialExecutor executor;
  const std::vector<float> x = normal_values(64 * 256, 3);
  const auto error = [&](const char* spec) {
    const QuantizedMatrix q = quantize_rtn({x.data(), 64, 256}, parse_format(spec), executor);
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double difference = q.value(i / 256, i % 256) - x[i];
      sum += difference * difference;
    }
    return sum;
  };
  EXPECT_LT(error("iq4_nl"), 0.95 * error("int4"));
}

}  // namespace
}  // namespace nybble::test
