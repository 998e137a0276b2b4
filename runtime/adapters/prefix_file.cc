#include "runtime/adapters/prefix_file.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/adapters/in_file.h"
#include "runtime/parse_json.h"
#include "runtime/storage/file_util.h"

namespace qianyi {
namespace {

constexpr absl::string_view kEmbedding = "prefix_encoder.embedding.weight";
constexpr int64_t kMaxInner = 1 << 17;
constexpr int64_t kChunkFloats = 1 << 20;  // of a projection's weight at once

bool HoldsPrefix(const Safetensors& tensors) {
  return std::any_of(tensors.entries().begin(), tensors.entries().end(),
                     [](const auto& entry) { return absl::EndsWith(entry.name, kEmbedding); });
}

// The one file of the folder that holds a prefix.
absl::StatusOr<Safetensors> Locate(const std::string& folder) {
  absl::StatusOr<std::vector<std::string>> names = ListFolder(folder, ".safetensors");
  if (!names.ok()) return names.status();
  Safetensors found;
  std::vector<std::string> holders;
  for (const std::string& name : *names) {
    absl::StatusOr<Safetensors> tensors = Safetensors::Open(JoinPath(folder, name));
    if (!tensors.ok()) return tensors.status();
    if (!HoldsPrefix(*tensors)) continue;
    holders.push_back(name);
    found = *std::move(tensors);
  }
  if (holders.empty()) {
    return absl::NotFoundError(
        absl::StrCat(folder,
                     ": is no adapter: it has neither adapter_config.json (LoRA) nor a "
                     "*.safetensors with a tensor ",
                     kEmbedding, " (P-tuning v2)"));
  }
  if (holders.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat(folder, ": ", absl::StrJoin(holders, " and "),
                                                   " both hold a prefix; leave one of them"));
  }
  return found;
}

absl::Status CheckConfig(const std::string& folder, int64_t slots) {
  const std::string path = JoinPath(folder, "config.json");
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return absl::OkStatus();
  absl::StatusOr<std::string> text = ReadTextFile(path, 16 << 20);
  if (!text.ok()) return text.status();
  const nlohmann::json config = ParseJson(*text);
  if (!config.is_object()) return InFile(path, "is not a JSON object");
  const auto length = config.find("pre_seq_len");
  if (length == config.end() || length->is_null() || *length == slots) return absl::OkStatus();
  return InFile(path, absl::StrCat("pre_seq_len is ", length->dump().substr(0, 60),
                                   ", but the prefix has ", slots, " rows"));
}

}  // namespace

absl::StatusOr<PrefixFile> PrefixFile::Open(const std::string& folder, const KvSpec& kv,
                                            const std::string& weights) {
  absl::StatusOr<Safetensors> tensors =
      weights.empty() ? Locate(folder) : Safetensors::Open(JoinPath(folder, weights));
  if (!tensors.ok()) return tensors.status();
  absl::StatusOr<PrefixFile> file = Parse(*std::move(tensors), kv);
  if (!file.ok()) return file.status();
  if (absl::Status status = CheckConfig(folder, file->slots_); !status.ok()) return status;
  return file;
}

absl::StatusOr<PrefixFile> PrefixFile::Parse(Safetensors tensors, const KvSpec& kv) {
  if (kv.values_in_keys) {
    return InFile(tensors.path(),
                  "cannot run: this model caches latents, which no prefix encoder makes");
  }
  PrefixFile file;
  file.kv_ = kv;
  file.tensors_ = std::move(tensors);
  if (absl::Status status = file.Find(); !status.ok()) return status;
  if (absl::Status status = file.CheckShapes(); !status.ok()) return status;
  return file;
}

absl::Status PrefixFile::Find() {
  for (const SafetensorsEntry& entry : tensors_.entries()) {
    if (!absl::EndsWith(entry.name, kEmbedding)) continue;
    if (!prefix_.empty()) return InFile(tensors_.path(), "has two prefix encoders");
    const absl::string_view name = entry.name;
    prefix_ =
        std::string(name.substr(0, name.size() - absl::string_view("embedding.weight").size()));
    if (entry.shape.size() != 2 || entry.shape[0] < 1 || entry.shape[0] > kMaxPrefixSlots) {
      return InFile(tensors_.path(),
                    absl::StrCat("tensor '", entry.name, "' is [", absl::StrJoin(entry.shape, ", "),
                                 "]; it must have 1..", kMaxPrefixSlots, " rows"));
    }
    slots_ = entry.shape[0];
    embedding_cols_ = entry.shape[1];
  }
  if (prefix_.empty()) return InFile(tensors_.path(), absl::StrCat("has no tensor ", kEmbedding));
  projected_ = tensors_.Find(prefix_ + "trans.0.weight") != nullptr ||
               tensors_.Find(prefix_ + "trans.2.weight") != nullptr;
  return absl::OkStatus();
}

absl::Status PrefixFile::CheckShape(const SafetensorsEntry* entry, absl::string_view name,
                                    std::vector<int64_t> shape) const {
  if (entry == nullptr) {
    return InFile(tensors_.path(), absl::StrCat("has no tensor '", prefix_, name, "'"));
  }
  if (entry->shape == shape) return absl::OkStatus();
  return InFile(tensors_.path(),
                absl::StrCat("tensor '", entry->name, "' is [", absl::StrJoin(entry->shape, ", "),
                             "]; for ", kv_.layers, " layers of this model it must be [",
                             absl::StrJoin(shape, ", "), "]"));
}

