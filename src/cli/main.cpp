#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "commands.h"
#include "nybble/error.h"
#include "nybble/version.h"
#include "output.h"

namespace {

constexpr int kInternalError = 1;
constexpr int kInputError = 3;

int report(const std::string& message, int exit_code) {
  fmt::print(stderr, "nybble: {}\n", message);
  return exit_code;
}

int run(int argc, char** argv) {
  CLI::App app("4-bit formats and the CPU kernels that compute with them", "nybble");
  app.set_version_flag("--version", fmt::format("nybble {}.{}.{}", NYBBLE_VERSION_MAJOR,
                                                NYBBLE_VERSION_MINOR, NYBBLE_VERSION_PATCH));
  app.require_subcommand(0, 1);
  app.footer(
      "Exit codes: 0 done, 1 internal error (check, diff: they found something), 2 bad usage,\n"
      "            3 bad input, 130 interrupted.");
  nybble::cli::add_cast_command(app);
  nybble::cli::add_quantize_command(app);
  nybble::cli::add_layer_command(app);
  nybble::cli::add_sweep_command(app);
  nybble::cli::add_inspect_command(app);
  nybble::cli::add_check_command(app);
  nybble::cli::add_diff_command(app);
  nybble::cli::add_convert_command(app);
  nybble::cli::add_report_command(app);
  nybble::cli::add_formats_command(app);
  nybble::cli::add_cpu_command(app);
  nybble::cli::add_kernels_command(app);
  nybble::cli::add_bench_command(app);
  nybble::cli::add_limits_command(app);
  int status = 0;
  try {
    app.parse(argc, argv);
    // Not require_subcommand(1): for a misspelled command that only says that one is required.
    if (app.get_subcommands().empty()) {
      throw CLI::RequiredError("A command (see `nybble --help`)");
    }
  } catch (const CLI::Success& help_or_version) {
    app.exit(help_or_version);
  } catch (const CLI::RuntimeError& found) {
    status = found.get_exit_code();
  }
  // What was flushed before, an event, may have failed then: only the stream knows.
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    return report("standard output: cannot write", kInputError);
  }
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::bad_alloc&) {
    return report("out of memory", kInternalError);
  } catch (const std::exception& error) {
    return report(nybble::cli::error_text(error), nybble::cli::exit_code(error));
  }
}
