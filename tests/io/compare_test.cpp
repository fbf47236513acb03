#include "nybble/io/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "nybble/io/gguf.h"
#include "nybble/io/safetensors.h"
#include "nybble/numeric/bfloat16.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/thread_executor.h"

namespace nybble {
namespace {

struct Tensor {
  std::string name;
  TensorType type = TensorType::f32;
  std::vector<std::size_t> shape;
  std::vector<float> values;
};

/// Writes a checkpoint and opens it. Types other than f32 and bf16 get the values' bytes.
QuantizedCheckpoint checkpoint(const std::filesystem::path& path,
                               const std::vector<Tensor>& tensors) {
  std::vector<std::vector<std::uint16_t>> halves(tensors.size());
  SafetensorsWriter writer(path);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i];
    if (tensor.type == TensorType::bf16) {
      for (const float value : tensor.values) {
        halves[i].push_back(BFloat16::from_float(value).bits);
      }
      writer.add(tensor.name, tensor.type, tensor.shape, std::as_bytes(std::span(halves[i])));
    } else {
      writer.add(tensor.name, tensor.type, tensor.shape, std::as_bytes(std::span(tensor.values)));
    }
  }
  writer.finish();
  return QuantizedCheckpoint(path);
}

std::vector<TensorDifference> differences(const QuantizedCheckpoint& a,
                                          const QuantizedCheckpoint& b) {
  test::ThreadExecutor threads(2);
  std::vector<TensorDifference> out;
  for (const TensorPair& pair : pair_tensors(a, b)) out.push_back(compare(a, b, pair, threads));
  sort_worst_first(out);
  return out;
}

constexpr auto kMissing = TensorPair::Side::Kind::missing;

TEST(Compare, TheSameBytesAreIdentical) {
  const test::TemporaryFolder folder;
  const std::vector<Tensor> tensors = {{"a", TensorType::f32, {2}, {1, NAN}},
                                       {"b", TensorType::u32, {2}, {1, 2}}};
  for (const TensorDifference& found : differences(checkpoint(folder / "a.safetensors", tensors),
                                                   checkpoint(folder / "b.safetensors", tensors))) {
    EXPECT_TRUE(found.identical) << found.pair.name;
    EXPECT_TRUE(found.same_values) << found.pair.name;
    EXPECT_EQ(found.error->sqnr_db, INFINITY) << found.pair.name;
  }
}

TEST(Compare, BlocksThatAreNotDecodedAreComparedByTheirBytes) {
  const test::TemporaryFolder folder;
  for (const GgufType type :
       {GgufType::q5_0, GgufType::q5_1, GgufType::q2_k, GgufType::q3_k, GgufType::q5_k,
        GgufType::q6_k, GgufType::iq2_xxs, GgufType::iq2_xs, GgufType::iq2_s, GgufType::iq3_xxs,
        GgufType::iq3_s, GgufType::iq1_s, GgufType::iq1_m, GgufType::tq1_0, GgufType::tq2_0,
        GgufType::q1_0, GgufType::q2_0, GgufType::i32}) {
    SCOPED_TRACE(gguf_type_name(type));
    const std::vector<std::size_t> shape = {256};
    std::vector<std::byte> bytes(256 / gguf_block_values(type) * gguf_block_bytes(type));
    for (const char* name : {"a.gguf", "b.gguf"}) {
      GgufWriter writer(folder / name);
      writer.add("k", type, shape, bytes);
      writer.finish();
      bytes[1] = std::byte{1};
    }
    const auto same =
        differences(QuantizedCheckpoint(folder / "a.gguf"), QuantizedCheckpoint(folder / "a.gguf"));
    ASSERT_EQ(same.size(), 1U);
    EXPECT_TRUE(same[0].identical);
    const auto other =
        differences(QuantizedCheckpoint(folder / "a.gguf"), QuantizedCheckpoint(folder / "b.gguf"));
    ASSERT_EQ(other.size(), 1U);
    EXPECT_FALSE(other[0].identical);
    EXPECT_FALSE(other[0].equal);
    EXPECT_FALSE(other[0].error.has_value());
    EXPECT_NE(other[0].reason.find(gguf_type_name(type)), std::string::npos) << other[0].reason;
    // Beside one that has values.
    const auto floats =
        differences(checkpoint(folder / "f.safetensors",
                               {{"k", TensorType::f32, {256}, std::vector<float>(256)}}),
                    QuantizedCheckpoint(folder / "b.gguf"));
    EXPECT_FALSE(floats[0].error.has_value());
    EXPECT_NE(floats[0].reason, "");
  }
}

TEST(Compare, AnotherTypeWithTheSameValuesIsNotIdentical) {
  const test::TemporaryFolder folder;
  const auto found =
      differences(checkpoint(folder / "a.safetensors", {{"a", TensorType::f32, {2}, {1, -0.5F}}}),
                  checkpoint(folder / "b.safetensors", {{"a", TensorType::bf16, {2}, {1, -0.5F}}}));
  ASSERT_EQ(found.size(), 1U);
  EXPECT_FALSE(found[0].identical);
  EXPECT_TRUE(found[0].same_values);
  EXPECT_EQ(found[0].error->mse, 0);
}

