#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include "nybble/io/safetensors.h"
#include "tests/io/temporary_folder.h"

namespace nybble {
namespace {

using test::exact_bytes;
using test::expect_error;
using Shape = std::vector<std::size_t>;

/// A disk that is full after `bytes`: the system refuses to let any file grow further.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    struct rlimit limit = before_;
    limit.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  struct rlimit before_ {};
  void (*handler_)(int) = nullptr;
};

TEST(SafetensorsWriter, RoundTrips) {
  const test::TemporaryFolder folder;
  const auto floats = exact_bytes("12345678");
  const auto odd = exact_bytes("abc");
  const std::string strange = "quote\" newline\n slash/ \xc3\xa9";
  SafetensorsWriter writer(folder / "m.safetensors");
  writer.add(strange, TensorType::u8, Shape{3}, odd);
  writer.add("empty", TensorType::f32, Shape{0, 4}, {});
  writer.add("b", TensorType::f32, Shape{2, 1}, floats);
  writer.add("scalar", TensorType::f64, Shape{}, floats);
  writer.set_metadata("format", "x");
  writer.set_metadata("format", "pt \"quoted\"");
  EXPECT_FALSE(std::filesystem::exists(folder / "m.safetensors"));
  writer.finish();
  EXPECT_EQ(folder.file_count(), 1u);

  const SafetensorsFile file(folder / "m.safetensors");
  std::vector<std::string> names;
  for (const TensorView& tensor : file.tensors()) names.push_back(tensor.name);
  EXPECT_EQ(names, (std::vector<std::string>{strange, "empty", "b", "scalar"}));
  EXPECT_EQ(file.metadata().at("format"), "pt \"quoted\"");
  const TensorView& b = file.at("b");
  EXPECT_EQ(b.type, TensorType::f32);
  EXPECT_EQ(b.shape, (Shape{2, 1}));
  EXPECT_EQ(std::vector<std::byte>(b.bytes.begin(), b.bytes.end()), floats);
  EXPECT_TRUE(file.at("scalar").shape.empty());
  EXPECT_EQ(file.at("empty").shape, (Shape{0, 4}));
}

TEST(SafetensorsWriter, BytesOfTheFile) {
  const test::TemporaryFolder folder;
  const auto data = exact_bytes("abcd");
  SafetensorsWriter writer(folder / "m.safetensors");
  writer.add("w", TensorType::bf16, Shape{1, 2}, data);
  writer.finish();
  // 60 characters, so 4 spaces.
  EXPECT_EQ(test::read_text(folder / "m.safetensors"),
            std::string("\x40\0\0\0\0\0\0\0", 8) +
                R"({"w":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}})"
                "       abcd");
}

TEST(SafetensorsWriter, ChecksWhatIsAdded) {
  const test::TemporaryFolder folder;
  const auto data = exact_bytes("abcd");
  SafetensorsWriter writer(folder / "m.safetensors");
  writer.add("w", TensorType::f32, Shape{1}, data);
  expect_error(ErrorCode::bad_option, {"m.safetensors", "\"w\"", "twice"},
               [&] { writer.add("w", TensorType::f32, Shape{1}, data); });
  expect_error(ErrorCode::bad_shape, {"m.safetensors", "\"v\"", "4 bytes", "[2]", "F32"},
               [&] { writer.add("v", TensorType::f32, Shape{2}, data); });
  expect_error(ErrorCode::bad_shape, {"\"v\""}, [&] {
    writer.add("v", TensorType::u8, Shape{1ull << 32, 1ull << 32}, {});
  });
  expect_error(ErrorCode::bad_shape, {"\"v\""},
               [&] { writer.add("v", TensorType::f4, Shape{7}, data); });
  expect_error(ErrorCode::bad_option, {"__metadata__", "reserved"},
               [&] { writer.add("__metadata__", TensorType::f32, Shape{1}, data); });
  expect_error(ErrorCode::bad_option, {"m.safetensors", "UTF-8"},
               [&] { writer.add("\xff", TensorType::f32, Shape{1}, data); });
  expect_error(ErrorCode::bad_option, {"m.safetensors", "UTF-8"},
               [&] { writer.set_metadata("a", "\xff"); });
  writer.add("v", TensorType::f32, Shape{1}, data);  // refused ones left nothing behind
  writer.finish();
  const SafetensorsFile file(folder / "m.safetensors");
  EXPECT_EQ(file.tensors().size(), 2u);
}

TEST(SafetensorsWriter, AFullDiskLeavesTheOldFile) {
  const test::TemporaryFolder folder;
  test::write_text(folder / "m.safetensors", "old");
  const std::vector<std::byte> data(100'000);
  {
    SafetensorsWriter writer(folder / "m.safetensors");
    writer.add("w", TensorType::u8, Shape{100'000}, data);
    const FileSizeLimit limit(50'000);
    expect_error(ErrorCode::io, {(folder / "m.safetensors").string(), "File too large"},
                 [&] { writer.finish(); });
    EXPECT_EQ(test::read_text(folder / "m.safetensors"), "old");
  }
  EXPECT_EQ(test::read_text(folder / "m.safetensors"), "old");
  EXPECT_EQ(folder.file_count(), 1u);
}

TEST(SafetensorsWriter, WithoutFinishNothingAppears) {
  const test::TemporaryFolder folder;
  { const SafetensorsWriter writer(folder / "m.safetensors"); }
  EXPECT_EQ(folder.file_count(), 0u);
  expect_error(ErrorCode::io, {"none"},
               [&] { SafetensorsWriter writer(folder / "none/m.safetensors"); });
}

}  // namespace
}  // namespace nybble
