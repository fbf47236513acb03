#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace nybble {

/// One kernel target, as built into this library.
struct TargetInfo {
  std::string name;
  std::string description;
  bool supported = false;  ///< by this CPU and its operating system
};

/// One registered kernel.
struct KernelInfo {
  std::string name;  ///< slot and target, e.g. "gemm_a8_symmetric_avx512vnni"
  std::string slot;
  std::string target;
  std::string description;
  bool supported = false;
};

/// Which kernel of a GEMM slot runs from how many rows of activations on.
struct KernelChoice {
  std::string slot;
  std::size_t from_rows = 1;
  std::string kernel;
  std::string why;
};

/// All targets, the most portable first.
std::vector<TargetInfo> list_targets();
/// All kernels of all targets: each target lists only what it does itself, not what it inherits.
std::vector<KernelInfo> list_kernels();
/// The processor's own name.
std::string cpu_name();
/// What is known of its cores that decides between kernels of the same instructions.
std::string core_description();
/// For every GEMM slot what runs here for weights in groups of `group`, ascending in rows: the
/// kernels of select_target(forced), or, if nothing forces it, of whichever target is fastest on
/// these cores. Throws as select_target.
std::vector<KernelChoice> list_choices(std::size_t group = 32, std::string_view forced = {});
/// The target that is used: `forced` if not empty, else the environment variable NYBBLE_TARGET,
/// else the best one this CPU supports. Throws bad_option for an unknown name and unsupported for
/// one this CPU cannot run.
std::string select_target(std::string_view forced = {});

}  // namespace nybble
