#include "kernels/registry.h"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/cpu.h"
#include "nybble/error.h"
#include "nybble/kernels.h"

namespace nybble::kernels {

// Each target file defines this: it overrides the slots it has in a copy of its base's table.
#define NYBBLE_TARGET_ROW(name, base, description) \
  namespace name {                                 \
  void register_kernels(KernelTable& table);       \
  }
#include "kernels/targets.def"
#undef NYBBLE_TARGET_ROW

namespace {

struct Target {
  const char* name;
  const char* base;
  const char* description;
  bool supported;
  KernelTable table;
};

bool supported(std::string_view name) {
  const CpuFeatures& cpu = cpu_features();
  if (name == "avx2") return cpu.avx2;
  if (name == "avx512vnni") return cpu.avx512vnni;
  if (name == "avx512vbmi") return cpu.avx512vbmi;
  if (name == "avx512bf16") return cpu.avx512bf16;
  return name == "scalar";
}

std::vector<Target> build() {
  std::vector<Target> targets;
  const auto add = [&](const char* name, const char* base, const char* description,
                       void (*register_kernels)(KernelTable&)) {
    Target target{name, base, description, supported(name), {}};
    for (const Target& earlier : targets) {
      if (std::strcmp(earlier.name, base) == 0) target.table = earlier.table;
    }
    register_kernels(target.table);
    targets.push_back(target);
  };
#define NYBBLE_TARGET_ROW(name, base, description) \
  add(#name, #base, description, name::register_kernels);
#include "kernels/targets.def"
#undef NYBBLE_TARGET_ROW
  return targets;
}

const std::vector<Target>& targets() {
  static const std::vector<Target> all = build();
  return all;
}

const Target& find_target(std::string_view name, std::string_view asked_by) {
  std::string names;
  for (const Target& target : targets()) {
    if (target.name == name) {
      if (target.supported) return target;
      throw Error(ErrorCode::unsupported,
                  fmt::format("{}: this CPU ({}) cannot run target '{}'; see `nybble cpu`",
                              asked_by, cpu_name(), name));
    }
    names += (names.empty() ? "" : ", ") + std::string(target.name);
  }
  throw Error(ErrorCode::bad_option,
              fmt::format("{}: unknown target '{}', expected one of {}", asked_by, name, names));
}

struct Choice {
  const Target* target;
  const char* why;
};

Choice choose(std::string_view forced) {
  if (!forced.empty()) return {&find_target(forced, "target"), "forced by the caller"};
  const char* environment = std::getenv("NYBBLE_TARGET");
  if (environment != nullptr && *environment != '\0') {
    return {&find_target(environment, "NYBBLE_TARGET"), "forced by NYBBLE_TARGET"};
  }
  const Target* best = nullptr;
  for (const Target& target : targets()) {
    if (target.supported) best = &target;
  }
  return {best, "the best this CPU supports"};
}

// Whether a target's slot differs from its base's: that is what it registered itself.
template <class Visit>
void visit_own_slots(const Target& target, Visit visit) {
  KernelTable base;
  for (const Target& other : targets()) {
    if (&other != &target && std::strcmp(other.name, target.base) == 0) base = other.table;
  }
#define NYBBLE_KERNEL_SLOT(slot, args, text) \
  if (target.table.slot != base.slot) visit(#slot, text);
#include "kernels/slots.def"
#undef NYBBLE_KERNEL_SLOT
}

}  // namespace

Selected select(std::string_view forced) {
  const Choice choice = choose(forced);
  return {&choice.target->table, choice.target->name, choice.why};
}

std::string_view provider(std::string_view target, std::string_view slot) {
  for (const Target& row : targets()) {
    if (row.name != target) continue;
    bool own = false;
    visit_own_slots(row, [&](std::string_view name, const char*) { own = own || name == slot; });
    return own ? std::string_view(row.name) : provider(row.base, slot);
  }
  return target;
}

}  // namespace nybble::kernels

namespace nybble {

std::vector<TargetInfo> list_targets() {
  std::vector<TargetInfo> out;
  for (const auto& target : kernels::targets()) {
    out.push_back({target.name, target.description, target.supported});
  }
  return out;
}

std::vector<KernelInfo> list_kernels() {
  std::vector<KernelInfo> out;
  for (const auto& target : kernels::targets()) {
    kernels::visit_own_slots(target, [&](const std::string& slot, const char* text) {
      out.push_back({slot + "_" + target.name, slot, target.name, text, target.supported});
    });
  }
  return out;
}

std::string cpu_name() { return kernels::cpu_name(); }

std::string select_target(std::string_view forced) { return kernels::choose(forced).target->name; }

}  // namespace nybble
