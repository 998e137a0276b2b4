#include "runtime/verify/cogview_sparse.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "runtime/sparse_pattern.h"

namespace qianyi {
namespace {

using Json = nlohmann::json;

// q, k and v [batch, heads, tokens, dim] of the function-level cases, the keys in a cache.
class SparseFunction {
 public:
  static absl::StatusOr<std::unique_ptr<SparseFunction>> Create(const CogViewCases& cases) {
    std::unique_ptr<SparseFunction> made(new SparseFunction);
    const SafetensorsEntry* q = cases.tensors().Find("sparse_train.q");
    if (q == nullptr || q->shape.size() != 4 || q->elements() > 1 << 22) {
      return absl::InvalidArgumentError("sparse_train.q is not [batch, heads, tokens, dim]");
    }
    made->batch_ = q->shape[0];
    made->heads_ = q->shape[1];
    made->tokens_ = q->shape[2];
    made->dim_ = q->shape[3];
    std::vector<float> keys, values;
    for (const auto& [name, rows] :
         {std::pair("q", &made->queries_), std::pair("k", &keys), std::pair("v", &values)}) {
      const auto floats = cases.Floats(absl::StrCat("sparse_train.", name));
      if (!floats.ok()) return floats.status();
      if (static_cast<int64_t>(floats->size()) != q->elements()) {
        return absl::InvalidArgumentError("sparse_train.q, k and v are of different sizes");
      }
      *rows = made->ByToken(*floats);
    }
    const KvSpec spec = {1, made->heads_, made->dim_, made->dim_};
    const int64_t pages = made->batch_ * KvCache::PagesFor(made->tokens_);
    auto kv = KvCache::Create(spec, DType::kF32, pages, Cpu());
    if (!kv.ok()) return kv.status();
    made->kv_ = *std::move(kv);
    made->stream_ = Cpu().create_stream(1);
    made->tables_.resize(made->batch_);
    std::vector<int64_t> slots;
    for (std::vector<int32_t>& table : made->tables_) {
      made->kv_->Reserve(made->tokens_, &table);
      for (int64_t i = 0; i < made->tokens_; ++i) {
        slots.push_back(int64_t{table[i / kPageTokens]} * kPageTokens + i % kPageTokens);
      }
    }
    const int64_t rows = made->batch_ * made->tokens_, cols = made->heads_ * made->dim_;
    Cpu().kv_write({.k = F32(keys.data(), rows, cols),
                    .v = F32(values.data(), rows, cols),
                    .slots = slots.data(),
                    .layer = made->kv_->layer(0)},
                   made->stream_);
    return made;
  }
  ~SparseFunction() {
    if (stream_.handle != nullptr) Cpu().destroy_stream(stream_);
  }

  int64_t batch() const { return batch_; }
  int64_t tokens() const { return tokens_; }

  // The last `count` queries of every sequence, as [batch, heads, count, dim].
  std::vector<float> Run(const SparseStep::Layer& lists, float bias, int64_t count) {
    const int64_t cols = heads_ * dim_;
    std::vector<float> q, out(batch_ * count * cols);
    std::vector<const int32_t*> pages;
    for (int64_t b = 0; b < batch_; ++b) {
      const float* first = queries_.data() + (b * tokens_ + tokens_ - count) * cols;
      q.insert(q.end(), first, first + count * cols);
      pages.insert(pages.end(), count, tables_[b].data());
    }
    Cpu().sparse_attention({.q = F32(q.data(), batch_ * count, cols),
                            .pages = pages.data(),
                            .slots = lists.slots.data(),
                            .offsets = lists.offsets.data(),
                            .pivots = lists.pivots.data(),
                            .pivot_bias = bias,
                            .heads = heads_,
                            .scale = 1.0f / std::sqrt(static_cast<float>(dim_)),
                            .layer = kv_->layer(0),
                            .out = F32(out.data(), batch_ * count, cols)},
                           stream_);
    std::vector<float> by_head(out.size());
    for (int64_t b = 0; b < batch_; ++b) {
      for (int64_t t = 0; t < count; ++t) {
        for (int64_t i = 0; i < cols; ++i) {
          by_head[((b * heads_ + i / dim_) * count + t) * dim_ + i % dim_] =
              out[(b * count + t) * cols + i];
        }
      }
    }
    return by_head;
  }

 private:
  SparseFunction() = default;
  std::vector<float> ByToken(const std::vector<float>& by_head) const {
    std::vector<float> rows(by_head.size());
    for (size_t at = 0; at < by_head.size(); ++at) {
      const int64_t d = at % dim_, t = at / dim_ % tokens_, h = at / (dim_ * tokens_) % heads_;
      const int64_t b = at / (dim_ * tokens_ * heads_);
      rows[((b * tokens_ + t) * heads_ + h) * dim_ + d] = by_head[at];
    }
    return rows;
  }

