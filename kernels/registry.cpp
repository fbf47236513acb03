#include "kernels/registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <string>

#include "kernels/core.h"
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
  TargetId id;
  TargetId base;
  const char* name;
  const char* description;
  bool supported;
  KernelTable table;
};

constexpr TargetId kBases[] = {
#define NYBBLE_TARGET_ROW(name, base, description) TargetId::base,
#include "kernels/targets.def"
#undef NYBBLE_TARGET_ROW
};
/// So that following bases ends: at the first target, which is its own.
constexpr bool bases_come_first() {
  for (std::size_t i = 0; i < std::size(kBases); ++i) {
    if (static_cast<std::size_t>(kBases[i]) >= std::max<std::size_t>(i, 1)) return false;
  }
  return true;
}
static_assert(bases_come_first());

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
  const auto add = [&](TargetId id, TargetId base, const char* name, const char* description,
                       void (*register_kernels)(KernelTable&)) {
    Target target{id, base, name, description, supported(name), {}};
    if (base != id) target.table = targets[static_cast<std::size_t>(base)].table;
    register_kernels(target.table);
    targets.push_back(target);
  };
#define NYBBLE_TARGET_ROW(name, base, description) \
  add(TargetId::name, TargetId::base, #name, description, name::register_kernels);
#include "kernels/targets.def"
#undef NYBBLE_TARGET_ROW
  return targets;
}

const std::vector<Target>& targets() {
  static const std::vector<Target> all = build();
  return all;
}

const Target& row_of(TargetId id) { return targets()[static_cast<std::size_t>(id)]; }

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
  bool forced;
};

Choice choose(std::string_view forced) {
  if (!forced.empty()) return {&find_target(forced, "target"), "forced by the caller", true};
  const char* environment = std::getenv("NYBBLE_TARGET");
  if (environment != nullptr && *environment != '\0') {
    return {&find_target(environment, "NYBBLE_TARGET"), "forced by NYBBLE_TARGET", true};
  }
  const Target* best = nullptr;
  for (const Target& target : targets()) {
    if (target.supported) best = &target;
  }
  return {best, "the best this CPU supports", false};
}

// A target's own slots are those that differ from its base's.
template <class Visit>
void visit_own_slots(const Target& target, Visit visit) {
  const KernelTable base = target.base == target.id ? KernelTable{} : row_of(target.base).table;
#define NYBBLE_KERNEL_SLOT(slot, args, text) \
  if (target.table.slot != base.slot) visit(Slot::slot, text);
#include "kernels/slots.def"
#undef NYBBLE_KERNEL_SLOT
}

Selected selected(const Target& target, const char* why, bool forced) {
  return {&target.table, target.id, target.name, why, forced};
}

}  // namespace

Selected select(std::string_view forced) {
  const Choice choice = choose(forced);
  return selected(*choice.target, choice.why, choice.forced);
}

const char* target_name(TargetId target) { return row_of(target).name; }

const char* slot_name(Slot slot) {
  constexpr const char* kNames[] = {
#define NYBBLE_KERNEL_SLOT(name, args, description) #name,
#include "kernels/slots.def"
#undef NYBBLE_KERNEL_SLOT
  };
  return kNames[static_cast<std::size_t>(slot)];
}

TargetId provider(TargetId target, Slot slot) {
  const Target& row = row_of(target);
  bool own = row.base == row.id;
  visit_own_slots(row, [&](Slot its, const char*) { own = own || its == slot; });
  return own ? target : provider(row.base, slot);
}

std::vector<GemmChoice> choose_gemm(const Selected& selection, Slot slot, std::size_t group) {
  if (selection.forced) return {{1, selection}};
  std::vector<GemmChoice> out;
  for (const CoreRule& rule : core_rules(core_kind())) {
    const Target& target = row_of(rule.target);
    if (rule.slot == slot && rule.least_group <= group && group <= rule.most_group &&
        target.supported) {
      out.push_back({rule.from_rows, selected(target, rule.why, false)});
    }
  }
  if (out.empty() || out.front().from_rows > 1) out.insert(out.begin(), {1, selection});
  return out;
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
    kernels::visit_own_slots(target, [&](kernels::Slot id, const char* text) {
      const std::string slot = kernels::slot_name(id);
      out.push_back({slot + "_" + target.name, slot, target.name, text, target.supported});
    });
  }
  return out;
}

std::string cpu_name() { return kernels::cpu_name(); }

std::string core_description() {
  const kernels::CoreKind kind = kernels::core_kind();
  return fmt::format("{} ({})", kernels::core_kind_name(kind), kernels::describe(kind));
}

std::vector<KernelChoice> list_choices(std::size_t group, std::string_view forced) {
  using kernels::Slot;
  const kernels::Selected selection = kernels::select(forced);
  std::vector<KernelChoice> out;
  for (const Slot slot : {Slot::gemm_a8_symmetric, Slot::gemm_a8_zero_point,
                          Slot::gemm_a8_sign_split, Slot::gemm_a16, Slot::gemm_a32}) {
    for (const kernels::GemmChoice& choice : kernels::choose_gemm(selection, slot, group)) {
      const std::string name = kernels::slot_name(slot);
      const kernels::TargetId provider = kernels::provider(choice.selected.id, slot);
      out.push_back({name, choice.from_rows, name + "_" + kernels::target_name(provider),
                     choice.selected.why});
    }
  }
  return out;
}

std::string select_target(std::string_view forced) { return kernels::choose(forced).target->name; }

}  // namespace nybble
