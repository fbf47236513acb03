// Whatever the bytes say, parse_python_json returns an object or throws Error; strict JSON means
// the same to it; and an edited text is one again, with those members and no other change.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "nybble/error.h"
#include "src/io/python_json.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using nlohmann::json;
  using nlohmann::ordered_json;
  const auto parse = [](std::string_view text) {
    return nybble::io::parse_python_json<ordered_json>(std::as_bytes(std::span(text)), "fuzz");
  };
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const json strict = json::parse(text, nullptr, /*allow_exceptions=*/false);
  ordered_json found;
  try {
    found = parse(text);
  } catch (const nybble::Error&) {
    return 0;
  }
  if (!found.is_object()) std::abort();
  if (!strict.is_discarded() && json(found) != strict) std::abort();
  if (nybble::io::edit_python_json(text, {}) != text) std::abort();
  const nybble::io::JsonMembers members = {{"a", nullptr}, {"b", {{"c", "\n"}}}};
  for (const auto& [key, value] : members) {
    found.erase(key);
    if (!value.is_null()) found[key] = value;
  }
  const std::string edited = nybble::io::edit_python_json(text, members);
  if (parse(edited).dump() != found.dump()) std::abort();
  if (nybble::io::edit_python_json(edited, members) != edited) std::abort();
  return 0;
}
