#include "nybble/io/atomic_file.h"

#include <gtest/gtest.h>

#include "nybble/io/mapped_file.h"
#include "tests/io/temporary_folder.h"

namespace nybble {
namespace {

using test::exact_bytes;
using test::expect_error;

TEST(AtomicFile, AppearsOnCommit) {
  const test::TemporaryFolder folder;
  AtomicFile file(folder / "a");
  file.write(exact_bytes("hel"));
  file.write(exact_bytes("lo"));
  EXPECT_FALSE(std::filesystem::exists(folder / "a"));
  file.commit();
  EXPECT_EQ(test::read_text(folder / "a"), "hello");
  EXPECT_EQ(folder.file_count(), 1u);
}

TEST(AtomicFile, WithoutCommitNothingChanges) {
  const test::TemporaryFolder folder;
  test::write_text(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write(exact_bytes("new"));
    EXPECT_EQ(test::read_text(folder / "a"), "old");
  }
  EXPECT_EQ(test::read_text(folder / "a"), "old");
  EXPECT_EQ(folder.file_count(), 1u);
}

TEST(AtomicFile, AMappingOfTheOldFileSurvives) {
  const test::TemporaryFolder folder;
  test::write_text(folder / "a", "old");
  const MappedFile old(folder / "a");
  AtomicFile file(folder / "a");
  file.write(exact_bytes("newer"));
  file.commit();
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(old.bytes().data()), 3), "old");
  EXPECT_EQ(test::read_text(folder / "a"), "newer");
}

TEST(AtomicFile, TwoWritersDoNotMix) {
  const test::TemporaryFolder folder;
  AtomicFile first(folder / "a");
  AtomicFile second(folder / "a");
  first.write(exact_bytes("first"));
  second.write(exact_bytes("second"));
  first.commit();
  EXPECT_EQ(test::read_text(folder / "a"), "first");
  second.commit();
  EXPECT_EQ(test::read_text(folder / "a"), "second");
}

TEST(AtomicFile, FollowsALink) {
  const test::TemporaryFolder folder;
  test::write_text(folder / "a", "old");
  std::filesystem::create_symlink(folder / "a", folder / "link");
  AtomicFile file(folder / "link");
  file.write(exact_bytes("new"));
  file.commit();
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_EQ(test::read_text(folder / "a"), "new");
}

TEST(AtomicFile, RefusesWhatItCannotReplace) {
  const test::TemporaryFolder folder;
  expect_error(ErrorCode::io, {"none", "No such file"},
               [&] { AtomicFile file(folder / "none/a"); });
  expect_error(ErrorCode::io, {folder.path().string(), "regular file"},
               [&] { AtomicFile file(folder.path()); });
  expect_error(ErrorCode::io, {"/dev/null", "regular file"}, [] { AtomicFile file("/dev/null"); });
}

TEST(AtomicFile, FailingRenameLeavesNoTemporary) {
  const test::TemporaryFolder folder;
  {
    AtomicFile file(folder / "a");
    file.write(exact_bytes("new"));
    std::filesystem::create_directories(folder / "a/inside");
    expect_error(ErrorCode::io, {(folder / "a").string(), "rename"}, [&] { file.commit(); });
  }
  EXPECT_EQ(folder.file_count(), 1u);
  EXPECT_TRUE(std::filesystem::exists(folder / "a/inside"));
}

TEST(AtomicFile, IsCommittedOnce) {
  const test::TemporaryFolder folder;
  AtomicFile file(folder / "a");
  file.commit();
  expect_error(ErrorCode::io, {(folder / "a").string()}, [&] { file.commit(); });
  expect_error(ErrorCode::io, {(folder / "a").string()}, [&] { file.write(exact_bytes("x")); });
}

}  // namespace
}  // namespace nybble
