#include "nybble/quantize/tensor_rule.h"

#include <gtest/gtest.h>

#include "tests/io/temporary_folder.h"

namespace nybble {
namespace {

using test::expect_error;

TEST(TensorRule, MatchesTheTensorOrItsModule) {
  const auto matches = [](const std::string& glob, const std::string& tensor) {
    return TensorRule{glob, {}, {}, true}.matches(tensor);
  };
  const std::string tensor = "model.layers.10.mlp.up_proj.weight";
  EXPECT_TRUE(matches(tensor, tensor));
  EXPECT_TRUE(matches("model.layers.10.mlp.up_proj", tensor));
  EXPECT_TRUE(matches("*.up_proj", tensor));
  EXPECT_TRUE(matches("*.mlp.*", tensor));
  EXPECT_TRUE(matches("model.layers.1?.*", tensor));
  EXPECT_TRUE(matches("model.layers.[0-9][0-4].*", tensor));
  EXPECT_FALSE(matches("model.layers.?.*", tensor)) << "a ? is one character";
  EXPECT_FALSE(matches("up_proj", tensor)) << "the whole name has to match";
  EXPECT_FALSE(matches("*.up_proj", "model.layers.10.mlp.up_proj.bias"));
}

TEST(TensorRule, IsReadFromTheCommandLine) {
  const TensorRule plain = parse_rule("*.q_proj=int4:group=128,zero_point=true");
  EXPECT_EQ(plain.match, "*.q_proj");
  EXPECT_EQ(plain.format, "int4:group=128,zero_point=true");
  EXPECT_EQ(plain.method, "");
  EXPECT_FALSE(plain.skip);
  const TensorRule method = parse_rule("a=nf4/awq+gptq:damp=0.01");
  EXPECT_EQ(method.format, "nf4");
  EXPECT_EQ(method.method, "awq+gptq:damp=0.01");
  EXPECT_TRUE(parse_rule("*=skip").skip);
  EXPECT_EQ(plain.transposed, std::nullopt);
  for (const bool transposed : {false, true}) {
    const TensorRule rule =
        parse_rule(transposed ? "*.c_fc=transposed=true" : "*.c_fc=transposed=false");
    EXPECT_EQ(rule.match, "*.c_fc");
    EXPECT_EQ(rule.transposed, transposed);
    EXPECT_EQ(rule.format + rule.method, "");
  }
  for (const char* bad : {"", "a", "=nf4", "a=", "a=/rtn", "a=nf4/"}) {
    expect_error(ErrorCode::bad_option, {"GLOB=FORMAT"}, [&] { parse_rule(bad); });
  }
}

TEST(TensorRule, IsReadFromARecipe) {
  const test::TemporaryFolder folder;
  const auto read = [&](const std::string& text) {
    test::write_text(folder / "r.json", text);
    return read_recipe(folder / "r.json");
  };
  EXPECT_TRUE(read("[]").empty());
  const auto rules = read(R"([{"match": "a", "format": "nf4", "method": "rtn"},
                              {"match": "b", "method": "gptq"}, {"match": "*", "skip": true},
                              {"match": "c", "transposed": false}])");
  ASSERT_EQ(rules.size(), 4u);
  EXPECT_EQ(rules[0].format, "nf4");
  EXPECT_EQ(rules[1].method, "gptq");
  EXPECT_TRUE(rules[2].skip);
  EXPECT_EQ(rules[2].transposed, std::nullopt);
  EXPECT_EQ(rules[3].transposed, false);
  const auto expect_bad = [&](const std::string& text, const std::string& what) {
    expect_error(ErrorCode::bad_file, {"r.json", what}, [&] { read(text); });
  };
  expect_bad("", "damaged JSON");
  expect_bad("{}", "expected '['");
  expect_bad("[1]", "rule 1: not an object");
  expect_bad(R"([{"match": "a", "skip": true}, {"format": "nf4"}])", "rule 2: match is missing");
  expect_bad(R"([{"match": "a"}])", "rule 1: expected either");
  expect_bad(R"([{"match": "a", "skip": true, "format": "nf4"}])", "rule 1: expected either");
  expect_bad(R"([{"match": "a", "skip": "yes"}])", "skip is not true or false");
  expect_bad(R"([{"match": "a", "transposed": 1}])", "transposed is not true or false");
  expect_bad(R"([{"match": "a", "skip": true, "transposed": true}])", "rule 1: expected either");
  expect_bad(R"([{"match": 7, "skip": true}])", "match is not a string");
  expect_bad(R"([{"match": "a", "bits": "4"}])", "unknown key \"bits\"");
  expect_error(ErrorCode::io, {"none.json"}, [&] { read_recipe(folder / "none.json"); });
}

}  // namespace
}  // namespace nybble
