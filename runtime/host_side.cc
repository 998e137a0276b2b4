#include "runtime/host_side.h"

#include <algorithm>
#include <vector>

namespace qianyi {

void HostSide::LayOutExperts(const ModelSpec& spec, int64_t tokens, Arena* arena,
                             ExpertBuffers* buffers) {
  const ExpertSpec& experts = spec.experts;
  if (experts.total == 0) return;
  const int64_t choices = tokens * experts.per_token;
  const int64_t foreseen = ExpertBuffers::kForeseenTokens * experts.per_token;
  buffers->scores = arena->Take<float>(tokens * 2 * experts.per_layer);
  buffers->chosen = arena->Take<int32_t>(choices);
  buffers->weights = arena->Take<float>(choices);
  buffers->foreseen = arena->Take<int32_t>(foreseen);
  buffers->foreseen_weights = arena->Take<float>(foreseen);
  buffers->input = arena->Take<float>(tokens * spec.hidden_size);
  buffers->output = arena->Take<float>(choices * spec.hidden_size);
  buffers->rows = arena->Take<int32_t>(choices);
  buffers->row_tokens = arena->Take<int32_t>(choices);
  buffers->begin = arena->Take<int32_t>(experts.per_layer + 1);
  buffers->active = arena->Take<int32_t>(experts.per_layer);
}

void HostSide::LayOut(const ModelSpec& spec, int64_t tokens, int64_t widest, Arena* arena,
                      Buffers* buffers) {
  const QuantizedRows quantized{.rows = tokens, .cols = widest};
  buffers->wide = arena->Take<float>(tokens * widest);
  buffers->residual = arena->Take<float>(tokens * widest);
  buffers->rows = arena->Take<float>(tokens * widest);
  buffers->moved = arena->Take<float>(tokens * spec.hidden_size);
  buffers->quantized.values = arena->Take<int8_t>(tokens * quantized.padded_cols());
  buffers->quantized.scales = arena->Take<float>(tokens * quantized.slices());
  buffers->quantized.sums = arena->Take<int32_t>(tokens * quantized.padded_cols() / 32);
  LayOutExperts(spec, tokens, arena, &buffers->experts);
}

Tensor HostSide::Fetch(Tensor x, float* to) const {
  if (device_.backend == nullptr) return x;
  const Tensor here = F32(to, x.rows, x.cols);
  if (x.rows == 0) return here;
  device_.backend->download(here.data, x.data, x.rows * x.cols * sizeof(float), device_.stream);
  device_.backend->synchronize(device_.stream);
  return here;
}

absl::Status HostSide::Linear(Projection projection, Tensor x, Tensor out) {
  const StoredTensor& tensor = store_->file().tensors[projection.weight];
  if (x.rows == 0) return absl::OkStatus();
  qianyi::Linear whole;
  whole.x = x;
  whole.bias = constant(projection.bias);
  whole.out = out;
  if (tensor.format.integer()) {
    whole.quantized = buffers_.quantized;
    whole.quantized.rows = x.rows;
    whole.quantized.cols = x.cols;
    backend_->quantize({.x = x, .out = whole.quantized}, stream_);
  }
  for (int block = 0; block < static_cast<int>(tensor.blocks.size());) {
    const absl::StatusOr<WeightStore::Lease> lease = store_->AcquireRun(projection.weight, block);
    if (!lease.ok()) return lease.status();
    backend_->linear(RowsOf(whole, lease->rows(), lease->row_begin()), stream_);
    block += lease->blocks();
  }
  return absl::OkStatus();
}

void HostSide::AskForRows(const qianyi::Linear& whole) const {
  const auto ask = [this](void* here, const void* there, int64_t bytes) {
    device_.backend->download(here, there, bytes, device_.stream);
  };
  // With the gaps between its rows, as it lies.
  const auto ask_for = [&](float* here, Tensor x) {
    ask(here, x.data, ((x.rows - 1) * x.stride + x.cols) * sizeof(float));
  };
  const QuantizedRows &here = buffers_.quantized, &there = whole.quantized;
  if (there.values != nullptr) {
    ask(here.values, there.values, there.rows * there.padded_cols());
    ask(here.scales, there.scales, there.rows * there.slices() * sizeof(float));
    ask(here.sums, there.sums, there.rows * there.padded_cols() / 32 * sizeof(int32_t));
  } else {
    ask_for(buffers_.wide, whole.x);
  }
  if (whole.residual.data != nullptr) ask_for(buffers_.residual, whole.residual);
  device_.backend->record(device_.asked, device_.stream);
}

absl::Status HostSide::MultiplyRows(Projection projection, std::span<const int> blocks,
                                    const qianyi::Linear& whole) {
  const std::vector<Block>& all = store_->file().tensors[projection.weight].blocks;
  qianyi::Linear task = whole;
  task.x.data = buffers_.wide;
  task.bias = constant(projection.bias);
  task.quantized.values = buffers_.quantized.values;
  task.quantized.scales = buffers_.quantized.scales;
  task.quantized.sums = buffers_.quantized.sums;
  if (task.residual.data != nullptr) task.residual.data = buffers_.residual;
  int64_t cols = 0;
  for (const int block : blocks) cols += all[block].rows;
  const Tensor results = F32(buffers_.rows, whole.x.rows, cols);
  device_.backend->await(device_.asked);
  int64_t at = 0;
  for (const int block : blocks) {
    const absl::StatusOr<WeightStore::Lease> lease = store_->Acquire(projection.weight, block);
    if (!lease.ok()) return lease.status();
    qianyi::Linear part = RowsOf(task, lease->rows(), lease->row_begin());
    part.out = results.Columns(at, all[block].rows);
    backend_->linear(part, stream_);
    at += all[block].rows;
  }
  backend_->synchronize(stream_);
  const Tensor landed = F32(device_.landing, whole.x.rows, cols);
  device_.backend->upload(landed.data, results.data, whole.x.rows * cols * sizeof(float),
                          device_.stream);
  at = 0;
  for (size_t first = 0, next = 0; first < blocks.size(); first = next) {  // runs of neighbours
    int64_t rows = 0;
    for (; next < blocks.size() && blocks[next] - blocks[first] == static_cast<int>(next - first);
         ++next) {
      rows += all[blocks[next]].rows;
    }
    device_.backend->copy_rows({.x = landed.Columns(at, rows),
                                .ids = nullptr,
                                .out = whole.out.Columns(all[blocks[first]].row_begin, rows)},
                               device_.stream);
    at += rows;
  }
  return absl::OkStatus();
}

void HostSide::Add(Combine sum) const {
  if (device_.backend == nullptr) return backend_->combine(sum, stream_);
  const Tensor out = sum.out;
  sum.out = F32(buffers_.moved, out.rows, out.cols);
  std::fill_n(sum.out.f32(), out.rows * out.cols, 0.0f);
  backend_->combine(sum, stream_);
  backend_->synchronize(stream_);
  const Tensor there = F32(device_.landing, out.rows, out.cols);
  device_.backend->upload(there.data, sum.out.data, out.rows * out.cols * sizeof(float),
                          device_.stream);
  device_.backend->add_rows({.table = there, .ids = nullptr, .x = out}, device_.stream);
}

}  // namespace qianyi
