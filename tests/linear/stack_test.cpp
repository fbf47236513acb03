// How much stack everything takes that an engine's worker threads run: those of engines can be
// small, so arrays belong into workspaces.

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "nybble/attention/kv_cache.h"
#include "nybble/format/registry.h"
#include "nybble/kernels.h"
#include "nybble/linear/grouped_linear.h"
#include "nybble/quantize/rtn.h"
#include "src/transform/hadamard.h"
#include "tests/support/random.h"
#include "tests/support/sanitized.h"

#if defined(__linux__) && defined(__OPTIMIZE__) && !NYBBLE_TEST_SANITIZED
#define NYBBLE_MEASURE_STACK
#include <pthread.h>
#include <sys/mman.h>
#endif

namespace nybble::test {
namespace {

#ifdef NYBBLE_MEASURE_STACK

constexpr std::size_t kLimit = 16 * 1024;  // as linear.h says

/// A stack of its own that is painted before a call: what is no longer paint was used.
class PaintedStack {
 public:
  PaintedStack() {
    memory_ = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  ~PaintedStack() { munmap(memory_, kBytes); }
  PaintedStack(const PaintedStack&) = delete;
  PaintedStack& operator=(const PaintedStack&) = delete;

  /// Bytes of stack that `call` takes.
  std::size_t measure(const std::function<void()>& call) {
    call_ = &call;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, memory_, kBytes);
    pthread_t thread{};
    const int failed = pthread_create(&thread, &attributes, &PaintedStack::run, this);
    pthread_attr_destroy(&attributes);
    EXPECT_EQ(failed, 0);
    if (failed == 0) pthread_join(thread, nullptr);
    return used_;
  }

 private:
  static constexpr std::size_t kBytes = std::size_t{256} << 10;
  static constexpr unsigned char kPaint = 0xA5;

  static void* run(void* self) {
    static_cast<PaintedStack*>(self)->paint_and_call();
    return nullptr;
  }
  __attribute__((noinline)) void paint_and_call() {
    auto* const begin = static_cast<volatile unsigned char*>(memory_);
    auto* const here = static_cast<volatile unsigned char*>(__builtin_frame_address(0));
    constexpr std::ptrdiff_t kOwnFrame = 1024;
    for (volatile unsigned char* p = begin; p < here - kOwnFrame; ++p) *p = kPaint;
    (*call_)();
    volatile unsigned char* deepest = begin;
    while (deepest < here && *deepest == kPaint) ++deepest;
    used_ = static_cast<std::size_t>(here - deepest);
  }

