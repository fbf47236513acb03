#include "src/io/gguf_model.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>

#include "nybble/io/convert.h"
#include "nybble/io/quantized_checkpoint.h"
#include "tests/io/gguf_text.h"
#include "tests/io/temporary_folder.h"

namespace nybble::io {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::GgufText;

/// What a part says of itself, and one F32 number a name.
struct Part {
  std::uint16_t number, count;
  std::int32_t tensors;
  std::vector<std::string> names;
  std::string architecture = {};  ///< empty: no such key
};

std::string part_text(const Part& part) {
  GgufText text(part.names.size(), 3 + (part.architecture.empty() ? 0U : 1U));
  if (!part.architecture.empty()) text.key("general.architecture", 8).text(part.architecture);
  text.key("split.no", 2).put(part.number);
  text.key("split.count", 2).put(part.count);
  text.key("split.tensors.count", 5).put(part.tensors);
  for (std::size_t i = 0; i < part.names.size(); ++i) {
    text.tensor(part.names[i], {1}, 0, 32 * i);
  }
  for (const std::string& name : part.names) {
    text.pad().put(static_cast<float>(name.back()));
  }
  return text.pad().bytes();
}

class GgufParts : public testing::Test {
 protected:
  static std::string name(std::size_t number, std::size_t count = 3) {
    return fmt::format("model-{:05}-of-{:05}.gguf", number, count);
  }
  void write(const std::vector<Part>& parts) {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      test::write_text(folder_ / name(i + 1), part_text(parts[i]));
    }
  }
  /// Opening the first is refused with a message that has all of `expected`.
  void expect_bad(const std::vector<std::string>& expected) {
    expect_error(ErrorCode::bad_file, expected, [&] { const GgufModel model(folder_ / name(1)); });
  }
  std::vector<Part> good_ = {{0, 3, 4, {"a", "b"}, "llama"}, {1, 3, 4, {}}, {2, 3, 4, {"c", "d"}}};
  test::TemporaryFolder folder_;
};

TEST_F(GgufParts, AnyPartOpensAllInTheirOrder) {
  write(good_);
  for (std::size_t opened = 1; opened <= 3; ++opened) {
    const GgufModel model(folder_ / name(opened));
    EXPECT_EQ(model.name(), (folder_ / name(opened)).string());
    ASSERT_EQ(model.files().size(), 3U);
    std::string names;
    for (const GgufTensor& tensor : model.tensors()) names += tensor.name;
    EXPECT_EQ(names, "abcd");
    ASSERT_EQ(model.values().size(), 1U);
    EXPECT_EQ(model.values()[0].first, "general.architecture");
    float value = 0;
    std::memcpy(&value, model.at("c").bytes.data(), sizeof value);
    EXPECT_EQ(value, static_cast<float>('c'));
    EXPECT_EQ(model.find("e"), nullptr);
    expect_error(ErrorCode::bad_option, {"\"e\"", "4 tensors"}, [&] { (void)model.at("e"); });
  }
}

TEST_F(GgufParts, ACheckpointAndAConversionHaveAllOfThem) {
  write(good_);
  const QuantizedCheckpoint checkpoint(folder_ / name(2));
  EXPECT_EQ(checkpoint.tensors().size(), 4U);
  EXPECT_EQ(checkpoint.files().size(), 3U);
  EXPECT_EQ(checkpoint.read_f32("d"), std::vector<float>{'d'});
  EXPECT_EQ(checkpoint.metadata(),
            (std::map<std::string, std::string>{{"general.architecture", "llama"}}));
  EXPECT_NE(checkpoint.reasons()[0].find("3 parts"), std::string::npos);

  // Q4_0, so that there is something to convert.
  GgufText layer(1, 3);
  layer.key("split.no", 2).put<std::uint16_t>(1);
  layer.key("split.count", 2).put<std::uint16_t>(3);
  layer.key("split.tensors.count", 5).put<std::int32_t>(5);
  layer.tensor("blk.0.attn_q.weight", {32, 2}, 2, 0);
  const std::string blocks(36, '\x21');
  for (Part& part : good_) part.tensors = 5;
  write(good_);
  test::write_text(folder_ / name(2), layer.pad().data(blocks).pad().bytes());
  SerialExecutor serial;
  ConvertOptions options;
  options.layout = "gguf";
  EXPECT_EQ(convert_checkpoint(folder_ / name(3), folder_ / "whole.gguf", options, serial).tensors,
            4U);
  const GgufFile whole(folder_ / "whole.gguf");
  EXPECT_EQ(whole.tensors().size(), 5U);
  EXPECT_EQ(whole.values().size(), 1U);
  const auto bytes = whole.at("blk.0.attn_q.weight").bytes;
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), blocks);
  options.layout = "nybble";
  convert_checkpoint(folder_ / name(1), folder_ / "folder", options, serial);
  EXPECT_EQ(QuantizedCheckpoint(folder_ / "folder").layers().size(), 1U);
  EXPECT_EQ(QuantizedCheckpoint(folder_ / "folder").tensors().size(), 4U);
}

