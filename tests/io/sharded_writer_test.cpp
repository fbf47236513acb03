#include "nybble/io/sharded_writer.h"

#include <gtest/gtest.h>

#include "tests/io/temporary_folder.h"

namespace nybble {
namespace {

using test::exact_bytes;
using test::expect_error;
using test::read_text;

/// Four tensors of 10, 0, 30 and 5 bytes.
std::vector<TensorToWrite> some_tensors() {
  return {{"b", TensorType::u8, {10}},
          {"nothing", TensorType::f32, {0, 4}},
          {"a", TensorType::u8, {3, 10}, {{"a.format", "x"}}},
          {"c", TensorType::i8, {5}}};
}

std::string content(std::size_t tensor) {
  const std::size_t sizes[] = {10, 0, 30, 5};
  return std::string(sizes[tensor], static_cast<char>('0' + tensor));
}

void write_all(ShardedWriter& writer) {
  for (const std::size_t i : {3U, 0U, 2U, 1U}) writer.write(i, 0, exact_bytes(content(i)));
}

TEST(ShardPlan, CutsWhereAFileWouldExceedItsSize) {
  const auto files = [](std::size_t shard_bytes) {
    std::vector<std::size_t> out;
    for (const auto& place : plan_shards(some_tensors(), {}, shard_bytes).places) {
      out.push_back(place.file);
    }
    return out;
  };
  using Files = std::vector<std::size_t>;
  EXPECT_EQ(files(45), (Files{0, 0, 0, 0}));
  EXPECT_EQ(files(44), (Files{0, 0, 0, 1}));
  EXPECT_EQ(files(40), (Files{0, 0, 0, 1}));
  EXPECT_EQ(files(39), (Files{0, 0, 1, 1}));
  EXPECT_EQ(files(35), (Files{0, 0, 1, 1}));
  EXPECT_EQ(files(34), (Files{0, 0, 1, 2}));
  EXPECT_EQ(files(1), (Files{0, 1, 2, 3})) << "what is larger than a shard has one of its own";
}

TEST(ShardPlan, NamesAndSizesAreThoseOfTheFiles) {
  const test::TemporaryFolder folder;
  const ShardPlan plan = plan_shards(some_tensors(), {{"format", "pt"}}, 39);
  ASSERT_EQ(plan.files.size(), 2u);
  EXPECT_EQ(plan.files[0].name, "model-00001-of-00002.safetensors");
  ShardedWriter writer(folder.path(), plan);
  write_all(writer);
  writer.finish();
  for (const ShardPlan::File& file : plan.files) {
    EXPECT_EQ(std::filesystem::file_size(folder / file.name), file.bytes);
  }
  EXPECT_EQ(read_text(folder / ShardPlan::kIndexName), plan.index);
}

TEST(ShardPlan, RefusesTensorsThatNoFileCanHold) {
  const auto plan = [](std::vector<TensorToWrite> tensors) {
    return plan_shards(tensors, {{"key", "value"}}, 100);
  };
  expect_error(ErrorCode::bad_option, {"without a tensor"}, [&] { plan({}); });
  expect_error(ErrorCode::bad_option, {"\"a\"", "twice"}, [&] {
    plan({{"a", TensorType::u8, {1}}, {"a", TensorType::u8, {1}}});
  });
  expect_error(ErrorCode::bad_option, {"reserved"}, [&] {
    plan({{"__metadata__", TensorType::u8, {1}}});
  });
  expect_error(ErrorCode::bad_shape, {"\"a\"", "[3] of F4"}, [&] {
    plan({{"a", TensorType::f4, {3}}});
  });
  expect_error(ErrorCode::bad_option, {"\"a\"", "opaque"}, [&] {
    plan({{"a", TensorType::opaque, {1}, {}, "", 1}});
  });
  expect_error(ErrorCode::bad_option, {"\"key\"", "\"other\""}, [&] {
    plan({{"a", TensorType::u8, {1}, {{"key", "other"}}}});
  });
}

TEST(ShardedWriter, OneFileNeedsNoIndex) {
  const test::TemporaryFolder folder;
  ShardedWriter writer(folder.path(), plan_shards(some_tensors(), {{"format", "pt"}}, 1000));
  write_all(writer);
  EXPECT_FALSE(has_checkpoint(folder.path()));
  writer.finish();
  const Checkpoint checkpoint(folder.path());
  ASSERT_EQ(checkpoint.shards().size(), 1u);
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"b", "nothing", "a", "c"}));
  EXPECT_EQ(checkpoint.shards()[0].metadata(),
            (std::map<std::string, std::string>{{"a.format", "x"}, {"format", "pt"}}));
  EXPECT_FALSE(std::filesystem::exists(folder / ShardPlan::kIndexName));
}

TEST(ShardedWriter, ShardsHoldWhatWasWrittenInAnyOrder) {
  const test::TemporaryFolder folder;
  {
    ShardedWriter writer(folder / "made", plan_shards(some_tensors(), {}, 39));
    write_all(writer);
    writer.finish();
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / "made"), {}), 3);
  const Checkpoint checkpoint(folder / "made");
  ASSERT_EQ(checkpoint.shards().size(), 2u);
  EXPECT_TRUE(checkpoint.shards()[0].metadata().empty());
  EXPECT_EQ(checkpoint.shards()[1].metadata().at("a.format"), "x");
  const std::vector<TensorToWrite> tensors = some_tensors();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorView& tensor = checkpoint.at(tensors[i].name);
    EXPECT_EQ(tensor.shape, tensors[i].shape);
    EXPECT_EQ(std::vector<std::byte>(tensor.bytes.begin(), tensor.bytes.end()),
              exact_bytes(content(i)));
  }
}