TEST(Compare, ZerosOfAnotherSignAreEqualButNotTheSame) {
  const test::TemporaryFolder folder;
  const auto found = differences(
      checkpoint(folder / "a.safetensors", {{"nan", TensorType::f32, {2}, {0, NAN}},
                                            {"other", TensorType::f32, {2}, {0, 1}},
                                            {"zeros", TensorType::f32, {2}, {0, 0}}}),
      checkpoint(folder / "b.safetensors", {{"nan", TensorType::f32, {2}, {-0.0F, NAN}},
                                            {"other", TensorType::f32, {2}, {-0.0F, 2}},
                                            {"zeros", TensorType::f32, {2}, {-0.0F, 0}}}));
  ASSERT_EQ(found.size(), 3U);
  for (const TensorDifference& difference : found) EXPECT_FALSE(difference.same_values);
  EXPECT_EQ(found[0].pair.name, "other");
  EXPECT_FALSE(found[0].equal);
  EXPECT_EQ(found[1].pair.name, "nan");
  EXPECT_TRUE(found[1].equal);
  EXPECT_EQ(found[2].pair.name, "zeros");
  EXPECT_TRUE(found[2].equal);
  EXPECT_EQ(found[2].error->cosine, 1);
}

TEST(Compare, WorstFirst) {
  const test::TemporaryFolder folder;
  const auto found =
      differences(checkpoint(folder / "a.safetensors", {{"same", TensorType::f32, {1}, {1}},
                                                        {"near", TensorType::f32, {1}, {1}},
                                                        {"far", TensorType::f32, {1}, {1}},
                                                        {"nan", TensorType::f32, {1}, {1}},
                                                        {"shape", TensorType::f32, {2}, {1, 2}},
                                                        {"only_a", TensorType::f32, {1}, {1}},
                                                        {"integer", TensorType::u32, {1}, {1}}}),
                  checkpoint(folder / "b.safetensors", {{"same", TensorType::f32, {1}, {1}},
                                                        {"near", TensorType::f32, {1}, {1.01F}},
                                                        {"far", TensorType::f32, {1}, {2}},
                                                        {"nan", TensorType::f32, {1}, {NAN}},
                                                        {"shape", TensorType::f32, {1, 2}, {1, 2}},
                                                        {"only_b", TensorType::f32, {1}, {1}},
                                                        {"integer", TensorType::u32, {1}, {2}}}));
  std::vector<std::string> names;
  for (const TensorDifference& difference : found) names.push_back(difference.pair.name);
  EXPECT_EQ(names, (std::vector<std::string>{"integer", "nan", "only_a", "only_b", "shape", "far",
                                             "near", "same"}));
  EXPECT_NE(found[0].reason.find("U32"), std::string::npos) << found[0].reason;
  EXPECT_TRUE(std::isnan(found[1].error->sqnr_db));
  EXPECT_EQ(found[2].reason, "only in the first");
  EXPECT_EQ(found[2].pair.b.kind, kMissing);
  EXPECT_EQ(found[3].reason, "only in the second");
  EXPECT_EQ(found[4].reason, "shapes [2] and [1, 2]");
  EXPECT_EQ(found[5].error->sqnr_db, 0);
  EXPECT_NEAR(found[6].error->sqnr_db, 40, 0.01);
  for (std::size_t i = 0; i < 7; ++i) EXPECT_FALSE(found[i].same_values) << names[i];
}

TEST(Compare, ErrorsAreRelativeToTheFirst) {
  const test::TemporaryFolder folder;
  const QuantizedCheckpoint one =
      checkpoint(folder / "a.safetensors", {{"x", TensorType::f32, {1}, {1}}});
  const QuantizedCheckpoint two =
      checkpoint(folder / "b.safetensors", {{"x", TensorType::f32, {1}, {11}}});
  EXPECT_NEAR(differences(one, two)[0].error->sqnr_db, -20, 1e-9);
  EXPECT_NEAR(differences(two, one)[0].error->sqnr_db, 20 * std::log10(1.1), 1e-9);
}

TEST(Compare, NamesArePairedWithAndWithoutWeightOnce) {
  const test::TemporaryFolder folder;
  const QuantizedCheckpoint a =
      checkpoint(folder / "a.safetensors", {{"x.weight", TensorType::f32, {1}, {1}},
                                            {"y", TensorType::f32, {1}, {1}},
                                            {"y.weight", TensorType::f32, {1}, {2}}});
  const QuantizedCheckpoint b =
      checkpoint(folder / "b.safetensors", {{"x", TensorType::f32, {1}, {1}},
                                            {"y.weight", TensorType::f32, {1}, {2}},
                                            {"y", TensorType::f32, {1}, {1}}});
  const std::vector<TensorDifference> found = differences(a, b);
  ASSERT_EQ(found.size(), 3U);
  for (const TensorDifference& difference : found) EXPECT_TRUE(difference.identical);
}

}  // namespace
}  // namespace nybble