absl::Status PrefixFile::CheckShapes() {
  const int64_t cols = kv_.elements_per_token();
  const auto find = [&](const char* name) { return tensors_.Find(prefix_ + name); };
  if (!projected_) {
    return CheckShape(find("embedding.weight"), "embedding.weight", {slots_, cols});
  }
  const SafetensorsEntry* first = find("trans.0.weight");
  inner_ = first != nullptr && first->shape.size() == 2 ? first->shape[0] : 1;
  if (inner_ < 1 || inner_ > kMaxInner || embedding_cols_ > cols + kMaxInner) {
    return InFile(tensors_.path(),
                  absl::StrCat("the projection goes from ", embedding_cols_, " to ", inner_,
                               " columns; at most ", kMaxInner, " can be run"));
  }
  const std::pair<const char*, std::vector<int64_t>> wanted[] = {
      {"trans.0.weight", {inner_, embedding_cols_}},
      {"trans.0.bias", {inner_}},
      {"trans.2.weight", {cols, inner_}},
      {"trans.2.bias", {cols}}};
  for (const auto& [name, shape] : wanted) {
    if (absl::Status status = CheckShape(find(name), name, shape); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status PrefixFile::Project(const SafetensorsEntry& weight, const SafetensorsEntry& bias,
                                 Tensor x, int64_t first, Tensor out, const Backend& backend,
                                 Stream stream) const {
  const PackedFormat format = {DType::kF32};
  const int64_t chunk = std::max<int64_t>(kChunkFloats / x.cols, kPanelRows);
  std::vector<float> rows, biases(out.cols);
  if (auto status = tensors_.ReadFloats(bias, first, out.cols, biases.data()); !status.ok()) {
    return status;
  }
  const size_t bytes = PackedBytes(format, std::min(chunk, out.cols), x.cols);
  const PageBuffer packed = AllocatePages(bytes);
  if (packed == nullptr) return absl::ResourceExhaustedError("no memory to decode the prefix");
  for (int64_t row = 0; row < out.cols; row += chunk) {
    const int64_t count = std::min(chunk, out.cols - row);
    rows.resize(count * x.cols);
    auto status = tensors_.ReadFloats(weight, (first + row) * x.cols, count * x.cols, rows.data());
    if (!status.ok()) return status;
    PackRows(format, rows.data(), count, x.cols, x.cols, packed.get());
    Linear task;
    task.x = x;
    task.weight = {packed.get(), format, count, x.cols};
    task.bias = biases.data() + row;
    task.out = out.Columns(row, count);
    backend.linear(task, stream);
  }
  return absl::OkStatus();
}

absl::Status PrefixFile::ReadInner(const Backend& backend, Stream stream,
                                   std::vector<float>* inner) const {
  std::vector<float> embedding(slots_ * embedding_cols_);
  const SafetensorsEntry& table = *tensors_.Find(prefix_ + "embedding.weight");
  auto status = tensors_.ReadFloats(table, 0, table.elements(), embedding.data());
  if (!status.ok()) return status;
  inner->resize(slots_ * inner_);
  status =
      Project(*tensors_.Find(prefix_ + "trans.0.weight"), *tensors_.Find(prefix_ + "trans.0.bias"),
              F32(embedding.data(), slots_, embedding_cols_), 0, F32(inner->data(), slots_, inner_),
              backend, stream);
  for (float& value : *inner) value = std::tanh(value);
  return status;
}

absl::Status PrefixFile::Decode(float largest, const Backend& backend, Stream stream,
                                const OnLayer& on_layer) const {
  std::vector<float> inner;
  if (projected_) {
    if (auto status = ReadInner(backend, stream, &inner); !status.ok()) return status;
  }
  const int64_t key_cols = kv_.heads * kv_.key_dim;
  const int64_t cols = key_cols + kv_.heads * kv_.value_dim;
  std::vector<float> layer(slots_ * cols);
  const Tensor both = F32(layer.data(), slots_, cols);
  for (int i = 0; i < kv_.layers; ++i) {
    absl::Status status;
    if (projected_) {
      status = Project(*tensors_.Find(prefix_ + "trans.2.weight"),
                       *tensors_.Find(prefix_ + "trans.2.bias"), F32(inner.data(), slots_, inner_),
                       i * cols, both, backend, stream);
    }
    const SafetensorsEntry& table = *tensors_.Find(prefix_ + "embedding.weight");
    for (int64_t row = 0; !projected_ && row < slots_ && status.ok(); ++row) {
      status = tensors_.ReadFloats(table, row * embedding_cols_ + i * cols, cols, both.f32(row));
    }
    if (!status.ok()) return status;
    for (const float value : layer) {
      if (std::abs(value) <= largest) continue;  // false for NaN
      return InFile(tensors_.path(), absl::StrCat("the prefix has ", value, " in layer ", i,
                                                  "; the cache holds up to ", largest));
    }
    on_layer(i, both.Columns(0, key_cols), both.Columns(key_cols, cols - key_cols));
  }
  return absl::OkStatus();
}

}  // namespace qianyi
