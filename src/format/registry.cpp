#include "nybble/format/registry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <system_error>
#include <utility>

#include "nybble/error.h"
#include "nybble/format/amxfp4.h"
#include "nybble/format/fp4.h"
#include "nybble/format/imported.h"
#include "nybble/format/int4.h"
#include "nybble/format/iq4_nl.h"
#include "nybble/format/mxfp4.h"
#include "nybble/format/nf4.h"
#include "nybble/format/nvfp4.h"

namespace nybble {

SpecOptions::SpecOptions(std::string_view spec, std::string_view kind) : spec_(spec), kind_(kind) {
  const std::size_t colon = spec.find(':');
  name_ = std::string(spec.substr(0, colon));
  canonical_ = name_;
  if (colon == std::string_view::npos) return;
  std::string_view rest = spec.substr(colon + 1);
  while (true) {
    const std::size_t comma = rest.find(',');
    const std::string_view pair = rest.substr(0, comma);
    const std::size_t equals = pair.find('=');
    if (equals == std::string_view::npos || equals == 0 || equals + 1 == pair.size()) {
      throw Error(
          ErrorCode::bad_option,
          fmt::format("{} '{}': '{}' is not key=value (grammar: name[:key=value[,key=value]...])",
                      kind_, spec, pair));
    }
    const std::string key(pair.substr(0, equals));
    if (!given_.emplace(key, pair.substr(equals + 1)).second) {
      throw Error(ErrorCode::bad_option,
                  fmt::format("{} '{}': '{}' is given twice", kind_, spec, key));
    }
    if (comma == std::string_view::npos) break;
    rest = rest.substr(comma + 1);
  }
}

const std::string* SpecOptions::find(const std::string& key, const std::string& allowed) {
  known_.push_back({key, allowed});
  const auto found = given_.find(key);
  return found == given_.end() ? nullptr : &found->second;
}

std::string SpecOptions::choice(const std::string& key,
                                std::initializer_list<const char*> allowed) {
  const std::string list = fmt::format("{}", fmt::join(allowed, "|"));
  const std::string* value = find(key, list);
  if (value == nullptr) return *allowed.begin();
  if (std::find(allowed.begin(), allowed.end(), *value) == allowed.end()) {
    throw Error(ErrorCode::bad_option, fmt::format("{} '{}': {}={}, expected {}={}", kind_, spec_,
                                                   key, *value, key, list));
  }
  if (*value != *allowed.begin()) {
    add_canonical(key, *value);
  }
  return *value;
}

void SpecOptions::add_canonical(const std::string& key, const std::string& value) {
  canonical_ += fmt::format("{}{}={}", canonical_ == name_ ? ':' : ',', key, value);
}

double SpecOptions::parse_number(const std::string& key, const std::string& value, double least,
                                 double most, bool whole) const {
  double number = 0;
  const char* end = value.data() + value.size();
  const auto [stop, error] = std::from_chars(value.data(), end, number);
  const bool bad = error != std::errc() || stop != end || !(number >= least && number <= most) ||
                   (whole && number != std::floor(number));
  if (bad) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{} '{}': {}={}, expected {} from {} to {}", kind_, spec_, key, value,
                            whole ? "an integer" : "a number", least, most));
  }
  return number;
}

double SpecOptions::number(const std::string& key, double fallback, double least, double most) {
  const std::string* value = find(key, fmt::format("{}..{}", least, most));
  if (value == nullptr) return fallback;
  const double number = parse_number(key, *value, least, most, false);
  if (number != fallback) add_canonical(key, *value);
  return number;
}

int SpecOptions::integer(const std::string& key, int fallback, int least, int most) {
  const std::string* value = find(key, fmt::format("{}..{}", least, most));
  if (value == nullptr) return fallback;
  const int number = static_cast<int>(parse_number(key, *value, least, most, true));
  if (number != fallback) add_canonical(key, *value);
  return number;
}

