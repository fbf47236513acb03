#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>

#include "commands.h"
#include "nybble/error.h"
#include "nybble/executor.h"
#include "nybble/kernels.h"
#include "output.h"

namespace nybble::cli {

namespace {

const char* compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

/// "always", "madvise" or "never": the word in brackets.
std::string huge_pages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string word;
  while (file >> word) {
    if (word.size() > 2 && word.front() == '[' && word.back() == ']') {
      return word.substr(1, word.size() - 2);
    }
  }
  return "unknown";
}

/// select_target's choice. Its errors point at this command, so here they list what there is.
std::string chosen_target() {
  try {
    return select_target();
  } catch (const Error& error) {
    std::string names;
    for (const TargetInfo& target : list_targets()) {
      if (target.supported) names += (names.empty() ? "" : ", ") + target.name;
    }
    throw Error(error.code(), fmt::format("{} (this CPU runs {})", error.what(), names));
  }
}

void run_cpu(bool json) {
  const char* forced = std::getenv("NYBBLE_TARGET");
  const std::string chosen = chosen_target();
  const std::string reason = forced != nullptr && *forced != '\0'
                                 ? fmt::format("NYBBLE_TARGET={}", forced)
                                 : "best supported";
  const std::size_t threads = make_thread_executor()->concurrency();
  if (json) {
    Json targets = Json::array();
    for (const TargetInfo& target : list_targets()) {
      targets.push_back({{"name", target.name},
                         {"description", target.description},
                         {"supported", target.supported}});
    }
    Json choices = Json::array();
    for (const KernelChoice& choice : list_choices()) {
      choices.push_back({{"slot", choice.slot},
                         {"from_rows", choice.from_rows},
                         {"kernel", choice.kernel},
                         {"why", choice.why}});
    }
    print_json({{"cpu", cpu_name()},
                {"core", core_description()},
                {"targets", targets},
                {"target", chosen},
                {"reason", reason},
                {"kernels", choices},
                {"huge_pages", huge_pages()},
                {"threads", threads},
                {"compiler", compiler()}});
    return;
  }
  fmt::print("cpu         {}\n", cpu_name());
  for (const TargetInfo& target : list_targets()) {
    fmt::print("target      {:<11} {:<3}  {}\n", target.name, target.supported ? "yes" : "no",
               target.description);
  }
  fmt::print("chosen      {} ({})\n", chosen, reason);
  fmt::print("core        {}\n", core_description());
  for (const KernelChoice& choice : list_choices()) {
    fmt::print("kernel      {} from {} row{} on, groups of 32 ({})\n", choice.kernel,
               choice.from_rows, choice.from_rows == 1 ? "" : "s", choice.why);
  }
  fmt::print("huge pages  {}\n", huge_pages());
  fmt::print("threads     {}\n", threads);
  fmt::print("compiler    {}\n", compiler());
}

}  // namespace

void add_cpu_command(CLI::App& app) {
  CLI::App& command = *app.add_subcommand("cpu", "What this CPU runs and which target is chosen");
  const auto json = std::make_shared<bool>(false);
  add_json_option(command, *json);
  command.callback([json] { run_cpu(*json); });
}

}  // namespace nybble::cli
