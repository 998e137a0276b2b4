#include "runtime/step_graphs.h"

#include <algorithm>
#include <utility>

namespace qianyi {
namespace {

// Runs one noted kernel.
struct Run {
  const Backend& backend;
  Stream stream;

  void operator()(const Quantize& task) const { backend.quantize(task, stream); }
  void operator()(const Linear& task) const { backend.linear(task, stream); }
  void operator()(const Gather& task) const { backend.gather(task, stream); }
  void operator()(const AddRows& task) const { backend.add_rows(task, stream); }
  void operator()(const CopyRows& task) const { backend.copy_rows(task, stream); }
  void operator()(const LayerNorm& task) const { backend.layer_norm(task, stream); }
  void operator()(const RmsNorm& task) const { backend.rms_norm(task, stream); }
  void operator()(const Rope& task) const { backend.rope(task, stream); }
  void operator()(const Activate& task) const { backend.activate(task, stream); }
  void operator()(const GatedActivate& task) const { backend.gated_activate(task, stream); }
  void operator()(const KvWrite& task) const { backend.kv_write(task, stream); }
  void operator()(const Attention& task) const { backend.attention(task, stream); }
  void operator()(const SparseAttention& task) const { backend.sparse_attention(task, stream); }
  void operator()(const Lora& task) const { backend.lora(task, stream); }
  void operator()(const Route& task) const { backend.route(task, stream); }
  void operator()(const Combine& task) const { backend.combine(task, stream); }
  void operator()(const Unfold& task) const { backend.unfold(task, stream); }
  void operator()(const GroupChoices& task) const { backend.group_choices(task, stream); }
  void operator()(const ExpertLinear& task) const { backend.expert_linear(task, stream); }
};

}  // namespace

StepGraphs::StepGraphs(const Backend& backend, Stream stream)
    : backend_(backend), stream_(stream), recorder_(backend) {
  recorder_.quantize = Note<Quantize>;
  recorder_.linear = Note<Linear>;
  recorder_.gather = Note<Gather>;
  recorder_.add_rows = Note<AddRows>;
  recorder_.copy_rows = Note<CopyRows>;
  recorder_.layer_norm = Note<LayerNorm>;
  recorder_.rms_norm = Note<RmsNorm>;
  recorder_.rope = Note<Rope>;
  recorder_.activate = Note<Activate>;
  recorder_.gated_activate = Note<GatedActivate>;
  recorder_.kv_write = Note<KvWrite>;
  recorder_.attention = Note<Attention>;
  recorder_.sparse_attention = Note<SparseAttention>;
  recorder_.lora = Note<Lora>;
  recorder_.route = Note<Route>;
  recorder_.combine = Note<Combine>;
  recorder_.unfold = Note<Unfold>;
  recorder_.group_choices = Note<GroupChoices>;
  recorder_.expert_linear = Note<ExpertLinear>;
  steps_.reserve(kMostSteps);
}

StepGraphs::~StepGraphs() {
  for (const Remembered& step : steps_) {
    if (step.graph.handle != nullptr) backend_.destroy_graph(step.graph);
  }
}

void StepGraphs::EnqueueKernels(const Kernels& kernels) {
  for (const Kernel& kernel : kernels) std::visit(Run{backend_, stream_}, kernel);
}

void StepGraphs::Enqueue() {
  ++enqueued_;
  Remembered* const step = captures_ ? Find() : nullptr;
  if (step == nullptr) {
    EnqueueKernels(noted_);
    if (captures_) Remember();
    return;
  }
  step->used = enqueued_;
  if (step->graph.handle == nullptr) step->graph = Capture();
  if (step->graph.handle == nullptr) {
    captures_ = false;
    EnqueueKernels(noted_);
    return;
  }
  ++launched_;
  backend_.launch(step->graph, stream_);
}

// Of what was noted; null where the device refuses.
Graph StepGraphs::Capture() {
  if (!backend_.begin_capture(stream_)) return {};
  EnqueueKernels(noted_);
  const Graph graph = backend_.end_capture(stream_);
  if (graph.handle != nullptr) ++captured_;
  return graph;
}

StepGraphs::Remembered* StepGraphs::Find() {
  const auto step = std::find_if(steps_.begin(), steps_.end(), [this](const Remembered& known) {
    return known.kernels == noted_;
  });
  return step == steps_.end() ? nullptr : &*step;
}

// In place of a step that came once, as prompts do, before one that has a graph.
void StepGraphs::Remember() {
  if (steps_.size() < kMostSteps) {
    steps_.emplace_back();
  } else {
    const auto later = [](const Remembered& a, const Remembered& b) {
      return std::pair(a.graph.handle != nullptr, a.used) <
             std::pair(b.graph.handle != nullptr, b.used);
    };
    std::iter_swap(std::min_element(steps_.begin(), steps_.end(), later), steps_.end() - 1);
    if (steps_.back().graph.handle != nullptr) backend_.destroy_graph(steps_.back().graph);
  }
  Remembered& step = steps_.back();
  step.kernels.swap(noted_);
  step.graph = {};
  step.used = enqueued_;
}

}  // namespace qianyi
