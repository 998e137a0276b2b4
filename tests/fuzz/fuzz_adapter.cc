// Adapters: adapter_config.json, a zero byte, and a safetensors file. Whatever is accepted fits the
// model that it is for.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/adapters/lora_file.h"
#include "runtime/adapters/prefix_file.h"
#include "runtime/models/registry.h"

namespace {

constexpr char kModel[] =
    R"({"model_type":"chatglm","num_layers":3,"hidden_size":96,"ffn_hidden_size":136,)"
    R"("num_attention_heads":6,"multi_query_group_num":2,"kv_channels":16,)"
    R"("padded_vocab_size":320,"seq_length":256})";

const qianyi::ModelFile& Model() {
  static const auto* model = new qianyi::ModelFile(
      *qianyi::ModelFile::Lay(*qianyi::DescribeModel(kModel), {qianyi::DType::kF32}));
  return *model;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const size_t zero = all.find('\0');
  if (zero == all.npos) return 0;
  const std::string_view file = all.substr(zero + 1);
  const auto tensors = qianyi::Safetensors::Parse(file, file.size(), "fuzz");
  if (!tensors.ok()) return 0;
  const auto lora =
      qianyi::LoraFile::Parse(std::string(all.substr(0, zero)), "fuzz", *tensors, Model());
  // A and B of 3 layers and the head, whose matrices have less than 2048 rows and columns together.
  if (lora.ok() && (lora->floats() < 1 || lora->floats() > 16 * 2048 * qianyi::kMaxLoraRank)) {
    __builtin_trap();
  }
  const auto prefix = qianyi::PrefixFile::Parse(*tensors, Model().spec.kv);
  if (prefix.ok() && (prefix->slots() < 1 || prefix->slots() > qianyi::kMaxPrefixSlots)) {
    __builtin_trap();
  }
  return 0;
}
