#include "nybble/io/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "tests/io/safetensors_text.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/shared.h"

namespace nybble {
namespace {

using test::exact_bytes;
using test::expect_error;
using test::safetensors_text;
using Shape = std::vector<std::size_t>;

/// What the file says must be refused, naming the file and each part.
void expect_bad(const std::string& header, const std::string& data,
                std::vector<std::string> parts) {
  parts.push_back("m.safetensors");
  const auto bytes = exact_bytes(safetensors_text(header, data));
  expect_error(ErrorCode::bad_file, parts, [&] { SafetensorsFile::parse(bytes, "m.safetensors"); });
}

/// The entry of tensor "w" with one of its three values replaced.
std::string header_of_w(const std::string& dtype, const std::string& shape,
                        const std::string& offsets) {
  return R"({"w":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

const char kGoodHeader[] = R"({"__metadata__":{"format":"pt"},)"
                           R"("b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                           R"("a":{"dtype":"BF16","shape":[1,3],"data_offsets":[8,14]}}   )";
const char kGoodData[] = "0123456789abcd";

TEST(Safetensors, ReadsNamesTypesShapesBytes) {
  const auto bytes = exact_bytes(safetensors_text(kGoodHeader, kGoodData));
  const auto file = SafetensorsFile::parse(bytes, "m.safetensors");
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.tensors()[0].name, "b");
  const TensorView& a = file.at("a");
  EXPECT_EQ(&a, &file.tensors()[1]);
  EXPECT_EQ(a.type, TensorType::bf16);
  EXPECT_EQ(a.shape, (Shape{1, 3}));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(a.bytes.data()), a.bytes.size()), "89abcd");
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
  EXPECT_EQ(file.find("c"), nullptr);
}

TEST(Safetensors, UnknownNameListsNearOnes) {
  const std::string header =
      R"({"layers.0.q_proj":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
      R"("layers.0.k_proj":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
      R"("x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
      R"("norm":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})";
  const auto bytes = exact_bytes(safetensors_text(header, ""));
  const auto file = SafetensorsFile::parse(bytes, "m.safetensors");
  expect_error(ErrorCode::bad_option,
               {"m.safetensors", "\"layers.0.qproj\"", "4 tensors, such as \"layers.0.q_proj\""},
               [&] { (void)file.at("layers.0.qproj"); });
}

TEST(Safetensors, EveryTypeHasANameAndASize) {
  for (int i = 0; i < static_cast<int>(TensorType::opaque); ++i) {
    const auto type = static_cast<TensorType>(i);
    const std::string dtype = "\"" + std::string(tensor_type_name(type)) + "\"";
    const std::string data(tensor_type_bits(type), 'x');  // 8 elements
    const std::string size = std::to_string(data.size());
    const auto bytes =
        exact_bytes(safetensors_text(header_of_w(dtype, "[2,4]", "[0," + size + "]"), data));
    EXPECT_EQ(SafetensorsFile::parse(bytes, "m").at("w").type, type) << dtype;
  }
  EXPECT_EQ(tensor_type_name(TensorType::f8_e8m0), "F8_E8M0");
  EXPECT_EQ(tensor_type_bits(TensorType::f6_e3m2), 6u);
}

TEST(Safetensors, AnUnknownTypeIsBytesWithAName) {
  const std::string header = R"({"w":{"dtype":"F3_NEW","shape":[5],"data_offsets":[0,2]},)"
                             R"("opaque":{"dtype":"OPAQUE","shape":[],"data_offsets":[2,3]}})";
  const auto bytes = exact_bytes(safetensors_text(header, "abc"));
  const auto file = SafetensorsFile::parse(bytes, "m");
  const TensorView& w = file.at("w");
  EXPECT_EQ(w.type, TensorType::opaque);
  EXPECT_EQ(tensor_type_name(w), "F3_NEW");
  EXPECT_EQ(w.shape, Shape{5});
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(w.bytes.data()), w.bytes.size()), "ab");
  EXPECT_EQ(tensor_type_name(file.at("opaque")), "OPAQUE");
  expect_error(ErrorCode::unsupported, {"\"w\"", "type F3_NEW"}, [&] { (void)to_f32(w); });
}

TEST(Safetensors, EmptyTensorsScalarsAndEmptyFiles) {
  const std::string header = R"({"z":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},)"
                             R"("s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                             R"("t":{"dtype":"F4","shape":[2],"data_offsets":[4,5]}})";
  const auto bytes = exact_bytes(safetensors_text(header, "12345"));
  const auto file = SafetensorsFile::parse(bytes, "m");
  EXPECT_TRUE(file.at("s").shape.empty());
  EXPECT_TRUE(file.at("z").bytes.empty());
  EXPECT_EQ(to_f32(file.at("s")).size(), 1u);
  const auto no_tensor = exact_bytes(safetensors_text("{}", ""));
  const auto empty_file = SafetensorsFile::parse(no_tensor, "m");
  EXPECT_TRUE(empty_file.tensors().empty());
}

