#include "nybble/executor.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <ctime>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/sanitized.h"

namespace nybble {
namespace {

using namespace std::chrono_literals;

/// Long enough for every idle worker to fall asleep.
constexpr auto kUntilAsleep = 20ms;

/// Runs a job of `count` tasks; whether each of them ran exactly once.
bool runs_each_once(Executor& executor, std::size_t count) {
  std::vector<std::atomic<int>> runs(count);
  executor.parallel_for(count, [&](std::size_t task) { ++runs.at(task); });
  for (const std::atomic<int>& times : runs) {
    if (times != 1) return false;
  }
  return true;
}

TEST(ThreadExecutor, RunsEveryTaskOnce) {
  for (const std::size_t threads : {1U, 2U, 3U, 8U}) {
    const auto executor = make_thread_executor(threads);
    EXPECT_EQ(executor->concurrency(), threads);
    for (const std::size_t count : {0U, 1U, 2U, 7U, 1000U}) {
      for (int repeat = 0; repeat < 50; ++repeat) {
        ASSERT_TRUE(runs_each_once(*executor, count)) << count << " tasks, " << threads;
      }
    }
  }
}

TEST(ThreadExecutor, ZeroMeansTheCpusOfThisProcess) {
  const auto executor = make_thread_executor();
  EXPECT_GE(executor->concurrency(), 1U);
  EXPECT_TRUE(runs_each_once(*executor, 100));
}

// The first tasks begun wait for each other, so this ends only if two threads run them.
TEST(ThreadExecutor, RunsTasksAtTheSameTime) {
  const auto executor = make_thread_executor(2);
  for (const auto pause : {0ms, std::chrono::milliseconds(kUntilAsleep)}) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::this_thread::sleep_for(pause);
      std::atomic<std::size_t> begun{0};
      std::array<std::size_t, 3> order{};
      executor->parallel_for(3, [&](std::size_t task) {
        order.at(begun++) = task;
        while (begun < 2) std::this_thread::yield();
      });
      // From both ends, so that each of two threads finds its cache as it left it.
      EXPECT_EQ(order[0] + order[1], 2U);
    }
  }
}

TEST(ThreadExecutor, CallerReceivesTheFirstException) {
  const auto executor = make_thread_executor(3);
  for (int repeat = 0; repeat < 200; ++repeat) {
    const std::size_t thrower = static_cast<std::size_t>(repeat) % 10;
    try {
      executor->parallel_for(10, [&](std::size_t task) {
        if (task == thrower) throw std::runtime_error("task " + std::to_string(task));
      });
      FAIL() << "no exception";
    } catch (const std::runtime_error& error) {
      EXPECT_EQ(error.what(), "task " + std::to_string(thrower));
    }
    EXPECT_THROW(executor->parallel_for(10, [](std::size_t) { throw std::logic_error("all"); }),
                 std::logic_error);
    ASSERT_TRUE(runs_each_once(*executor, 10));
  }
}

TEST(ThreadExecutor, NestedCallsRun) {
  const auto executor = make_thread_executor(4);
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::atomic<int> runs{0};
    executor->parallel_for(10, [&](std::size_t) {
      executor->parallel_for(
          10, [&](std::size_t) { executor->parallel_for(2, [&](std::size_t) { ++runs; }); });
    });
    ASSERT_EQ(runs, 200);
  }
}

TEST(ThreadExecutor, SeveralCallersAtOnce) {
  const auto executor = make_thread_executor(3);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (std::size_t caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&, caller] {
      for (std::size_t job = 0; job < 2000; ++job) {
        if (!runs_each_once(*executor, 2 + (job + caller) % 7)) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
}

// More threads than CPUs: workers come late, in the middle of jobs that they know nothing of. What
// a job writes lives on the stack of its call, so a task run too late would be seen by a sanitizer.
TEST(ThreadExecutor, ManyShortJobsWithLateWorkers) {
  const auto executor = make_thread_executor(6);
  std::atomic<bool> stop{false};
  std::vector<std::thread> load;
  for (int i = 0; i < 2; ++i) {
    load.emplace_back([&] {
      while (!stop) std::this_thread::yield();
    });
  }
  std::size_t wrong = 0;
  for (std::size_t job = 0; job < 100'000; ++job) {
    const std::size_t count = 2 + job % 3;
    const int delay = job % 5 == 0 ? 500 : 0;              // time for a worker to take part
    const std::size_t together = job % 2000 == 0 ? 2 : 0;  // one must
    std::atomic<std::size_t> begun{0};
    std::size_t results[4] = {};
    executor->parallel_for(count, [&, delay](std::size_t task) {
      ++begun;
      while (begun < together) std::this_thread::yield();
      for (volatile int i = 0; i < delay;) i = i + 1;
      results[task] += job + task + 1;
    });
    for (std::size_t task = 0; task < 4; ++task) {
      wrong += results[task] != (task < count ? job + task + 1 : 0);
    }
  }
  stop = true;
  for (std::thread& thread : load) thread.join();
  EXPECT_EQ(wrong, 0U);
}

TEST(ThreadExecutor, WakesSleepingWorkers) {
  const auto executor = make_thread_executor(3);
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::this_thread::sleep_for(kUntilAsleep);
    std::atomic<int> begun{0};
    executor->parallel_for(3, [&](std::size_t) {
      ++begun;
      while (begun != 3) std::this_thread::yield();
    });
    EXPECT_EQ(begun, 3);
  }
}

TEST(ThreadExecutor, IdleWorkersTakeNoCpu) {
  const auto executor = make_thread_executor(4);
  executor->parallel_for(4, [](std::size_t) {});
  std::this_thread::sleep_for(kUntilAsleep);
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(200ms);
  const double seconds = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  EXPECT_LT(seconds, 0.05);
}

/// A child of fork() has none of the workers: it must neither wait for them to work nor to end.
TEST(ThreadExecutor, WorksInAChildProcess) {
  if (NYBBLE_TEST_SANITIZED != 0) GTEST_SKIP() << "sanitizers do not follow a fork of many threads";
  auto executor = make_thread_executor(4);
  const auto sum = [&] {
    std::atomic<std::size_t> total{0};
    executor->parallel_for(100, [&](std::size_t i) { total += i; });
    return total.load();
  };
  ASSERT_EQ(sum(), 4950U);
  for (const bool asleep : {false, true}) {
    if (asleep) std::this_thread::sleep_for(kUntilAsleep);
    const pid_t child = fork();
    ASSERT_NE(child, -1);
    if (child == 0) {
      alarm(20);  // whose signal ends a child that waits for ever
      const bool right = sum() == 4950 && sum() == 4950;
      executor.reset();
      _exit(right ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  EXPECT_EQ(sum(), 4950U);
}

TEST(ThreadExecutor, IsDestroyedAsleepAwakeAndUnused) {
  for (int repeat = 0; repeat < 20; ++repeat) {
    const auto asleep = make_thread_executor(4);
    asleep->parallel_for(4, [](std::size_t) {});
    std::this_thread::sleep_for(1ms);
    const auto awake = make_thread_executor(4);
    awake->parallel_for(4, [](std::size_t) {});
    const auto unused = make_thread_executor(4);
  }
}

}  // namespace
}  // namespace nybble
