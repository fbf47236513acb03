#pragma once

#include <CLI/CLI.hpp>

/// The commands of the `nybble` program, one source file each. Each function adds one to `app`,
/// with a callback that runs it and throws nybble::Error.
namespace nybble::cli {

void add_bench_command(CLI::App& app);
void add_cast_command(CLI::App& app);
void add_check_command(CLI::App& app);
void add_convert_command(CLI::App& app);
void add_cpu_command(CLI::App& app);
void add_diff_command(CLI::App& app);
void add_formats_command(CLI::App& app);
void add_inspect_command(CLI::App& app);
void add_kernels_command(CLI::App& app);
void add_layer_command(CLI::App& app);
void add_limits_command(CLI::App& app);
void add_quantize_command(CLI::App& app);
void add_report_command(CLI::App& app);
void add_sweep_command(CLI::App& app);

}  // namespace nybble::cli
