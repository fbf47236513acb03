#include "nybble/io/npy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/io/temporary_folder.h"

namespace nybble {
namespace {

using test::exact_bytes;
using test::expect_error;
using Shape = std::vector<std::size_t>;

/// A file of the given header; its length is written in the way of the version.
std::string npy_file(const std::string& header, const std::string& data, int version = 1) {
  std::string result = "\x93NUMPY";
  result += {static_cast<char>(version), '\0'};
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) {
    result += static_cast<char>(header.size() >> (8 * i) & 0xff);
  }
  return result + header + data;
}

std::string npy_dict(const std::string& descr, const std::string& shape, bool fortran = false) {
  return "{'descr': '" + descr + "', 'fortran_order': " + (fortran ? "True" : "False") +
         ", 'shape': " + shape + ", }\n";
}

NpyArray parse(const std::string& file) { return parse_npy(exact_bytes(file), "a.npy"); }

void expect_bad(const std::string& header, const std::string& data, const std::string& reason,
                ErrorCode code = ErrorCode::bad_file) {
  expect_error(code, {"a.npy", reason}, [&] { parse(npy_file(header, data)); });
}

template <class T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// The first 128 bytes that numpy.save 1.24.2 writes.
std::string numpy_start(const std::string& dict) {
  std::string result("\x93NUMPY\x01\x00v\x00", 10);
  result += dict;
  result.resize(127, ' ');
  return result + '\n';
}

TEST(Npy, WritesWhatNumpyWrites) {
  const test::TemporaryFolder folder;
  const auto written = [&](NpyType type, const Shape& shape, const std::string& data) {
    write_npy(folder / "a.npy", type, shape, exact_bytes(data));
    return test::read_text(folder / "a.npy");
  };
  const std::string zeros(1000, '\0');
  EXPECT_EQ(written(NpyType::f32, {3, 4}, zeros.substr(0, 48)),
            numpy_start("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }") +
                zeros.substr(0, 48));
  EXPECT_EQ(
      written(NpyType::f64, {}, zeros.substr(0, 8)),
      numpy_start("{'descr': '<f8', 'fortran_order': False, 'shape': (), }") + zeros.substr(0, 8));
  EXPECT_EQ(written(NpyType::u8, {7}, "1234567"),
            numpy_start("{'descr': '|u1', 'fortran_order': False, 'shape': (7,), }") + "1234567");
  EXPECT_EQ(written(NpyType::boolean, {0, 5}, ""),
            numpy_start("{'descr': '|b1', 'fortran_order': False, 'shape': (0, 5), }"));
  // The room for the first axis to grow pushes this one into a third block.
  const std::string wide = written(NpyType::i16, Shape(22, 1), "ab");
  EXPECT_EQ(wide.size(), 194u);
  EXPECT_EQ(wide.substr(8, 2), std::string("\xb6\x00", 2));
}

TEST(Npy, RoundTripsEveryType) {
  const test::TemporaryFolder folder;
  for (const NpyType type :
       {NpyType::f32, NpyType::f64, NpyType::f16, NpyType::u8, NpyType::i8, NpyType::u16,
        NpyType::i16, NpyType::u32, NpyType::i32, NpyType::u64, NpyType::i64, NpyType::boolean}) {
    std::vector<std::byte> data(6 * npy_item_size(type));
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i);
    write_npy(folder / "a.npy", type, Shape{2, 3}, data);
    const NpyArray array = read_npy(folder / "a.npy");
    EXPECT_EQ(array.type, type);
    EXPECT_EQ(array.shape, (Shape{2, 3}));
    EXPECT_EQ(array.data, data);
    EXPECT_EQ(array.count(), 6u);
  }
}

TEST(Npy, ConvenienceWritersAndTypedReading) {
  const test::TemporaryFolder folder;
  const std::vector<float> values = {1.5f, -2.0f, 3.25f};
  write_npy(folder / "f.npy", Shape{3}, values);
  const NpyArray floats = read_npy(folder / "f.npy");
  EXPECT_EQ(floats.as_f32(), values);
  EXPECT_EQ(floats.as<float>()[2], 3.25f);
  expect_error(ErrorCode::unsupported, {"<f4", "<i4"}, [&] { (void)floats.as<std::int32_t>(); });
  const std::vector<std::uint8_t> codes = {1, 2};
  write_npy(folder / "u.npy", Shape{2, 1}, codes);
  const NpyArray bytes = read_npy(folder / "u.npy");
  EXPECT_EQ(bytes.type, NpyType::u8);
  EXPECT_EQ(bytes.as<std::uint8_t>()[1], 2);
  expect_error(ErrorCode::unsupported, {"|u1"}, [&] { (void)bytes.as_f32(); });
}