std::optional<double> SpecOptions::number_or_auto(const std::string& key, double least,
                                                  double most) {
  const std::string* value = find(key, fmt::format("auto|{}..{}", least, most));
  if (value == nullptr || *value == "auto") return std::nullopt;
  const double number = parse_number(key, *value, least, most, false);
  add_canonical(key, *value);
  return number;
}

bool SpecOptions::flag(const std::string& key, bool fallback) {
  return fallback ? choice(key, {"true", "false"}) == "true"
                  : choice(key, {"false", "true"}) == "true";
}

std::size_t SpecOptions::group(const std::string& key, std::initializer_list<std::size_t> allowed) {
  const auto text = [](std::size_t group) {
    return group == 0 ? std::string("row") : std::to_string(group);
  };
  std::vector<std::string> names;
  for (const std::size_t group : allowed) names.push_back(text(group));
  const std::string list = fmt::format("{}", fmt::join(names, "|"));
  const std::string* value = find(key, list);
  if (value == nullptr) return *allowed.begin();
  for (const std::size_t group : allowed) {
    if (*value != text(group)) continue;
    if (group != *allowed.begin()) {
      add_canonical(key, *value);
    }
    return group;
  }
  throw Error(ErrorCode::bad_option,
              fmt::format("{} '{}': {}={}, expected {}={}", kind_, spec_, key, *value, key, list));
}

void SpecOptions::finish() const {
  for (const auto& option : given_) {
    const std::string& key = option.first;
    const bool known =
        std::any_of(known_.begin(), known_.end(), [&](const Known& k) { return k.key == key; });
    if (known) continue;
    std::vector<std::string> lines;
    for (const Known& k : known_) lines.push_back(k.key + "=" + k.allowed);
    throw Error(ErrorCode::bad_option,
                fmt::format("{} '{}': unknown option '{}', allowed: {}", kind_, spec_, key,
                            lines.empty() ? "none" : fmt::format("{}", fmt::join(lines, ", "))));
  }
}

std::string SpecOptions::canonical() const { return canonical_; }

