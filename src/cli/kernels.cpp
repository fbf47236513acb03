#include "nybble/kernels.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "commands.h"
#include "output.h"

namespace nybble::cli {

namespace {

void run_kernels(bool json) {
  const std::vector<KernelInfo> kernels = list_kernels();
  if (json) {
    Json out = Json::array();
    for (const KernelInfo& kernel : kernels) {
      out.push_back({{"name", kernel.name},
                     {"slot", kernel.slot},
                     {"target", kernel.target},
                     {"description", kernel.description},
                     {"supported", kernel.supported}});
    }
    return print_json(out);
  }
  std::size_t width = 0;
  for (const KernelInfo& kernel : kernels) width = std::max(width, kernel.name.size());
  for (const KernelInfo& kernel : kernels) {
    fmt::print("{:<{}}  {}{}\n", kernel.name, width, kernel.description,
               kernel.supported ? "" : " [not on this CPU]");
  }
}

}  // namespace

void add_kernels_command(CLI::App& app) {
  CLI::App& command = *app.add_subcommand("kernels", "All kernels of all targets");
  const auto json = std::make_shared<bool>(false);
  add_json_option(command, *json);
  command.callback([json] { run_kernels(*json); });
}

}  // namespace nybble::cli