TEST_F(GgufParts, MissingOnesAreNamed) {
  write(good_);
  fs::remove(folder_ / name(1));
  fs::remove(folder_ / name(3));
  expect_error(ErrorCode::bad_file, {"part 2 of 3", name(1), name(3)},
               [&] { const GgufModel model(folder_ / name(2)); });
  // Not thousands.
  test::write_text(folder_ / name(1, 60000), part_text({0, 60000, 1, {"a"}}));
  expect_error(ErrorCode::bad_file, {name(2, 60000), name(9, 60000), "59991 more"},
               [&] { const GgufModel model(folder_ / name(1, 60000)); });
}

TEST_F(GgufParts, ContradictionsAreErrors) {
  const std::function<void(std::vector<Part>&)> changes[] = {
      [](auto& parts) { parts[0].count = 2; },   [](auto& parts) { parts[2].count = 4; },
      [](auto& parts) { parts[0].number = 1; },  [](auto& parts) { parts[1].number = 2; },
      [](auto& parts) { parts[0].tensors = 5; }, [](auto& parts) { parts[2].tensors = 3; },
      [](auto& parts) { parts[1].tensors = -4; }};
  const std::vector<std::string> expected[] = {
      {name(1), "\"split.count\"", "is 2, expected 3 as its name says"},
      {name(3), "\"split.count\"", "is 4, expected 3 as the other parts say"},
      {name(1), "\"split.no\"", "is 1, expected 0 as its name says"},
      {name(2), "\"split.no\"", "is 2, expected 1 as its name says"},
      {name(1), "\"split.tensors.count\"", "is 5, expected 4 as the parts have"},
      {name(3), "\"split.tensors.count\"", "is 3, expected 4"},
      {name(2), "\"split.tensors.count\"", "not a whole number"}};
  for (std::size_t i = 0; i < std::size(changes); ++i) {
    std::vector<Part> parts = good_;
    changes[i](parts);
    write(parts);
    expect_bad(expected[i]);
  }
  std::vector<Part> parts = good_;
  parts[2].names[1] = "a";
  write(parts);
  expect_bad({"\"a\"", "in two parts"});
  parts = good_;
  parts[2].architecture = "gemma";
  write(parts);
  expect_bad({name(3), "general.architecture", "another part"});
}

TEST_F(GgufParts, NamesAndKeysSayTheSame) {
  write(good_);
  fs::rename(folder_ / name(1), folder_ / "first.gguf");
  expect_error(ErrorCode::bad_file, {"first.gguf", "part 1 of 3", "model-00001-of-00003.gguf"},
               [&] { const GgufModel model(folder_ / "first.gguf"); });
  // The name of a part, and no keys; one part of one is a whole file.
  test::write_text(folder_ / name(1), GgufText(0, 0).bytes());
  expect_bad({"is named as part 1 of 3", "\"split.count\" is missing"});
  test::write_text(folder_ / name(1), part_text({0, 1, 1, {"a"}}));
  expect_bad({"is named as part 1 of 3", "\"split.count\" is 1"});
  test::write_text(folder_ / name(1, 1), part_text({0, 1, 1, {"a"}}));
  const GgufModel whole(folder_ / name(1, 1));
  EXPECT_EQ(whole.values().size(), 3U) << "the keys of a file that is no part stay";
}

}  // namespace
}  // namespace nybble::io
