#include <gtest/gtest.h>

#include "nybble/io/safetensors.h"
#include "tests/io/safetensors_text.h"
#include "tests/io/temporary_folder.h"

namespace nybble {
namespace {

using test::expect_error;
using test::safetensors_text;
using Names = std::vector<std::string>;

/// A file of one-byte tensors.
std::string shard(const Names& names, const std::string& data) {
  std::string header;
  for (std::size_t i = 0; i < names.size(); ++i) {
    header += (i == 0 ? "{\"" : ",\"") + names[i] +
              R"(":{"dtype":"U8","shape":[1],"data_offsets":[)" + std::to_string(i) + "," +
              std::to_string(i + 1) + "]}";
  }
  return safetensors_text(header + "}", data);
}

class CheckpointTest : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) {
    test::write_text(folder_ / name, text);
  }
  void write_index(const std::string& weight_map) {
    write("model.safetensors.index.json",
          R"({"metadata":{"total_size":3},"weight_map":)" + weight_map + "}");
  }
  void write_shards() {
    write("one.safetensors", shard({"b", "a"}, "BA"));
    write("two.safetensors", shard({"c"}, "C"));
  }
  void expect_bad(const Names& parts, ErrorCode code = ErrorCode::bad_file) {
    expect_error(code, parts, [&] { Checkpoint checkpoint(folder_.path()); });
  }

  test::TemporaryFolder folder_;
};

char value_of(const TensorView& tensor) { return std::to_integer<char>(tensor.bytes[0]); }

TEST_F(CheckpointTest, OneFileOrItsFolder) {
  write("model.safetensors", shard({"b", "a"}, "BA"));
  for (const auto& path : {folder_.path(), folder_ / "model.safetensors"}) {
    const Checkpoint checkpoint(path);
    EXPECT_EQ(checkpoint.names(), (Names{"b", "a"}));
    EXPECT_EQ(value_of(checkpoint.at("a")), 'A');
  }
}

TEST_F(CheckpointTest, TheOnlyFileOfAFolderMayHaveAnyName) {
  write("gptq_model-4bit-128g.safetensors", shard({"a"}, "A"));
  EXPECT_EQ(value_of(Checkpoint(folder_.path()).at("a")), 'A');
  write("other.safetensors", shard({"b"}, "B"));
  expect_bad({folder_.path().string(), "model.safetensors"}, ErrorCode::io);
}

TEST_F(CheckpointTest, ShardsOfAnIndex) {
  write_shards();
  write_index(R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"})");
  const Checkpoint checkpoint(folder_.path());
  EXPECT_EQ(checkpoint.names(), (Names{"b", "a", "c"}));
  EXPECT_EQ(checkpoint.shards().size(), 2u);
  EXPECT_EQ(value_of(checkpoint.at("a")), 'A');
  EXPECT_EQ(value_of(checkpoint.at("c")), 'C');
  EXPECT_EQ(checkpoint.find("d"), nullptr);
  expect_error(ErrorCode::bad_option, {folder_.path().string(), "\"d\"", "3 tensors"},
               [&] { (void)checkpoint.at("d"); });
}

TEST_F(CheckpointTest, AnIndexIsWhatPythonReads) {
  write_shards();
  write("model.safetensors.index.json",
        "\n {\"metadata\": {\"x\": [NaN, 1e400, \"\\ud83d\"]}, \"weight_map\": {\"a\": "
        "\"two.safetensors\", \"a\": \"one.safetensors\", \"b\": \"one.safetensors\", \"c\": "
        "\"two.safetensors\"}}");
  EXPECT_EQ(Checkpoint(folder_.path()).names(), (Names{"b", "a", "c"}));
}

TEST_F(CheckpointTest, AFileBesideAnIndexIsTheModel) {
  write("model.safetensors", shard({"a"}, "A"));
  EXPECT_EQ(ignored_index(folder_.path()), "");
  write_shards();
  for (const char* index : {R"({"a":"one.safetensors"})", "damaged"}) {
    write_index(index);
    EXPECT_EQ(Checkpoint(folder_.path()).names(), Names{"a"});
    EXPECT_EQ(ignored_index(folder_.path()), (folder_ / "model.safetensors.index.json").string());
  }
  EXPECT_EQ(ignored_index(folder_ / "model.safetensors"), "");
}

TEST_F(CheckpointTest, ShardsThatNoIndexNames) {
  const std::string part = "model-00002-of-00002.safetensors";
  write(part, shard({"c"}, "C"));
  expect_bad({part, "no index names"});  // not a model of one file
  write("model.safetensors", shard({"a"}, "A"));
  expect_bad({part, "no index names"});
  std::filesystem::remove(folder_ / "model.safetensors");
  write("model-00001-of-00002.safetensors", shard({"a"}, "A"));
  write_index(R"({"a":"model-00001-of-00002.safetensors"})");
  expect_bad({part, "no index names"});
  write_index(R"({"a":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors"})");
  EXPECT_EQ(Checkpoint(folder_.path()).names(), (Names{"a", "c"}));
  // Other files are nothing to the index: Mistral's folders have every model twice.
  write("consolidated-00001-of-00001.safetensors", shard({"d"}, "D"));
  write("model-1-of-2.safetensors", shard({"e"}, "E"));
  EXPECT_EQ(Checkpoint(folder_.path()).names(), (Names{"a", "c"}));
  // A part that is asked for by its name is one file.
  EXPECT_EQ(Checkpoint(folder_ / part).names(), Names{"c"});
}