namespace {

ScaleType scale_type(SpecOptions& options, std::initializer_list<const char*> allowed) {
  static constexpr std::pair<const char*, ScaleType> kNames[] = {
      {"f32", ScaleType::f32},   {"f16", ScaleType::f16},   {"bf16", ScaleType::bf16},
      {"e8m0", ScaleType::e8m0}, {"e4m3", ScaleType::e4m3}, {"e4m3x480", ScaleType::e4m3x480},
      {"e5m2", ScaleType::e5m2},
  };
  const std::string value = options.choice("scale", allowed);
  for (const auto& [name, type] : kNames) {
    if (value == name) return type;
  }
  throw Error(ErrorCode::bad_option, fmt::format("scale={}: not a scale type", value));
}

LevelTies ties(SpecOptions& options, std::initializer_list<const char*> allowed) {
  const std::string value = options.choice("ties", allowed);
  return value == "away" ? LevelTies::away : value == "zero" ? LevelTies::zero : LevelTies::even;
}

ExponentRule exponent_rule(SpecOptions& options, std::initializer_list<const char*> allowed) {
  const std::string value = options.choice("rule", allowed);
  if (value == "even") return ExponentRule::even;
  if (value == "ceil") return ExponentRule::ceil;
  return value == "rceil" ? ExponentRule::rceil : ExponentRule::floor;
}

AnyFormat make_int4(SpecOptions& options) {
  const std::size_t group = options.group("group", {32, 16, 64, 128, 256, 512, 1024, 0});
  const bool zero_point = options.flag("zero_point", false);
  const ScaleType scale = scale_type(options, {"f16", "f32", "bf16"});
  options.finish();
  if (zero_point) {
    return Int4ZeroPoint(options.canonical(), group, LevelTies::even, ZeroPointScale(scale));
  }
  return Int4(options.canonical(), group, LevelTies::even, Int4Scale(scale));
}

AnyFormat make_fp4(SpecOptions& options) {
  const std::size_t group = options.group("group", {32, 16, 64, 128, 0});
  const ScaleType scale = scale_type(options, {"f16", "f32", "bf16"});
  const LevelTies tie = ties(options, {"even", "away", "zero"});
  options.finish();
  return Fp4(options.canonical(), group, tie, AbsmaxScale(scale));
}

template <Codebook C>
AnyFormat make_bnb(SpecOptions& options) {
  // Below 16: what is left of a file's blocks where they run across row ends.
  const std::size_t group =
      options.group("block", {64, 2, 4, 8, 16, 32, 128, 256, 512, 1024, 2048, 4096});
  const bool nested = options.flag("double", false);
  const ScaleType scale = scale_type(options, {"f32", "bf16"});
  options.finish();
  if (nested && scale != ScaleType::f32) {
    throw Error(ErrorCode::bad_option,
                fmt::format("format '{}': double=true needs scale=f32", options.canonical()));
  }
  BlockFormat<C, BnbScale> format(options.canonical(), group, LevelTies::lower, BnbScale(scale));
  format.info().double_quantized = nested;
  format.info().flattened_blocks = true;
  return format;
}

AnyFormat make_iq4_nl(SpecOptions& options) {
  options.finish();
  return Iq4Nl(options.canonical(), 32, LevelTies::even, Iq4NlScale{});
}

AnyFormat make_mxfp4(SpecOptions& options) {
  const ExponentRule rule = exponent_rule(options, {"floor", "even", "ceil", "rceil"});
  const LevelTies tie = ties(options, {"even", "away", "zero"});
  const bool search = options.choice("search", {"none", "mse"}) == "mse";
  const std::size_t group = options.group("group", {32, 16, 64, 128});
  options.finish();
  return Mxfp4(options.canonical(), group, tie, PowerOfTwoScale(rule, search));
}

AnyFormat make_nvfp4(SpecOptions& options) {
  const bool four_over_six = options.choice("search", {"none", "4over6"}) == "4over6";
  Nvfp4Scale rule;
  rule.divisor = options.choice("tensor", {"multiplier", "divisor"}) == "divisor";
  options.finish();
  if (four_over_six && rule.divisor) {
    throw Error(ErrorCode::bad_option,
                fmt::format("format '{}': tensor=divisor needs search=none", options.canonical()));
  }
  const auto finished = [](auto format) {
    format.info().tensor_scale = true;
    return AnyFormat(std::move(format));
  };
  if (four_over_six) {
    return finished(FourOverSix(options.canonical(), 16, LevelTies::even, FourOverSixScale{}));
  }
  return finished(Nvfp4(options.canonical(), 16, LevelTies::even, rule));
}

AnyFormat make_amxfp4(SpecOptions& options) {
  SignSplitScale rule;
  // "e4m3" is the reference's own, which counts 0x7F as 480; e4m3fn is the OCP type.
  const std::string scale =
      options.choice("scale", {"e5m2", "e4m3", "e4m3fn", "e8m0", "f16", "f32"});
  rule.type = scale == "e5m2"     ? ScaleType::e5m2
              : scale == "e4m3"   ? ScaleType::e4m3x480
              : scale == "e4m3fn" ? ScaleType::e4m3
              : scale == "e8m0"   ? ScaleType::e8m0
              : scale == "f16"    ? ScaleType::f16
                                  : ScaleType::f32;
  if (rule.type == ScaleType::e8m0)
    rule.rule = exponent_rule(options, {"floor", "even", "ceil", "rceil"});
  rule.search = options.choice("search", {"none", "mse"}) == "mse";
  rule.tensor_range = options.flag("tensor_scale", false);
  const std::size_t group = options.group("group", {32, 16, 64, 128});
  options.finish();
  Amxfp4 format(options.canonical(), group, LevelTies::away, rule);
  format.info().tensor_scale = rule.tensor_range;
  return format;
}

template <const ImportedFormat& Kind>
AnyFormat make_imported(SpecOptions& options) {
  options.finish();
  return imported_format<Kind>();
}

std::vector<FormatFamily>& families() {
  static std::vector<FormatFamily> rows = {
      {"int4", "integers -8..7 (or 0..15 with a zero point), one float scale a group",
       "group=32|16|64|128|256|512|1024|row, zero_point=false|true, scale=f16|f32|bf16", make_int4},
      {"fp4", "E2M1 with one float scale a group",
       "group=32|16|64|128|row, scale=f16|f32|bf16, ties=even|away|zero", make_fp4},
      {"fp4_bnb", "bitsandbytes' FP4 (not E2M1), absmax blocks",
       "block=64|16|32|128|256|512|1024|2048|4096 (2|4|8 without kernels), double=false|true, "
       "scale=f32|bf16",
       make_bnb<BnbFp4Levels>},
      {"nf4", "NF4 of QLoRA and bitsandbytes, absmax blocks",
       "block=64|16|32|128|256|512|1024|2048|4096 (2|4|8 without kernels), double=false|true, "
       "scale=f32|bf16",
       make_bnb<Nf4Levels>},
      {"iq4_nl", "IQ4_NL of ggml: 16 integers denser around zero, one f16 scale per 32", "",
       make_iq4_nl},
      {"mxfp4", "OCP MXFP4: E2M1 with one power of two per 32",
       "rule=floor|even|ceil|rceil, ties=even|away|zero, search=none|mse, group=32|16|64|128",
       make_mxfp4},
      {"nvfp4", "NVFP4: E2M1 with one E4M3 scale per 16 and one f32 multiplier a tensor",
       "search=none|4over6, tensor=multiplier|divisor (as compressed-tensors stores it)",
       make_nvfp4},
      {"amxfp4", "AMXFP4: E2M1 with one scale for positives and one for negatives per 32",
       "scale=e5m2|e4m3|e4m3fn|e8m0|f16|f32, rule=floor|even|ceil|rceil (e8m0 only), "
       "search=none|mse, tensor_scale=false|true, group=32|16|64|128",
       make_amxfp4},
  };
  return rows;
}

}  // namespace

