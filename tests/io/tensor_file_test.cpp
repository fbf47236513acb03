#include "nybble/io/tensor_file.h"

#include <gtest/gtest.h>

#include "nybble/numeric/float16.h"
#include "src/io/decode_floats.h"
#include "tests/io/safetensors_text.h"
#include "tests/io/temporary_folder.h"

namespace nybble {
namespace {

using test::exact_bytes;
using test::expect_error;

void write_file(const std::filesystem::path& path,
                const std::vector<std::pair<std::string, std::string>>& tensors) {
  SafetensorsWriter writer(path);
  std::vector<std::vector<std::byte>> bytes;
  bytes.reserve(tensors.size());
  for (const auto& [name, text] : tensors) {
    bytes.push_back(exact_bytes(text));
    writer.add(name, TensorType::u8, std::vector{text.size()}, bytes.back());
  }
  writer.set_metadata("key", "value");
  writer.finish();
}

TEST(TensorFile, ReadsWhatAMappedFileShows) {
  const test::TemporaryFolder folder;
  write_file(folder / "m.safetensors", {{"b", "12345"}, {"a", ""}, {"c", "xyz"}});
  const SafetensorsFile mapped(folder / "m.safetensors");
  const TensorFile file(folder / "m.safetensors");
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.metadata(), mapped.metadata());
  EXPECT_EQ(file.size(), std::filesystem::file_size(folder / "m.safetensors"));
  for (std::size_t i = 0; i < 3; ++i) {
    const TensorView& view = mapped.tensors()[i];
    EXPECT_EQ(file.tensors()[i].name, view.name);
    EXPECT_EQ(file.tensors()[i].shape, view.shape);
    file.will_need(file.tensors()[i]);
    EXPECT_EQ(file.read(file.tensors()[i]),
              std::vector<std::byte>(view.bytes.begin(), view.bytes.end()));
  }
  EXPECT_EQ(file.find("none"), nullptr);
  std::vector<std::byte> piece(2);
  file.read(*file.find("b"), 3, piece);
  EXPECT_EQ(piece, exact_bytes("45"));
  expect_error(ErrorCode::bad_option, {"\"b\"", "4 + 2 of 5"},
               [&] { file.read(*file.find("b"), 4, piece); });
}

TEST(TensorFile, RefusesWhatAMappedFileRefuses) {
  const test::TemporaryFolder folder;
  const std::string overlap = R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                              R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})";
  for (const std::string& text :
       {std::string(), std::string("1234567"), std::string(8, '\xff'),
        std::string("\x10\0\0\0\0\0\0\0{}", 10), test::safetensors_text(overlap, "123"),
        test::safetensors_text("{}", "x")}) {
    test::write_text(folder / "bad.safetensors", text);
    std::string expected;
    try {
      SafetensorsFile(folder / "bad.safetensors");
      FAIL() << "a mapped file takes it";
    } catch (const Error& error) {
      expected = error.what();
    }
    expect_error(ErrorCode::bad_file, {expected}, [&] { TensorFile(folder / "bad.safetensors"); });
  }
  expect_error(ErrorCode::io, {"none.safetensors"},
               [&] { TensorFile(folder / "none.safetensors"); });
  expect_error(ErrorCode::io, {"regular file"}, [&] { TensorFile(folder.path()); });
}

TEST(TensorFile, SaysWhereAFileBecameShorter) {
  const test::TemporaryFolder folder;
  write_file(folder / "m.safetensors", {{"a", "12345"}});
  const TensorFile file(folder / "m.safetensors");
  std::filesystem::resize_file(folder / "m.safetensors", file.size() - 2);
  expect_error(ErrorCode::io, {"m.safetensors", "expected 2 more"},
               [&] { (void)file.read(file.tensors()[0]); });
}

TEST(TensorFiles, FindsTensorsInShards) {
  const test::TemporaryFolder folder;
  write_file(folder / "one.safetensors", {{"b", "1"}, {"a", "22"}});
  write_file(folder / "two.safetensors", {{"c", "333"}});
  test::write_text(
      folder / "model.safetensors.index.json",
      R"({"weight_map":{"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"}})");
  const TensorFiles files(folder.path());
  std::string names;
  for (const TensorFiles::Entry& entry : files.tensors()) names += entry.tensor->name;
  EXPECT_EQ(names, "bac");
  EXPECT_EQ(files.find("c").file, &files.files()[1]);
  EXPECT_EQ(files.find("d").file, nullptr);
  write_file(folder / "two.safetensors", {{"c", "333"}, {"a", "1"}});
  expect_error(ErrorCode::bad_file, {"two.safetensors", "\"a\" is in an earlier shard"},
               [&] { TensorFiles{folder.path()}; });
}

TEST(DecodeFloats, EveryF16IsWhatFloat16Says) {
  std::vector<std::uint16_t> bits(65536);
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::uint16_t>(i);
  std::vector<float> values(bits.size());
  io::decode_floats(TensorType::f16, reinterpret_cast<const std::byte*>(bits.data()), bits.size(),
                    values.data());
  for (std::size_t i = 0; i < bits.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(values[i]),
              std::bit_cast<std::uint32_t>(Float16{bits[i]}.to_float()))
        << i;
  }
}

}  // namespace
}  // namespace nybble
