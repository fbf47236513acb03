#include "src/io/python_json.h"

#include <gtest/gtest.h>

#include "tests/io/temporary_folder.h"

namespace nybble::io {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using test::expect_error;

json parsed(std::string_view text) {
  const std::vector<std::byte> bytes = test::exact_bytes(text);
  const auto ordered = parse_python_json<ordered_json>(bytes, "c.json");
  const json result = parse_python_json(bytes, "c.json");
  EXPECT_EQ(json(ordered), result) << text;
  return result;
}

TEST(PythonJson, TakesWhatPythonWrites) {
  const std::pair<const char*, const char*> kCases[] = {
      {R"({})", R"({})"},
      {R"({"a": [0.0, Infinity], "b": 1})", R"({"a":[0.0,null],"b":1})"},
      {R"({"a": NaN, "b": -Infinity,"c":[NaN,NaN]})", R"({"a":null,"b":null,"c":[null,null]})"},
      {R"({"a": 1e400, "b": -1E+999, "c": 1e-400, "d": 1.5e3})",
       R"({"a":null,"b":null,"c":0.0,"d":1500.0})"},
      {"\n \t\r\n{\"a\": 1}\n", R"({"a":1})"},
      {R"({"a": 1, "b": 2, "a": {"a": 3, "a": 4}})", R"({"a":{"a":4},"b":2})"},
      {R"({"NaN": "Infinity 1e400 \" NaN", "1e400": "\\"})",
       R"({"1e400":"\\","NaN":"Infinity 1e400 \" NaN"})"},
      // Halves of pairs, whole pairs, what only looks like either.
      {R"({"a": "\ud83d", "b": "x\udE00y"})", R"({"a":"\ufffd","b":"x\ufffdy"})"},
      {R"({"a": "\ud83d\ude00", "b": "\ud83d\ud83d\ude00"})",
       R"({"a":"\ud83d\ude00","b":"\ufffd\ud83d\ude00"})"},
      {R"({"a": "\\ud83d", "b": "\\\ud83d\u0041", "\udc00": 1})",
       R"({"a":"\\ud83d","b":"\\\ufffdA","\ufffd":1})"},
  };
  for (const auto& [text, expected] : kCases) {
    EXPECT_EQ(parsed(text), json::parse(expected)) << text;
  }
  const std::string digits =
      R"({"a": 1)" + std::string(400, '0') + R"(, "b": 0.)" + std::string(400, '1') + "}";
  EXPECT_TRUE(parsed(digits)["a"].is_null());
  EXPECT_DOUBLE_EQ(parsed(digits)["b"], 1.0 / 9);
}

TEST(PythonJson, KeepsTheOrderWhereAsked) {
  const auto bytes = test::exact_bytes(R"({"b": 1, "a": 2, "b": 3})");
  EXPECT_EQ(parse_python_json<ordered_json>(bytes, "c").dump(), R"({"b":3,"a":2})");
}

TEST(PythonJson, RefusesWhatPythonRefuses) {
  for (const char* const text : {"", " \n", "[]", "NaN", "1", "\"a\"", "\xef\xbb\xbf{}", "\v{}"}) {
    expect_error(ErrorCode::bad_file, {"c.json", "not a JSON object"}, [&] { parsed(text); });
  }
  const std::pair<const char*, const char*> kDamaged[] = {
      {"{", "byte 2"},
      {R"({"a": NaN, "b": nan})", "byte 18"},
      {R"({"a": Infinity, "b": +Infinity})", "byte 22"},
      {R"({"a": -NaN})", ""},
      {R"({"a": infinity})", ""},
      {R"({"a": 1e400.5})", "byte 12"},
      {R"({"a": 1e400-})", ""},
      {R"({"a": 01e400})", ""},
      {R"({"a": .5e400})", ""},
      {R"({"a": 1.e400})", ""},
      {R"({"a": 1e})", ""},
      {R"({"a": "\ud83"})", ""},
      {R"({"a": "\ud8)", ""},
      {R"({"a": "\)", ""},
      {R"({"a)", ""},
      {"{\"a\": \"\xed\xa0\xbd\"}", ""},
      {"{\"a\": \"\n\"}", ""},
      {R"({"a": 1,})", ""},
      {R"({"a": 1} 2)", ""},
      {R"({a: 1})", ""},
  };
  for (const auto& [text, where] : kDamaged) {
    SCOPED_TRACE(text);
    expect_error(ErrorCode::bad_file, {"c.json", "damaged JSON", where},
                 [&damaged = text] { parsed(damaged); });
  }
  expect_error(ErrorCode::bad_file, {"damaged JSON at byte 3"},
               [] { parsed(std::string_view("{}\0}", 4)); });
  std::string deep = R"({"a": )";
  for (int i = 0; i < 64; ++i) deep += '[';
  expect_error(ErrorCode::bad_file, {"c.json", "nested deeper"}, [&] { parsed(deep); });
}

TEST(PythonJson, EditsLeaveAllElseByteForByte) {
  const struct {
    const char* text;
    JsonMembers members;
    const char* expected;
  } kCases[] = {
      {"\n {\"a\": 1e400}\r\n", {}, "\n {\"a\": 1e400}\r\n"},
      {R"({"a": NaN})", {{"b", nullptr}}, R"({"a": NaN})"},
      {R"({"a": NaN})", {{"b", {{"c", 1}}}}, R"({"a": NaN, "b": {"c":1}})"},
      {R"({"a":"\ud83d","b":[{"b":2}]})", {{"c", 1}}, R"({"a":"\ud83d","b":[{"b":2}], "c": 1})"},
      {"{\n    \"a\": 1,\n    \"b\":  2 \n}\n",
       {{"c", {{"d", 1}}}},
       "{\n    \"a\": 1,\n    \"b\":  2,\n    \"c\": {\n        \"d\": 1\n    } \n}\n"},
      {"{\r\n \"a\": 1\r\n}",
       {{"b", {{"c", 1}}}},
       "{\r\n \"a\": 1,\r\n \"b\": {\r\n  \"c\": 1\r\n }\r\n}"},
      // Gone from the front, the middle and the end; all of a name.
      {R"({ "x": 1,  "a": 2 , "b": 3})", {{"x", nullptr}}, R"({ "a": 2 , "b": 3})"},
      {R"({"a": 2 , "x": 1,  "b": 3})", {{"x", nullptr}}, R"({"a": 2 , "b": 3})"},
      {R"({"a": 2 ,  "x": 1 })", {{"x", nullptr}}, R"({"a": 2 })"},
      {R"({"x": {"x": 1}, "a": "x", "\u0078": [1, 2]})", {{"x", nullptr}}, R"({"a": "x"})"},
      {R"({ "x": 1 })", {{"x", nullptr}}, R"({ })"},
      {R"({"x": 1, "a": 2})", {{"x", 3}}, R"({"a": 2, "x": 3})"},
      {R"({"x": 1})", {{"x", 3}}, R"({"x": 3})"},
      {"{}\n", {}, "{}\n"},
      {" { }", {{"a", nullptr}}, " { }"},
      {"{}\n", {{"a", 1}, {"b", 2}}, "{\n  \"a\": 1,\n  \"b\": 2\n}\n"},
  };
  for (const auto& row : kCases) {
    EXPECT_EQ(edit_python_json(row.text, row.members), row.expected) << row.text;
    json expected = parsed(row.text);
    for (const auto& [key, value] : row.members) {
      expected.erase(key);
      if (!value.is_null()) expected[key] = value;
    }
    EXPECT_EQ(parsed(row.expected), expected) << row.text;
  }
}

}  // namespace
}  // namespace nybble::io
