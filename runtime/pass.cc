#include "runtime/pass.h"

#include <algorithm>
#include <cmath>
#include <cstring>
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

Pass::Limits Pass::LimitsOf(const ModelUse& use, bool device) {
  Limits limits{.tokens = StepTokens(use),
                .logit_rows = LogitRows(use),
                .lora_rank = use.adapter_bytes > 0 ? kMaxLoraRank : 0};
  if (!device) return limits;
  // Slots, pages, two rows of positions, visible slots and rows of adapters; indices of logits;
  // page tables, to which a prefix adds as much again at most. Each is aligned to 64 bytes.
  const int64_t matrices = static_cast<int64_t>(use.file->tensors.size());
  limits.upload_bytes = limits.tokens * 40 + limits.logit_rows * 8 +
                        (KvPages(use) + use.batch) * 8 + (limits.tokens + matrices + 16) * 64;
  if (limits.lora_rank > 0) {
    limits.upload_bytes += matrices * std::min(limits.tokens, kMaxAdapters) * kMaxLoraParts *
                           static_cast<int64_t>(sizeof(LoraItem));
  }
  return limits;
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
  buffers->uploads = arena.Take<std::byte>(limits.upload_bytes);
  return arena.used();
}

uint64_t Pass::LayOut(const ModelSpec& spec, Limits limits, std::byte* base, Staging* staging) {
  Arena arena(base);
  staging->hidden = arena.Take<float>(limits.tokens * spec.hidden_size);
  staging->rope = arena.Take<float>(limits.tokens * spec.rotary_dims);
  staging->logits = arena.Take<float>(limits.logit_rows * spec.vocab_size);
  staging->uploads = arena.Take<std::byte>(limits.upload_bytes);
  return arena.used();
}

uint64_t Pass::MemoryBytes(const ModelSpec& spec, Limits limits) {
  Buffers unused;
  return LayOut(spec, limits, nullptr, &unused);
}

uint64_t Pass::StagingBytes(const ModelSpec& spec, Limits limits) {
  Staging unused;
  return LayOut(spec, limits, nullptr, &unused);
}

absl::StatusOr<std::unique_ptr<Pass>> Pass::Create(const ModelSpec& spec, Limits limits,
                                                   WeightStore& store, DeviceWeights* device,
                                                   KvCache& kv, const Backend& backend,
                                                   Stream stream) {
  std::unique_ptr<Pass> pass(new Pass(spec, limits, store, device, kv, backend, stream));
  if (absl::Status status = pass->Allocate(); !status.ok()) return status;
  return pass;
}

absl::Status Pass::Allocate() {
  const auto no_room = [](uint64_t bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "no memory for activations (", FormatSize(bytes), "); lower --context or --batch"));
  };
  memory_bytes_ = MemoryBytes(spec_, limits_);
  memory_ = static_cast<std::byte*>(backend_.alloc(memory_bytes_));
  if (memory_ == nullptr) return no_room(memory_bytes_);
  LayOut(spec_, limits_, memory_, &buffers_);
  if (device_ == nullptr) return absl::OkStatus();
  staging_bytes_ = StagingBytes(spec_, limits_);
  staging_memory_ = static_cast<std::byte*>(backend_.alloc_host(staging_bytes_));
  host_stream_ = Cpu().create_stream(1);
  if (staging_memory_ == nullptr || host_stream_.handle == nullptr) return no_room(staging_bytes_);
  LayOut(spec_, limits_, staging_memory_, &staging_);
  page_tables_.reserve(limits_.tokens);
  if (limits_.lora_rank > 0) {
    lora_items_.reserve(std::min(limits_.tokens, kMaxAdapters) * kMaxLoraParts);
  }
  return absl::OkStatus();
}

Pass::~Pass() {
  if (memory_ != nullptr) backend_.free(memory_, memory_bytes_);
  if (staging_memory_ != nullptr) backend_.free_host(staging_memory_, staging_bytes_);
  if (host_stream_.handle != nullptr) Cpu().destroy_stream(host_stream_);
}

void Pass::Begin(const Step& step) {
  tokens_ = step.size();
  logit_rows_ = static_cast<int64_t>(step.logit_tokens.size());
  token_adapters_.Group(step.adapters);
  head_adapters_.Group(step.adapters, step.logit_tokens);
  if (store_.experts() != nullptr) store_.experts()->BeginStep();
  uploaded_ = 0;
  UploadStep(step);
}

void Pass::UploadStep(const Step& step) {
  slots_ = Upload(step.slots.data(), tokens_);
  visible_ = Upload(step.visible.data(), tokens_);
  longest_ = 0;
  for (const int32_t visible : step.visible) longest_ = std::max<int64_t>(longest_, visible);
  pages_ = step.pages.data();
  if (device_ == nullptr) return;
  page_tables_.clear();
  for (int64_t t = 0; t < tokens_;) {
    int64_t last = t;
    int32_t visible = 0;
    for (; last < tokens_ && step.pages[last] == step.pages[t]; ++last) {
      visible = std::max(visible, step.visible[last]);
    }
    const int32_t* table = Upload(step.pages[t], KvCache::PagesFor(visible));
    for (; t < last; ++t) page_tables_.push_back(table);
  }
  pages_ = Upload(page_tables_.data(), tokens_);
  const auto upload_rows = [this](const AdapterRows& rows) {
    return Upload(rows.rows().data(), static_cast<int64_t>(rows.rows().size()));
  };
  token_rows_ = upload_rows(token_adapters_);
  head_rows_ = upload_rows(head_adapters_);
}

