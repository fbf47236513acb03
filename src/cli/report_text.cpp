#include "report_text.h"

#include <fmt/format.h>

#include <vector>

namespace nybble::cli {

namespace {

constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --page: #ffffff; --card: #f6f7f9; --ink: #1c2128; --muted: #59636e;
  --line: #d5dae0; --track: #e4e8ec; --bar: #1f6feb; }
@media (prefers-color-scheme: dark) { :root { --page: #12161b; --card: #1b2027; --ink: #e6eaef;
  --muted: #9aa4af; --line: #39414b; --track: #2a313a; --bar: #4d94ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 16px; max-width: 76rem; background: var(--page); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif; -webkit-text-size-adjust: 100%; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; overflow-wrap: anywhere; }
p, li, dd, dt { overflow-wrap: anywhere; }
p { margin: .25rem 0 .75rem; }
.muted { color: var(--muted); fill: var(--muted); }
.ink { fill: var(--ink); }
.bar { fill: var(--bar); }
.track { fill: var(--track); }
svg { display: block; width: 100%; height: auto; font-family: system-ui, sans-serif; }
.chart { max-width: 34rem; margin: 0; }
.chart [fill="#777d86"] { fill: var(--muted); }
.charts { display: grid; gap: 24px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem),
  1fr)); }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; margin: 0;
  border-top: 1px solid var(--line); max-width: 46rem; }
dt, dd { margin: 0; padding: 6px 8px 6px 0; border-bottom: 1px solid var(--line); }
dt { color: var(--muted); }
.columns { row-gap: 0; }
.scroll { overflow: auto; width: fit-content; max-width: 100%; max-height: 70vh; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: var(--card); }
.text { text-align: left; }
footer { margin-top: 2rem; color: var(--muted); font-size: 14px; }
)";

}  // namespace

const char* report_style() { return kStyle; }

std::string number(const Json& value) {
  return value.is_number() ? fmt::format("{:.4g}", value.get<double>()) : "-";
}

std::string decibels(const Json& value) {
  return value.is_number() ? fmt::format("{:.2f}", value.get<double>()) : "-";
}

std::string sqnr_text(const Json& entry) {
  const auto is_true = [&](const char* key) {
    return entry[key].is_boolean() && entry[key].get<bool>();
  };
  if (is_true("same_values")) return "exact";
  if (is_true("equal")) return "exact but for signs of zeros";
  return entry["reason"].is_string() ? "not comparable" : decibels(entry["sqnr_db"]);
}

std::string shape_of(const Json& entry) {
  return shape_text(entry["shape"].get<std::vector<std::size_t>>());
}

std::string with_thousands(std::size_t count) {
  std::string digits = fmt::format("{}", count);
  for (std::size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, "\u202F");
  return digits;
}

std::string percent(std::size_t part, std::size_t whole) {
  return whole == 0 ? "-"
                    : fmt::format("{:.1f} %",
                                  100 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string breakable(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    out += text[i];
    const bool number = i + 1 < text.size() && text[i + 1] >= '0' && text[i + 1] <= '9';
    if (text[i] == '.' && !number) out += "<wbr/>";
  }
  return out;
}

}  // namespace nybble::cli
