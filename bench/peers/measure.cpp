#include "bench/peers/measure.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>
#include <thread>

namespace nybble::peers {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// `quantile` of sorted values, the nearest one.
double quantile_of(const std::vector<double>& sorted, double quantile) {
  return sorted[static_cast<std::size_t>(quantile * static_cast<double>(sorted.size() - 1) + 0.5)];
}

/// Calls one competitor for `seconds`, always with the weights that were used longest ago.
class Burst {
 public:
  explicit Burst(Peer& peer) : peer_(&peer) {}

  void run(double seconds) {
    call();
    const auto start = Clock::now();
    do {
      times_.push_back(call());
    } while (seconds_since(start) < seconds);
  }
  std::vector<double> take_sorted() {
    std::sort(times_.begin(), times_.end());
    return std::move(times_);
  }

 private:
  double call() {
    const auto start = Clock::now();
    peer_->run(turn_);
    const double seconds = seconds_since(start);
    turn_ = (turn_ + 1) % peer_->copies();
    return seconds;
  }

  Peer* peer_;
  std::size_t turn_ = 0;
  std::vector<double> times_;
};

}  // namespace

std::vector<Point> measure(std::vector<Competitor>& competitors, const Problem& problem,
                           std::size_t m, std::size_t threads, const Protocol& protocol) {
  // libgomp's threads spin longest after their last work: about 5 ms.
  constexpr auto kPause = std::chrono::milliseconds(25);
  std::vector<Burst> bursts;
  for (Competitor& competitor : competitors) {
    competitor.peer->set_input(problem.input(m));
    bursts.emplace_back(*competitor.peer);
  }
  std::vector<std::size_t> order(competitors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::mt19937 random(static_cast<std::mt19937::result_type>(m));
  for (std::size_t round = 0; round < protocol.rounds; ++round) {
    std::shuffle(order.begin(), order.end(), random);
    for (const std::size_t index : order) {
      std::this_thread::sleep_for(kPause);
      bursts[index].run(protocol.seconds / static_cast<double>(protocol.rounds));
    }
  }

  const MatrixView weights = problem.weights();
  const auto elements = static_cast<double>(weights.rows * weights.cols);
  std::vector<Point> points;
  for (std::size_t i = 0; i < competitors.size(); ++i) {
    Peer& peer = *competitors[i].peer;
    const std::vector<double> times = bursts[i].take_sorted();
    Point point;
    point.name = competitors[i].name;
    point.library = competitors[i].library;
    point.detail = peer.detail();
    point.m = m;
    point.threads = threads;
    point.weight_bytes = peer.weight_bytes();
    point.bits_per_weight = 8 * static_cast<double>(point.weight_bytes) / elements;
    point.copies = peer.copies();
    point.calls = times.size();
    point.seconds = quantile_of(times, 0.5);
    point.seconds_p10 = quantile_of(times, 0.1);
    point.seconds_p90 = quantile_of(times, 0.9);
    point.gflops = 2 * static_cast<double>(m) * elements / point.seconds / 1e9;
    point.weight_gbps = static_cast<double>(point.weight_bytes) / point.seconds / 1e9;
    point.relative_error = problem.relative_error(peer.output());
    points.push_back(std::move(point));
  }
  return points;
}

}  // namespace nybble::peers
