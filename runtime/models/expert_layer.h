// A layer of experts, as operations for model families: where tokens go, whose weights are needed,
// the products, and the weighted sum. Which tensors it consists of, each family says.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "runtime/pass.h"

namespace qianyi {

struct ExpertWeights {
  int number = 0;   // TensorSpec::expert
  Projection gate;  // none: the activation is of `up` alone
  Projection up;
  Projection down;
  int64_t ffn = 0;  // rows of `up`; experts of a layer may differ
};

// Routes and waits for it. Every expert takes `capacity` choices, though it be none of them; -1 =
// no limit.
void RouteWithin(int64_t capacity, Route route, const Backend& backend, Stream stream);

// Immutable; holds no weights.
class ExpertLayer {
 public:
  struct Gating {
    RouterGate gate = RouterGate::kSigmoid;
    int64_t top_k = 1;
    int64_t groups = 1;
    int64_t kept_groups = 1;
    bool normalize = false;
    float scale = 1.0f;
    Activation activation = Activation::kSilu;
    // Off unless a model asks for it: what is dropped depends on the batch. Choices that an expert
    // takes: ceil(rate * tokens / experts), or of two choices ceil(rate * tokens) * 2 / experts.
    double capacity_rate = 0;
    int router = -1;  // constants: [experts, hidden_size], and [experts] or none
    int bias = -1;
    int correction = -1;
  };
  ExpertLayer(Gating gating, std::vector<ExpertWeights> experts)
      : gating_(gating), experts_(std::move(experts)) {}

  // Routes the rows of x [tokens, hidden_size], and begins to read what is missing. Until Finish,
  // which needs the same rows, is the time to compute something else. `uniform` [tokens] drops
  // second choices as GShard does (Route::uniform).
  void Begin(Tensor x, Pass& pass, const float* uniform = nullptr) const;
  // Guesses by x, the next layer's input as it is now, what this layer will need, and has it read.
  void Foresee(Tensor x, Pass& pass) const;
  // Whether a guess is worth its time.
  bool WantsForesight(Pass& pass) const;
  // out += the sum of what the experts make of x, by their weights. DataLoss when weights cannot
  // be read.
  absl::Status Finish(Tensor x, Tensor out, Pass& pass) const;

  int64_t size() const { return static_cast<int64_t>(experts_.size()); }
  int64_t Capacity(int64_t tokens) const;  // of each; -1 = no limit

 private:
  // By constants of the host or of the device, into `scores`.
  template <typename Constants>
  qianyi::Route Routing(Tensor x, const Constants& constants, float* scores) const;
  bool OnDevice(const Pass& pass) const {
    return pass.ExpertMatrices(experts_.front().up.weight) != nullptr;
  }
  void RunOnDevice(Tensor x, Tensor out, Pass& pass) const;
  int64_t Stride() const;  // tensors from one expert's to the same of the next
  int64_t GroupByExpert(int64_t choices, Pass& pass) const;
  absl::Status RunExpert(int64_t expert, Tensor x, HostSide& host) const;

  const Gating gating_;
  const std::vector<ExpertWeights> experts_;
};

}  // namespace qianyi
