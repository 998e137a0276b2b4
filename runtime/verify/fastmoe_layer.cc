#include "runtime/verify/fastmoe_layer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/plan.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/model_layout.h"
#include "runtime/storage/model_writer.h"

namespace qianyi {
namespace {

constexpr int64_t kMostExperts = 1 << 12;

std::string NameOf(int64_t expert, const std::string& matrix, const std::string& part) {
  return absl::StrCat("experts.", expert, ".", matrix, ".", part);
}

ModelSpec Describe(const FastMoeWeights& weights) {
  ModelSpec spec;
  spec.family = "fastmoe-layer";
  spec.units = {"experts"};
  const int64_t experts = weights.experts(), size = weights.model_size();
  spec.hidden_size = spec.attention_cols = spec.widest_row = size;
  spec.tensors.push_back(
      {.name = "gate.gate.weight", .shape = {experts, size}, .use = TensorUse::kConstant});
  spec.tensors.push_back(
      {.name = "gate.gate.bias", .shape = {experts}, .use = TensorUse::kConstant});
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t ffn = weights.ffn(e);
    const auto add = [&](const char* matrix, const char* part, std::vector<int64_t> shape,
                         TensorUse use) {
      spec.tensors.push_back({.name = NameOf(e, matrix, part),
                              .shape = std::move(shape),
                              .use = use,
                              .expert = use == TensorUse::kExpert ? static_cast<int>(e) : -1});
    };
    add("htoh4", "bias", {ffn}, TensorUse::kConstant);
    add("h4toh", "bias", {size}, TensorUse::kConstant);
    add("htoh4", "weight", {ffn, size}, TensorUse::kExpert);
    add("h4toh", "weight", {size, ffn}, TensorUse::kExpert);
    spec.widest_row = std::max(spec.widest_row, ffn);
  }
  spec.experts = {.total = experts, .per_layer = experts, .per_token = experts};
  spec.kv = {.layers = 1, .heads = 1, .key_dim = 1, .value_dim = 1};
  spec.vocab_size = spec.max_positions = 1;
  return spec;
}

// The values of a tensor of the spec, from where FastMoE has them.
absl::StatusOr<std::vector<float>> ValuesOf(const FastMoeWeights& weights, const TensorSpec& spec) {
  const size_t dot = spec.name.rfind('.');
  const std::string part = spec.name.substr(dot + 1);
  if (absl::string_view(spec.name).substr(0, 5) == "gate.") return weights.Gate(part);
  const size_t before = spec.name.rfind('.', dot - 1);
  const int64_t expert = std::stoll(spec.name.substr(sizeof("experts.") - 1));
  return weights.Read(expert, spec.name.substr(before + 1, dot - before - 1), part);
}

absl::StatusOr<ModelFile> Write(const FastMoeWeights& weights, const std::string& folder) {
  const ModelSpec spec = Describe(weights);
  absl::StatusOr<ModelFile> model =
      LayOut(spec, {DType::kF32}, std::vector<std::string>(spec.tensors.size(), "F32"));
  if (!model.ok()) return model.status();
  absl::StatusOr<std::unique_ptr<ModelWriter>> writer =
      ModelWriter::Create(*std::move(model), folder, SideFiles{});
  if (!writer.ok()) return writer.status();
  const ModelFile& layout = (*writer)->model();
  const auto fill = [&](int tensor, int index, std::byte* out) -> absl::Status {
    const StoredTensor& stored = layout.tensors[tensor];
    const Block& block = stored.blocks[index];
    absl::StatusOr<std::vector<float>> values = ValuesOf(weights, stored.spec);
    if (!values.ok()) return values.status();
    if (stored.spec.use == TensorUse::kConstant) {
      std::memcpy(out, values->data(), block.bytes);
      return absl::OkStatus();
    }
    const int64_t cols = stored.spec.cols();
    PackRows(stored.format, values->data() + block.row_begin * cols, block.rows, cols, cols, out);
    return absl::OkStatus();
  };
  if (absl::Status status = WriteModel(**writer, 1, fill, {}); !status.ok()) return status;
  ModelFile file = layout;
  file.folder = folder;
  file.files = {JoinPath(folder, kModelFileName)};
  return file;
}

}  // namespace

absl::StatusOr<FastMoeWeights> FastMoeWeights::Find(const Safetensors& weights) {
  FastMoeWeights found;
  found.weights_ = &weights;
  const SafetensorsEntry* gate = weights.Find("gate.gate.weight");
  if (gate == nullptr || gate->shape.size() != 2 || gate->shape[0] < 1 || gate->shape[1] < 1 ||
      gate->shape[0] > kMostExperts) {
    return absl::InvalidArgumentError(
        absl::StrCat(weights.path(), ": gate.gate.weight is not [experts, size]"));
  }
  found.experts_ = gate->shape[0];
  found.model_size_ = gate->shape[1];
  const SafetensorsEntry* fused = weights.Find("experts.htoh4.weight");
  for (int64_t e = 0; e < found.experts_; ++e) {
    const SafetensorsEntry* own = weights.Find(NameOf(e, "htoh4", "weight"));
    const SafetensorsEntry* entry = own == nullptr ? fused : own;
    const int64_t parts = own == nullptr ? found.experts_ : 1;
    if (entry == nullptr || entry->shape.size() != 3 || entry->shape[0] != parts ||
        entry->shape[1] < 1 || entry->shape[2] != found.model_size_) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: neither %s [1, ffn, %d] nor experts.htoh4.weight [%d, ffn, %d] is there",
          weights.path(), NameOf(e, "htoh4", "weight"), found.model_size_, found.experts_,
          found.model_size_));
    }
    found.ffn_.push_back(entry->shape[1]);
  }
  return found;
}

