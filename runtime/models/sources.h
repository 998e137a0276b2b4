// Where checkpoints have a tensor: how the ranks of model-parallel training cut it, and what
// layouts other than the family's own make of it. What ModelFamily::sources says, and helpers to
// say it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/model_spec.h"

namespace qianyi {

// What each rank of a model-parallel checkpoint (mp_rank_00_model_states.pt, …) holds of a tensor.
enum class RankSplit : uint8_t {
  kWhole,      // every rank has all of it
  kRows,       // a run of rows each
  kColumns,    // a run of columns each
  kRowHalves,  // a run of rows of either half: gate and value of a gated MLP
  kRowThirds,  // a run of rows of each third: query, key and value
};

// Rows of a tensor in a checkpoint of another layout (SwissArmyTransformer's, GGUF), in which
// matrices are named, fused or stacked otherwise, that become rows of one of ours.
struct SourcePart {
  std::string tensor;     // its name there
  int64_t rows = 0;       // all that it has there, with leading dimensions counted as rows
  int64_t first_row = 0;  // the first that is taken
  RowRuns to;             // rows of ours that they become
};
using SourceParts = std::vector<SourcePart>;  // together all of ours

struct TensorSources {
  RankSplit split = RankSplit::kWhole;
  std::vector<SourceParts> others = {};  // the first that is complete counts
  // Checkpoints with a tensor of this name have rows in thirds, as we do, in spite of
  // TensorSpec::by_head.
  std::string thirds_where = {};
};

// "BEFOREnAFTER" -> n and AFTER; n is -1 when the name is of another form.
struct LayerName {
  int layer = -1;
  std::string rest;
};
LayerName SplitLayer(std::string_view name, std::string_view before);

// All of the tensor under another name.
SourceParts Renamed(const TensorSpec& tensor, std::string name);

// GGUF's name of a tensor of transformers' Glm4 and Glm4Moe (architectures "glm4", "glm4moe"),
// whose experts are stacked, `experts` of them.
TensorSources GgufSources(const TensorSpec& tensor, bool moe, int64_t experts = 0);

// Tensors of so many rows each, one below the other.
SourceParts Stacked(const std::vector<std::pair<std::string, int64_t>>& names_and_rows);

}  // namespace qianyi
