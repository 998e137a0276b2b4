#include "tests/runtime/adapters/adapter_folders.h"

#include <filesystem>
#include <map>

#include "tests/support/temp_folder.h"

namespace qianyi::testing {

std::vector<float> SmallValues(int64_t count, uint64_t seed) {
  std::vector<float> values(count);
  uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  for (float& value : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    value = (static_cast<float>(state >> 40) / (1 << 24) - 0.5f) * 0.6f;
  }
  return values;
}

nlohmann::json LoraFolder::Config() const {
  return {{"peft_type", "LORA"},      {"r", rank},
          {"lora_alpha", alpha},      {"bias", "none"},
          {"fan_in_fan_out", false},  {"modules_to_save", nullptr},
          {"target_modules", targets}};
}

std::vector<TestTensor> LoraFolder::Tensors(const ModelFile& model) const {
  struct Shape {
    int64_t rows, cols;
  };
  std::map<std::string, Shape> modules;
  for (const StoredTensor& tensor : model.tensors) {
    const std::string& name = tensor.spec.name;
    if (tensor.spec.use != TensorUse::kMatrix) continue;
    modules[name.substr(0, name.rfind('.'))] = {tensor.spec.rows(), tensor.spec.cols()};
  }
  for (const ModuleAlias& alias : model.spec.aliases) {
    modules[alias.module] = {alias.rows.rows(),
                             model.tensors[model.Find(alias.tensor)].spec.cols()};
  }
  std::vector<TestTensor> tensors;
  uint64_t next = seed * 1000;
  for (const auto& [module, shape] : modules) {
    for (const std::string& target : targets) {
      if (!module.ends_with("." + target)) continue;
      const std::string name = "base_model.model." + module;
      tensors.push_back(F32Tensor(name + ".lora_A.weight", {rank, shape.cols},
                                  SmallValues(rank * shape.cols, next++)));
      tensors.push_back(F32Tensor(name + ".lora_B.weight", {shape.rows, rank},
                                  SmallValues(rank * shape.rows, next++)));
    }
  }
  return tensors;
}

void LoraFolder::Write(const ModelFile& model, const std::string& folder) const {
  std::filesystem::create_directories(folder);
  WriteText(folder + "/adapter_config.json", Config().dump());
  WriteText(folder + "/adapter_model.safetensors", SafetensorsText(Tensors(model)));
}

std::vector<TestTensor> PrefixFolder::Tensors(const KvSpec& kv) const {
  const std::string name = "transformer.prefix_encoder.";
  const int64_t cols = kv.elements_per_token();
  if (inner == 0) {
    return {F32Tensor(name + "embedding.weight", {slots, cols}, SmallValues(slots * cols, seed))};
  }
  return {F32Tensor(name + "embedding.weight", {slots, 24}, SmallValues(slots * 24, seed)),
          F32Tensor(name + "trans.0.bias", {inner}, SmallValues(inner, seed + 1)),
          F32Tensor(name + "trans.0.weight", {inner, 24}, SmallValues(inner * 24, seed + 2)),
          F32Tensor(name + "trans.2.bias", {cols}, SmallValues(cols, seed + 3)),
          F32Tensor(name + "trans.2.weight", {cols, inner}, SmallValues(cols * inner, seed + 4))};
}

void PrefixFolder::Write(const ModelFile& model, const std::string& folder) const {
  std::filesystem::create_directories(folder);
  WriteText(folder + "/config.json", nlohmann::json{{"pre_seq_len", slots}}.dump());
  WriteText(folder + "/prefix_encoder.safetensors", SafetensorsText(Tensors(model.spec.kv)));
}

}  // namespace qianyi::testing