const void* Pass::UploadBytes(const void* data, int64_t bytes) {
  std::byte* const at = staging_.uploads + uploaded_;
  std::byte* const there = buffers_.uploads + uploaded_;
  if (bytes == 0) return there;
  std::memcpy(at, data, bytes);
  backend_.upload(there, at, bytes, stream_);
  uploaded_ += (bytes + 63) / 64 * 64;
  return there;
}

void Pass::End(bool hidden_too) {
  if (device_ != nullptr && logit_rows_ > 0) {
    backend_.download(staging_.logits, buffers_.logits,
                      logit_rows_ * spec_.vocab_size * sizeof(float), stream_);
  }
  if (device_ != nullptr && hidden_too && tokens_ > 0) {
    backend_.download(staging_.hidden, buffers_.hidden, tokens_ * spec_.hidden_size * sizeof(float),
                      stream_);
  }
  backend_.synchronize(stream_);
}

std::vector<float> Pass::Fetch(Tensor rows) {
  std::vector<float> values(rows.rows * rows.cols);
  const size_t row_bytes = rows.cols * sizeof(float);
  float* const row = static_cast<float*>(backend_.alloc_host(row_bytes));
  for (int64_t r = 0; r < rows.rows && row != nullptr; ++r) {
    backend_.download(row, rows.f32(r), row_bytes, stream_);
    backend_.synchronize(stream_);
    std::memcpy(values.data() + r * rows.cols, row, row_bytes);
  }
  backend_.free_host(row, row_bytes);
  return values;
}

absl::Status Pass::Embed(int embedding, const Step& step) {
  if (device_ == nullptr) return store_.Gather(embedding, step.tokens, hidden(), stream_);
  const Tensor rows = Rows(staging_.hidden, spec_.hidden_size, tokens_);
  absl::Status status = store_.Gather(embedding, step.tokens, rows, host_stream_);
  if (!status.ok()) return status;
  backend_.upload(buffers_.hidden, staging_.hidden, tokens_ * spec_.hidden_size * sizeof(float),
                  stream_);
  return absl::OkStatus();
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
  int block = 0;
  const auto multiply = [&](const auto& lease) {
    if (!lease.ok()) return lease.status();
    task.weight = lease->rows();
    task.bias = bias == nullptr ? nullptr : bias + lease->row_begin();
    task.out = out.Columns(lease->row_begin(), task.weight.rows);
    if (residual.data != nullptr) {
      task.residual = residual.Columns(lease->row_begin(), task.weight.rows);
    }
    backend_.linear(task, stream_);
    block += lease->blocks();
    return absl::OkStatus();
  };
  while (block < static_cast<int>(tensor.blocks.size())) {
    const absl::Status status = device_ == nullptr
                                    ? multiply(store_.AcquireRun(projection.weight, block))
                                    : multiply(device_->AcquireRun(projection.weight, block));
    if (!status.ok()) return status;
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
  const int64_t count = static_cast<int64_t>(items.size());
  const LoraItem* there = items.data();
  if (device_ != nullptr) {
    const int32_t* const rows = x.data == buffers_.head_input ? head_rows_ : token_rows_;
    lora_items_.assign(items.begin(), items.end());
    for (LoraItem& item : lora_items_) item.tokens = rows + (item.tokens - adapters.rows().data());
    there = Upload(lora_items_.data(), count);
  }
  backend_.lora({.x = x, .items = there, .count = count, .out = out}, stream_);
}

void Pass::PrepareRope(const std::vector<int32_t>& positions, std::span<const float> frequencies,
                       int table) {
  rotary_dims_ = 2 * static_cast<int64_t>(frequencies.size());
  const int64_t begin = table * tokens_ * rotary_dims_;
  float* const cos_sin = (device_ == nullptr ? buffers_.rope : staging_.rope) + begin;
  for (int64_t t = 0; t < tokens_; ++t) {
    float* row = cos_sin + t * rotary_dims_;
    for (size_t i = 0; i < frequencies.size(); ++i) {
      // The angle in float32, as the original has it; its sine and cosine exactly.
      const float angle = static_cast<float>(positions[t]) * frequencies[i];
      row[2 * i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      row[2 * i + 1] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
  if (device_ == nullptr || tokens_ * rotary_dims_ == 0) return;
  backend_.upload(buffers_.rope + begin, cos_sin, tokens_ * rotary_dims_ * sizeof(float), stream_);
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
  backend_.kv_write({.k = k, .v = v, .slots = slots_, .layer = cache}, stream_);
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
                      .pages = pages_,
                      .visible = visible_,
                      .heads = heads,
                      .scale = scale,
                      .layer = cache,
                      .out = out,
                      .longest = longest_},
                     stream_);
}

void Pass::TakeLogitRows(const Step& step) {
  const int32_t* ids = Upload(step.logit_tokens.data(), logit_rows_);
  backend_.copy_rows({.x = hidden(), .ids = ids, .out = head_input()}, stream_);
}

}  // namespace qianyi