TEST(Safetensors, ViewsSurviveAMove) {
  const test::TemporaryFolder folder;
  test::write_text(folder / "m.safetensors", safetensors_text(kGoodHeader, kGoodData));
  SafetensorsFile first(folder / "m.safetensors");
  const TensorView* const a = first.find("a");
  const SafetensorsFile second(std::move(first));
  EXPECT_EQ(second.find("a"), a);
  EXPECT_EQ(std::to_integer<char>(a->bytes[0]), '8');
}

TEST(Safetensors, ToF32ReadsUnalignedFloats) {
  const std::vector<std::uint16_t> bf16 = {0x3F80, 0xC000};
  const std::vector<std::uint16_t> f16 = {0x3C00, 0xC000};
  const double f64 = 0.1;
  const float f32 = -1.5f;
  std::vector<std::byte> data(1);  // everything after it is unaligned
  const auto append = [&](auto span) {
    const auto bytes = std::as_bytes(span);
    const std::size_t begin = data.size();
    data.insert(data.end(), bytes.begin(), bytes.end());
    return begin;
  };
  const std::size_t at_bf16 = append(std::span(bf16));
  const std::size_t at_f16 = append(std::span(f16));
  const std::size_t at_f64 = append(std::span(&f64, 1));
  const std::size_t at_f32 = append(std::span(&f32, 1));
  const std::span<const std::byte> all(data);
  using Floats = std::vector<float>;
  EXPECT_EQ(to_f32({"w", TensorType::bf16, {2}, all.subspan(at_bf16, 4)}), (Floats{1.0f, -2.0f}));
  EXPECT_EQ(to_f32({"w", TensorType::f16, {2}, all.subspan(at_f16, 4)}), (Floats{1.0f, -2.0f}));
  EXPECT_EQ(to_f32({"w", TensorType::f64, {1}, all.subspan(at_f64, 8)}), Floats{0.1f});
  EXPECT_EQ(to_f32({"w", TensorType::f32, {}, all.subspan(at_f32, 4)}), Floats{-1.5f});
  expect_error(ErrorCode::unsupported, {"\"w\"", "I8"}, [&] {
    to_f32({"w", TensorType::i8, {1}, all.subspan(0, 1)});
  });
  expect_error(ErrorCode::bad_shape, {"\"w\"", "[3]"}, [&] {
    to_f32({"w", TensorType::bf16, {3}, all.subspan(0, 4)});
  });
}

TEST(SafetensorsAttack, HeaderLength) {
  const auto with_length = [](std::uint64_t length) {
    std::string file = safetensors_text("{}", "");
    for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(length >> (8 * i) & 0xff);
    return exact_bytes(file);
  };
  // The last ones wrap when 8 is added.
  for (const std::uint64_t length :
       {std::uint64_t{3}, std::uint64_t{100'000'000}, std::uint64_t{100'000'001}, UINT64_MAX / 2,
        UINT64_MAX - 7, UINT64_MAX - 5, UINT64_MAX}) {
    const auto bytes = with_length(length);
    const std::string reason = length <= 100'000'000 ? "bytes follow it" : "at most 100000000";
    expect_error(ErrorCode::bad_file, {"m", "header length " + std::to_string(length), reason},
                 [&] { SafetensorsFile::parse(bytes, "m"); });
  }
  EXPECT_NO_THROW(SafetensorsFile::parse(with_length(2), "m"));
}

TEST(SafetensorsAttack, AGgufFileIsCalledOne) {
  for (const char* const text : {"GGUF", "GGUF\3 and more"}) {
    expect_error(ErrorCode::bad_file, {"m", "is a GGUF file, expected a safetensors file"},
                 [&] { SafetensorsFile::parse(exact_bytes(text), "m"); });
  }
}

TEST(SafetensorsAttack, OnlyAnObjectWillDo) {
  for (const char* const header : {"", "[]", "1", " {}", "\xef\xbb\xbf{}", "null"}) {
    expect_bad(header, "", {"not a JSON object"});
  }
  for (const char* const header : {"{", "{}x", "{} {}", "{\"a\"}", "{\"a\":}", "{'a':1}", "{,}"}) {
    expect_bad(header, "", {"damaged JSON"});
  }
  expect_bad("{\"\xff\":1}", "", {"damaged JSON"});
  expect_bad(R"({"w":1e999})", "", {"out of range"});
}

