#pragma once

#include <CLI/CLI.hpp>
#include <cstddef>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>
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

/// Before the work starts: can these files be written (empty names: none), and is each another one?
/// Nothing is left behind. Throws io, bad_option.
void check_writable(const std::vector<std::string>& paths);

/// The exit code of the program for an error: 1 internal, 2 usage, 3 input, 130 interrupted.
int exit_code(const std::exception& error);

/// The most memory this process ever had.
std::size_t peak_bytes();

/// "symmetric", "zero_point" or "sign_split".
const char* layout_name(ScaleLayout layout);

/// One line, whatever text from files and paths is in it.
std::string one_line(std::string text);

}  // namespace nybble::cli