absl::StatusOr<std::vector<float>> FastMoeWeights::Read(int64_t expert, const std::string& matrix,
                                                        const std::string& part) const {
  const std::string own = NameOf(expert, matrix, part);
  const std::string fused = absl::StrCat("experts.", matrix, ".", part);
  const SafetensorsEntry* entry = weights_->Find(own);
  const int64_t rows = matrix == "htoh4" ? ffn_[expert] : model_size_;
  const int64_t cols = matrix == "htoh4" ? model_size_ : ffn_[expert];
  const int64_t count = part == "bias" ? rows : rows * cols;
  int64_t first = 0, parts = 1;
  if (entry == nullptr) {
    entry = weights_->Find(fused);
    first = expert * count;
    parts = experts_;
  }
  if (entry == nullptr || entry->elements() != parts * count) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %s has not the %d values of its shape", weights_->path(), own, count));
  }
  std::vector<float> values(count);
  absl::Status status = weights_->ReadFloats(*entry, first, count, values.data());
  if (!status.ok()) return status;
  return values;
}

absl::StatusOr<std::vector<float>> FastMoeWeights::Gate(const std::string& part) const {
  if (part == "bias" && weights_->Find("gate.gate.bias") == nullptr) {
    return std::vector<float>(experts_, 0.0f);
  }
  return weights_->ReadFloats("gate.gate." + part);
}

absl::StatusOr<std::unique_ptr<FastMoeLayer>> FastMoeLayer::Open(const FastMoeWeights& weights,
                                                                 const std::string& folder,
                                                                 int64_t tokens) {
  absl::StatusOr<ModelFile> file = Write(weights, folder);
  if (!file.ok()) return file.status();
  const ModelUse use = {.file = &*file, .context_tokens = tokens, .kv_dtype = DType::kF32};
  absl::StatusOr<Plan> plan = MakePlan({&use, 1}, {.host_bytes = 1ull << 32});
  if (!plan.ok()) return plan.status();
  const Backend& backend = Cpu();
  std::unique_ptr<FastMoeLayer> layer(new FastMoeLayer);
  layer->tokens_ = tokens;
  const ReaderFactory readers = WeightStore::FileReaders(*file, {});
  auto store = WeightStore::Open(*file, plan->models[0], backend, readers);
  if (!store.ok()) return store.status();
  layer->store_ = *std::move(store);
  const ModelSpec& spec = layer->store_->file().spec;
  auto kv = KvCache::Create(spec.kv, DType::kF32, 1, backend, 0);
  if (!kv.ok()) return kv.status();
  layer->kv_ = *std::move(kv);
  layer->stream_ = backend.create_stream(1);
  auto pass = Pass::Create(spec, {.tokens = tokens, .logit_rows = 1}, *layer->store_,
                           /*device=*/nullptr, *layer->kv_, backend, layer->stream_);
  if (!pass.ok()) return pass.status();
  layer->pass_ = *std::move(pass);
  return layer;
}

FastMoeLayer::~FastMoeLayer() {
  pass_.reset();
  if (stream_.handle != nullptr) Cpu().destroy_stream(stream_);
}

absl::StatusOr<FastMoeLayer::Output> FastMoeLayer::Run(ExpertLayer::Gating gating,
                                                       const std::vector<float>& input,
                                                       const float* uniform) {
  const ModelFile& file = store_->file();
  const int64_t size = file.spec.hidden_size;
  gating.activation = Activation::kGeluErf;
  gating.router = file.Find("gate.gate.weight");
  if (gating.bias < 0) gating.bias = file.Find("gate.gate.bias");
  std::vector<ExpertWeights> experts;
  for (int64_t e = 0; e < file.spec.experts.total; ++e) {
    const auto projection = [&](const char* matrix) {
      return Projection{file.Find(NameOf(e, matrix, "weight")),
                        file.Find(NameOf(e, matrix, "bias"))};
    };
    const Projection up = projection("htoh4");
    experts.push_back({.number = static_cast<int>(e),
                       .gate = {},
                       .up = up,
                       .down = projection("h4toh"),
                       .ffn = file.tensors[up.weight].spec.rows()});
  }
  const ExpertLayer layer(gating, std::move(experts));
  Step step(tokens_);
  step.tokens.assign(tokens_, 0);
  step.adapters.assign(tokens_, nullptr);
  pass_->Begin(step);
  const Tensor x = pass_->narrow(size), out = pass_->hidden();
  std::memcpy(x.f32(), input.data(), input.size() * sizeof(float));
  std::fill_n(out.f32(), tokens_ * size, 0.0f);
  layer.Begin(x, *pass_, uniform);
  Output output;
  const int64_t choices = tokens_ * gating.top_k;
  const ExpertBuffers& routed = pass_->host().experts();
  output.chosen.assign(routed.chosen, routed.chosen + choices);
  output.weights.assign(routed.weights, routed.weights + choices);
  if (absl::Status status = layer.Finish(x, out, *pass_); !status.ok()) return status;
  output.rows.assign(out.f32(), out.f32() + tokens_ * size);
  return output;
}

}  // namespace qianyi