  void* memory_ = nullptr;
  const std::function<void()>* call_ = nullptr;
  std::size_t used_ = 0;
};

TEST(Stack, IsSeen) {
  PaintedStack stack;
  const std::size_t used = stack.measure([] {
    volatile unsigned char array[100000];
    for (std::size_t i = 0; i < sizeof(array); i += 64) array[i] = 1;
  });
  EXPECT_GE(used, 100000U);
  EXPECT_LE(used, 104000U);
}

std::vector<std::string> supported_targets() {
  std::vector<std::string> out;
  for (const TargetInfo& target : list_targets()) {
    if (target.supported) out.push_back(target.name);
  }
  return out;
}

constexpr std::array kPaths = {Path::a8, Path::a16, Path::a32, Path::a4};
/// Kernels for one row, for few and for many, and more rows than one takes at a time.
constexpr std::array<std::size_t, 6> kBatches = {1, 2, 5, 8, 13, 230};

/// A format of every layout and scale that kernels tell apart, in groups of all kinds.
constexpr std::array kFormats = {"int4",
                                 "int4:group=16",
                                 "int4:group=128,scale=bf16",
                                 "int4:group=row,scale=f32",
                                 "int4:zero_point=true",
                                 "int4:group=16,zero_point=true",
                                 "fp4",
                                 "nf4",
                                 "nf4:double=true",
                                 "iq4_nl",
                                 "mxfp4",
                                 "nvfp4",
                                 "amxfp4",
                                 "amxfp4:scale=e8m0,group=16",
                                 "amxfp4:scale=f16",
                                 "amxfp4:scale=e4m3,group=128"};

constexpr std::size_t kRows = 80;
constexpr std::size_t kCols = 512;

QuantizedMatrix make_matrix(const std::string& format) {
  SerialExecutor serial;
  std::vector<float> values = heavy_tailed_values(kRows * kCols, 1);
  // Groups without a negative value or with tiny ones: what some kernels treat on their own.
  for (std::size_t i = 0; i < 64; ++i) values[i] = i < 32 ? 1.0F : values[i] * 1e-4F;
  return quantize_rtn({values.data(), kRows, kCols}, parse_format(format), serial);
}

TEST(Stack, LinearLayers) {
  SerialExecutor serial;
  PaintedStack stack;
  Workspace workspace;
  const std::size_t most_rows = kBatches.back();
  const std::vector<float> x = normal_values(most_rows * kCols, 2);
  std::vector<float> y(most_rows * kRows);
  std::vector<std::uint32_t> routes(most_rows);
  for (std::size_t r = 0; r < most_rows; ++r) routes[r] = static_cast<std::uint32_t>(r * 7 % 3 % 2);
  const std::vector<float> weights(most_rows, 0.5F);
  std::size_t most = 0;
  std::string where;
  const auto measure = [&](const std::function<void()>& call, const std::string& name) {
    call();  // what happens once in a process does not count
    const std::size_t used = stack.measure(call);
    EXPECT_LE(used, kLimit) << name;
    if (used > most) {
      most = used;
      where = name;
    }
  };
  for (const std::string& target : supported_targets()) {
    for (const char* format : kFormats) {
      const QuantizedMatrix matrix = make_matrix(format);
      const std::vector<QuantizedMatrix> experts = {matrix, matrix};
      for (const Path path : kPaths) {
        if (path == Path::a4 && matrix.format.info().double_quantized) continue;
        const LinearOptions options{.path = path, .target = target};
        Transforms transforms;
        transforms.hadamard.block = 128;
        transforms.bias.assign(kRows, 1.0F);
        const QuantizedLinear linear(matrix, options, serial, transforms);
        const GroupedLinear grouped(experts, options, serial);
        for (const std::size_t m : kBatches) {
          const std::string name =
              target + " " + format + " " + path_name(path) + " M = " + std::to_string(m);
          const MatrixView in(x.data(), m, kCols);
          const MutableMatrixView out(y.data(), m, kRows);
          measure([&] { linear.run(in, out, workspace, serial); }, name);
          measure(
              [&] {
                grouped.run(in, {routes.data(), m}, out, workspace, serial);
              },
              "grouped " + name);
          measure(
              [&] {
                grouped.run_summed(in, {routes.data(), m}, {weights.data(), m}, out, workspace,
                                   serial);
              },
              "summed " + name);
        }
      }
    }
  }
  RecordProperty("most", std::to_string(most) + " " + where);
  std::printf("most stack: %zu bytes, %s\n", most, where.c_str());
}

TEST(Stack, Caches) {
  constexpr std::size_t kTokens = 100;
  constexpr std::size_t kHeads = 2;
  constexpr std::size_t kDim = 64;
  constexpr std::size_t kWidth = kHeads * kDim;
  SerialExecutor serial;
  PaintedStack stack;
  Workspace workspace;
  const std::vector<float> k = normal_values(kTokens * kWidth, 1);
  std::vector<float> y(kTokens * 3 * kWidth);
  const std::vector<float> q = normal_values(kTokens * 3 * kWidth, 1);
  std::size_t most = 0;
  for (const std::string& target : supported_targets()) {
    for (const char* format : {"int4", "int4:zero_point=true", "nf4", "nvfp4", "amxfp4"}) {
      for (const Path path : {Path::a8, Path::a16, Path::a32}) {
        for (const ValueGroups groups : {ValueGroups::tokens, ValueGroups::head_dim}) {
          KvCache cache(kHeads, kDim, kTokens,
                        {parse_format(format), parse_format(format), groups, path, target});
          const auto call = [&] {
            cache.clear();
            cache.append({k.data(), kTokens, kWidth}, {k.data(), kTokens, kWidth}, serial);
            for (const std::size_t m : {std::size_t{1}, kTokens}) {
              cache.attend({q.data(), m, 3 * kWidth}, {y.data(), m, 3 * kWidth}, 0.1F, workspace,
                           serial);
            }
          };
          call();
          const std::size_t used = stack.measure(call);
          EXPECT_LE(used, kLimit) << target << " " << format << " " << path_name(path);
          most = std::max(most, used);
        }
      }
    }
  }
  std::printf("most stack: %zu bytes\n", most);
}

TEST(Stack, Rotations) {
  PaintedStack stack;
  for (std::size_t order = 1; order <= 1024; ++order) {
    if (!has_hadamard(order)) continue;
    std::vector<float> x(order, 1.0F);
    EXPECT_LE(stack.measure([&] { hadamard(x.data(), order, false); }), kLimit - 2048) << order;
  }
}

#else

TEST(Stack, LinearLayers) { GTEST_SKIP() << "measured in optimised Linux builds"; }

#endif

}  // namespace
}  // namespace nybble::test
