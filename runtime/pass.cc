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

// Each upload begins on a cache line.
constexpr int64_t Aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

void LayOutDeviceExperts(const ModelSpec& spec, int64_t tokens, Arena* arena,
                         DeviceExpertBuffers* buffers) {
  const int64_t choices = tokens * spec.experts.per_token;
  int64_t ffn = 0;
  for (const TensorSpec& tensor : spec.tensors) {
    if (tensor.use == TensorUse::kExpert && tensor.cols() == spec.hidden_size) {
      ffn = std::max(ffn, tensor.rows());
    }
  }
  const QuantizedRows quantized{.rows = choices, .cols = ffn};
  buffers->scores = arena->Take<float>(tokens * 2 * spec.experts.per_layer);
  buffers->chosen = arena->Take<int32_t>(choices);
  buffers->weights = arena->Take<float>(choices);
  buffers->row_tokens = arena->Take<int32_t>(choices);
  buffers->places = arena->Take<int32_t>(choices);
  buffers->tiles = arena->Take<ExpertTile>(choices);
  buffers->gate = arena->Take<float>(choices * ffn);
  buffers->up = arena->Take<float>(choices * ffn);
  buffers->output = arena->Take<float>(choices * spec.hidden_size);
  buffers->quantized.values = arena->Take<int8_t>(choices * quantized.padded_cols());
  buffers->quantized.scales = arena->Take<float>(choices * quantized.slices());
  buffers->quantized.sums = arena->Take<int32_t>(choices * quantized.padded_cols() / 32);
}

}  // namespace

Pass::Limits Pass::LimitsOf(const ModelUse& use, bool device) {
  Limits limits{.tokens = StepTokens(use),
                .logit_rows = LogitRows(use),
                .lora_rank = use.adapter_bytes > 0 ? kMaxLoraRank : 0};
  if (!device) return limits;
  limits.host_rows = use.host_rows > 0;
  // Slots, pages, two rows of positions, visible slots and rows of adapters; indices of logits and
  // draws from them; page tables, to which a prefix adds as much again at most. Each is aligned to
  // 64 bytes.
  const int64_t matrices = static_cast<int64_t>(use.file->tensors.size());
  limits.upload_bytes = limits.tokens * 40 + limits.logit_rows * 48 +
                        (KvPages(use) + use.batch) * 8 +
                        use.branches * KvCache::PagesFor(use.context_tokens) * 8 +
                        (limits.tokens + matrices + 16) * 64;
  // Slots; offsets, pivots and what alignment adds, of every layer.
  if (use.sparse_slots > 0) {
    limits.upload_bytes +=
        use.sparse_slots * 4 + use.file->spec.kv.layers * (limits.tokens + 20) * 12;
  }
  if (limits.lora_rank > 0) {
    limits.upload_bytes += matrices * std::min(limits.tokens, kMaxAdapters) * kMaxLoraParts *
                           static_cast<int64_t>(sizeof(LoraItem));
  }
  limits.upload_bytes = Aligned(limits.upload_bytes);
  return limits;
}

int64_t Pass::WidestRow(const ModelSpec& spec) {
  return std::max({spec.widest_row, spec.hidden_size, spec.attention_cols});
}

uint64_t Pass::LayOut(const ModelSpec& spec, Limits limits, std::byte* base, Buffers* buffers) {
  Arena arena(base);
  const int64_t narrow = std::max(spec.hidden_size, spec.attention_cols);
  const int64_t widest = WidestRow(spec);
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
  const bool device = limits.upload_bytes > 0;  // beside one, experts are the host's
  if (!device) HostSide::LayOutExperts(spec, limits.tokens, &arena, &buffers->experts);
  if (limits.device_experts) {
    LayOutDeviceExperts(spec, limits.tokens, &arena, &buffers->device_experts);
  }
  buffers->uploads = arena.Take<std::byte>(limits.upload_bytes);
  if (device) buffers->drawn = arena.Take<int32_t>(limits.logit_rows);
  buffers->landing = limits.host_rows ? arena.Take<float>(limits.tokens * widest) : buffers->wide;
  return arena.used();
}

