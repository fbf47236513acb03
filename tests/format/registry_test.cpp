#include "nybble/format/registry.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "nybble/format/block_format.h"
#include "nybble/quantize/clip_search.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/all_specs.h"
#include "tests/support/random.h"

namespace nybble::test {
namespace {

TEST(ParseFormat, CanonicalSpecsAreFixedPoints) {
  const std::vector<std::string> specs = all_specs();
  EXPECT_GE(specs.size(), 300U);
  for (const std::string& spec : specs) {
    const AnyFormat once = parse_format(spec);
    EXPECT_EQ(once.info().spec, spec);
    const AnyFormat twice = parse_format(once.info().spec);
    EXPECT_EQ(twice.info().spec, spec);
    EXPECT_EQ(twice.info().group, once.info().group);
    EXPECT_EQ(twice.info().scale_type, once.info().scale_type);
    EXPECT_EQ(twice.candidate_count(), once.candidate_count());
    EXPECT_EQ(twice.encode_table().threshold, once.encode_table().threshold);
  }
}

TEST(ParseFormat, CanonicalLeavesDefaultsOutAndOrdersOptions) {
  EXPECT_EQ(parse_format("mxfp4:ties=even,rule=floor").info().spec, "mxfp4");
  EXPECT_EQ(parse_format("mxfp4:ties=away,rule=even").info().spec, "mxfp4:rule=even,ties=away");
  EXPECT_EQ(parse_format("int4:scale=bf16,group=row").info().spec, "int4:group=row,scale=bf16");
}

TEST(ParseFormat, EveryFamilyHasItsDefaults) {
  struct Expected {
    const char* name;
    std::size_t group;
    ScaleType scale;
    ScaleLayout layout;
    bool tensor_scale;
  };
  const Expected expected[] = {
      {"int4", 32, ScaleType::f16, ScaleLayout::symmetric, false},
      {"fp4", 32, ScaleType::f16, ScaleLayout::symmetric, false},
      {"fp4_bnb", 64, ScaleType::f32, ScaleLayout::symmetric, false},
      {"nf4", 64, ScaleType::f32, ScaleLayout::symmetric, false},
      {"iq4_nl", 32, ScaleType::f16, ScaleLayout::symmetric, false},
      {"mxfp4", 32, ScaleType::e8m0, ScaleLayout::symmetric, false},
      {"nvfp4", 16, ScaleType::e4m3, ScaleLayout::symmetric, true},
      {"amxfp4", 32, ScaleType::e5m2, ScaleLayout::sign_split, false},
  };
  for (const Expected& e : expected) {
    const FormatInfo info = parse_format(e.name).info();
    EXPECT_EQ(info.name, e.name);
    EXPECT_EQ(info.spec, e.name);
    EXPECT_EQ(info.group, e.group) << e.name;
    EXPECT_EQ(info.scale_type, e.scale) << e.name;
    EXPECT_EQ(info.layout, e.layout) << e.name;
    EXPECT_EQ(info.tensor_scale, e.tensor_scale) << e.name;
    EXPECT_EQ(info.propagates_nonfinite, e.scale == ScaleType::e8m0) << e.name;
    EXPECT_FALSE(info.double_quantized) << e.name;
    const auto& rows = format_families();
    EXPECT_TRUE(std::any_of(rows.begin(), rows.end(), [&](const FormatFamily& f) {
      return f.name == e.name && !f.summary.empty();
    }));
  }
}

TEST(ParseFormat, ErrorsSayWhatIsAllowed) {
  const auto expect_bad = [](const char* spec, const std::vector<std::string>& parts) {
    expect_error(ErrorCode::bad_option, parts, [&] { parse_format(spec); });
  };
  expect_bad("fp5", {"'fp5'", "int4, fp4, fp4_bnb, nf4, iq4_nl, mxfp4, nvfp4, amxfp4",
                     "q4_1, q4_k, iq4_xs"});
  expect_bad("", {"unknown format"});
  expect_bad("mxfp4:scale=f16", {"'scale'", "rule=floor|even|ceil|rceil", "ties=even|away|zero"});
  expect_bad("mxfp4:rule=up", {"rule=up", "rule=floor|even|ceil|rceil"});
  expect_bad("int4:group=48", {"group=48", "group=32|16|64|128|256|512|1024|row"});
  expect_bad("mxfp4:rule=even,rule=even", {"'rule' is given twice"});
  expect_bad("nf4:double=yes", {"double=yes", "double=false|true"});
  expect_bad("nf4:double=true,scale=bf16", {"needs scale=f32"});
  expect_bad("amxfp4:rule=even", {"'rule'", "scale=e5m2|e4m3"});
  for (const char* spec : {"mxfp4:", "mxfp4:rule", "mxfp4:=even", "mxfp4:rule=", "mxfp4:,",
                           "mxfp4:rule=even,", "mxfp4:rule=even,,ties=away"}) {
    expect_bad(spec, {spec, "key=value"});
  }
}

/// Additive powers of two: what a user's own format looks like.
struct Apot {
  static constexpr const char* kName = "test_apot";
  static constexpr std::array<float, 16> kLevels = {0,  1,  2,  3,  4,  6,  8,   12,
                                                    -1, -2, -3, -4, -6, -8, -12, -16};
};

void register_apot() {
  const auto& rows = format_families();
  if (std::any_of(rows.begin(), rows.end(),
                  [](const FormatFamily& f) { return f.name == Apot::kName; })) {
    return;  // --gtest_repeat
  }
  register_format({Apot::kName, "additive powers of two", "group=32|64", [](SpecOptions& options) {
                     const std::size_t group = options.group("group", {32, 64});
                     options.finish();
                     return BlockFormat<Apot, AbsmaxScale>(
                         options.canonical(), group, LevelTies::away, AbsmaxScale(ScaleType::f16));
                   }});
}

TEST(RegisterFormat, AUsersFormatWorksLikeTheOthers) {
  register_apot();
  EXPECT_EQ(format_families().back().name, Apot::kName);
  const std::vector<std::string> specs = all_specs();
  EXPECT_NE(std::find(specs.begin(), specs.end(), "test_apot:group=64"), specs.end());

  const AnyFormat format = parse_format("test_apot");
  const std::vector<float> x = normal_values(3 * 70, 5);
  SerialExecutor executor;
  const MatrixView view(x.data(), 3, 70);
  std::vector<float> values(x.size());
  const auto error = [&](const QuantizedMatrix& q) {
    dequantize(q, {values.data(), 3, 70}, executor);
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      sum += static_cast<double>((values[i] - x[i]) * (values[i] - x[i]));
    }
    return sum;
  };
  const double rtn = error(quantize_rtn(view, format, executor));
  const double searched = error(quantize_clip_search(view, format, executor));
  EXPECT_LT(rtn, 0.03 * 210);
  EXPECT_LT(searched, rtn);

  expect_error(ErrorCode::bad_option, {"'test_apot'", "registered already"}, [] {
    register_format({Apot::kName, "", "", [](SpecOptions&) { return parse_format("int4"); }});
  });
}

}  // namespace
}  // namespace nybble::test
