#include "runtime/pass.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/adapters/lora_file.h"
#include "runtime/memory_size.h"

namespace qianyi {
namespace {

// Hands out 64-byte aligned pieces; with `base` null it only counts.
class Arena {
 public:
  explicit Arena(std::byte* base) : base_(base) {}
  template <typename T>
  T* Take(int64_t count) {
    T* at = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (count * sizeof(T) + 63) / 64 * 64;
    return at;
  }
  uint64_t used() const { return used_; }

 private:
  std::byte* base_;
  uint64_t used_ = 0;
};

void LayOutExperts(const ModelSpec& spec, int64_t tokens, Arena* arena, ExpertBuffers* buffers) {
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

}  // namespace

Pass::Limits Pass::LimitsOf(const ModelUse& use) {
  return {.tokens = StepTokens(use),
          .logit_rows = LogitRows(use),
          .lora_rank = use.adapter_bytes > 0 ? kMaxLoraRank : 0};
}

uint64_t Pass::LayOut(const ModelSpec& spec, Limits limits, std::byte* base, Buffers* buffers) {
  Arena arena(base);
  const int64_t narrow = std::max(spec.hidden_size, spec.attention_cols);
  const int64_t widest = std::max(spec.widest_row, narrow);
  const QuantizedRows quantized{.rows = limits.tokens, .cols = widest};
  buffers->hidden = arena.Take<float>(limits.tokens * spec.hidden_size);
  buffers->narrow = arena.Take<float>(limits.tokens * narrow);
  buffers->wide = arena.Take<float>(limits.tokens * widest);
  buffers->rope = arena.Take<float>(limits.tokens * spec.rotary_dims);
  buffers->head_input = arena.Take<float>(limits.logit_rows * spec.hidden_size);
  buffers->logits = arena.Take<float>(limits.logit_rows * spec.vocab_size);
  buffers->lora = arena.Take<float>(limits.tokens * limits.lora_rank);
  buffers->quantized.values = arena.Take<int8_t>(limits.tokens * quantized.padded_cols());
  buffers->quantized.scales = arena.Take<float>(limits.tokens * quantized.slices());
  buffers->quantized.sums = arena.Take<int32_t>(limits.tokens * quantized.padded_cols() / 32);
  LayOutExperts(spec, limits.tokens, &arena, &buffers->experts);
  return arena.used();
}

uint64_t Pass::MemoryBytes(const ModelSpec& spec, Limits limits) {
  Buffers unused;
  return LayOut(spec, limits, nullptr, &unused);
}

absl::StatusOr<std::unique_ptr<Pass>> Pass::Create(const ModelSpec& spec, Limits limits,
                                                   WeightStore& store, KvCache& kv,
                                                   const Backend& backend, Stream stream) {
  std::unique_ptr<Pass> pass(new Pass(spec, limits, store, kv, backend, stream));
  pass->memory_bytes_ = MemoryBytes(spec, limits);
  pass->memory_ = static_cast<std::byte*>(backend.alloc(pass->memory_bytes_));
  if (pass->memory_ == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for activations (",
                                                     FormatSize(pass->memory_bytes_),
                                                     "); lower --context or --batch"));
  }
  LayOut(spec, limits, pass->memory_, &pass->buffers_);
  return pass;
}

Pass::~Pass() {
  if (memory_ != nullptr) backend_.free(memory_, memory_bytes_);
}

void Pass::Begin(const Step& step) {
  tokens_ = step.size();
  logit_rows_ = static_cast<int64_t>(step.logit_tokens.size());
  token_adapters_.Group(step.adapters);
  head_adapters_.Group(step.adapters, step.logit_tokens);
  if (store_.experts() != nullptr) store_.experts()->BeginStep();
}

absl::Status Pass::Embed(int embedding, const Step& step) {
  return store_.Gather(embedding, step.tokens, hidden(), stream_);
}

absl::Status Pass::Linear(Projection projection, Tensor x, Tensor out, Tensor residual,
                          float residual_scale) {
  const StoredTensor& tensor = store_.file().tensors[projection.weight];
  if (x.rows == 0) return absl::OkStatus();
  qianyi::Linear task;
  task.x = x;
  task.residual_scale = residual_scale;
  if (tensor.format.integer()) {
    buffers_.quantized.rows = x.rows;
    buffers_.quantized.cols = x.cols;
    backend_.quantize({.x = x, .out = buffers_.quantized}, stream_);
    task.quantized = buffers_.quantized;
  }
  const float* bias = projection.bias < 0 ? nullptr : constant(projection.bias);
  for (size_t block = 0; block < tensor.blocks.size(); ++block) {
    absl::StatusOr<WeightStore::Lease> lease =
        store_.Acquire(projection.weight, static_cast<int>(block));
    if (!lease.ok()) return lease.status();
    task.weight = lease->rows();
    task.bias = bias == nullptr ? nullptr : bias + lease->row_begin();
    task.out = out.Columns(lease->row_begin(), task.weight.rows);
    if (residual.data != nullptr) {
      task.residual = residual.Columns(lease->row_begin(), task.weight.rows);
    }
    backend_.linear(task, stream_);
  }
  AddLora(projection.weight, x, out);
  return absl::OkStatus();
}

absl::Status Pass::LinearByHead(int weight, int64_t heads, const ByHead& by_head) {
  const StoredTensor& tensor = store_.file().tensors[weight];
  const int64_t head_rows = tensor.spec.rows() / heads;
  const size_t panel_bytes = PanelBytes(tensor.format, by_head.x_cols);
  if (by_head.x.rows == 0) return absl::OkStatus();
  for (size_t block = 0; block < tensor.blocks.size(); ++block) {
    absl::StatusOr<WeightStore::Lease> lease = store_.Acquire(weight, static_cast<int>(block));
    if (!lease.ok()) return lease.status();
    const int64_t begin = lease->row_begin(), end = begin + lease->rows().rows;
    for (int64_t row = begin; row < end;) {  // the part of one head that lies in this block
      const int64_t head = row / head_rows, rows = std::min(end, (head + 1) * head_rows) - row;
      qianyi::Linear task;
      task.x = by_head.x.Columns(head * by_head.x_stride, by_head.x_cols);
      if (tensor.format.integer()) {
        buffers_.quantized.rows = task.x.rows;
        buffers_.quantized.cols = task.x.cols;
        backend_.quantize({.x = task.x, .out = buffers_.quantized}, stream_);
        task.quantized = buffers_.quantized;
      }
      task.weight = lease->rows();
      task.weight.data += (row - begin) / kPanelRows * panel_bytes;
      task.weight.rows = rows;
      task.out = by_head.out.Columns(head * by_head.out_stride + row % head_rows, rows);
      backend_.linear(task, stream_);
      row += rows;
    }
  }
  return absl::OkStatus();
}

void Pass::AddLora(int tensor, Tensor x, Tensor out) {
  AdapterRows& adapters = x.data == buffers_.head_input ? head_adapters_ : token_adapters_;
  if (adapters.empty()) return;
  const std::span<const LoraItem> items = adapters.Items(tensor, buffers_.lora);
  if (items.empty()) return;
  backend_.lora(
      {.x = x, .items = items.data(), .count = static_cast<int64_t>(items.size()), .out = out},
      stream_);
}

void Pass::PrepareRope(const std::vector<int32_t>& positions, std::span<const float> frequencies,
                       int table) {
  rotary_dims_ = 2 * static_cast<int64_t>(frequencies.size());
  for (int64_t t = 0; t < tokens_; ++t) {
    float* row = buffers_.rope + (table * tokens_ + t) * rotary_dims_;
    for (size_t i = 0; i < frequencies.size(); ++i) {
      // The angle in float32, as the original has it; its sine and cosine exactly.
      const float angle = static_cast<float>(positions[t]) * frequencies[i];
      row[2 * i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      row[2 * i + 1] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
}

void Pass::Rope(Tensor x, int64_t heads, int64_t head_dim, int64_t rotary_begin, RopePairs pairs,
                int table) {
  backend_.rope({.x = x,
                 .cos_sin = buffers_.rope + table * tokens_ * rotary_dims_,
                 .heads = heads,
                 .head_dim = head_dim,
                 .rotary_begin = rotary_begin,
                 .rotary_dims = rotary_dims_,
                 .pairs = pairs},
                stream_);
}

void Pass::Attend(const Step& step, int layer, Tensor q, Tensor k, Tensor v, int64_t heads,
                  float scale, Tensor out) {
  const KvLayer cache = kv_.layer(layer);
  backend_.kv_write({.k = k, .v = v, .slots = step.slots.data(), .layer = cache}, stream_);
  if (step.sparse != nullptr) {
    const SparseStep::Layer& lists = step.sparse->layers[layer];
    backend_.sparse_attention({.q = q,
                               .pages = step.pages.data(),
                               .slots = lists.slots.data(),
                               .offsets = lists.offsets.data(),
                               .pivots = lists.pivots.data(),
                               .pivot_bias = step.sparse->pivot_bias,
                               .heads = heads,
                               .scale = scale,
                               .layer = cache,
                               .out = out},
                              stream_);
    return;
  }
  backend_.attention({.q = q,
                      .pages = step.pages.data(),
                      .visible = step.visible.data(),
                      .heads = heads,
                      .scale = scale,
                      .layer = cache,
                      .out = out},
                     stream_);
}

void Pass::TakeLogitRows(const Step& step) {
  backend_.copy_rows({.x = hidden(), .ids = step.logit_tokens.data(), .out = head_input()},
                     stream_);
}

}  // namespace qianyi
