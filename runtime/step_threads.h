// With how many threads steps compute while weights come from a disk, found by measuring.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace qianyi {

// A disk needs processors too: the system's copies and interrupts and, on a virtual machine, the
// host's thread that serves the disk, which takes its time from the guest's processors unseen. A
// step that waits for weights anyway may be a third faster with a thread fewer; one that computes
// all the time is slower by what the thread did. So where waiting leaves the room, the next lesser
// or greater number is tried now and then, and the faster is kept; for steps of about the same
// number of tokens each by itself. One thread's; allocates in its constructor only.
class StepThreads {
 public:
  static constexpr double kWindowSeconds = 0.5;  // of steps that make a measurement, at least
  static constexpr int kWindowsOfFirst = 4;      // before anything is tried
  static constexpr int kWindowsOfBest = 16;      // before another number is tried
  static constexpr int kWindowsOfNew = 2;        // the same, of one that has just become the best
  static constexpr double kGain = 0.97;          // of the time, at most: then it was faster
  // Fewer threads are tried where their work alone would take at most so many times the step.
  static constexpr double kRoom = 1.1;

  explicit StepThreads(int threads);  // at most so many; begins with all

  // For a step of so many tokens.
  int Of(int64_t tokens) const;
  // A step with Of(tokens) threads took `seconds`, in which it waited `stall_seconds` for weights.
  void Took(int64_t tokens, double seconds, double stall_seconds);

 private:
  struct Kind {  // of steps: those whose number of tokens has as many binary digits
    size_t current = 0, best = 0;  // indices of choices_
    double best_seconds = 0;       // of a step; 0 = not measured yet
    double best_stall_seconds = 0;
    double seconds = 0, stall_seconds = 0;  // of the window
    int steps = 0;
    int windows_left = kWindowsOfFirst;  // of the best, before another is tried
    bool fewer_next = true;
  };
  static size_t KindOf(int64_t tokens);
  void EndWindow(Kind* kind);
  void TryAnother(Kind* kind) const;
  bool HasRoom(const Kind& kind, size_t choice) const;

  std::vector<int> choices_;  // falling: all, one fewer, and halves down to 1
  std::array<Kind, 24> kinds_;
};

}  // namespace qianyi
