#pragma once

#include <CLI/CLI.hpp>
#include <cstddef>
#include <exception>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nybble/format/format.h"

/// What the commands share: options of the same name mean the same, and so do printed words.
namespace nybble::cli {

/// Objects keep the order in which keys were added. NaN and Inf are printed as null.
using Json = nlohmann::ordered_json;

/// Prints one JSON value on a line of its own.
void print_json(const Json& json);

/// `--json`.
void add_json_option(CLI::App& command, bool& json);
/// `--threads`, 0 = the CPUs this process may use.
void add_threads_option(CLI::App& command, std::size_t& threads);

/// Before the work starts: can these files be written (empty names: none), is each another one, and
/// none of the files that are read? `inputs` are those, or folders of weights. Nothing is left
/// behind. Throws io, bad_option.
void check_writable(const std::vector<std::string>& paths, const std::vector<std::string>& inputs);

/// Says on stderr which of a model's files is not read, if there is one (ignored_index).
void warn_ignored_index(const std::string& path);

/// The exit code of the program for an error: 1 internal, 2 usage, 3 input, 130 interrupted.
int exit_code(const std::exception& error);

/// What to say of it, on one line.
std::string error_text(const std::exception& error);

/// The most memory this process ever had.
std::size_t peak_bytes();

/// "symmetric", "zero_point" or "sign_split".
const char* layout_name(ScaleLayout layout);

/// A name from a file as a terminal may see it: control characters are escaped.
std::string printable(std::string_view text);

/// "24 x 64".
std::string shape_text(std::span<const std::size_t> shape);

/// What a command that compares or checks found out, as its exit code: 0, or 1 by throwing what
/// main() ends with.
void finish(bool good);

/// The exit codes of such a command, for its footer; `bad` says what 1 means.
std::string exit_codes(const std::string& bad);

/// One line, whatever text from files and paths is in it.
std::string one_line(std::string text);

}  // namespace nybble::cli
