// How model files list their tensors in execution order, and find them again when loaded.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "runtime/model_spec.h"
#include "runtime/pass.h"
#include "runtime/storage/model_file.h"

namespace qianyi {

// Appends to a spec, which must outlive it: units one after the other, tensors to the last one.
class TensorLister {
 public:
  explicit TensorLister(ModelSpec* spec) : spec_(*spec) {}

  void Unit(std::string name) { spec_.units.push_back(std::move(name)); }

  // The reference is good until the next tensor.
  TensorSpec& Add(std::string name, std::vector<int64_t> shape, TensorUse use) {
    spec_.tensors.push_back({.name = std::move(name),
                             .shape = std::move(shape),
                             .use = use,
                             .unit = static_cast<int>(spec_.units.size()) - 1,
                             .kept = kept_});
    return spec_.tensors.back();
  }
  void Constant(std::string name, std::vector<int64_t> shape) {
    Add(std::move(name), std::move(shape), TensorUse::kConstant);
  }
  TensorSpec& Matrix(std::string name, int64_t rows, int64_t cols) {
    return Add(std::move(name), {rows, cols}, TensorUse::kMatrix);
  }
  // name.bias, unless there is none, and name.weight. `by_head` as in TensorSpec.
  void Linear(const std::string& name, int64_t rows, int64_t cols, bool bias = true,
              int64_t by_head = 0) {
    if (bias) Add(name + ".bias", {rows}, TensorUse::kConstant).by_head = by_head;
    Matrix(name + ".weight", rows, cols).by_head = by_head;
  }
  // name.weight and name.bias of a LayerNorm.
  void LayerNorm(const std::string& name, int64_t cols) {
    Constant(name + ".weight", {cols});
    Constant(name + ".bias", {cols});
  }

  // Whether what follows is stored and never loaded (TensorSpec::kept).
  void set_kept(bool kept) { kept_ = kept; }
  bool kept() const { return kept_; }
  ModelSpec& spec() { return spec_; }

 private:
  ModelSpec& spec_;
  bool kept_ = false;
};

// Tensors of a LayerNorm.
struct LayerNormWeights {
  int weight = -1, bias = -1;
};
inline LayerNormWeights FindLayerNorm(const ModelFile& file, const std::string& name) {
  return {file.Find(name + ".weight"), file.Find(name + ".bias")};
}
// Its bias is -1 when the file has none.
inline Projection FindLinear(const ModelFile& file, const std::string& name) {
  return {file.Find(name + ".weight"), file.Find(name + ".bias")};
}

}  // namespace qianyi
