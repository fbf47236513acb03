#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "nybble/error.h"
#include "nybble/executor.h"

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace nybble {
namespace {

/// How long a thread looks for work before it sleeps. Waking a sleeper costs the caller a system
/// call and the sleeper tens of microseconds, about the time a caller spends between two layers.
constexpr std::chrono::microseconds kSpin{50};
constexpr std::size_t kCacheLine = 64;

void pause() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/// Whether `condition` became true within kSpin.
template <class Condition>
bool spin_until(const Condition& condition) noexcept {
  using Clock = std::chrono::steady_clock;
  constexpr int kPausesPerLook = 16;  // at the clock, which costs as much as one or two of them
  if (condition()) return true;
  const auto end = Clock::now() + kSpin;
  do {
    for (int i = 0; i < kPausesPerLook; ++i) {
      pause();
      if (condition()) return true;
    }
  } while (Clock::now() < end);
  return false;
}

std::size_t cpus_of_this_process() noexcept {
#if defined(__linux__)
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof cpus, &cpus) == 0) {
    return static_cast<std::size_t>(std::max(1, CPU_COUNT(&cpus)));
  }
#endif
  return std::max(1U, std::thread::hardware_concurrency());
}

/// A pool whose jobs never wait for a thread that has not begun.
///
/// Why no thread can run a task of a job that is over: unclaimed_ holds the tasks nobody has begun,
/// [begin, end). Claiming one is a compare-and-swap, so it succeeds only on what the counter holds
/// at that moment: whatever job a late thread believes in, a task that it claims belongs to the job
/// that is running now. Only then does it read job_, and the caller neither returns nor changes
/// job_ before every claimed task is reported in unfinished_. That the same numbers come again in
/// the next job (ABA) does no harm therefore, and no generation is needed. The swap acquires what
/// the caller released with the counter (all later writes to it are swaps), the reports release to
/// the caller.
///
/// Why no sleeper is missed: a worker notes wakes_, sets asleep_, finds no task and sleeps while
/// wakes_ is what it noted; the caller publishes tasks, then looks at asleep_, all in one total
/// order. Either the worker finds the tasks or the caller finds it asleep. If the caller clears
/// asleep_ for an earlier worker in between, it counts wakes_ up after, and this one does not
/// sleep.
class ThreadExecutor final : public Executor {
 public:
  explicit ThreadExecutor(std::size_t threads) : ThreadExecutor() {
    // The object is complete here: if a thread cannot be started, its destructor ends the others.
    for (std::size_t i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ~ThreadExecutor() override {
    if (::getpid() != process_) {
      // A child of fork() has no workers to wait for, and no way to say so to their handles.
      static_cast<void>(new (std::nothrow) std::vector<std::thread>(std::move(workers_)));
      return;
    }
    stop_.store(true);
    wake_all();
    for (std::thread& worker : workers_) worker.join();
  }
  ThreadExecutor(const ThreadExecutor&) = delete;
  ThreadExecutor& operator=(const ThreadExecutor&) = delete;

  [[nodiscard]] std::size_t concurrency() const noexcept override { return workers_.size() + 1; }

  void parallel_for(std::size_t count, TaskRef task) override {
    // Busy: a task of this job called, or another thread. Waiting could be for ever in the first
    // case.
    if (count <= 1 || workers_.empty() || busy_.exchange(true, std::memory_order_acquire)) {
      for (std::size_t i = 0; i < count; ++i) task(i);
      return;
    }
    const std::size_t per_claim = (count - 1) / kMostClaims + 1;
    const auto claims = static_cast<std::uint32_t>((count - 1) / per_claim + 1);
    job_ = {&task, count, per_claim};
    unfinished_.store(claims, std::memory_order_relaxed);
    unclaimed_.store(std::uint64_t{claims} << 32);
    if (asleep_.load() && asleep_.exchange(false)) wake_all();

    const std::uint32_t own = run_tasks(kFirst);
    if (own != claims && unfinished_.fetch_sub(own, std::memory_order_acq_rel) != own) {
      spin_until([&] { return unfinished_.load(std::memory_order_acquire) == 0; });
      while (const std::uint32_t left = unfinished_.load(std::memory_order_acquire)) {
        unfinished_.wait(left, std::memory_order_acquire);
      }
    }
    const std::exception_ptr error = std::exchange(error_, nullptr);
    failed_.store(false, std::memory_order_relaxed);
    busy_.store(false, std::memory_order_release);
    if (error) std::rethrow_exception(error);
  }

 private:
  /// Steps of unclaimed_, whose low half is the first task and whose high half the end.
  static constexpr std::uint64_t kFirst = 1;
  static constexpr std::uint64_t kLast = std::uint64_t{0} - (std::uint64_t{1} << 32);
  static constexpr std::size_t kMostClaims = std::size_t{1} << 31;

  struct Job {
    const TaskRef* task = nullptr;
    std::size_t count = 0;
    std::size_t per_claim = 1;  ///< tasks, so that 32 bits are enough for any count
  };

  ThreadExecutor() = default;

  static bool any(std::uint64_t unclaimed) noexcept {
    return static_cast<std::uint32_t>(unclaimed) < unclaimed >> 32;
  }

  /// Runs what it can claim and returns how many claims that were. The caller takes the first task,
  /// workers the last: with two threads, each finds in its cache what it had there the last time.
  std::uint32_t run_tasks(std::uint64_t step) noexcept {
    std::uint32_t claims = 0;
    std::uint64_t unclaimed = unclaimed_.load(std::memory_order_relaxed);
    while (any(unclaimed)) {
      if (!unclaimed_.compare_exchange_weak(unclaimed, unclaimed + step, std::memory_order_acquire,
                                            std::memory_order_relaxed)) {
        continue;
      }
      run_claim(step == kFirst ? static_cast<std::uint32_t>(unclaimed) : (unclaimed >> 32) - 1);
      ++claims;
      unclaimed = unclaimed_.load(std::memory_order_relaxed);
    }
    return claims;
  }

  void run_claim(std::size_t claim) noexcept {
    const std::size_t begin = claim * job_.per_claim;
    const std::size_t end = begin + std::min(job_.per_claim, job_.count - begin);
    try {
      for (std::size_t i = begin; i < end; ++i) (*job_.task)(i);
    } catch (...) {
      if (!failed_.exchange(true, std::memory_order_relaxed)) error_ = std::current_exception();
    }
  }

  void work() noexcept {
    while (true) {
      const bool woken = spin_until([&] {
        return any(unclaimed_.load(std::memory_order_relaxed)) ||
               stop_.load(std::memory_order_relaxed);
      });
      if (!woken) sleep();
      if (stop_.load(std::memory_order_relaxed)) return;
      const std::uint32_t claims = run_tasks(kLast);
      if (claims != 0 && unfinished_.fetch_sub(claims, std::memory_order_acq_rel) == claims) {
        unfinished_.notify_one();
      }
    }
  }

  void sleep() noexcept {
    const std::uint32_t noted = wakes_.load();
    asleep_.store(true);
    if (!any(unclaimed_.load()) && !stop_.load()) wakes_.wait(noted);
  }
  void wake_all() noexcept {
    wakes_.fetch_add(1);
    wakes_.notify_all();
  }

  // What is written at the same time by different threads lies in different cache lines. 32 bits
  // where threads wait: what the system's own wait takes.
  alignas(kCacheLine) std::atomic<std::uint64_t> unclaimed_{0};
  Job job_;  // with unclaimed_: read next by whoever claims
  alignas(kCacheLine) std::atomic<std::uint32_t> unfinished_{0};
  alignas(kCacheLine) std::atomic<std::uint32_t> wakes_{0};
  std::atomic<bool> asleep_{false};
  std::atomic<bool> stop_{false};
  alignas(kCacheLine) std::atomic<bool> busy_{false};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
  const pid_t process_ = ::getpid();
  std::vector<std::thread> workers_;
};

}  // namespace

std::unique_ptr<Executor> make_thread_executor(std::size_t threads) {
  if (threads == 0) threads = cpus_of_this_process();
  try {
    return std::make_unique<ThreadExecutor>(threads);
  } catch (const std::system_error& error) {
    throw Error(ErrorCode::unsupported,
                fmt::format("executor: cannot start {} threads: {}", threads, error.what()));
  }
}

}  // namespace nybble
