// The blocks of GLM-130B and ChatGLM-6B: LayerNorm whose output, times α = sqrt(2 layers), is the
// residual (after DeepNorm, Wang et al. 2022, arXiv:2203.00555), rotary positions on whole heads,
// biases everywhere, contexts that all of their tokens see.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/model.h"
#include "runtime/model_spec.h"
#include "runtime/models/megatron_names.h"
#include "runtime/models/sources.h"
#include "runtime/storage/model_file.h"

namespace qianyi {

struct PostNormShape {
  int64_t layers = 0, hidden = 0, inner = 0, heads = 0, vocab = 0, positions = 0;
  float epsilon = 0;
  double rope_base = 0;
  bool gated = false;  // GeGLU, its second half through the exact GELU; else one tanh GELU
  bool half_frequencies = false;  // rounded to fp16, as released ChatGLM-6B code does
  bool two_rows = false;          // the halves of a head are rotated by one row of positions each
  std::string head;               // the output's matrix; empty: the embedding's

  int64_t head_dim() const { return hidden / heads; }
};

// All but the family's name.
ModelSpec DescribePostNorm(const PostNormShape& shape);
// How ranks cut the tensors; `gated` as in the shape.
TensorSources PostNormSources(const TensorSpec& tensor, bool gated);

class PostNormModel : public Model {
 public:
  PostNormModel(PostNormShape shape, const ModelFile& file);
  absl::Status Run(int stage, const Step& step, Pass& pass) const override;
  void FinalNorm(Tensor rows, Pass& pass) const override { Norm(rows, final_norm_, pass); }

 private:
  void Norm(Tensor x, LayerNormWeights w, Pass& pass) const;
  void Rotate(Tensor x, Pass& pass) const;
  absl::Status Embed(const Step& step, Pass& pass) const;
  absl::Status Attention(int layer, const Step& step, Pass& pass) const;
  absl::Status Mlp(int layer, Pass& pass) const;
  absl::Status Head(Pass& pass) const;

  const PostNormShape shape_;
  const float alpha_;
  std::vector<float> frequencies_;
  int embedding_ = -1, head_ = -1;
  std::vector<MegatronLayer> layers_;
  LayerNormWeights final_norm_;
};

}  // namespace qianyi
