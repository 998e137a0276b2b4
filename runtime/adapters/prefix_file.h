// A P-tuning v2 prefix on disk: keys and values that stand before every sequence, in every layer.
// Liu et al. 2022, arXiv:2110.07602; zai-org/ChatGLM-6B and ChatGLM2-6B, ptuning/.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/backend.h"
#include "runtime/model_spec.h"
#include "runtime/storage/safetensors.h"

namespace qianyi {

inline constexpr int64_t kMaxPrefixSlots = 4096;

// The table of contents, checked against the model. Immutable.
class PrefixFile {
 public:
  // Reads the header of `weights` ("" = the one *.safetensors of the folder that holds a prefix
  // encoder) and, where there is a config.json, compares its pre_seq_len. InvalidArgument names
  // the file, the tensor and what is wrong; NotFound when no file has a prefix.
  static absl::StatusOr<PrefixFile> Open(const std::string& folder, const KvSpec& kv,
                                         const std::string& weights = "");

  // The same of a table of contents; reads nothing.
  static absl::StatusOr<PrefixFile> Parse(Safetensors tensors, const KvSpec& kv);

  int32_t slots() const { return static_cast<int32_t>(slots_); }
  bool projected() const { return projected_; }

  // Decodes layer after layer: k and v are [slots, kv.heads * dim], valid during the call. Takes a
  // few MiB besides; `backend` and `stream` do the products of a projection. InvalidArgument where
  // a value is not finite, or beyond `largest`.
  using OnLayer = std::function<void(int layer, Tensor k, Tensor v)>;
  absl::Status Decode(float largest, const Backend& backend, Stream stream,
                      const OnLayer& on_layer) const;

 private:
  absl::Status Find();
  absl::Status CheckShapes();
  absl::Status CheckShape(const SafetensorsEntry* entry, absl::string_view name,
                          std::vector<int64_t> shape) const;
  // out [slots, count] = x Wᵀ + b for rows [first, first + count) of a layer of the projection.
  absl::Status Project(const SafetensorsEntry& weight, const SafetensorsEntry& bias, Tensor x,
                       int64_t first, Tensor out, const Backend& backend, Stream stream) const;
  absl::Status ReadInner(const Backend& backend, Stream stream, std::vector<float>* inner) const;

  Safetensors tensors_;
  KvSpec kv_;
  std::string prefix_;  // of the tensors' names: "transformer.prefix_encoder."
  bool projected_ = false;
  int64_t slots_ = 0;
  int64_t embedding_cols_ = 0;
  int64_t inner_ = 0;  // width between the two layers of the projection
};

}  // namespace qianyi
