// How far reading runs ahead of use, found by measuring while it reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace qianyi {

// Bytes that have just been read lie in a processor's caches. Where the one that put them there (a
// virtual disk's thread, a controller) shares a cache with those that compute, going round few
// places is up to a fifth faster than memory; where it does not, the same lines wander between
// caches, and it is a third slower than going round many. Nobody says which it is, and on a virtual
// machine it changes by the second, so all shapes are tried in turn and the fastest is used.
class ReadAhead {
 public:
  struct Shape {
    int in_flight = 0;           // reads under way of each file, at most
    uint64_t waiting_bytes = 0;  // of blocks that have a place and wait for their reads
  };
  static constexpr uint64_t kSettleBytes = 32ull << 20;  // after a change, not counted
  static constexpr uint64_t kWindowBytes = 96ull << 20;  // a measurement
  static constexpr int kWindowsOfBest = 16;              // before the others are tried again

  // At least one shape; begins with the first.
  explicit ReadAhead(std::vector<Shape> shapes);
  // Few places and many, for readers with `depth` reads under way.
  static std::vector<Shape> Shapes(int depth);

  const Shape& shape() const { return shapes_[current_]; }
  // A block of `bytes` has come at `seconds`, a monotonic time. Allocates nothing.
  void Came(uint64_t bytes, double seconds);
  // Reading was not limited by the disk since the last call of Came: it says nothing about the
  // shape.
  void Paused() { window_begin_ = -1; }

 private:
  void EndWindow(double rate);

  const std::vector<Shape> shapes_;
  std::vector<double> rates_;  // bytes per second; 0 = not tried yet
  size_t current_ = 0;
  size_t best_ = 0;
  uint64_t settle_bytes_ = kSettleBytes;
  uint64_t window_bytes_ = 0;
  double window_begin_ = -1;  // seconds; negative: not begun
  int windows_left_ = 1;      // of the best, before the others are tried
};

}  // namespace qianyi
