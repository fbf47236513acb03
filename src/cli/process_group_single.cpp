#include <fmt/format.h>

#include <cstdlib>
#include <string>

#include "nybble/error.h"
#include "process_group.h"

namespace nybble::cli {

namespace {

class OneProcess final : public CommandGroup {
 public:
  [[nodiscard]] std::size_t rank() const override { return 0; }
  [[nodiscard]] std::size_t size() const override { return 1; }
  void barrier(const std::function<void()>& check) override { check(); }
  void abort(int /*exit_code*/) override {}
};

}  // namespace

std::unique_ptr<CommandGroup> make_command_group() {
  // Open MPI; MPICH and its kin.
  for (const char* const name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    const char* const size = std::getenv(name);
    if (size == nullptr || std::string(size) == "1") continue;
    throw Error(
        ErrorCode::unsupported,
        fmt::format("{} is {}, but this program was built without MPI: expected one process, "
                    "or a build with -DNYBBLE_MPI=ON",
                    name, size));
  }
  return std::make_unique<OneProcess>();
}

}  // namespace nybble::cli