TEST(SafetensorsAttack, Nesting) {
  std::string deep = "{\"w\":";
  for (int i = 0; i < 100'000; ++i) deep += '[';
  expect_bad(deep, "", {"nested deeper"});
  expect_bad(header_of_w(R"("U8")", "[[1]]", "[0,1]"), "a", {"nested deeper"});
}

TEST(SafetensorsAttack, DuplicateKeys) {
  const std::string w = R"("w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  expect_bad("{" + w + "," + w + "}", "a", {"duplicate key \"w\""});
  expect_bad("{" + w + R"(,"\u0077":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", "a",
             {"duplicate key \"w\""});
  expect_bad(R"({"w":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}})", "a",
             {"duplicate key \"shape\""});
  expect_bad(R"({"__metadata__":{"a":"1","a":"2"}})", "", {"duplicate key \"a\""});
}

TEST(SafetensorsAttack, Offsets) {
  expect_bad(header_of_w(R"("U8")", "[1]", "[1,0]"), "a", {"\"w\"", "end 0 before begin 1"});
  expect_bad(header_of_w(R"("U8")", "[1]", "[-1,0]"), "a", {"\"w\"", "unsigned"});
  expect_bad(header_of_w(R"("U8")", "[1]", "[-0,1]"), "a", {"\"w\"", "unsigned"});
  expect_bad(header_of_w(R"("U8")", "[1]", "[0.0,1]"), "a", {"\"w\"", "unsigned"});
  expect_bad(header_of_w(R"("U8")", "[1]", "[0,1e0]"), "a", {"\"w\"", "unsigned"});
  expect_bad(header_of_w(R"("U8")", "[1]", "[0,18446744073709551617]"), "a", {"\"w\"", "2^64"});
  expect_bad(header_of_w(R"("U8")", "[1]", R"(["0",1])"), "a", {"\"w\"", "unsigned"});
  expect_bad(header_of_w(R"("U8")", "[2]", "[0,2]"), "a", {"\"w\"", "end 2", "1 bytes"});
  expect_bad(header_of_w(R"("U8")", "[1]", "[18446744073709551615,18446744073709551615]"), "a",
             {"\"w\"", "end 18446744073709551615"});
  expect_bad(header_of_w(R"("U8")", "[1]", "[0]"), "a", {"\"w\"", "begin and end"});
  expect_bad(header_of_w(R"("U8")", "[1]", "[0,1,1]"), "a", {"\"w\"", "begin and end"});
  expect_bad(header_of_w(R"("U8")", "[1]", "1"), "a", {"\"w\"", "not an array"});
}

TEST(SafetensorsAttack, Shapes) {
  // 2^32 * 2^32 = 0, 2^62 * 4 = 0 and 2^60 * 2 * 8 + 1 = 1 modulo 2^64.
  expect_bad(header_of_w(R"("U8")", "[4294967296,4294967296]", "[0,0]"), "", {"\"w\"", "shape"});
  expect_bad(header_of_w(R"("F32")", "[4611686018427387904]", "[0,0]"), "", {"\"w\"", "shape"});
  expect_bad(header_of_w(R"("F64")", "[2,1152921504606846976]", "[0,0]"), "", {"\"w\"", "shape"});
  // A buffer sized from the shape and filled from the offsets, both ways.
  expect_bad(header_of_w(R"("F32")", "[1]", "[0,8]"), "12345678",
             {"\"w\"", "hold 8", "expected 4"});
  expect_bad(header_of_w(R"("F32")", "[3]", "[0,8]"), "12345678",
             {"\"w\"", "hold 8", "expected 12"});
  expect_bad(header_of_w(R"("U8")", "[-1]", "[0,1]"), "a", {"\"w\"", "unsigned"});
  expect_bad(header_of_w(R"("U8")", "[1.0]", "[0,1]"), "a", {"\"w\"", "unsigned"});
  expect_bad(header_of_w(R"("U8")", "[true]", "[0,1]"), "a", {"\"w\"", "unsigned"});
  expect_bad(header_of_w(R"("U8")", "{}", "[0,1]"), "a", {"\"w\"", "not an array"});
  expect_bad(header_of_w(R"("F4")", "[3]", "[0,2]"), "ab", {"\"w\"", "whole number of bytes"});
}

TEST(SafetensorsAttack, Types) {
  for (const std::string& dtype : {std::string("f32"), std::string(), std::string("F 32"),
                                   std::string("F\\u001b"), std::string(65, 'F')}) {
    expect_bad(header_of_w('"' + dtype + '"', "[1]", "[0,1]"), "a", {"\"w\"", "dtype \""});
  }
  expect_bad(header_of_w(R"("F99")", "[4294967296,4294967296]", "[0,1]"), "a",
             {"\"w\"", "[4294967296, 4294967296] of F99"});
  expect_bad(header_of_w(R"("F99")", "[1]", "[0,2]"), "a", {"\"w\"", "end 2"});
  expect_bad(header_of_w(R"("F99")", "[1]", "[0,1]"), "ab", {"end at byte 1 of 2"});
  expect_bad(header_of_w("7", "[1]", "[0,1]"), "a", {"\"w\"", "dtype is not a string"});
}

TEST(SafetensorsAttack, MissingAndUnknownKeys) {
  expect_bad(R"({"w":{"shape":[1],"data_offsets":[0,1]}})", "a", {"\"w\"", "dtype is missing"});
  expect_bad(R"({"w":{"dtype":"U8","data_offsets":[0,1]}})", "a", {"\"w\"", "shape is missing"});
  expect_bad(R"({"w":{"dtype":"U8","shape":[1]}})", "a", {"\"w\"", "data_offsets is missing"});
  expect_bad(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"strides":[1]}})", "a",
             {"\"w\"", "4 keys"});
  expect_bad(R"({"w":3})", "", {"\"w\"", "not an object"});
}

