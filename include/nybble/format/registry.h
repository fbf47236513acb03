#pragma once

#include <cstddef>
#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nybble/format/format.h"

namespace nybble {

/// The options of a format string, `key=value` pairs after the colon. A factory takes each option
/// it knows; what is left over is an error that lists what would have been allowed.
class SpecOptions {
 public:
  /// Splits `name[:key=value[,key=value]...]`. `kind` is what errors call it. Throws bad_option on
  /// bad grammar or repeated keys.
  explicit SpecOptions(std::string_view spec, std::string_view kind = "format");

  [[nodiscard]] const std::string& name() const { return name_; }
  /// One of `allowed`, by default the first. Throws bad_option for anything else.
  std::string choice(const std::string& key, std::initializer_list<const char*> allowed);
  /// true or false.
  bool flag(const std::string& key, bool fallback);
  /// A number of `least` to `most`.
  double number(const std::string& key, double fallback, double least, double most);
  /// An integer of `least` to `most`.
  int integer(const std::string& key, int fallback, int least, int most);
  /// A number of `least` to `most`, or the word `auto`, which is the default: nothing.
  std::optional<double> number_or_auto(const std::string& key, double least, double most);
  /// A group size: one of `allowed` (0 is written "row"), by default the first.
  std::size_t group(const std::string& key, std::initializer_list<std::size_t> allowed);
  /// Throws bad_option if an option was given that no call above asked for.
  void finish() const;
  /// Name and all options asked for, with the values in force, in the order asked: it parses back
  /// to the same format. Options at their default are left out.
  [[nodiscard]] std::string canonical() const;

 private:
  struct Known {
    std::string key, allowed;
  };
  const std::string* find(const std::string& key, const std::string& allowed);
  double parse_number(const std::string& key, const std::string& value, double least, double most,
                      bool whole) const;
  void add_canonical(const std::string& key, const std::string& value);
  std::string spec_, name_, kind_;
  std::map<std::string, std::string> given_;
  std::vector<Known> known_;
  std::string canonical_;
};

/// One row of the registry: a family of formats and how to make one from its options.
struct FormatFamily {
  std::string name;
  std::string summary;  ///< one line: elements, scales, where it comes from
  std::string options;  ///< the options and their values, for help and errors
  std::function<AnyFormat(SpecOptions&)> make;
};

/// The format that a string such as "amxfp4:scale=e8m0,search=mse" names, or one of
/// imported_formats() does. Throws bad_option with what is allowed.
AnyFormat parse_format(std::string_view spec);

/// All families, the built-in ones first. Not to be called while another thread registers.
const std::vector<FormatFamily>& format_families();

/// Formats that only hold weights other tools quantized (format/imported.h): no quantizer makes
/// them, so they are not among the families.
const std::vector<FormatFamily>& imported_formats();

/// Adds a family; from then on parse_format, the quantizers, kernels and programs that link this
/// library know it. Throws bad_option if the name is taken or cannot stand in a format string, or
/// if `make` is empty. Call before starting threads.
void register_format(FormatFamily family);

}  // namespace nybble
