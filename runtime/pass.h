// The working memory of a step and the operations models are written in.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "runtime/adapters/adapter_rows.h"
#include "runtime/host_side.h"
#include "runtime/kv_cache.h"
#include "runtime/model_spec.h"
#include "runtime/step.h"
#include "runtime/step_graphs.h"
#include "runtime/storage/device_weights.h"
#include "runtime/storage/weight_store.h"

namespace qianyi {

// Owned by the engine's thread; allocates in Create only. The buffers have a row for every
// token of the step that was begun last.
class Pass {
 public:
  struct Limits {
    int64_t tokens = 0;
    int64_t logit_rows = 0;
    int64_t lora_rank = 0;     // of what adapters add to one matrix; 0 = there are none
    int64_t upload_bytes = 0;  // of what a step brings to a device; 0 = it reads the host's memory
    int host_threads = 1;      // beside a device, of what the host computes
    bool host_rows = false;    // rows of matrices are among that
    bool device_experts = false;  // some layers' experts are on the device
    bool graphs = false;          // all of a step is the device's, which can keep it as a graph
  };
  static Limits LimitsOf(const ModelUse& use, bool device);
  // What Create takes from the backend: of its memory, and of the host's for a device.
  static uint64_t MemoryBytes(const ModelSpec& spec, Limits limits);
  static uint64_t StagingBytes(const ModelSpec& spec, Limits limits);
  static int64_t WidestRow(const ModelSpec& spec);  // of an activation, in elements
  // `device`: where weights are when the backend has memory of its own, else null.
  // ResourceExhausted when the backend has no room.
  static absl::StatusOr<std::unique_ptr<Pass>> Create(const ModelSpec& spec, Limits limits,
                                                      WeightStore& store, DeviceWeights* device,
                                                      KvCache& kv, const Backend& backend,
                                                      Stream stream);
  ~Pass();
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;

  const Limits& limits() const { return limits_; }
  // `watched`: somebody will look at buffers before End.
  void Begin(const Step& step, bool watched = false);
  // Draws what step.draws asks for, and brings the tokens, all other logits, and the hidden states
  // if they are wanted to the host, behind all work of the step, and waits for it.
  void End(const Step& step, bool hidden_too = false);

  Tensor hidden() const { return Rows(buffers_.hidden, spec_.hidden_size, tokens_); }
  int64_t tokens() const { return tokens_; }
  // Scratch rows; narrow: hidden_size or attention_cols wide, wide: widest_row.
  Tensor narrow(int64_t cols) const { return Rows(buffers_.narrow, cols, tokens_); }
  Tensor wide(int64_t cols) const { return Rows(buffers_.wide, cols, tokens_); }
  Tensor logits() const { return Rows(buffers_.logits, spec_.vocab_size, logit_rows_); }
  // The same in the host's memory, from End() to the next Begin().
  Tensor host_logits() const {
    return device_ == nullptr ? logits() : Rows(staging_.logits, spec_.vocab_size, logit_rows_);
  }
  // The token drawn from a row of logits, which the host then has not got; -1: it was not drawn.
  int32_t Drawn(int64_t row) const { return drawn_.empty() ? -1 : drawn_[row]; }
  // Of all tokens, after End(step, true).
  Tensor host_hidden() const {
    return device_ == nullptr ? hidden() : Rows(staging_.hidden, spec_.hidden_size, tokens_);
  }
  // Final-norm output of step.logit_tokens.
  Tensor head_input() const { return Rows(buffers_.head_input, spec_.hidden_size, logit_rows_); }

  HostSide& host() { return host_; }
  // DeviceWeights::ExpertMatrices; null also without a device.
  const std::byte* const* ExpertMatrices(int tensor) const {
    return device_ == nullptr ? nullptr : device_->ExpertMatrices(tensor);
  }
  const DeviceExpertBuffers& device_experts() const { return buffers_.device_experts; }
  QuantizedRows Quantized(Tensor x);  // until the next call
  // Where kernels of a step go: to the device, or into notes of which End makes a graph.
  const Backend& backend() const { return noting_ ? graphs_->recorder() : backend_; }
  Stream stream() const { return noting_ ? graphs_->recorder_stream() : stream_; }
  const StepGraphs* graphs() const { return graphs_.get(); }  // or null
  WeightStore& store() { return store_; }
  const float* constant(int tensor) const {
    return device_ == nullptr ? store_.Constant(tensor) : device_->Constant(tensor);
  }
  // `count` elements of the host where kernels of this step find them. Allocates nothing; what all
  // calls of a step bring is bounded by what a step has (Limits::upload_bytes).
  template <typename T>
  const T* Upload(const T* data, int64_t count) {
    if (device_ == nullptr) return data;
    return static_cast<const T*>(UploadBytes(data, count * sizeof(T)));
  }
  // Rows of a buffer, once the work so far is done: for checks, not for steps.
  std::vector<float> Fetch(Tensor rows);

