#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

namespace nybble {

/// A non-owning reference to a callable void(size_t task): no allocation, two words.
class TaskRef {
 public:
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, TaskRef>)
      TaskRef(const F& function)  // implicit, so that a lambda can be passed as it is
      : object_(&function), call_([](const void* object, std::size_t task) {
          (*static_cast<const F*>(object))(task);
        }) {}
  void operator()(std::size_t task) const { call_(object_, task); }

 private:
  const void* object_;
  void (*call_)(const void*, std::size_t);
};

/// Where nybble's parallel loops run. The library starts no thread unless asked: an engine passes
/// its own pool by overriding two functions. Tasks are independent, never nested, and do not throw
/// when called from QuantizedLinear::run; elsewhere an exception must reach the caller of
/// parallel_for.
class Executor {
 public:
  virtual ~Executor() = default;
  /// How many tasks can run at once; 0 counts as 1. Work is split by this number; results never
  /// depend on it.
  [[nodiscard]] virtual std::size_t concurrency() const noexcept = 0;
  /// Calls task(0) ... task(count - 1), in any order, and returns when all are done. What it throws
  /// of its own (a pool that was shut down, say) reaches whoever called nybble, whose outputs are
  /// then unspecified; it may throw once no task is running any more, not before.
  virtual void parallel_for(std::size_t count, TaskRef task) = 0;
};

/// Runs everything on the calling thread.
class SerialExecutor final : public Executor {
 public:
  [[nodiscard]] std::size_t concurrency() const noexcept override { return 1; }
  void parallel_for(std::size_t count, TaskRef task) override {
    for (std::size_t i = 0; i < count; ++i) task(i);
  }
};

/// An executor on OpenMP's threads. `threads` = 0 takes OpenMP's own default (OMP_NUM_THREADS, the
/// affinity mask). Throws unsupported where nybble was built without OpenMP and threads > 1.
///
/// After fork() the child has none of those threads, but GCC's OpenMP goes on waiting for them: a
/// child whose parent used OpenMP hangs, also in an executor that it makes itself. Let such a child
/// use make_thread_executor or SerialExecutor.
std::unique_ptr<Executor> make_openmp_executor(std::size_t threads = 0);

/// An executor on threads of its own: `threads` - 1 workers and the caller; 0 takes the number of
/// CPUs in the process's affinity mask. Made for jobs of microseconds: workers look for the next
/// job for 50 microseconds before they sleep, and the caller does itself what no worker has begun,
/// so that a job never waits for a worker that gets no CPU. While a job runs, a second one (from
/// another thread or from a task) runs serially on the thread that asked for it. The first
/// exception of a task is rethrown when every task that began has ended. Throws unsupported if the
/// system does not start so many threads.
///
/// After fork() the child has no workers: its caller does all tasks itself, and so it works, as
/// slowly as one thread; the child destroys it without waiting for them. Make a new one there for
/// more. Do not fork while a job runs.
std::unique_ptr<Executor> make_thread_executor(std::size_t threads = 0);

}  // namespace nybble
