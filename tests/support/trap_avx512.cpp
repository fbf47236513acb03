// Runs the avx512vbmi and avx512bf16 kernels on a CPU that ends at AVX-512 VNNI:
//
//   LD_PRELOAD=libtrap_avx512.so TRAP_AVX512=vbmi,bf16 PROGRAM ARGS...
//
// CPUID is made to fault and answered with the named features added; their instructions raise
// SIGILL and are computed here, on the registers of the signal frame. All else runs natively, so
// the other targets give the CPU's own results to compare with.
// Known are vpermb, vpermi2b, vpermt2b and vdpbf16ps, all that the kernels contain. Any other
// illegal instruction ends the program with its bytes printed. Exit code 77: not possible here.
// Without TRAP_AVX512 nothing happens.
//
// "SDM" is Intel's Software Developer's Manual. The permutations were compared with the emulator
// Bochs; vdpbf16ps follows the SDM's text and has not been compared with a CPU that has it.
#if defined(__x86_64__) && defined(__linux__)
#include <asm/prctl.h>
#include <cpuid.h>
#include <immintrin.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kNotPossible = 77;

bool supply_vbmi = false;
bool supply_bf16 = false;

/// A part of the XSAVE area in its standard format, which is what signal frames have (SDM volume 1,
/// "XSAVE area"; Linux, asm/sigcontext.h).
struct Component {
  std::uint32_t number, size, offset;
};
Component xmm{1, 256, 160};  // fixed; the others' places are CPUID's to say
Component ymm_upper{2, 0, 0};
Component masks{5, 0, 0};
Component zmm_upper{6, 0, 0};
Component zmm_16_to_31{7, 0, 0};
constexpr std::size_t kXstateBv = 512;

/// arch_prctl(2). For this thread and those that it starts, until the next exec.
bool let_cpuid_run(bool on) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, on ? 1L : 0L) == 0; }

struct alignas(64) Vector {
  std::array<std::uint8_t, 64> bytes{};
};

/// The interrupted program's registers.
class Frame {
 public:
  explicit Frame(void* context)
      : general_(static_cast<ucontext_t*>(context)->uc_mcontext.gregs),
        area_(reinterpret_cast<std::uint8_t*>(
            static_cast<ucontext_t*>(context)->uc_mcontext.fpregs)) {
    for (const Component& component : {xmm, ymm_upper, masks, zmm_upper, zmm_16_to_31}) {
      make_present(component);
    }
  }