const std::vector<FormatFamily>& format_families() { return families(); }

const std::vector<FormatFamily>& imported_formats() {
  static const std::vector<FormatFamily> rows = {
      {"q4_1", "GGUF's Q4_1: 0..15 with an f16 scale and an f16 offset per 32", "",
       make_imported<kQ41>},
      {"q4_k", "GGUF's Q4_K: 0..15 with a 6-bit scale and offset per 32, f16 ones per 256", "",
       make_imported<kQ4K>},
      {"iq4_xs", "GGUF's IQ4_XS: IQ4_NL's integers with a 6-bit scale per 32, an f16 one per 256",
       "", make_imported<kIq4Xs>},
  };
  return rows;
}

void register_format(FormatFamily family) {
  if (family.name.empty() || family.name.find_first_of(":,=") != std::string::npos) {
    throw Error(ErrorCode::bad_option,
                fmt::format("format '{}': expected a name without ':', ',' and '='", family.name));
  }
  if (!family.make) {
    throw Error(ErrorCode::bad_option,
                fmt::format("format '{}' is registered without `make`, expected a function that "
                            "makes it",
                            family.name));
  }
  for (const std::vector<FormatFamily>* rows : {&format_families(), &imported_formats()}) {
    for (const FormatFamily& row : *rows) {
      if (row.name != family.name) continue;
      throw Error(ErrorCode::bad_option,
                  fmt::format("format '{}' is registered already", family.name));
    }
  }
  families().push_back(std::move(family));
}

AnyFormat parse_format(std::string_view spec) {
  SpecOptions options(spec);
  std::vector<std::string> names;
  for (const std::vector<FormatFamily>* rows : {&format_families(), &imported_formats()}) {
    for (const FormatFamily& row : *rows) {
      if (row.name == options.name()) return row.make(options);
      names.push_back(row.name);
    }
  }
  throw Error(ErrorCode::bad_option, fmt::format("unknown format '{}', expected one of {}",
                                                 options.name(), fmt::join(names, ", ")));
}

}  // namespace nybble
