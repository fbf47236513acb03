#include <mpi.h>

#include <chrono>
#include <thread>

#include "nybble/error.h"
#include "process_group.h"

namespace nybble::cli {

namespace {

class MpiGroup final : public CommandGroup {
 public:
  MpiGroup() {
    int granted = 0;
    // Only the thread that is here calls MPI.
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &granted);
    if (granted < MPI_THREAD_FUNNELED) {
      throw Error(ErrorCode::unsupported, "this MPI does not allow threads");
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
  }
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;
  ~MpiGroup() override {
    // After an error in one of several, abort() ends them: the others would never finalize.
    if (std::uncaught_exceptions() == 0 || size_ == 1) MPI_Finalize();
  }

  [[nodiscard]] std::size_t rank() const override { return static_cast<std::size_t>(rank_); }
  [[nodiscard]] std::size_t size() const override { return static_cast<std::size_t>(size_); }
  void barrier(const std::function<void()>& check) override {
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Ibarrier(MPI_COMM_WORLD, &request);
    // Asleep between looks: MPI_Barrier would keep a core busy that another process works on.
    for (int done = 0;;) {
      MPI_Test(&request, &done, MPI_STATUS_IGNORE);
      check();
      if (done != 0) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  void abort(int exit_code) override {
    if (size_ > 1) MPI_Abort(MPI_COMM_WORLD, exit_code);
  }

 private:
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace

std::unique_ptr<CommandGroup> make_command_group() { return std::make_unique<MpiGroup>(); }

}  // namespace nybble::cli
