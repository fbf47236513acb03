#include "nybble/io/convert.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>

#include "commands.h"
#include "interrupt.h"
#include "output.h"

namespace nybble::cli {

namespace {

struct Options {
  std::string source, out, requantize;
  ConvertOptions convert;
  std::size_t threads = 0;
  bool json = false;
};

void run(Options options) {
  if (!options.requantize.empty()) {
    const std::size_t slash = options.requantize.find('/');
    options.convert.format = options.requantize.substr(0, slash);
    if (slash != std::string::npos) options.convert.method = options.requantize.substr(slash + 1);
  }
  warn_ignored_index(options.source);
  const InterruptHandler handler;
  options.convert.cancel = &handler.flag();
  const std::unique_ptr<Executor> executor = make_thread_executor(options.threads);
  const ConvertReport report =
      convert_checkpoint(options.source, options.out, options.convert, *executor);
  if (options.json) {
    return print_json({{"source", options.source},
                       {"out", options.out},
                       {"layout", options.convert.layout},
                       {"layers", report.layers},
                       {"tensors", report.tensors},
                       {"bytes", report.bytes}});
  }
  fmt::print("{} layers in layout {}, {} other tensors as they were: {:.1f} MB\n", report.layers,
             options.convert.layout, report.tensors, static_cast<double>(report.bytes) / 1e6);
}

}  // namespace

void add_convert_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App& command = *app.add_subcommand(
      "convert", "Write a quantized checkpoint in another layout: without loss, or not at all");
  command.add_option("source", options->source, "A quantized checkpoint: a file or a folder")
      ->required();
  command
      .add_option("--layout", options->convert.layout,
                  fmt::format("What to write: {}", fmt::join(convert_layout_names(), ", ")))
      ->required();
  command.add_option("--out", options->out, "The new folder, or, for gguf, the file")->required();
  command.add_option("--source-layout", options->convert.source_layout,
                     "Read all layers in this layout (default: found from names, metadata, data)");
  command.add_option("--requantize", options->requantize,
                     "FORMAT or FORMAT/METHOD: weights change; otherwise they never do");
  command.add_flag("--drop-details", options->convert.drop_details,
                   "Leave out what no weight depends on and the layout has no place for; otherwise "
                   "that is an error, for converting back would not give the same file");
  add_threads_option(command, options->threads);
  add_json_option(command, options->json);
  command.callback([options] { run(*options); });
}

}  // namespace nybble::cli
