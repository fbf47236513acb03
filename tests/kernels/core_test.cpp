// Which kernels run on which cores.
#include "kernels/core.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/registry.h"
#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/kernels.h"
#include "nybble/linear/grouped_linear.h"
#include "nybble/linear/linear.h"
#include "nybble/quantize/rtn.h"
#include "tests/support/environment.h"
#include "tests/support/random.h"

namespace nybble::test {
namespace {

using kernels::core_kind;
using kernels::core_rules;
using kernels::CoreKind;
using kernels::CoreRule;
using kernels::Slot;

constexpr CoreKind kKinds[] = {CoreKind::any, CoreKind::one_dot, CoreKind::two_dots,
                               CoreKind::slow_bf16};

TEST(Core, KindsByFamilyAndModel) {
  EXPECT_EQ(core_kind("GenuineIntel", 6, 0x55), CoreKind::two_dots);     // Cascade Lake
  EXPECT_EQ(core_kind("GenuineIntel", 6, 0x6A), CoreKind::two_dots);     // Ice Lake server
  EXPECT_EQ(core_kind("GenuineIntel", 6, 0x8F), CoreKind::slow_bf16);    // Sapphire Rapids
  EXPECT_EQ(core_kind("GenuineIntel", 6, 0xCF), CoreKind::slow_bf16);    // Emerald Rapids
  EXPECT_EQ(core_kind("GenuineIntel", 6, 0x8C), CoreKind::one_dot);      // Tiger Lake
  EXPECT_EQ(core_kind("GenuineIntel", 6, 0x3C), CoreKind::any);          // Haswell
  EXPECT_EQ(core_kind("AuthenticAMD", 0x19, 0x11), CoreKind::one_dot);   // Zen 4
  EXPECT_EQ(core_kind("AuthenticAMD", 0x1A, 0x02), CoreKind::two_dots);  // Zen 5 server
  EXPECT_EQ(core_kind("AuthenticAMD", 0x1A, 0x24), CoreKind::one_dot);   // Zen 5 notebook
  EXPECT_EQ(core_kind("AuthenticAMD", 0x17, 0x31), CoreKind::any);       // Zen 2
  EXPECT_EQ(core_kind("", 0, 0), CoreKind::any);
}

TEST(Core, ItsNameForces) {
  for (const CoreKind kind : kKinds) {
    const Environment forced("NYBBLE_CORE", kernels::core_kind_name(kind));
    EXPECT_EQ(core_kind(), kind);
    EXPECT_NE(core_description().find(kernels::core_kind_name(kind)), std::string::npos);
  }
  const Environment forced("NYBBLE_CORE", "z80");
  EXPECT_THROW(core_kind(), Error);
}

TEST(Core, RulesAreSortedAndTheirTargetsSupportedHere) {
  for (const CoreKind kind : kKinds) {
    const CoreRule* before = nullptr;
    for (const CoreRule& rule : core_rules(kind)) {
      EXPECT_GE(rule.from_rows, 1U);
      EXPECT_LE(rule.least_group, rule.most_group);
      if (before != nullptr && before->slot == rule.slot &&
          before->least_group == rule.least_group) {
        EXPECT_EQ(before->most_group, rule.most_group);
        EXPECT_LT(before->from_rows, rule.from_rows);
        EXPECT_NE(before->target, rule.target);
      }
      before = &rule;
    }
    const Environment forced("NYBBLE_CORE", kernels::core_kind_name(kind));
    for (int slot = 0; slot <= static_cast<int>(Slot::gemm_a32); ++slot) {
      for (const std::size_t group : {16U, 32U, 64U, 256U}) {
        const auto choices =
            kernels::choose_gemm(kernels::select(), static_cast<Slot>(slot), group);
        ASSERT_FALSE(choices.empty());
        EXPECT_EQ(choices.front().from_rows, 1U);
        for (std::size_t i = 0; i < choices.size(); ++i) {
          const kernels::Selected& selected = choices[i].selected;
          EXPECT_EQ(select_target(selected.target), selected.target);
          if (i != 0) {
            EXPECT_LT(choices[i - 1].from_rows, choices[i].from_rows);
          }
        }
      }
    }
  }
}

TEST(Core, AForcedTargetHasNoOthers) {
  for (const CoreKind kind : kKinds) {
    const Environment core("NYBBLE_CORE", kernels::core_kind_name(kind));
    for (const TargetInfo& target : list_targets()) {
      if (!target.supported) continue;
      const auto expect_alone = [&](const std::vector<kernels::GemmChoice>& choices) {
        ASSERT_EQ(choices.size(), 1U);
        EXPECT_EQ(choices[0].selected.target, target.name);
      };
      expect_alone(kernels::choose_gemm(kernels::select(target.name), Slot::gemm_a8_symmetric, 32));
      const ForcedTarget forced(target.name);
      expect_alone(kernels::choose_gemm(kernels::select(), Slot::gemm_a16, 32));
    }
  }
}

/// What a layer gives is what the kernels that it names give when they are forced, for every number
/// of rows around the borders, alone and as two experts that get different numbers.
TEST(Core, LayersRunWhatTheyName) {
  constexpr std::size_t kRows = 40;
  constexpr std::size_t kCols = 160;
  constexpr std::size_t kMost = 14;
  SerialExecutor executor;
  Workspace workspace;
  const std::vector<float> w = normal_values(2 * kRows * kCols, 3);
  const std::vector<float> x = normal_values(2 * kMost * kCols, 4);
  const auto run = [&](const QuantizedLinear& layer, std::size_t m) {
    std::vector<float> y(m * kRows);
    layer.run({x.data(), m, kCols}, {y.data(), m, kRows}, workspace, executor);
    return y;
  };
  for (const CoreKind kind : kKinds) {
    const Environment core("NYBBLE_CORE", kernels::core_kind_name(kind));
    for (const auto& [spec, path] : {std::pair{"int4", Path::a8},
                                     {"int4:zero_point=true", Path::a8},
                                     {"amxfp4", Path::a8},
                                     {"amxfp4", Path::a16},
                                     {"mxfp4", Path::a4},
                                     {"nf4", Path::a32}}) {
      const AnyFormat format = parse_format(spec);
      const QuantizedMatrix q[] = {
          quantize_rtn({w.data(), kRows, kCols}, format, executor),
          quantize_rtn({w.data() + kRows * kCols, kRows, kCols}, format, executor)};
      const QuantizedLinear chosen(q[0], {.path = path}, executor);
      for (std::size_t m = 1; m <= kMost; ++m) {
        SCOPED_TRACE(spec + (" " + std::to_string(m)) + " " + chosen.explain());
        const std::string kernel = chosen.kernel(m);
        EXPECT_NE(chosen.explain().find(kernel), std::string::npos);
        bool found = false;
        for (const KernelInfo& info : list_kernels()) {
          if (info.name != kernel) continue;
          found = true;
          const QuantizedLinear forced(q[0], {.path = path, .target = info.target}, executor);
          EXPECT_EQ(run(forced, m), run(chosen, m));
        }
        EXPECT_TRUE(found) << kernel;
      }

      const GroupedLinear experts(q, {.path = path}, executor);
      const QuantizedLinear second(q[1], {.path = path}, executor);
      std::vector<std::uint32_t> expert_of(kMost + 2, 1);  // one row for the first, kMost + 1 for
      expert_of[2] = 0;                                    // the second
      const std::size_t routes = expert_of.size();
      std::vector<float> y(routes * kRows);
      experts.run({x.data(), routes, kCols}, expert_of, {y.data(), routes, kRows}, workspace,
                  executor);
      std::vector<float> rows_of_second;
      for (std::size_t r = 0; r < routes; ++r) {
        if (r == 2) continue;
        rows_of_second.insert(rows_of_second.end(), &x[r * kCols], &x[r * kCols] + kCols);
      }
      std::vector<float> expected((routes - 1) * kRows);
      second.run({rows_of_second.data(), routes - 1, kCols}, {expected.data(), routes - 1, kRows},
                 workspace, executor);
      std::vector<float> first(kRows);
      chosen.run({&x[2 * kCols], 1, kCols}, {first.data(), 1, kRows}, workspace, executor);
      expected.insert(expected.begin() + 2 * kRows, first.begin(), first.end());
      EXPECT_EQ(y, expected) << spec;
    }
  }
}

}  // namespace
}  // namespace nybble::test