TEST(Npy, AsF32ReadsHalvesAndDoubles) {
  const auto halves =
      parse(npy_file(npy_dict("<f2", "(3,)"), raw<std::uint16_t>({0x3C00, 0xC000, 0x7C00})));
  EXPECT_EQ(halves.as_f32(), (std::vector<float>{1.0f, -2.0f, INFINITY}));
  const auto doubles = parse(npy_file(npy_dict("<f8", "(2,)"), raw<double>({0.1, -3.0})));
  EXPECT_EQ(doubles.as_f32(), (std::vector<float>{0.1f, -3.0f}));
}

TEST(Npy, EveryVersionAndSpelling) {
  const Shape expected = {1, 2};
  const std::string data = "ab";
  for (const int version : {1, 2, 3}) {
    EXPECT_EQ(parse(npy_file(npy_dict("|u1", "(1, 2)"), data, version)).shape, expected);
  }
  for (const char* const header : {
           "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2)}",
           "{'descr':'|u1','fortran_order':False,'shape':(1,2,),}",
           "  { \"shape\" : ( 1 , 2 ) , 'descr' : \"<u1\" ,\n 'fortran_order' : False } \n",
       }) {
    EXPECT_EQ(parse(npy_file(header, data)).shape, expected) << header;
  }
  EXPECT_EQ(parse(npy_file(npy_dict("|u1", "()"), "a")).count(), 1u);
  EXPECT_EQ(parse(npy_file(npy_dict("|u1", "(1,)"), "a")).shape, Shape{1});
  EXPECT_EQ(parse(npy_file(npy_dict("<f4", "(0, 3)"), "")).count(), 0u);
}

TEST(Npy, FortranOrderBecomesC) {
  EXPECT_EQ(raw(parse(npy_file(npy_dict("|u1", "(2, 3)", true), "adbecf")).data), "abcdef");
  EXPECT_EQ(raw(parse(npy_file(npy_dict("|u1", "(3,)", true), "abc")).data), "abc");
  EXPECT_EQ(raw(parse(npy_file(npy_dict("|u1", "()", true), "a")).data), "a");
  EXPECT_EQ(parse(npy_file(npy_dict("|u1", "(2, 0, 3)", true), "")).count(), 0u);
  // Rank 4, two-byte elements: the value of (i, j, k, l) is its place in C order.
  const Shape shape = {2, 3, 4, 5};
  std::vector<std::uint16_t> stored(120);
  for (std::uint16_t c = 0; c < 120; ++c) {
    const std::size_t i = c / 60, j = c / 20 % 3, k = c / 5 % 4, l = c % 5;
    stored[i + 2 * (j + 3 * (k + 4 * l))] = c;
  }
  const NpyArray array = parse(npy_file(npy_dict("<u2", "(2, 3, 4, 5)", true), raw(stored)));
  EXPECT_EQ(array.shape, shape);
  for (std::uint16_t c = 0; c < 120; ++c) EXPECT_EQ(array.as<std::uint16_t>()[c], c);
}

TEST(Npy, RefusesOtherTypes) {
  const auto unsupported = ErrorCode::unsupported;
  expect_bad(npy_dict(">f4", "(1,)"), "abcd", "big endian dtype \">f4\"", unsupported);
  for (const char* const descr :
       {"|O", "<U3", "|S4", "<c8", "<f16", "f4", "=f4", "|f4", "", "<u3"}) {
    expect_bad(npy_dict(descr, "(1,)"), "abcd", "dtype \"" + std::string(descr) + "\"",
               unsupported);
  }
  expect_bad("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1,)}", "abcd", "records",
             unsupported);
}

TEST(Npy, RefusesWrongSizes) {
  expect_bad(npy_dict("<f4", "(2,)"), "1234567", "7 bytes of data do not fit shape [2]");
  expect_bad(npy_dict("<f4", "(2,)"), "123456789", "9 bytes of data");
  expect_bad(npy_dict("|u1", "(0,)"), "1", "1 bytes of data");
  expect_bad(npy_dict("|u1", "()"), "", "0 bytes of data");
  // Products that wrap to what is there: 2^32 * 2^32 = 0 and 2^61 * 8 = 0 modulo 2^64.
  expect_bad(npy_dict("|u1", "(4294967296, 4294967296)"), "", "do not fit shape");
  expect_bad(npy_dict("<f8", "(2305843009213693952,)"), "", "do not fit shape");
  expect_bad(npy_dict("<f8", "(2305843009213693952, 1)", true), "", "do not fit shape");
}

