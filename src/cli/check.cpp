#include <fmt/format.h>

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint_numbers.h"
#include "commands.h"
#include "nybble/io/validate.h"
#include "output.h"

namespace nybble::cli {

namespace {

struct Options {
  CheckpointArguments checkpoint;
  std::size_t threads = 0;
  bool strict = false;
  bool json = false;
};

Json json_of(const Finding& finding) {
  return {{"severity", severity_name(finding.severity)},
          {"name", finding.name},
          {"place", finding.place},
          {"found", finding.found},
          {"expected", finding.expected},
          {"count", finding.count}};
}

constexpr const char* kWhyNotChecked = "values of this type cannot be read as floats";

Json json_of(const std::map<std::string, std::size_t>& not_checked) {
  Json out = Json::array();
  for (const auto& [type, count] : not_checked) {
    out.push_back({{"type", type}, {"tensors", count}, {"reason", kWhyNotChecked}});
  }
  return out;
}

void run(const Options& options) {
  const std::unique_ptr<Executor> executor = make_thread_executor(options.threads);
  warn_ignored_index(options.checkpoint.path);
  const QuantizedCheckpoint checkpoint(options.checkpoint.path, options.checkpoint.layout);
  std::array<std::size_t, 3> counts{};
  Json findings = Json::array();
  const std::map<std::string, std::size_t> not_checked = validate(
      checkpoint, read_model_shape(options.checkpoint.path, checkpoint),
      [&](const Finding& finding) {
        ++counts[static_cast<std::size_t>(finding.severity)];
        if (options.json) {
          findings.push_back(json_of(finding));
        } else {
          fmt::print("{}: {}\n", severity_name(finding.severity), printable(finding.text()));
        }
      },
      *executor);
  const auto count = [&](Severity severity) { return counts[static_cast<std::size_t>(severity)]; };
  std::size_t checked = checkpoint.tensors().size();
  for (const auto& [type, number] : not_checked) checked -= number;
  const bool good =
      count(Severity::error) == 0 && !(options.strict && count(Severity::warning) != 0);
  if (options.json) {
    print_json({{"path", options.checkpoint.path},
                {"layers", checkpoint.layers().size()},
                {"tensors", checkpoint.tensors().size()},
                {"not_checked", json_of(not_checked)},
                {"findings", std::move(findings)},
                {"errors", count(Severity::error)},
                {"warnings", count(Severity::warning)},
                {"notes", count(Severity::note)},
                {"good", good}});
  } else {
    fmt::print(
        "{}: {} quantized layers and {} other tensors checked: {} errors, {} warnings, {} "
        "notes\n",
        good ? "good" : "bad", checkpoint.layers().size(), checked, count(Severity::error),
        count(Severity::warning), count(Severity::note));
    for (const auto& [type, number] : not_checked) {
      fmt::print("not checked: {} tensors of type {}: {}\n", number, type, kWhyNotChecked);
    }
  }
  finish(good);
}

constexpr const char* kSeverities = R"(What is looked for, a line for each kind and layer:
  error    NaN or Inf in scales, tensors and transforms; sign bits in FP8 scales; zero points beyond
           15; tensor and input scales that are no positive numbers; layers whose shape is not what
           config.json's hidden_size and intermediate_size (or GGUF's metadata) say
  warning  scales of 0 and E8M0 scales outside 2^-27 .. 2^13 over codes that are not zero; negative
           float scales (ordinary in GGUF); zero points that are 7 or 9 throughout: off by one?;
           codes of padding that are not zero; channel scales of 0
  note     NVFP4 tensor scales that differ within q, k, v or gate, up, which engines fuse; tensor
           scales of 1, as if missing
)";

}  // namespace

void add_check_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App& command = *app.add_subcommand(
      "check", "Look for what is wrong with a checkpoint: scales, zero points, padding, NaN");
  add_checkpoint_arguments(command, options->checkpoint);
  command.add_flag("--strict", options->strict, "Warnings count as errors do");
  add_threads_option(command, options->threads);
  add_json_option(command, options->json);
  command.footer(kSeverities + exit_codes("no errors, 1 errors found,"));
  command.callback([options] { run(*options); });
}

}  // namespace nybble::cli