uint64_t Pass::LayOut(const ModelSpec& spec, Limits limits, std::byte* base, Staging* staging) {
  Arena arena(base);
  staging->hidden = arena.Take<float>(limits.tokens * spec.hidden_size);
  staging->rope = arena.Take<float>(limits.tokens * spec.rotary_dims);
  staging->logits = arena.Take<float>(limits.logit_rows * spec.vocab_size);
  staging->uploads = arena.Take<std::byte>(limits.upload_bytes);
  staging->drawn = arena.Take<int32_t>(limits.logit_rows);
  if (spec.experts.total > 0 || limits.host_rows) {
    HostSide::LayOut(spec, limits.tokens, WidestRow(spec), &arena, &staging->host);
  }
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
  if (device_ == nullptr) {
    host_ = HostSide(
        &store_,
        {.wide = buffers_.wide, .quantized = buffers_.quantized, .experts = buffers_.experts},
        &backend_, stream_, {});
    return absl::OkStatus();
  }
  staging_bytes_ = StagingBytes(spec_, limits_);
  staging_memory_ = static_cast<std::byte*>(backend_.alloc_host(staging_bytes_));
  host_stream_ = Cpu().create_stream(limits_.host_threads);
  if (staging_memory_ == nullptr || host_stream_.handle == nullptr) return no_room(staging_bytes_);
  LayOut(spec_, limits_, staging_memory_, &staging_);
  host_asked_ = backend_.create_event();
  host_ = HostSide(
      &store_, staging_.host, &Cpu(), host_stream_,
      {.backend = &backend_, .stream = stream_, .asked = host_asked_, .landing = buffers_.landing});
  if (limits_.graphs && backend_.begin_capture != nullptr) {
    graphs_ = std::make_unique<StepGraphs>(backend_, stream_);
  }
  page_tables_.reserve(limits_.tokens);
  draw_rows_.reserve(limits_.logit_rows);
  draws_.reserve(limits_.logit_rows);
  drawn_.reserve(limits_.logit_rows);
  if (limits_.lora_rank > 0) {
    lora_items_.reserve(std::min(limits_.tokens, kMaxAdapters) * kMaxLoraParts);
  }
  return absl::OkStatus();
}

Pass::~Pass() {
  if (memory_ != nullptr) backend_.free(memory_, memory_bytes_);
  if (staging_memory_ != nullptr) backend_.free_host(staging_memory_, staging_bytes_);
  if (host_stream_.handle != nullptr) Cpu().destroy_stream(host_stream_);
  if (host_asked_.handle != nullptr) backend_.destroy_event(host_asked_);
}

void Pass::Begin(const Step& step, bool watched) {
  tokens_ = step.size();
  logit_rows_ = static_cast<int64_t>(step.logit_tokens.size());
  token_adapters_.Group(step.adapters);
  head_adapters_.Group(step.adapters, step.logit_tokens);
  if (store_.experts() != nullptr) store_.experts()->BeginStep();
  uploaded_ = sent_ = 0;
  draw_rows_.clear();
  drawn_.clear();
  noting_ = graphs_ != nullptr && !watched && !watcher_ && token_adapters_.empty();
  if (noting_) graphs_->Begin();
  UploadStep(step);
}

void Pass::UploadStep(const Step& step) {
  hold_uploads_ = true;
  slots_ = Upload(step.slots.data(), tokens_);
  visible_ = Upload(step.visible.data(), tokens_);
  logit_ids_ = Upload(step.logit_tokens.data(), logit_rows_);
  longest_ = 0;
  for (const int32_t visible : step.visible) longest_ = std::max<int64_t>(longest_, visible);
  longest_ = (longest_ + kAttentionSplit - 1) / kAttentionSplit * kAttentionSplit;
  pages_ = step.pages.data();
  if (device_ == nullptr) return;
  const auto upload_rows = [this](const AdapterRows& rows) {
    return Upload(rows.rows().data(), static_cast<int64_t>(rows.rows().size()));
  };
  token_rows_ = upload_rows(token_adapters_);
  head_rows_ = upload_rows(head_adapters_);
  UploadPageTables(step);
  SendUploads();
}

