#include "report.h"

#include <memory>
#include <span>

#include "commands.h"
#include "nybble/io/atomic_file.h"

namespace nybble::cli {

namespace {

struct Options {
  ReportSources sources;
  std::string out, out_json;
  std::size_t threads = 0;
};

void write_text(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(std::as_bytes(std::span(text)));
  file.commit();
}

void run(const Options& options) {
  std::vector<std::string> inputs = options.sources.sweeps;
  inputs.insert(inputs.end(), {options.sources.checkpoint.path, options.sources.original,
                               options.sources.events});
  check_writable({options.out, options.out_json}, inputs);
  const std::unique_ptr<Executor> executor = make_thread_executor(options.threads);
  const std::string text = report_numbers(options.sources, *executor)
                               .dump(1, ' ', false, Json::error_handler_t::replace);
  // The page shows what the JSON has: what is not finite is null, what is not UTF-8 is replaced.
  const std::string page = report_page(Json::parse(text));
  if (!options.out_json.empty()) write_text(options.out_json, text + '\n');
  write_text(options.out, page);
}

}  // namespace

void add_report_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App& command = *app.add_subcommand(
      "report", "Write a page about a quantized checkpoint: errors, codes, scales, formats");
  add_checkpoint_arguments(command, options->sources.checkpoint);
  command.add_option("--original", options->sources.original,
                     "The checkpoint it was made from: adds every layer's error");
  command.add_option("--sweep", options->sources.sweeps,
                     "What `nybble sweep --out-json` wrote; of several layers: their mean");
  command.add_option("--events", options->sources.events, "What `nybble quantize --json` printed");
  command.add_option("--out", options->out, "The page, one HTML file")->required();
  command.add_option("--json,--out-json", options->out_json, "Write its numbers, too");
  add_threads_option(command, options->threads);
  command.callback([options] { run(*options); });
}

}  // namespace nybble::cli