  Vector vector(unsigned index) const {
    Vector out;
    for_each_part(index, [&](std::uint8_t* part, std::size_t first, std::size_t size) {
      std::memcpy(&out.bytes[first], part, size);
    });
    return out;
  }
  void set_vector(unsigned index, const Vector& value) const {
    for_each_part(index, [&](std::uint8_t* part, std::size_t first, std::size_t size) {
      std::memcpy(part, &value.bytes[first], size);
    });
  }
  /// k0 as a write mask means all elements.
  std::uint64_t write_mask(unsigned index) const {
    std::uint64_t out = ~std::uint64_t{0};
    if (index != 0) std::memcpy(&out, area_ + masks.offset + 8 * index, 8);
    return out;
  }
  std::uint64_t general(unsigned index) const {
    static constexpr std::array<int, 16> kOrder = {
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
        REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return static_cast<std::uint64_t>(general_[kOrder[index]]);
  }
  const std::uint8_t* code() const {
    return reinterpret_cast<const std::uint8_t*>(general_[REG_RIP]);
  }
  void skip(std::size_t bytes) const { general_[REG_RIP] += static_cast<greg_t>(bytes); }

 private:
  /// The bytes of a component in its initial state are not defined: they become the zeros it means.
  void make_present(const Component& component) const {
    std::uint64_t present = 0;
    std::memcpy(&present, area_ + kXstateBv, 8);
    const std::uint64_t bit = std::uint64_t{1} << component.number;
    if ((present & bit) != 0) return;
    std::memset(area_ + component.offset, 0, component.size);
    present |= bit;
    std::memcpy(area_ + kXstateBv, &present, 8);
  }
  template <class Visit>
  void for_each_part(unsigned index, Visit visit) const {
    if (index >= 16) return visit(area_ + zmm_16_to_31.offset + 64 * (index - 16), 0, 64);
    visit(area_ + xmm.offset + 16 * index, 0, 16);
    visit(area_ + ymm_upper.offset + 16 * index, 16, 16);
    visit(area_ + zmm_upper.offset + 32 * index, 32, 32);
  }

  greg_t* general_;
  std::uint8_t* area_;
};

enum class Operation { none, vpermb, vpermi2b, vpermt2b, vdpbf16ps };

struct Instruction {
  Operation operation = Operation::none;
  std::size_t length = 0;        // of the code
  std::size_t vector_bytes = 0;  // 16, 32 or 64
  bool broadcast = false;        // one dword of memory for all
  bool zeroing = false;          // elements that the mask leaves out
  unsigned mask = 0;
  unsigned destination = 0, first = 0, second = 0;
  const std::uint8_t* memory = nullptr;  // instead of `second`
};

/// SDM volume 2, the opcodes in the pages of the instructions.
Operation find(unsigned map, unsigned prefix, bool wide, unsigned opcode) {
  if (map != 2 || wide) return Operation::none;  // 0F 38
  if (supply_vbmi && prefix == 1) {              // 66
    if (opcode == 0x8D) return Operation::vpermb;
    if (opcode == 0x75) return Operation::vpermi2b;
    if (opcode == 0x7D) return Operation::vpermt2b;
  }
  if (supply_bf16 && prefix == 2 && opcode == 0x52) return Operation::vdpbf16ps;  // F3
  return Operation::none;
}

unsigned bit(unsigned byte, int index) { return (byte >> index) & 1U; }

/// Reads ModRM, SIB and displacement, which follow the opcode. EVEX counts a displacement of one
/// byte in units of what is read (SDM volume 2, "Compressed Displacement (disp8*N)").
void decode_memory(const Frame& frame, unsigned base_bit, unsigned index_bit, Instruction& out) {
  const std::uint8_t* code = frame.code();
  const unsigned mod = code[5] >> 6;
  unsigned base = code[5] & 7U;
  const bool sib = base == 4;
  std::uint64_t address = 0;
  out.length = 6;
  if (sib) {
    const unsigned byte = code[out.length++];
    const unsigned index = ((byte >> 3) & 7U) | index_bit << 3;
    if (index != 4) address = frame.general(index) << (byte >> 6);
    base = byte & 7U;
  }
  const bool has_base = mod != 0 || base != 5;
  std::int32_t displacement = 0;
  if (mod == 1) {
    const auto unit = static_cast<std::int32_t>(out.broadcast ? 4 : out.vector_bytes);
    displacement = static_cast<std::int8_t>(code[out.length++]) * unit;
  } else if (mod == 2 || !has_base) {
    std::memcpy(&displacement, code + out.length, 4);
    out.length += 4;
  }
  if (has_base) address += frame.general(base | base_bit << 3);
  if (!has_base && !sib) address += reinterpret_cast<std::uint64_t>(code + out.length);  // RIP
  address += static_cast<std::uint64_t>(std::int64_t{displacement});
  out.memory = reinterpret_cast<const std::uint8_t*>(address);
}

/// SDM volume 2, "Intel AVX-512 encoding". Not decoded: what these instructions do not allow, and
/// masked vdpbf16ps from memory, whose left out elements must not be touched.
Instruction decode(const Frame& frame) {
  const std::uint8_t* code = frame.code();
  if (code[0] != 0x62) return {};
  // Register bits are stored inverted.
  const unsigned p0 = code[1] ^ 0xF0U;  // R X B R' 0 m m m
  const unsigned p1 = code[2] ^ 0x78U;  // W v v v v 1 p p
  const unsigned p2 = code[3] ^ 0x08U;  // z L' L b V' a a a
  const unsigned modrm = code[5];
  if (bit(p0, 3) != 0 || bit(p1, 2) == 0) return {};
  Instruction out;
  out.operation = find(p0 & 7U, p1 & 3U, bit(p1, 7) != 0, code[4]);
  out.vector_bytes = std::size_t{16} << ((p2 >> 5) & 3U);
  out.broadcast = bit(p2, 4) != 0;
  out.zeroing = bit(p2, 7) != 0;
  out.mask = p2 & 7U;
  out.destination = ((modrm >> 3) & 7U) | bit(p0, 7) << 3 | bit(p0, 4) << 4;
  out.first = ((p1 >> 3) & 15U) | bit(p2, 3) << 4;
  const bool in_memory = modrm >> 6 != 3;
  const bool dwords_of_memory = in_memory && out.operation == Operation::vdpbf16ps;
  if (out.operation == Operation::none || out.vector_bytes > 64) return {};
  if (out.broadcast && !dwords_of_memory) return {};
  if (out.mask != 0 && dwords_of_memory) return {};
  if (in_memory) {
    decode_memory(frame, bit(p0, 5), bit(p0, 6), out);
  } else {
    out.second = (modrm & 7U) | bit(p0, 5) << 3 | bit(p0, 6) << 4;
    out.length = 6;
  }
  return out;
}

/// The last operand, register or memory.
Vector second_source(const Frame& frame, const Instruction& it) {
  if (it.memory == nullptr) return frame.vector(it.second);
  Vector out;
  for (std::size_t i = 0; i < it.vector_bytes; i += 4) {
    std::memcpy(&out.bytes[i], it.memory + (it.broadcast ? 0 : i), 4);
  }
  return out;
}

/// Looks `indices` up in the bytes of `low` and behind them `high`; bits above those are ignored.
void permute(const Vector& indices, const Vector& low, const Vector& high, std::size_t size,
             Vector& out) {
  for (std::size_t i = 0; i < size; ++i) {
    const std::size_t index = indices.bytes[i];
    out.bytes[i] = ((index & size) != 0 ? high : low).bytes[index & (size - 1)];
  }
}

/// SDM volume 2, VDPBF16PS: a fused multiply-add of the odd elements, then one of the even ones,
/// each rounded to nearest even; denormals are zero on both sides (on_illegal sets MXCSR). Which of
/// several NaNs comes out is not looked after.
__attribute__((target("avx512f"), noinline)) void dot(const Vector& first, const Vector& second,
                                                      Vector& sums) {
  using Words = std::array<std::uint32_t, 16>;
  const auto a = std::bit_cast<Words>(first);
  const auto b = std::bit_cast<Words>(second);
  auto sum = std::bit_cast<std::array<float, 16>>(sums);
  for (std::size_t i = 0; i < sum.size(); ++i) {
    const auto a_odd = std::bit_cast<float>(a[i] & 0xFFFF0000U);
    const auto b_odd = std::bit_cast<float>(b[i] & 0xFFFF0000U);
    const auto a_even = std::bit_cast<float>(a[i] << 16);
    const auto b_even = std::bit_cast<float>(b[i] << 16);
    sum[i] = std::fma(a_even, b_even, std::fma(a_odd, b_odd, sum[i]));
  }
  sums = std::bit_cast<Vector>(sum);
}

/// Computes the instruction at RIP and steps over it. Returns false where it is none of ours.
bool step(const Frame& frame) {
  const Instruction it = decode(frame);
  if (it.operation == Operation::none) return false;
  const Vector first = frame.vector(it.first);
  const Vector second = second_source(frame, it);
  const Vector old = frame.vector(it.destination);
  Vector computed;
  std::size_t element = 1;
  switch (it.operation) {
    case Operation::vpermb:
      permute(first, second, second, it.vector_bytes, computed);
      break;
    case Operation::vpermi2b:
      permute(old, first, second, it.vector_bytes, computed);
      break;
    case Operation::vpermt2b:
      permute(first, old, second, it.vector_bytes, computed);
      break;
    case Operation::vdpbf16ps:
      element = 4;
      computed = old;
      dot(first, second, computed);
      break;
    case Operation::none:
      return false;
  }
  const std::uint64_t mask = frame.write_mask(it.mask);
  Vector out;  // zero behind the vector's end
  for (std::size_t i = 0; i < it.vector_bytes; ++i) {
    const bool written = ((mask >> (i / element)) & 1U) != 0;
    out.bytes[i] = written ? computed.bytes[i] : it.zeroing ? std::uint8_t{0} : old.bytes[i];
  }
  frame.set_vector(it.destination, out);
  frame.skip(it.length);
  return true;
}

void on_illegal(int, siginfo_t*, void* context) {
  // For dot. Returning restores the program's.
  _mm_setcsr(_MM_ROUND_NEAREST | _MM_MASK_MASK | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON);
  const Frame frame(context);
  if (!step(frame)) {
    const std::uint8_t* code = frame.code();
    dprintf(STDERR_FILENO, "trap_avx512: unknown instruction %02x %02x %02x %02x %02x %02x\n",
            code[0], code[1], code[2], code[3], code[4], code[5]);
    signal(SIGILL, SIG_DFL);  // back to the instruction, which ends the program
    return;
  }
  while (step(frame)) {
    // A neighbour of the same kind saves its trap.
  }
}

/// CPUID that faults is a general protection exception: SI_KERNEL, other than for bad addresses.
void on_segment(int, siginfo_t* info, void* context) {
  greg_t* general = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const auto* code = reinterpret_cast<const std::uint8_t*>(general[REG_RIP]);
  if (info->si_code != SI_KERNEL || code[0] != 0x0F || code[1] != 0xA2) {
    signal(SIGSEGV, SIG_DFL);
    return;
  }
  const auto leaf = static_cast<std::uint32_t>(general[REG_RAX]);
  const auto subleaf = static_cast<std::uint32_t>(general[REG_RCX]);
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
  let_cpuid_run(true);
  __cpuid_count(leaf, subleaf, a, b, c, d);
  let_cpuid_run(false);
  if (leaf == 7 && subleaf == 0) {
    if (supply_vbmi) c |= 1U << 1;
    if (supply_bf16 && a == 0) a = 1;  // the last subleaf
  }
  if (leaf == 7 && subleaf == 1 && supply_bf16) a |= 1U << 5;
  general[REG_RAX] = a;
  general[REG_RBX] = b;
  general[REG_RCX] = c;
  general[REG_RDX] = d;
  general[REG_RIP] += 2;
}

void handle(int number, void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO;
  sigaction(number, &action, nullptr);
}

[[noreturn]] void give_up(const char* reason) {
  dprintf(STDERR_FILENO, "trap_avx512: %s\n", reason);
  _exit(kNotPossible);
}

/// Before the program's own constructors, which may ask for the CPU's features.
__attribute__((constructor)) void start() {
  const char* names = std::getenv("TRAP_AVX512");
  if (names == nullptr) return;
  __builtin_cpu_init();
  // VNNI is what the kernels' targets build on, and implies what is used here.
  if (__builtin_cpu_supports("avx512vnni") == 0) give_up("this CPU has no AVX-512 VNNI");
  supply_vbmi = std::strstr(names, "vbmi") != nullptr;
  supply_bf16 = std::strstr(names, "bf16") != nullptr;
  for (Component* component : {&ymm_upper, &masks, &zmm_upper, &zmm_16_to_31}) {
    std::uint32_t c = 0, d = 0;
    __cpuid_count(0xD, component->number, component->size, component->offset, c, d);
  }
  handle(SIGILL, on_illegal);
  handle(SIGSEGV, on_segment);
  if (!let_cpuid_run(false)) give_up("CPUID cannot be made to fault here");
}

}  // namespace
#endif