TEST_F(CheckpointTest, NothingThere) {
  expect_bad({folder_.path().string(), "model.safetensors"}, ErrorCode::io);
  expect_error(ErrorCode::io, {"none"}, [&] { Checkpoint checkpoint(folder_ / "none"); });
}

TEST_F(CheckpointTest, MissingShard) {
  write_index(R"({"a":"one.safetensors"})");
  expect_bad({"one.safetensors", "No such file"}, ErrorCode::io);
}

TEST_F(CheckpointTest, IndexAndShardsDisagree) {
  write_shards();
  write_index(R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors",)"
              R"("d":"two.safetensors"})");
  expect_bad({"two.safetensors", "no tensor \"d\""});
  write_index(R"({"a":"one.safetensors","b":"two.safetensors","c":"two.safetensors"})");
  expect_bad({"two.safetensors", "no tensor \"b\""});
  write_index(R"({"a":"one.safetensors","c":"two.safetensors"})");
  expect_bad({"one.safetensors", "\"b\" is not in the weight_map"});
}

TEST_F(CheckpointTest, TensorInTwoShards) {
  write("one.safetensors", shard({"a"}, "A"));
  write("two.safetensors", shard({"a", "b"}, "AB"));
  write_index(R"({"a":"one.safetensors","b":"two.safetensors"})");
  expect_bad({"two.safetensors", "\"a\" is in an earlier shard"});
}

TEST_F(CheckpointTest, DamagedShard) {
  write("one.safetensors", shard({"a"}, "AB"));
  write_index(R"({"a":"one.safetensors"})");
  expect_bad({"one.safetensors", "byte 1 of 2"});
}

TEST_F(CheckpointTest, ShardNamesStayInTheFolder) {
  for (const char* const name :
       {R"("../one.safetensors")", R"("/etc/passwd")", R"("sub/one.safetensors")", R"("..")",
        R"("sub\\one")", R"("")", R"("one.safetensors\u0000x")", "3"}) {
    write_index(R"({"a":)" + std::string(name) + "}");
    expect_bad({"index.json", "\"a\"", "beside the index"});
  }
}

TEST_F(CheckpointTest, DamagedIndex) {
  const auto index = [&](const std::string& text) { write("model.safetensors.index.json", text); };
  index("");
  expect_bad({"index.json", "not a JSON object"});
  index("{");
  expect_bad({"index.json", "damaged JSON"});
  index("{}");
  expect_bad({"index.json", "weight_map is missing"});
  write_index("[]");
  expect_bad({"index.json", "weight_map is missing"});
}

}  // namespace
}  // namespace nybble
