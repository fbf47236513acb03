#include "nybble/io/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "nybble/error.h"
#include "src/io/gguf_format.h"
#include "tests/io/gguf_text.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/shared.h"

namespace nybble {
namespace {

using test::expect_error;
using test::GgufText;

GgufFile parse(const std::vector<std::byte>& bytes) { return GgufFile::parse(bytes, "file.gguf"); }

void expect_bad(const GgufText& text, const std::vector<std::string>& parts,
                ErrorCode code = ErrorCode::bad_file) {
  std::vector<std::string> all = parts;
  all.emplace_back("file.gguf");
  expect_error(code, all, [&] { parse(test::exact_bytes(text.bytes())); });
}

/// The file written again through GgufWriter.
std::string rewritten(const GgufFile& file) {
  const test::TemporaryFolder folder;
  GgufWriter writer(folder / "out.gguf", {file.version(), file.ends_unpadded()});
  for (const auto& [key, value] : file.values()) writer.set(key, value);
  for (const GgufTensor& tensor : file.tensors()) {
    writer.add(tensor.name, tensor.type, tensor.shape, tensor.bytes);
  }
  writer.finish();
  return test::read_text(folder / "out.gguf");
}

std::string rewritten(const std::string& text) {
  const std::vector<std::byte> bytes = test::exact_bytes(text);
  return rewritten(parse(bytes));
}

/// Two small tensors and a key, all as ggml would have it.
GgufText small_file() {
  GgufText text(2, 1);
  text.key("general.architecture", 8).text("llama");
  text.tensor("a", {3, 2}, 0, 0).tensor("b", {32}, 2, 32);
  return text.pad().data(std::string(24, 'a')).pad().data(std::string(18, 'b')).pad();
}

TEST(Gguf, ReadsTensorsRowMajor) {
  const std::string text = small_file().bytes();
  const std::vector<std::byte> bytes = test::exact_bytes(text);
  const GgufFile file = parse(bytes);
  EXPECT_EQ(file.version(), 3U);
  EXPECT_EQ(file.alignment(), 32U);
  ASSERT_EQ(file.tensors().size(), 2U);
  EXPECT_EQ(file.tensors()[0].shape, (std::vector<std::size_t>{2, 3}));
  EXPECT_EQ(file.at("b").type, GgufType::q4_0);
  EXPECT_EQ(file.at("b").bytes.size(), 18U);
  EXPECT_EQ(std::to_integer<char>(file.at("b").bytes[0]), 'b');
  EXPECT_EQ(file.find("c"), nullptr);
  ASSERT_NE(file.value("general.architecture"), nullptr);
  EXPECT_EQ(std::get<std::string>(*file.value("general.architecture")), "llama");
  expect_error(ErrorCode::bad_option, {"file.gguf", "\"c\"", "\"a\""}, [&] { (void)file.at("c"); });
  EXPECT_EQ(rewritten(text), text);
}

TEST(Gguf, ViewsOutliveAMove) {
  const test::TemporaryFolder folder;
  test::write_text(folder / "x.gguf", small_file().bytes());
  GgufFile first(folder / "x.gguf");
  const GgufTensor* tensor = first.find("b");
  const GgufFile second = std::move(first);
  EXPECT_EQ(second.find("b"), tensor);
  EXPECT_EQ(second.find("b")->bytes.size(), 18U);
  EXPECT_NE(second.value("general.architecture"), nullptr);
}

TEST(Gguf, KeepsEveryTypeOfValue) {
  GgufText text(0, 17);
  text.key("u8", 0).put<std::uint8_t>(255).key("i8", 1).put<std::int8_t>(-128);
  text.key("u16", 2).put<std::uint16_t>(65535).key("i16", 3).put<std::int16_t>(-32768);
  text.key("u32", 4).put(0xFFFFFFFFU).key("i32", 5).put(std::numeric_limits<std::int32_t>::min());
  text.key("nan", 6).put(0x7F800001U).key("true", 7).put<std::uint8_t>(1);
  text.key("text", 8).text(std::string_view("\xFF\0 not UTF-8", 12));
  text.key("u64", 10).put(std::numeric_limits<std::uint64_t>::max());
  text.key("i64", 11).put(std::numeric_limits<std::int64_t>::min());
  text.key("f64", 12).put(0x7FF0000000000001U);
  text.key("texts", 9).put(8U).put<std::uint64_t>(2).text("").text("two");
  text.key("bools", 9).put(7U).put<std::uint64_t>(3).data(std::string_view("\1\0\1", 3));
  text.key("empty", 9).put(12U).put<std::uint64_t>(0);
  text.key("floats", 9).put(6U).put<std::uint64_t>(2).put(-0.0F).put(0x7FA00000U);
  text.key("arrays", 9).put(9U).put<std::uint64_t>(2);
  text.put(5U).put<std::uint64_t>(1).put(-7).put(8U).put<std::uint64_t>(0);
  const std::vector<std::byte> bytes = test::exact_bytes(text.bytes());
  const GgufFile file = parse(bytes);
  ASSERT_EQ(file.values().size(), 17U);
  EXPECT_EQ(std::get<std::int8_t>(*file.value("i8")), -128);
  EXPECT_TRUE(std::get<bool>(*file.value("true")));
  EXPECT_TRUE(std::isnan(std::get<float>(*file.value("nan"))));
  const auto& texts = std::get<GgufArray>(*file.value("texts"));
  EXPECT_EQ(std::get<std::vector<std::string>>(texts.values),
            (std::vector<std::string>{"", "two"}));
  const auto& arrays = std::get<GgufArray>(*file.value("arrays"));
  EXPECT_EQ(std::get<std::vector<std::int32_t>>(
                std::get<std::vector<GgufArray>>(arrays.values)[0].values),
            std::vector<std::int32_t>{-7});
  EXPECT_EQ(rewritten(file), text.bytes());
}

TEST(Gguf, RealFilesAreWrittenAgainByteForByte) {
  for (const char* name : {"ggml-vocab-gpt-2.gguf", "ggml-vocab-llama-spm.gguf"}) {
    NYBBLE_SHARED_OR_SKIP(path, std::string("models/fixtures/") + name);
    const GgufFile file(path);
    EXPECT_GE(file.values().size(), 16U) << name;
    EXPECT_EQ(rewritten(file), test::read_text(path)) << name;
  }
}

// The fixture is the header of a file alone: 64 x 128 f32 that are not there.
TEST(Gguf, AHeaderWithoutItsDataIsRefusedAndWithThemWrittenAgain) {
  NYBBLE_SHARED_OR_SKIP(path, "models/fixtures/tiny.gguf");
  expect_error(ErrorCode::bad_file, {"tiny.gguf", "test.weight.0", "32768", "0 bytes of data"},
               [&] { GgufFile{path}; });
  std::string text = test::read_text(path);
  text.resize(128 + 32768);
  EXPECT_EQ(rewritten(text), text);
}

TEST(Gguf, VersionPaddingAndAlignmentAreWrittenAgain) {
  for (const std::uint32_t version : {2U, 3U}) {
    for (const std::uint32_t alignment : {1U, 8U, 32U, 4096U}) {
      GgufText text(2, 1, version);
      text.key("general.alignment", 4).put(alignment);
      text.tensor("a", {3}, 0, 0)
          .tensor("b", {1, 1, 1, 5}, 24, (12 + alignment - 1) / alignment * alignment);
      text.pad(alignment).data(std::string(12, 'a')).pad(alignment).data("abcde");
      const std::vector<std::byte> bytes = test::exact_bytes(text.bytes());
      EXPECT_EQ(parse(bytes).ends_unpadded(), alignment != 1);
      const GgufFile file = parse(bytes);
      EXPECT_EQ(file.tensors()[1].shape, (std::vector<std::size_t>{5, 1, 1, 1}));
      EXPECT_EQ(rewritten(text.bytes()), text.bytes());
      text.pad(alignment);
      EXPECT_EQ(rewritten(text.bytes()), text.bytes());
    }
  }
  // Tensors of nothing, a scalar, no tensors at all.
  for (const bool padded : {false, true}) {
    GgufText empty(1, 0);
    empty.tensor("a", {0, 7}, 0, 0);
    GgufText scalar(2, 0);
    scalar.tensor("a", {0}, 0, 0).tensor("s", {}, 0, 0).pad().put(1.0F);
    GgufText none(0, 0);
    for (GgufText* text : {&empty, &scalar, &none}) {
      if (padded) text->pad();
      EXPECT_EQ(rewritten(text->bytes()), text->bytes());
    }
  }
}

TEST(Gguf, EveryTypeHasTheSizeOfItsBlocks) {
  std::size_t types = 0;
  for (std::uint32_t number = 0; number < 100; ++number) {
    const auto type = io::gguf_type_from_number(number);
    if (!type) {
      GgufText text(1, 0);
      expect_bad(text.tensor("t", {256}, number, 0).pad().data(std::string(2048, 'x')),
                 {"\"t\"", "unknown type " + std::to_string(number)});
      continue;
    }
    ++types;
    GgufText text(1, 0);
    const std::size_t bytes = 2 * gguf_block_bytes(*type);
    text.tensor("t", {gguf_block_values(*type), 2}, number, 0).pad().data(std::string(bytes, 'x'));
    EXPECT_EQ(rewritten(text.bytes()), text.bytes()) << gguf_type_name(*type);
  }
  EXPECT_EQ(types, 35U);
}

// The holes of other parsers, users.md row 23.

TEST(GgufHoles, ALengthThatWrapsWhenAdded) {
  for (const std::uint64_t length :
       {~std::uint64_t{0}, ~std::uint64_t{7}, std::uint64_t{1} << 63}) {
    GgufText text(0, 1);
    expect_bad(text.put(length).data("abcdefghijklmnop"), {"key 0", std::to_string(length)});
    GgufText value(0, 1);
    expect_bad(value.key("k", 8).put(length).data("abcdefgh"), {"\"k\"", std::to_string(length)});
    GgufText name(1, 0);
    expect_bad(name.put(length).data(std::string(32, 'x')), {"tensor 0", std::to_string(length)});
    GgufText array(0, 1);
    expect_bad(array.key("k", 9).put(0U).put(length).data("ab"), {"\"k\"", std::to_string(length)});
  }
}

TEST(GgufHoles, ANegativeOffset) {
  GgufText text(1, 0);
  expect_bad(text.tensor("t", {8}, 0, ~std::uint64_t{31}).pad().data(std::string(32, 'x')),
             {"\"t\"", "leaves a hole"});
}

TEST(GgufHoles, AShapeProductThatWrapsToZero) {
  const std::uint64_t big = std::uint64_t{1} << 32;
  for (const auto& dims : std::vector<std::vector<std::uint64_t>>{
           {big, big}, {big, big, 0}, {0, big, big}, {big / 2, big, 2}, {std::uint64_t{1} << 62}}) {
    GgufText text(1, 0);
    text.tensor("t", dims, 0, 0).pad();
    if (std::find(dims.begin(), dims.end(), 0U) != dims.end()) continue;  // really no bytes
    expect_bad(text, {"\"t\"", "more than 2^64 bytes"});
  }
  GgufText negative(1, 0);
  expect_bad(negative.tensor("t", {~std::uint64_t{0}}, 0, 0).pad(), {"\"t\"", "2^63"});
  // 2^60 values of Q4_0: the bytes fit into 64 bits, but not into the file.
  GgufText large(1, 0);
  expect_bad(large.tensor("t", {std::uint64_t{1} << 60}, 2, 0).pad(), {"\"t\"", "0 bytes of data"});
}

TEST(GgufHoles, AShapeThatNeedsMoreThanTheFileHas) {
  GgufText text(1, 0);
  expect_bad(text.tensor("t", {9}, 0, 0).pad().data(std::string(32, 'x')),
             {"\"t\"", "needs 36 bytes from offset 0", "32 bytes of data"});
}

TEST(GgufHoles, DuplicateKeys) {
  GgufText text(0, 2);
  text.key("k", 0).put<std::uint8_t>(1).key("k", 0).put<std::uint8_t>(1);
  expect_bad(text, {"\"k\"", "twice"});
}

TEST(GgufHoles, DuplicateTensors) {
  GgufText text(2, 0);
  text.tensor("t", {8}, 0, 0).tensor("t", {8}, 0, 32).pad().data(std::string(64, 'x'));
  expect_bad(text, {"\"t\"", "twice"});
}

TEST(GgufHoles, OverlapsAndGaps) {
  const auto file = [](std::uint64_t second) {
    GgufText text(2, 0);
    text.tensor("a", {16}, 0, 0).tensor("b", {8}, 0, second).pad().data(std::string(256, 'x'));
    return text;
  };
  expect_bad(file(32), {"\"b\"", "overlaps", "expected 64"});
  expect_bad(file(0), {"\"b\"", "overlaps", "expected 64"});
  expect_bad(file(96), {"\"b\"", "hole", "expected 64"});
  expect_bad(file(65), {"\"b\"", "multiple of 32"});
  GgufText first(1, 0);
  expect_bad(first.tensor("a", {8}, 0, 32).pad().data(std::string(64, 'x')), {"\"a\"", "hole"});
  GgufText rest(1, 0);
  expect_bad(rest.tensor("a", {8}, 0, 0).pad().data(std::string(33, 'x')), {"97 bytes", "96"});
}

TEST(GgufHoles, CountsBeyondTheFile) {
  for (const std::uint64_t count : {std::uint64_t{2}, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    GgufText tensors(count, 0);
    expect_bad(tensors.data(std::string(24, '\0')), {std::to_string(count) + " tensors"});
    GgufText keys(0, count);
    expect_bad(keys.data(std::string(13, '\0')), {std::to_string(count) + " keys"});
  }
}

TEST(GgufHoles, ArraysInsideArraysWithoutEnd) {
  GgufText text(0, 1);
  text.key("k", 9);
  for (int i = 0; i < 10000; ++i) text.put(9U).put<std::uint64_t>(1);
  expect_bad(text, {"\"k\"", "deep"});
}

TEST(Gguf, RefusesWhatIsNotGguf) {
  const auto refuse = [](std::string_view bytes, const std::vector<std::string>& parts,
                         ErrorCode code) {
    expect_error(code, parts, [&] { parse(test::exact_bytes(bytes)); });
  };
  refuse("", {"4 bytes expected"}, ErrorCode::bad_file);
  refuse("GGML\3\0\0\0", {"\"GGML\""}, ErrorCode::bad_file);
  expect_bad(GgufText(0, 0, 1), {"version 1"}, ErrorCode::unsupported);
  expect_bad(GgufText(0, 0, 4), {"version 4"}, ErrorCode::unsupported);
  expect_bad(GgufText(0, 0, 0x03000000), {"big endian"}, ErrorCode::unsupported);
}

TEST(Gguf, RefusesJunkFields) {
  const auto with_key = [](std::uint32_t type, std::string_view value) {
    GgufText text(0, 1);
    return text.key("k", type).data(value);
  };
  expect_bad(with_key(13, "xxxxxxxx"), {"\"k\"", "unknown type 13"});
  expect_bad(with_key(7, "\2"), {"\"k\"", "bool 2"});
  expect_bad(with_key(9, std::string_view("\7\0\0\0\1\0\0\0\0\0\0\0\2", 13)), {"\"k\"", "bool 2"});
  expect_bad(with_key(9, std::string_view("\15\0\0\0\0\0\0\0\0\0\0\0", 12)), {"unknown type 13"});
  GgufText axes(1, 0);
  expect_bad(axes.tensor("t", {1, 1, 1, 1, 1}, 0, 0).pad().put(1.0F), {"\"t\"", "5 axes"});
  GgufText blocks(1, 0);
  expect_bad(blocks.tensor("t", {33, 32}, 2, 0).pad().data(std::string(1024, 'x')),
             {"\"t\"", "[32, 33] of Q4_0", "whole blocks of 32"});
  for (const std::uint32_t alignment : {0U, 3U, 33U}) {
    GgufText text(0, 1);
    expect_bad(text.key("general.alignment", 4).put(alignment), {"general.alignment", "power"});
  }
  GgufText wide(0, 1);
  expect_bad(wide.key("general.alignment", 10).put<std::uint64_t>(32), {"is not a u32"});
  GgufText key(0, 1);
  expect_bad(key.key(std::string(65536, 'k'), 0).put<std::uint8_t>(0), {"65536 bytes"});
}

TEST(Gguf, EveryTruncationIsRefused) {
  const std::string text = small_file().bytes();
  for (std::size_t size = 0; size < text.size(); ++size) {
    if (size == text.size() - 14) continue;  // only the padding behind the data
    expect_error(ErrorCode::bad_file, {"file.gguf"},
                 [&] { parse(test::exact_bytes(text.substr(0, size))); });
  }
}

// What is accepted in spite of a wrong byte is still written as it was read.
TEST(Gguf, NoWrongByteBreaksIt) {
  std::mt19937 random(7);  // NOLINT: the same every time
  const std::string text = small_file().bytes();
  std::size_t accepted = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string changed = text;
    for (int n = 0; n < 1 + i % 3; ++n) {
      changed[random() % 120] = static_cast<char>(i % 2 == 0 ? random() : random() % 4);
    }
    try {
      const std::string again = rewritten(changed);
      EXPECT_EQ(again.size(), changed.size());
      ++accepted;
    } catch (const Error&) {
      continue;
    }
  }
  EXPECT_GT(accepted, 10U);
}

TEST(GgufWriter, RefusesWhatNoReaderTakes) {
  const test::TemporaryFolder folder;
  const auto path = folder / "x.gguf";
  expect_error(ErrorCode::bad_option, {"x.gguf", "version 1"}, [&] {
    GgufWriter(path, {1, false});
  });
  GgufWriter writer(path);
  const std::vector<std::byte> bytes(18);
  const std::vector<std::size_t> shape = {32};
  writer.add("t", GgufType::q4_0, shape, bytes);
  writer.set("k", std::uint8_t{1});
  expect_error(ErrorCode::bad_option, {"\"t\"", "twice"},
               [&] { writer.add("t", GgufType::q4_0, shape, bytes); });
  expect_error(ErrorCode::bad_option, {"64 bytes"},
               [&] { writer.add(std::string(64, 't'), GgufType::q4_0, shape, bytes); });
  expect_error(ErrorCode::bad_shape, {"\"u\"", "18 bytes", "[32] of Q4_1"},
               [&] { writer.add("u", GgufType::q4_1, shape, bytes); });
  expect_error(ErrorCode::bad_shape, {"\"u\"", "[33]"}, [&] {
    writer.add("u", GgufType::q4_0, std::vector<std::size_t>{33},
               [] { return std::vector<std::byte>(18); });
  });
  expect_error(ErrorCode::bad_option, {"\"k\"", "twice"},
               [&] { writer.set("k", std::uint8_t{1}); });
  expect_error(ErrorCode::bad_option, {"general.alignment", "power of two"},
               [&] { writer.set("general.alignment", 24U); });
  GgufArray nested;
  for (int i = 0; i < 4; ++i) nested = GgufArray{std::vector<GgufArray>{nested}};
  expect_error(ErrorCode::bad_option, {"\"a\"", "5 deep"}, [&] { writer.set("a", nested); });
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(GgufWriter, MakesBytesOneTensorAtATime) {
  const test::TemporaryFolder folder;
  const auto path = folder / "x.gguf";
  const std::vector<std::size_t> shape = {2, 32};
  std::vector<std::string> made;
  {
    GgufWriter writer(path);
    for (const char* name : {"a", "b"}) {
      writer.add(name, GgufType::q4_0, shape, [&made, name] {
        made.emplace_back(name);
        return std::vector<std::byte>(36, std::byte{static_cast<unsigned char>(*name)});
      });
    }
    EXPECT_TRUE(made.empty());
    writer.finish();
  }
  EXPECT_EQ(made, (std::vector<std::string>{"a", "b"}));
  const GgufFile file(path);
  EXPECT_EQ(std::to_integer<char>(file.at("b").bytes[35]), 'b');

  GgufWriter wrong(path);
  wrong.add("a", GgufType::q4_0, shape, [] { return std::vector<std::byte>(35); });
  expect_error(ErrorCode::bad_shape, {"\"a\"", "35 bytes", "36"}, [&] { wrong.finish(); });
  const GgufFile old(path);
  EXPECT_EQ(old.tensors().size(), 2U);
}

}  // namespace
}  // namespace nybble