  // hidden = rows of an embedding.
  absl::Status Embed(int embedding, const Step& step);
  // out = x Wᵀ + bias (+ residual_scale * residual), block by block as they arrive; then what the
  // adapters of the step add. Row i of x is token i of the step, or of the head's input.
  absl::Status Linear(Projection projection, Tensor x, Tensor out, Tensor residual = {},
                      float residual_scale = 1.0f);
  // out = x Wᵀ of each head by itself: head h takes x_cols columns of x from h * x_stride on and
  // the weight's rows [h * R, (h + 1) * R), a multiple of 16, and leaves R columns of out from h *
  // out_stride on.
  struct ByHead {
    Tensor x, out;
    int64_t x_stride = 0, x_cols = 0, out_stride = 0;
  };
  absl::Status LinearByHead(int weight, int64_t heads, const ByHead& task);
  // Computes the step's rotation table from one row of positions, once for all layers. There may
  // be several of equal size, which together rotate spec.rotary_dims.
  void PrepareRope(const std::vector<int32_t>& positions, std::span<const float> frequencies,
                   int table = 0);
  void Rope(Tensor x, int64_t heads, int64_t head_dim, int64_t rotary_begin, RopePairs pairs,
            int table = 0);
  // Stores k and v at the step's slots, then out = attention of q over them.
  void Attend(const Step& step, int layer, Tensor q, Tensor k, Tensor v, int64_t heads, float scale,
              Tensor out);
  // For those who look on (`verify`): values inside a stage that nothing keeps.
  using Watcher = std::function<void(std::string_view name, Tensor value)>;
  void SetWatcher(Watcher watcher) { watcher_ = std::move(watcher); }
  void Show(std::string_view name, Tensor value) {
    if (watcher_) watcher_(name, value);
  }
  // head_input = hidden rows of step.logit_tokens.
  void TakeLogitRows();

 private:
  Pass(const ModelSpec& spec, Limits limits, WeightStore& store, DeviceWeights* device, KvCache& kv,
       const Backend& backend, Stream stream)
      : spec_(spec),
        limits_(limits),
        store_(store),
        device_(device),
        kv_(kv),
        backend_(backend),
        stream_(stream),
        token_adapters_(limits.tokens),
        head_adapters_(limits.logit_rows) {}
  static Tensor Rows(float* data, int64_t cols, int64_t rows) { return F32(data, rows, cols); }

  absl::Status Allocate();
  void AddLora(int tensor, Tensor x, Tensor out);
  const void* UploadBytes(const void* data, int64_t bytes);
  void SendUploads();
  void UploadStep(const Step& step);
  void UploadPageTables(const Step& step);
  void EndDraws(const Step& step);

  struct Buffers {
    float* hidden = nullptr;
    float* narrow = nullptr;
    float* wide = nullptr;
    float* rope = nullptr;
    float* head_input = nullptr;
    float* logits = nullptr;
    float* lora = nullptr;
    QuantizedRows quantized;
    ExpertBuffers experts;
    DeviceExpertBuffers device_experts;
    std::byte* uploads = nullptr;
    float* landing = nullptr;  // of what the host computed
    int32_t* drawn = nullptr;
  };
  // Pinned memory of the host, from and to which a device's buffers are copied.
  struct Staging {
    float* hidden = nullptr;
    float* rope = nullptr;
    float* logits = nullptr;
    std::byte* uploads = nullptr;
    int32_t* drawn = nullptr;
    HostSide::Buffers host;
  };
  // Places the buffers from `base` on and returns the bytes they take.
  static uint64_t LayOut(const ModelSpec& spec, Limits limits, std::byte* base, Buffers* buffers);
  static uint64_t LayOut(const ModelSpec& spec, Limits limits, std::byte* base, Staging* staging);

  const ModelSpec& spec_;
  const Limits limits_;
  WeightStore& store_;
  DeviceWeights* const device_;  // null: kernels read the host's memory
  KvCache& kv_;
  const Backend& backend_;
  const Stream stream_;
  std::byte* memory_ = nullptr;
  uint64_t memory_bytes_ = 0;
  Buffers buffers_;
  std::byte* staging_memory_ = nullptr;
  uint64_t staging_bytes_ = 0;
  Staging staging_;
  int64_t uploaded_ = 0, sent_ = 0;     // bytes of this step: in place, and of these sent
  bool hold_uploads_ = false;           // until SendUploads
  std::unique_ptr<StepGraphs> graphs_;  // null: kernels are enqueued as they come
  bool noting_ = false;
  Stream host_stream_;  // of the CPU, beside a device
  Event host_asked_;
  HostSide host_;
  // Of the step, where kernels find it.
  const int64_t* slots_ = nullptr;
  const int32_t* visible_ = nullptr;
  const int32_t* const* pages_ = nullptr;
  const int32_t* logit_ids_ = nullptr;
  int64_t longest_ = 0;  // in whole splits, so that it stays the same for many steps
  std::vector<const int32_t*> page_tables_;  // on the device, by token
  std::vector<LoraItem> lora_items_;
  // Of the step's rows of logits: which are drawn from, and how; what came of it, by row.
  std::vector<int32_t> draw_rows_;
  std::vector<TokenDraw> draws_;
  std::vector<int32_t> drawn_;
  const int32_t* token_rows_ = nullptr;  // of token_adapters_ and head_adapters_
  const int32_t* head_rows_ = nullptr;
  AdapterRows token_adapters_;
  AdapterRows head_adapters_;
  int64_t tokens_ = 0;
  int64_t logit_rows_ = 0;
  int64_t rotary_dims_ = 0;  // of one table
  Watcher watcher_;
};

}  // namespace qianyi
