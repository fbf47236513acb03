#pragma once

#include <memory>

#include "nybble/quantize/checkpoint.h"

namespace nybble::cli {

/// The processes that run the same command: those of mpirun where this program was built with MPI
/// (process_group_mpi.cpp), else this one (process_group_single.cpp).
class CommandGroup : public ProcessGroup {
 public:
  /// Ends all of them with that exit code; returns where there is only this one.
  virtual void abort(int exit_code) = 0;
};

/// Throws unsupported where mpirun started several processes of a program built without MPI: each
/// would write the same files.
std::unique_ptr<CommandGroup> make_command_group();

}  // namespace nybble::cli