TEST(Npy, RefusesOtherHeaders) {
  const std::string rest = "'fortran_order': False, 'shape': (1,)}";
  expect_bad("", "a", "expected '{'");
  expect_bad("{}", "a", "descr is missing");
  expect_bad("{'descr': '|u1', 'shape': (1,)}", "a", "fortran_order is missing");
  expect_bad("{'descr': '|u1', 'fortran_order': False}", "a", "shape is missing");
  expect_bad("{'descr': '|u1', 'descr': '|u1', " + rest, "a", "duplicate key \"descr\"");
  expect_bad("{'descr': '|u1', 'more': 1, " + rest, "a", "key \"more\"");
  expect_bad("{'descr': '|u1' " + rest, "a", "expected '}'");
  expect_bad("{'descr': |u1, " + rest, "a", "expected '''");
  expect_bad("{'descr': '|u1, 1}", "a", "string without an end");
  expect_bad("{'descr': '|u1', 'fortran_order': 0, 'shape': (1,)}", "a", "True or False");
  expect_bad(npy_dict("|u1", "(1)"), "a", "not a tuple");
  expect_bad(npy_dict("|u1", "[1]"), "a", "expected '('");
  expect_bad(npy_dict("|u1", "(1 1)"), "a", "expected ',' or ')'");
  expect_bad(npy_dict("|u1", "(,)"), "a", "unsigned integer");
  expect_bad(npy_dict("|u1", "(-1,)"), "a", "unsigned integer");
  expect_bad(npy_dict("|u1", "(1.0,)"), "a", "expected ',' or ')'");
  expect_bad(npy_dict("|u1", "(18446744073709551617,)"), "a", "below 2^64");
  expect_bad(npy_dict("|u1", "(1,)") + "x", "a", "after the dict");
  std::string axes;
  for (int i = 0; i < 65; ++i) axes += "1,";
  expect_bad(npy_dict("|u1", "(" + axes + ")"), "a", "more than 64 axes");
}

TEST(Npy, RefusesOtherFiles) {
  std::string file = npy_file(npy_dict("|u1", "(1,)"), "a");
  file[6] = 4;
  expect_error(ErrorCode::bad_file, {"a.npy", "version 4.0"}, [&] { parse(file); });
  file[6] = 1;
  file[7] = 1;
  expect_error(ErrorCode::bad_file, {"a.npy", "version 1.1"}, [&] { parse(file); });
  file[0] = 'x';
  expect_error(ErrorCode::bad_file, {"a.npy", "magic"}, [&] { parse(file); });
  std::string huge = npy_file(npy_dict("|u1", "(1,)"), "a", 2);
  for (std::size_t i = 8; i < 12; ++i) huge[i] = '\xff';
  expect_error(ErrorCode::bad_file, {"a.npy", "header length 4294967295"}, [&] { parse(huge); });
  const test::TemporaryFolder folder;
  expect_error(ErrorCode::io, {"none.npy"}, [&] { read_npy(folder / "none.npy"); });
}

TEST(Npy, EveryTruncationIsAnError) {
  for (const int version : {1, 2}) {
    const std::string file =
        npy_file(npy_dict("<f4", "(2, 3)", true), std::string(24, 'x'), version);
    EXPECT_NO_THROW(parse(file));
    for (std::size_t size = 0; size < file.size(); ++size) {
      EXPECT_THROW(parse(file.substr(0, size)), Error) << size;
    }
  }
}

TEST(Npy, DamagedHeadersParseOrThrow) {
  const std::string file = npy_file(npy_dict("<f4", "(2, 3)", true), std::string(24, 'x'));
  std::size_t refused = 0;
  for (std::size_t i = 0; i < file.size() - 24; ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = file;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      try {
        EXPECT_EQ(parse(damaged).data.size(), 24u);
      } catch (const Error&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, (file.size() - 24) * 6);
}

TEST(Npy, WriterChecksAndLeavesTheOldFile) {
  const test::TemporaryFolder folder;
  test::write_text(folder / "a.npy", "old");
  const std::vector<float> values(6);
  expect_error(ErrorCode::bad_shape, {"a.npy", "24 bytes do not fit shape [2, 2]"}, [&] {
    write_npy(folder / "a.npy", Shape{2, 2}, values);
  });
  expect_error(ErrorCode::bad_shape, {"a.npy", "65 axes"},
               [&] { write_npy(folder / "a.npy", Shape(65, 1), std::vector<float>(1)); });
  EXPECT_EQ(test::read_text(folder / "a.npy"), "old");
  EXPECT_EQ(folder.file_count(), 1u);
}

}  // namespace
}  // namespace nybble