// From the end of the memory for uploads backwards: tables grow from step to step, and what others
// bring is to stay at its place.
void Pass::UploadPageTables(const Step& step) {
  int64_t at = limits_.upload_bytes;
  page_tables_.clear();
  for (int64_t t = 0; t < tokens_;) {
    int64_t last = t;
    int32_t visible = 0;
    for (; last < tokens_ && step.pages[last] == step.pages[t]; ++last) {
      visible = std::max(visible, step.visible[last]);
    }
    const int64_t bytes = KvCache::PagesFor(visible) * sizeof(int32_t);
    at -= Aligned(bytes);
    std::memcpy(staging_.uploads + at, step.pages[t], bytes);
    const auto* table = reinterpret_cast<const int32_t*>(buffers_.uploads + at);
    for (; t < last; ++t) page_tables_.push_back(table);
  }
  pages_ = Upload(page_tables_.data(), tokens_);
  if (at == limits_.upload_bytes) return;
  backend_.upload(buffers_.uploads + at, staging_.uploads + at, limits_.upload_bytes - at, stream_);
}

const void* Pass::UploadBytes(const void* data, int64_t bytes) {
  const std::byte* const there = buffers_.uploads + uploaded_;
  if (bytes == 0) return there;
  std::memcpy(staging_.uploads + uploaded_, data, bytes);
  uploaded_ += Aligned(bytes);
  if (!hold_uploads_) SendUploads();
  return there;
}

// Kernels that are noted run later than all uploads of the step: those come together.
void Pass::SendUploads() {
  hold_uploads_ = noting_;
  if (sent_ == uploaded_) return;
  backend_.upload(buffers_.uploads + sent_, staging_.uploads + sent_, uploaded_ - sent_, stream_);
  sent_ = uploaded_;
}

void Pass::End(const Step& step, bool hidden_too) {
  if (noting_) {
    noting_ = false;
    SendUploads();
    graphs_->Enqueue();
  }
  if (device_ != nullptr && logit_rows_ > 0) EndDraws(step);
  if (device_ != nullptr && hidden_too && tokens_ > 0) {
    backend_.download(staging_.hidden, buffers_.hidden, tokens_ * spec_.hidden_size * sizeof(float),
                      stream_);
  }
  backend_.synchronize(stream_);
  for (size_t i = 0; i < draw_rows_.size(); ++i) drawn_[draw_rows_[i]] = staging_.drawn[i];
}

void Pass::EndDraws(const Step& step) {
  draws_.clear();
  drawn_.assign(logit_rows_, -1);
  const auto drawn = [&](int64_t row) {
    return !step.draws.empty() && step.draws[row].temperature >= 0;
  };
  for (int64_t row = 0; row < logit_rows_; ++row) {
    if (!drawn(row)) continue;
    draw_rows_.push_back(static_cast<int32_t>(row));
    draws_.push_back(step.draws[row]);
  }
  const Tensor here = Rows(staging_.logits, spec_.vocab_size, logit_rows_);
  for (int64_t row = 0, end = 0; row < logit_rows_; row = end + 1) {  // runs that are the host's
    for (end = row; end < logit_rows_ && !drawn(end);) ++end;
    if (end == row) continue;
    backend_.download(here.f32(row), logits().f32(row),
                      (end - row) * spec_.vocab_size * sizeof(float), stream_);
  }
  const int64_t count = static_cast<int64_t>(draws_.size());
  if (count == 0) return;
  backend_.draw_tokens({.logits = logits(),
                        .rows = Upload(draw_rows_.data(), count),
                        .draws = Upload(draws_.data(), count),
                        .count = count,
                        .tokens = buffers_.drawn},
                       stream_);
  backend_.download(staging_.drawn, buffers_.drawn, count * sizeof(int32_t), stream_);
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
  qianyi::Linear whole;
  whole.x = x;
  whole.bias = projection.bias < 0 ? nullptr : constant(projection.bias);
  whole.residual = residual;
  whole.residual_scale = residual_scale;
  whole.out = out;
  if (tensor.format.integer()) whole.quantized = Quantized(x);
  std::span<const int> of_host;
  if (device_ != nullptr) of_host = device_->HostBlocks(projection.weight);
  if (!of_host.empty()) host_.AskForRows(whole);
  const int blocks = static_cast<int>(tensor.blocks.size());
  size_t passed = 0;  // of the host's blocks
  for (int block = 0; block < blocks;) {
    if (passed < of_host.size() && of_host[passed] == block) {
      ++passed;
      ++block;
      continue;
    }
    const auto multiply = [&](const auto& lease) {
      if (!lease.ok()) return lease.status();
      backend().linear(RowsOf(whole, lease->rows(), lease->row_begin()), stream());
      block += lease->blocks();
      return absl::OkStatus();
    };
    const absl::Status status = device_ == nullptr
                                    ? multiply(store_.AcquireRun(projection.weight, block))
                                    : multiply(device_->AcquireRun(projection.weight, block));
    if (!status.ok()) return status;
  }
  if (!of_host.empty()) {
    const absl::Status status = host_.MultiplyRows(projection, of_host, whole);
    if (!status.ok()) return status;
  }
  AddLora(projection.weight, x, out);
  return absl::OkStatus();
}

