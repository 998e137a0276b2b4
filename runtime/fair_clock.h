// Whose turn it is among those who wait for a place: weighted shares, and batch work last, but not
// never.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <unordered_map>

namespace qianyi {

// On whose account a request waits.
struct Turn {
  uint64_t flow = 0;   // those of one flow have one share together
  double weight = 1;   // of that share, above 0
  bool batch = false;  // after everything that is not, as far as BatchIsDue allows
};

// Smaller ones are served first.
struct Rank {
  bool batch = false;
  double start = 0;
  uint64_t arrival = 0;
  auto operator<=>(const Rank&) const = default;
};

// Start-time fair queueing (Goyal, Vin and Cheng 1996): work is ranked by when its flow would get
// to it if each flow had its share of one server. A flow that waits alone has everything; one that
// comes back after a while gets no credit for its absence. Pure; one thread.
class FairClock {
 public:
  // Of work that has come; `cost` is above 0, `arrival` counts up.
  Rank Enter(const Turn& turn, double cost, uint64_t arrival);
  // That work got its place, while batch work waited or was it itself.
  void Serve(const Rank& rank, bool batch_waits);
  // Of the places that are given while batch work waits, one of kBatchEvery is for it.
  static constexpr int kBatchEvery = 16;
  bool BatchIsDue() const { return passed_ + 1 >= kBatchEvery; }
  // Nobody waits any more: all begin anew.
  void Reset();

 private:
  struct Line {
    double now = 0;
    std::unordered_map<uint64_t, double> ends;  // by flow: when its last work would be done
  };
  std::array<Line, 2> lines_;  // interactive, batch
  int passed_ = 0;             // work that was served while batch work waited, since any was
};

}  // namespace qianyi