TEST(SafetensorsAttack, Metadata) {
  expect_bad(R"({"__metadata__":{"a":1}})", "", {"__metadata__", "\"a\"", "not a string"});
  expect_bad(R"({"__metadata__":{"a":{}}})", "", {"__metadata__", "\"a\"", "not a string"});
  expect_bad(R"({"__metadata__":"a"})", "", {"__metadata__", "not an object"});
}

TEST(SafetensorsAttack, HolesAndOverlaps) {
  const auto two = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"U8","shape":[2],"data_offsets":)" + first +
           R"(},"b":{"dtype":"U8","shape":[2],"data_offsets":)" + second + "}}";
  };
  EXPECT_NO_THROW(
      SafetensorsFile::parse(exact_bytes(safetensors_text(two("[2,4]", "[0,2]"), "1234")), "m"));
  expect_bad(two("[0,2]", "[1,3]"), "123", {"\"b\"", "begin 1 overlaps"});
  expect_bad(two("[0,2]", "[0,2]"), "12", {"\"b\"", "begin 0 overlaps"});
  expect_bad(two("[0,2]", "[3,5]"), "12345", {"\"b\"", "begin 3 leaves a hole"});
  expect_bad(two("[1,3]", "[3,5]"), "12345", {"\"a\"", "begin 1 leaves a hole"});
  expect_bad(two("[0,2]", "[2,4]"), "12345", {"end at byte 4 of 5"});
  expect_bad("{}", "1", {"end at byte 0 of 1"});
  expect_bad(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
             R"("z":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}})",
             "12", {"\"z\"", "begin 1 overlaps"});
}

TEST(SafetensorsAttack, NamesInMessagesStayShortAndOnOneLine) {
  const std::string name(100'000, 'n');
  expect_bad("{\"\\n" + name + "\":3}", "", {"\"\\x0ann"});
  try {
    SafetensorsFile::parse(exact_bytes(safetensors_text("{\"" + name + "\":3}", "")), "m");
    FAIL();
  } catch (const Error& error) {
    EXPECT_LT(std::string(error.what()).size(), 400u);
  }
}

TEST(SafetensorsAttack, EveryTruncationIsAnError) {
  const std::string file = safetensors_text(kGoodHeader, kGoodData);
  for (std::size_t size = 0; size < file.size(); ++size) {
    const auto bytes = exact_bytes(file.substr(0, size));
    EXPECT_THROW(SafetensorsFile::parse(bytes, "m"), Error) << size;
  }
}

TEST(SafetensorsAttack, DamagedHeadersParseOrThrow) {
  const std::string file = safetensors_text(kGoodHeader, kGoodData);
  std::size_t refused = 0;
  const std::size_t header_end = file.size() - (sizeof(kGoodData) - 1);
  for (std::size_t i = 0; i < header_end; ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = file;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      const auto bytes = exact_bytes(damaged);
      try {
        const auto parsed = SafetensorsFile::parse(bytes, "m");
        std::size_t total = 0;
        for (const TensorView& tensor : parsed.tensors()) total += tensor.bytes.size();
        EXPECT_EQ(total, sizeof(kGoodData) - 1);
      } catch (const Error&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, header_end * 4);
}

TEST(SafetensorsShared, ReadsAModel) {
  NYBBLE_SHARED_OR_SKIP(mini, "models/mini/model.safetensors");
  const SafetensorsFile file(mini);
  ASSERT_FALSE(file.tensors().empty());
  for (const TensorView& tensor : file.tensors()) {
    for (const float value : to_f32(tensor)) ASSERT_TRUE(std::isfinite(value)) << tensor.name;
  }
}

TEST(SafetensorsShared, RefusesFiveBytesTooMany) {
  NYBBLE_SHARED_OR_SKIP(tiny, "models/fixtures/tiny.safetensors");
  expect_error(ErrorCode::bad_file, {"tiny.safetensors", "byte 32768 of 32773"},
               [&] { SafetensorsFile file(tiny); });
}

}  // namespace
}  // namespace nybble
