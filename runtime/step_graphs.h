// What a step enqueues on a device, as one graph where a step enqueued the same before: that costs
// the host one launch instead of one for every kernel. "The same" is meant literally: every
// argument of every kernel is compared, so nothing has to be known about what changes from step to
// step. What does change lies in memory that is uploaded before (Pass::Upload).
#pragma once

#include <cstddef>
#include <cstdint>
#include <variant>
#include <vector>

#include "kernels/backend.h"

namespace qianyi {

// Used by the engine's thread, and destroyed before backend and stream. Allocates where a step
// differs from those it knows.
class StepGraphs {
 public:
  // Steps that are remembered.
  static constexpr size_t kMostSteps = 16;

  StepGraphs(const Backend& backend, Stream stream);  // of a backend that can capture
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  // A table whose kernels are noted instead of enqueued. Its other entries are the backend's.
  const Backend& recorder() const { return recorder_; }
  Stream recorder_stream() { return {&noted_}; }

  void Begin() { noted_.clear(); }
  // Enqueues what was noted since Begin. As a graph from the second time on.
  void Enqueue();

  uint64_t captured() const { return captured_; }
  uint64_t launched() const { return launched_; }

 private:
  using Kernel = std::variant<Quantize, Linear, Gather, AddRows, CopyRows, LayerNorm, RmsNorm, Rope,
                              Activate, GatedActivate, KvWrite, Attention, SparseAttention, Lora,
                              Route, Combine, Unfold, GroupChoices, ExpertLinear>;
  using Kernels = std::vector<Kernel>;
  struct Remembered {
    Kernels kernels;
    Graph graph;  // null: it came once
    uint64_t used = 0;
  };

  template <typename Task>
  static void Note(const Task& task, Stream stream) {
    static_cast<Kernels*>(stream.handle)->emplace_back(task);
  }
  void EnqueueKernels(const Kernels& kernels);
  Graph Capture();
  Remembered* Find();
  void Remember();

  const Backend& backend_;
  const Stream stream_;
  Backend recorder_;
  Kernels noted_;
  std::vector<Remembered> steps_;
  bool captures_ = true;  // until the device refuses
  uint64_t enqueued_ = 0;
  uint64_t captured_ = 0;
  uint64_t launched_ = 0;
};

}  // namespace qianyi
