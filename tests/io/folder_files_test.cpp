#include "src/io/folder_files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <map>
#include <string>

#include "src/io/model_files.h"
#include "tests/io/temporary_folder.h"

namespace nybble::io {
namespace {

namespace fs = std::filesystem;
using test::expect_error;

class FolderFiles : public testing::Test {
 protected:
  /// Creates a file and the folders before it.
  void add(const std::string& name, const std::string& text = "x") {
    fs::create_directories((folder_ / name).parent_path());
    test::write_text(folder_ / name, text);
  }
  /// Of all files: why they do not go along; empty where they do.
  std::map<std::string, std::string> listed() {
    std::map<std::string, std::string> out;
    for (const FolderFile& file : list_folder_files(folder_.path())) out[file.name] = file.kept_out;
    return out;
  }
  test::TemporaryFolder folder_;
};

TEST_F(FolderFiles, WhateverIsNotKnownAsSomethingElseGoesAlong) {
  for (const char* name :
       {"modeling_x.py", "qwen.tiktoken", "vocab.bpe", "merges.txt", "spiece.model", "LICENSE",
        "NOTICE.md", "README.md", "chat_template.jinja", "additional_chat_templates/tools.jinja",
        "tokenizer.bin", "generation_config.json", "assets/logo.png", "bpe_vocab.txt.gz",
        "tokenizer/vocab.json", "tokenizer/deeper/tokenizer.model", "1_Pooling/config.json",
        "something.new"}) {
    add(name);
    EXPECT_EQ(listed().at(name), "") << name;
  }
}

TEST_F(FolderFiles, WeightsLogsCachesAndHiddenFilesDoNot) {
  const std::map<std::string, std::string> rows = {
      {"pytorch_model.bin", "weights"},
      {"PYTORCH_MODEL.BIN", "weights"},
      {"pytorch_model.bin.index.json", "an index of weights"},
      {"consolidated.00.pth", "weights"},
      {"model-00001-of-00002.safetensors", "weights"},
      {"model.fp16.safetensors.index.json", "an index of weights"},
      {"optimizer.pt", "weights"},
      {"model.gguf", "weights"},
      {"tf_model.h5", "weights"},
      {"flax_model.msgpack", "weights"},
      {"model.onnx", "weights"},
      {"model.onnx_data", "weights"},
      {"model.onnx.data", "weights"},
      {"inputs.npy", "weights"},
      {"train.log", "a log"},
      {"events.out.tfevents.17.host", "a log"},
      {"runs/may/events.txt", "logs"},
      {"wandb/run.json", "logs"},
      {".gitattributes", "hidden"},
      {".git/config", "hidden"},
      {".cache/huggingface/download/config.json.metadata", "hidden"},
      {"__pycache__/modeling_x.cpython-311.pyc", "a cache"},
      {"modeling_x.pyc", "a cache"},
      {"vocab.json.incomplete", "unfinished"},
      {"vocab.json.tmp-17-0", "unfinished"},
      {"original/params.json", "a model of its own"},
      {"original/consolidated.00.pth", "a model of its own"},
      {"model.mlpackage/Manifest.json", "weights"},
      {"out/.nybble-parts/manifest.json", "being written"},
      {"out/config.json", "being written"}};
  for (const auto& [name, why] : rows) add(name);
  const std::map<std::string, std::string> found = listed();
  for (const auto& [name, why] : rows) {
    // Of a folder nothing is listed but itself.
    const auto at = found.contains(name) ? name : name.substr(0, name.find('/') + 1);
    ASSERT_TRUE(found.contains(at)) << name;
    EXPECT_EQ(found.at(at), why) << name;
  }
  for (const auto& [name, why] : found) EXPECT_NE(why, "") << name;
}

TEST_F(FolderFiles, ConfigAndIndexAreNotListedButThoseOfFoldersAre) {
  add("config.json");
  add("model.safetensors.index.json");
  add("text_encoder/config.json");
  EXPECT_EQ(listed(), (std::map<std::string, std::string>{{"text_encoder/config.json", ""}}));
}

TEST_F(FolderFiles, LinksAreFollowedAndLeadInNoCircles) {
  add("blobs/8f3a", "vocabulary");
  fs::create_directories(folder_ / "model/real");
  add("model/real/vocab.json");
  fs::create_symlink("../blobs/8f3a", folder_ / "model/vocab.bpe");
  fs::create_directory_symlink("../model", folder_ / "model/again");
  const std::vector<FolderFile> files = list_folder_files(folder_ / "model");
  ASSERT_EQ(files.size(), 3U);
  EXPECT_EQ(files[0].name, "again/");
  EXPECT_EQ(files[0].kept_out, "a link to a folder seen already");
  EXPECT_EQ(files[1].name, "real/vocab.json");
  EXPECT_EQ(files[2].name, "vocab.bpe");
  EXPECT_EQ(files[2].bytes, 10U);
  EXPECT_EQ(files[2].kept_out, "");
}

TEST_F(FolderFiles, ALinkToNothingIsAnErrorUnlessNothingWouldBeCopied) {
  fs::create_symlink("nowhere", folder_ / "pytorch_model.bin");
  EXPECT_EQ(listed().at("pytorch_model.bin"), "weights");
  fs::create_symlink("nowhere", folder_ / "vocab.bpe");
  expect_error(ErrorCode::io, {"vocab.bpe", "link to nothing"}, [&] { listed(); });
}

TEST_F(FolderFiles, WhatIsNoFileIsNotCopied) {
  ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(listed().at("pipe"), "no regular file");
}

TEST_F(FolderFiles, FilesAreCopiedIntoFoldersByTheirContent) {
  add("source/tokenizer/vocab.json", "{}");
  test::write_text(folder_ / "blob", "linked");
  fs::create_symlink(folder_ / "blob", folder_ / "source/vocab.bpe");
  const ModelFiles files = plan_model_files(folder_ / "source", {});
  ASSERT_EQ(files.files.size(), 2U);
  for (const ModelFile& file : files.files) {
    write_model_file(file, folder_ / "work", folder_ / "out");
  }
  EXPECT_EQ(test::read_text(folder_ / "out/tokenizer/vocab.json"), "{}");
  EXPECT_EQ(test::read_text(folder_ / "out/vocab.bpe"), "linked");
  EXPECT_FALSE(fs::is_symlink(folder_ / "out/vocab.bpe"));
}

TEST_F(FolderFiles, DescriptionsOfAnotherQuantizationStayBehindUnlessNothingChanges) {
  add("quantize_config.json", "{}");
  EXPECT_EQ(plan_model_files(folder_.path(), {}).files.size(), 1U);
  const ModelFiles files = plan_model_files(folder_.path(), {{"quantization_config", nullptr}});
  EXPECT_TRUE(files.files.empty());
  ASSERT_EQ(files.kept_out.size(), 1U);
  EXPECT_EQ(files.kept_out[0].kept_out, "describes another quantization");
}

}  // namespace
}  // namespace nybble::io
