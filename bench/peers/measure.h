#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "bench/peers/peer.h"
#include "bench/peers/problem.h"

namespace nybble::peers {

/// A competitor with its weights in memory, ready to run.
struct Competitor {
  std::string name;
  std::string library;
  std::unique_ptr<Peer> peer;
};

/// One competitor at one number of rows.
struct Point {
  std::string name;
  std::string library;
  std::string detail;
  std::size_t m = 0;
  std::size_t threads = 0;
  double bits_per_weight = 0;
  std::size_t weight_bytes = 0;
  std::size_t copies = 0;
  std::size_t calls = 0;                                 ///< timed ones
  double seconds = 0, seconds_p10 = 0, seconds_p90 = 0;  ///< per call; the first is the median
  double gflops = 0;                                     ///< 2 M N K over the median
  double weight_gbps = 0;                                ///< bytes of weights over the median
  double relative_error = 0;
};

struct Protocol {
  std::size_t rounds = 10;
  double seconds = 0.3;  ///< of timed calls per competitor and point, over all rounds
};

/// All competitors at `m` rows, in turn: every round is one burst of each, in a new random order,
/// with a pause before it in which the threads of the one before go to sleep. The first call of a
/// burst is not timed.
std::vector<Point> measure(std::vector<Competitor>& competitors, const Problem& problem,
                           std::size_t m, std::size_t threads, const Protocol& protocol);

}  // namespace nybble::peers
