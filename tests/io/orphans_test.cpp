#include "src/io/orphans.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "nybble/io/convert.h"
#include "nybble/io/safetensors.h"
#include "tests/io/layout/layer_files.h"
#include "tests/io/temporary_folder.h"

namespace nybble {
namespace {

class OrphansTest : public testing::Test {
 protected:
  /// A checkpoint of one layer without some of its tensors, and of others.
  QuantizedCheckpoint write(const std::string& layout, const std::string& spec,
                            const std::vector<std::string>& missing,
                            const std::vector<io::OwnedTensor>& others = {}) {
    const io::WrittenLayer written =
        io::find_layout(layout).write(test::random_layer(spec, 64, 128, 1));
    name_ = test::random_layer(spec, 64, 128, 1).name;
    SafetensorsWriter writer(file());
    for (const io::OwnedTensor& tensor : written.tensors) {
      if (std::find(missing.begin(), missing.end(), tensor.name.substr(name_.size())) ==
          missing.end()) {
        writer.add(tensor.name, tensor.type, tensor.shape, tensor.bytes);
      }
    }
    for (const io::OwnedTensor& tensor : others) {
      writer.add(name_ + tensor.name, tensor.type, tensor.shape, tensor.bytes);
    }
    for (const auto& [key, value] : written.metadata) writer.set_metadata(key, value);
    writer.finish();
    return QuantizedCheckpoint(file());
  }
  [[nodiscard]] std::filesystem::path file() const { return folder_ / "model.safetensors"; }

  test::TemporaryFolder folder_;
  std::string name_;
};

TEST_F(OrphansTest, WholeLayersHaveNone) {
  for (const auto& [layout, spec] : std::vector<std::pair<std::string, std::string>>{
           {"gptq", "int4:group=32"},
           {"awq_gemm", "int4:group=32,zero_point=true"},
           {"bitsandbytes", "nf4:double=true"},
           {"compressed_tensors", "int4:zero_point=true"},
           {"nybble", "nf4:double=true"}}) {
    const QuantizedCheckpoint checkpoint = write(layout, spec, {});
    ASSERT_EQ(checkpoint.layers().size(), 1U) << layout;
    EXPECT_TRUE(io::find_orphans(checkpoint).empty()) << layout;
    EXPECT_TRUE(io::find_misfits(checkpoint).empty()) << layout;
  }
}

TEST_F(OrphansTest, ALayerOfWhichATensorIsMissingIsAnError) {
  const std::vector<Finding> found = io::find_orphans(write("gptq", "int4:group=32", {".qweight"}));
  ASSERT_EQ(found.size(), 3U);
  for (const Finding& finding : found) {
    EXPECT_EQ(finding.severity, Severity::error);
    EXPECT_NE(finding.expected.find(name_ + ".qweight"), std::string::npos) << finding.text();
  }
  EXPECT_EQ(io::find_orphans(write("nybble", "int4", {".weight.codes"})).size(), 1U);
  EXPECT_FALSE(io::find_orphans(write("compressed_tensors", "int4", {".weight_packed"})).empty());
  // Nobody converts what has lost a part.
  SerialExecutor serial;
  ConvertOptions options;
  options.layout = "gptq";
  (void)write("gptq", "int4:group=32", {},
              {test::zero_tensor("2.qzeros", TensorType::i32, {1, 8})});
  test::expect_error(ErrorCode::bad_file, {"2.qzeros", "beside it"},
                     [&] { convert_checkpoint(file(), folder_ / "out", options, serial); });
}

TEST_F(OrphansTest, AWholeLayerOfAnUnknownLayoutIsAWarning) {
  const QuantizedCheckpoint checkpoint =
      write("gptq", "int4:group=32", {},
            {test::zero_tensor("2.weight_packed", TensorType::i64, {8, 8}),
             test::zero_tensor("2.weight_scale", TensorType::i32, {8, 1})});
  for (const Finding& finding : io::find_orphans(checkpoint)) {
    EXPECT_EQ(finding.severity, Severity::warning) << finding.text();
  }
  EXPECT_EQ(io::find_orphans(checkpoint).size(), 2U);
}

TEST_F(OrphansTest, ScalesOfWeightsOfEightBitsAreNone) {
  EXPECT_TRUE(io::find_orphans(write("gptq", "int4:group=32", {},
                                     {test::zero_tensor("2.weight", TensorType::f8_e4m3, {8, 8}),
                                      test::zero_tensor("2.weight_scale", TensorType::f32, {1})}))
                  .empty());
}

TEST_F(OrphansTest, BiasesAndWeightsThatDoNotFit) {
  const std::vector<Finding> found =
      io::find_misfits(write("gptq", "int4:group=32", {},
                             {test::zero_tensor(".bias", TensorType::f16, {17}),
                              test::zero_tensor(".weight", TensorType::f16, {64, 128})}));
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].text(),
            name_ + ".bias: shape is [17], expected one number for each of 64 outputs");
  EXPECT_EQ(found[1].severity, Severity::warning);
  EXPECT_TRUE(io::find_misfits(write("gptq", "int4:group=32", {},
                                     {test::zero_tensor(".bias", TensorType::f16, {64})}))
                  .empty());
}

}  // namespace
}  // namespace nybble
