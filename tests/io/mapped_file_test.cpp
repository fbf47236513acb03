#include "nybble/io/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <utility>

#include "tests/io/temporary_folder.h"

namespace nybble {
namespace {

using test::expect_error;

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MappedFile, HoldsTheContents) {
  const test::TemporaryFolder folder;
  test::write_text(folder / "a", "hello");
  EXPECT_EQ(text_of(MappedFile(folder / "a")), "hello");
}

TEST(MappedFile, EmptyFileIsAnEmptySpan) {
  const test::TemporaryFolder folder;
  test::write_text(folder / "a", "");
  EXPECT_TRUE(MappedFile(folder / "a").bytes().empty());
}

TEST(MappedFile, MovesKeepTheAddress) {
  const test::TemporaryFolder folder;
  test::write_text(folder / "a", "hello");
  MappedFile first(folder / "a");
  const auto* const address = first.bytes().data();
  MappedFile second(std::move(first));
  MappedFile third;
  third = std::move(second);
  EXPECT_EQ(third.bytes().data(), address);
  EXPECT_EQ(text_of(third), "hello");
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const test::TemporaryFolder folder;
  expect_error(ErrorCode::io, {(folder / "none").string(), "No such file"},
               [&] { MappedFile file(folder / "none"); });
  expect_error(ErrorCode::io, {folder.path().string(), "regular file"},
               [&] { MappedFile file(folder.path()); });
  // Must not wait for somebody to write into the pipe.
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_error(ErrorCode::io, {"pipe", "regular file"}, [&] { MappedFile file(folder / "pipe"); });
}

}  // namespace
}  // namespace nybble