QuantizedRows Pass::Quantized(Tensor x) {
  QuantizedRows rows = buffers_.quantized;
  rows.rows = x.rows;
  rows.cols = x.cols;
  backend().quantize({.x = x, .out = rows}, stream());
  return rows;
}

absl::Status Pass::LinearByHead(int weight, int64_t heads, const ByHead& by_head) {
  const StoredTensor& tensor = store_.file().tensors[weight];
  const int64_t head_rows = tensor.spec.rows() / heads;
  const size_t panel_bytes = PanelBytes(tensor.format, by_head.x_cols);
  if (by_head.x.rows == 0) return absl::OkStatus();
  for (int block = 0; block < static_cast<int>(tensor.blocks.size());) {
    const auto multiply = [&](const auto& lease) {
      if (!lease.ok()) return lease.status();
      const int64_t begin = lease->row_begin(), end = begin + lease->rows().rows;
      for (int64_t row = begin; row < end;) {  // the part of one head that lies in this block
        const int64_t head = row / head_rows, rows = std::min(end, (head + 1) * head_rows) - row;
        qianyi::Linear task;
        task.x = by_head.x.Columns(head * by_head.x_stride, by_head.x_cols);
        if (tensor.format.integer()) task.quantized = Quantized(task.x);
        task.weight = lease->rows();
        task.weight.data += (row - begin) / kPanelRows * panel_bytes;
        task.weight.rows = rows;
        task.out = by_head.out.Columns(head * by_head.out_stride + row % head_rows, rows);
        backend().linear(task, stream());
        row += rows;
      }
      block += lease->blocks();
      return absl::OkStatus();
    };
    const absl::Status status = device_ == nullptr ? multiply(store_.Acquire(weight, block))
                                                   : multiply(device_->AcquireRun(weight, block));
    if (!status.ok()) return status;
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
  backend().lora({.x = x, .items = there, .count = count, .out = out}, stream());
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
  backend().rope({.x = x,
                  .cos_sin = buffers_.rope + table * tokens_ * rotary_dims_,
                  .heads = heads,
                  .head_dim = head_dim,
                  .rotary_begin = rotary_begin,
                  .rotary_dims = rotary_dims_,
                  .pairs = pairs},
                 stream());
}

void Pass::Attend(const Step& step, int layer, Tensor q, Tensor k, Tensor v, int64_t heads,
                  float scale, Tensor out) {
  const KvLayer cache = kv_.layer(layer);
  backend().kv_write({.k = k, .v = v, .slots = slots_, .layer = cache}, stream());
  if (step.sparse != nullptr) {
    const SparseStep::Layer& lists = step.sparse->layers[layer];
    const auto upload = [this](const auto& of) {
      return Upload(of.data(), static_cast<int64_t>(of.size()));
    };
    backend().sparse_attention({.q = q,
                                .pages = pages_,
                                .slots = upload(lists.slots),
                                .offsets = upload(lists.offsets),
                                .pivots = upload(lists.pivots),
                                .pivot_bias = step.sparse->pivot_bias,
                                .heads = heads,
                                .scale = scale,
                                .layer = cache,
                                .out = out},
                               stream());
    return;
  }
  backend().attention({.q = q,
                       .pages = pages_,
                       .visible = visible_,
                       .heads = heads,
                       .scale = scale,
                       .layer = cache,
                       .out = out,
                       .longest = longest_},
                      stream());
}

void Pass::TakeLogitRows() {
  backend().copy_rows({.x = hidden(), .ids = logit_ids_, .out = head_input()}, stream());
}

}  // namespace qianyi