  int64_t batch_ = 0, heads_ = 0, tokens_ = 0, dim_ = 0;
  std::vector<float> queries_;
  std::unique_ptr<KvCache> kv_;
  std::vector<std::vector<int32_t>> tables_;
  Stream stream_;
};

// Row `index` of a tensor of ids whose last dimension is `width`, each below `limit`.
absl::StatusOr<std::vector<int32_t>> Row(const CogViewCases& cases, const std::string& tensor,
                                         int64_t index, int64_t limit) {
  absl::StatusOr<std::vector<int32_t>> all = cases.Ids(tensor);
  if (!all.ok()) return all.status();
  const int64_t width = cases.Length(tensor);
  if (width < 1 || (index + 1) * width > static_cast<int64_t>(all->size())) {
    return absl::InvalidArgumentError(absl::StrCat(tensor, " is too small"));
  }
  std::vector<int32_t> row(all->begin() + index * width, all->begin() + (index + 1) * width);
  for (const int32_t id : row) {
    if (id < 0 || id >= limit) {
      return absl::InvalidArgumentError(absl::StrCat(tensor, " names a key that is not there"));
    }
  }
  return row;
}

absl::Status ReplayFunction(CogViewCases& cases, const SparseWindow& window) {
  auto function = SparseFunction::Create(cases);
  if (!function.ok()) return function.status();
  const int64_t tokens = (*function)->tokens();
  SparseStep::Layer lists;
  std::vector<float> left_mask, pivot_mask;  // of keys left of the window, and of pivots among them
  int64_t num_pivot = 0;
  for (int64_t b = 0; b < (*function)->batch(); ++b) {
    const auto pivots = Row(cases, "sparse_train.pivot_idx", b, tokens);
    if (!pivots.ok()) return pivots.status();
    num_pivot = static_cast<int64_t>(pivots->size());
    for (int64_t t = 0; t < tokens; ++t) {
      AppendWindowAndPivots(window, t, *pivots, &lists);
      for (int64_t key = 0; key < tokens && b == 0; ++key) {
        left_mask.push_back(key < window.Begin(t) ? 1.0f : 0.0f);
      }
      for (const int32_t pivot : *pivots)
        pivot_mask.push_back(pivot < window.Begin(t) ? 1.0f : 0.0f);
    }
  }
  const float bias = PivotBias(tokens, num_pivot);
  for (const char* input : {"q", "k", "v", "pivot_idx", "query_window", "key_window_times"}) {
    cases.Took(absl::StrCat("sparse_train.", input));
  }
  cases.Compare("sparse_train.rmask", left_mask, 0);
  cases.Compare("sparse_train.pivot_mask", pivot_mask, 0);
  cases.CompareNumber("sparse_train.pivot_bias", bias, 1e-6);
  cases.CompareNumber("sparse_train.num_pivot", static_cast<double>(num_pivot), 0);
  cases.CompareNumber("sparse_train.s", static_cast<double>(tokens), 0);
  cases.Compare("sparse_train.output", (*function)->Run(lists, bias, tokens), 1e-4);

  for (const std::string& name : cases.Names()) {
    const size_t mark = name.find(".index");
    if (name.rfind("sparse_infer.sq", 0) != 0 || mark == std::string::npos) continue;
    const std::string output = name.substr(0, mark) + ".output";
    const SafetensorsEntry* entry = cases.tensors().Find(output);
    if (entry == nullptr || entry->shape.size() != 4) continue;
    const int64_t queries = entry->shape[2];
    SparseStep::Layer gathered;
    for (int64_t b = 0; b < (*function)->batch(); ++b) {
      const auto keys = Row(cases, name, b, tokens);
      if (!keys.ok()) return keys.status();
      if (queries > static_cast<int64_t>(keys->size()) || queries > tokens) {
        return absl::InvalidArgumentError(absl::StrCat(name, " has fewer keys than queries"));
      }
      for (int64_t i = 0; i < queries; ++i) AppendGatheredKeys(*keys, queries, i, &gathered);
    }
    cases.Took(name);
    cases.Compare(output, (*function)->Run(gathered, 0, queries), 1e-4);
  }
  return absl::OkStatus();
}

int64_t Layers(const Json& config) { return NumberOf(config, "num_layers", 0); }

// One pass as in training.
absl::Status ReplayTraining(CogViewCases& cases, const SparseWindow& window, const Json& config) {
  const auto inputs = cases.Inputs("sparse_model1");
  if (!inputs.ok()) return inputs.status();
  SparseStep sparse;
  const int64_t batch = static_cast<int64_t>(inputs->size());
  const int64_t tokens = cases.Length("sparse_model1.input_ids");
  for (int64_t layer = 0; layer < Layers(config); ++layer) {
    SparseStep::Layer& lists = sparse.layers.emplace_back();
    for (int64_t b = 0; b < batch; ++b) {
      const auto pivots = Row(cases, "sparse_model1.pivot_idx", layer * batch + b, tokens);
      if (!pivots.ok()) return pivots.status();
      sparse.pivot_bias = PivotBias(tokens, static_cast<int64_t>(pivots->size()));
      for (int64_t t = 0; t < tokens; ++t) AppendWindowAndPivots(window, t, *pivots, &lists);
    }
  }
  cases.Took("sparse_model1.pivot_idx");
  const auto pass = cases.Run(*inputs, &sparse);
  if (!pass.ok()) return pass.status();
  cases.Compare("sparse_model1.logits", pass->logits);
  return absl::OkStatus();
}

// Chunk by chunk over the cache.
absl::Status ReplayGeneration(CogViewCases& cases, const SparseWindow& window, const Json& config) {
  const auto inputs = cases.Inputs("sparse_model2");
  if (!inputs.ok()) return inputs.status();
  const Json& fields = cases.Fields("sparse_model2");
  const Json listed = fields.is_object() ? fields.value("chunk_ends", Json()) : Json();
  const int64_t tokens = cases.Length("sparse_model2.input_ids");
  const int64_t batch = static_cast<int64_t>(inputs->size());
  std::vector<int64_t> ends;
  for (const Json& end : listed) {
    const int64_t before = ends.empty() ? 0 : ends.back();
    if (!end.is_number_integer() || end.get<int64_t>() <= before || end.get<int64_t>() > tokens) {
      return absl::InvalidArgumentError("cases.json: sparse_model2.chunk_ends does not ascend");
    }
    ends.push_back(end.get<int64_t>());
  }
  const int64_t images = NumberOf(config, "num_image_tokens", 0);
  int64_t text = 0;
  while (!inputs->empty() && text < tokens && inputs->front().ids[text] >= images) ++text;
  std::vector<SparseStep> steps;
  int64_t wrong_counts = 0;
  for (size_t c = 0; c < ends.size(); ++c) {
    const int64_t queries = ends[c] - (c == 0 ? 0 : ends[c - 1]);
    const std::string name = absl::StrCat("sparse_model2.index.", c);
    const int64_t pivots = GatheredPivots(window, ends[c], text, NumberOf(fields, "num_pivot", 0),
                                          NumberOf(config, "max_position_embeddings", 1));
    const int64_t width = window.query_window * window.key_window_times;
    if (cases.Length(name) != pivots + std::min(ends[c], width)) ++wrong_counts;
    SparseStep& step = steps.emplace_back();
    for (int64_t layer = 0; layer < Layers(config); ++layer) {
      SparseStep::Layer& lists = step.layers.emplace_back();
      for (int64_t b = 0; b < batch; ++b) {
        const auto keys = Row(cases, name, layer * batch + b, ends[c]);
        if (!keys.ok()) return keys.status();
        if (queries > static_cast<int64_t>(keys->size())) {
          return absl::InvalidArgumentError(absl::StrCat(name, " has fewer keys than queries"));
        }
        for (int64_t i = 0; i < queries; ++i) AppendGatheredKeys(*keys, queries, i, &lists);
      }
    }
    cases.Took(name);
  }
  const auto passes = cases.RunInChunks(*inputs, ends, steps);
  if (!passes.ok()) return passes.status();
  std::vector<float> logits(batch * tokens * NumberOf(config, "vocab_size", 0));
  const int64_t row = static_cast<int64_t>(logits.size()) / (batch * tokens);
  for (size_t c = 0; c < ends.size(); ++c) {
    const int64_t begin = c == 0 ? 0 : ends[c - 1], count = ends[c] - begin;
    for (int64_t b = 0; b < batch; ++b) {
      std::copy_n((*passes)[c].logits.begin() + b * count * row, count * row,
                  logits.begin() + (b * tokens + begin) * row);
    }
  }
  cases.CompareJson("sparse_model2.chunk_ends", listed);
  cases.CompareJson("sparse_model2.num_pivot", fields.value("num_pivot", Json()),
                    wrong_counts == 0);
  cases.Compare("sparse_model2.logits", logits);
  return absl::OkStatus();
}

}  // namespace

void ReplaySparse(CogViewCases& cases, const Json& config) {
  const SparseWindow window = {
      .query_window = std::max<int64_t>(1, NumberOf(config, "query_window", 128)),
      .key_window_times = std::max<int64_t>(1, NumberOf(config, "key_window_times", 6))};
  const auto replay = [&](const char* name, const absl::Status& status) {
    if (!status.ok()) cases.Failed(name, status);
  };
  if (cases.HasCase("sparse_train") || cases.HasCase("sparse_infer")) {
    replay("sparse_train", ReplayFunction(cases, window));
  }
  if (cases.HasCase("sparse_model1")) {
    replay("sparse_model1", ReplayTraining(cases, window, config));
  }
  if (cases.HasCase("sparse_model2")) {
    replay("sparse_model2", ReplayGeneration(cases, window, config));
  }
}

}  // namespace qianyi