TEST(ShardedWriter, OpaqueTypesKeepTheirNamesAndBytes) {
  const test::TemporaryFolder folder;
  const std::vector<TensorToWrite> tensors = {{"a", TensorType::opaque, {3}, {}, "F6_NEW", 5},
                                              {"b", TensorType::opaque, {2}, {}, "F3", 1}};
  ShardedWriter writer(folder.path(), plan_shards(tensors, {}, 5));
  writer.write(0, 0, exact_bytes("12345"));
  writer.write(1, 0, exact_bytes("6"));
  writer.finish();
  const Checkpoint checkpoint(folder.path());
  EXPECT_EQ(checkpoint.shards().size(), 2u);
  EXPECT_EQ(tensor_type_name(checkpoint.at("a")), "F6_NEW");
  EXPECT_EQ(checkpoint.at("a").shape, std::vector<std::size_t>{3});
  EXPECT_EQ(
      std::vector<std::byte>(checkpoint.at("a").bytes.begin(), checkpoint.at("a").bytes.end()),
      exact_bytes("12345"));
  EXPECT_EQ(tensor_type_name(checkpoint.at("b")), "F3");
}

TEST(ShardedWriter, LeavesNothingBehindUnlessFinished) {
  const test::TemporaryFolder folder;
  {
    ShardedWriter writer(folder.path(), plan_shards(some_tensors(), {}, 39));
    writer.write(0, 0, exact_bytes("12345"));
    expect_error(ErrorCode::bad_option, {"5 of the 10 bytes"}, [&] { writer.finish(); });
    expect_error(ErrorCode::bad_option, {"5 + 6"},
                 [&] { writer.write(0, 5, exact_bytes("123456")); });
  }
  EXPECT_EQ(folder.file_count(), 0u);
}

TEST(ShardedWriter, RefusesAFolderWithACheckpoint) {
  const test::TemporaryFolder folder;
  test::write_text(folder / "model.safetensors", "x");
  expect_error(ErrorCode::bad_option, {"holds a checkpoint already"},
               [&] { ShardedWriter(folder.path(), plan_shards(some_tensors(), {}, 39)); });
}

TEST(ShardedWriter, ContinuesWhatAnotherOneBegan) {
  const test::TemporaryFolder folder;
  const ShardPlan plan = plan_shards(some_tensors(), {}, 39);
  {
    ShardedWriter writer(folder / "out", plan, folder / "work");
    EXPECT_FALSE(writer.found());
    writer.write(0, 0, exact_bytes(content(0)));
    writer.write(2, 0, exact_bytes(content(2).substr(0, 7)));
  }
  EXPECT_FALSE(has_checkpoint(folder / "out"));
  {
    ShardedWriter writer(folder / "out", plan, folder / "work");
    EXPECT_TRUE(writer.found());
    std::vector<std::byte> read(10);
    writer.read(0, 0, read);
    EXPECT_EQ(read, exact_bytes(content(0)));
    writer.write(2, 7, exact_bytes(content(2).substr(7)));
    writer.write(3, 0, exact_bytes(content(3)));
    writer.finish();
    writer.finish();
  }
  EXPECT_TRUE(has_shards(folder / "out", plan));
  EXPECT_EQ(Checkpoint(folder / "out").at("a").bytes.size(), 30u);
}

TEST(ShardedWriter, EndsWhatDiedBetweenTwoRenames) {
  const test::TemporaryFolder folder;
  const ShardPlan plan = plan_shards(some_tensors(), {}, 39);
  {
    ShardedWriter writer(folder / "out", plan, folder / "work");
    write_all(writer);
  }
  std::filesystem::rename(folder / "work" / plan.files[0].name,
                          folder / "out" / plan.files[0].name);
  EXPECT_FALSE(has_shards(folder / "out", plan));
  ShardedWriter writer(folder / "out", plan, folder / "work");
  EXPECT_TRUE(writer.found());
  std::vector<std::byte> read(10);
  writer.read(0, 0, read);
  EXPECT_EQ(read, exact_bytes(content(0)));
  writer.finish();
  EXPECT_TRUE(has_shards(folder / "out", plan));
}

TEST(ShardedWriter, DoesNotContinueFilesOfAnotherPlan) {
  const test::TemporaryFolder folder;
  { ShardedWriter(folder / "out", plan_shards(some_tensors(), {}, 39), folder / "work"); }
  std::vector<TensorToWrite> others = some_tensors();
  others[0].name = "d";
  const ShardedWriter writer(folder / "out", plan_shards(others, {}, 39), folder / "work");
  EXPECT_FALSE(writer.found());
}

TEST(CopyTensor, CopiesMoreThanItsBufferHolds) {
  const test::TemporaryFolder folder;
  std::string text(3'000'001, 'x');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i % 251);
  const std::vector<std::byte> bytes = exact_bytes(text);
  SafetensorsWriter source(folder / "in.safetensors");
  source.add("t", TensorType::u8, std::vector{bytes.size()}, bytes);
  source.finish();
  const TensorFile file(folder / "in.safetensors");
  const TensorToWrite tensors[] = {{"t", TensorType::u8, {bytes.size()}}};
  ShardedWriter writer(folder / "out", plan_shards(tensors, {}, 1));
  copy_tensor(file, file.tensors()[0], writer, 0);
  writer.finish();
  const Checkpoint made(folder / "out");
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), made.at("t").bytes.begin()));
}

}  // namespace
}  // namespace nybble
