#include "runtime/storage/checkpoint_tensor.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/storage/shape_text.h"

namespace qianyi {
namespace {

absl::Status WrongShape(const TensorPlace& place, const std::string& wanted) {
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s: tensor '%s' has the shape %s, but config.json asks for %s", place.file->path,
      place.tensor->name, ShapeText(place.tensor->shape), wanted));
}

// In how many parts each rank's rows fall, each with its place among the rows of all.
int PartsOf(RankSplit split) {
  switch (split) {
    case RankSplit::kRowHalves:
      return 2;
    case RankSplit::kRowThirds:
      return 3;
    default:
      return 1;
  }
}

const char* SplitName(RankSplit split) {
  switch (split) {
    case RankSplit::kWhole:
      return "a copy in each";
    case RankSplit::kRows:
      return "cut by rows";
    case RankSplit::kColumns:
      return "cut by columns";
    case RankSplit::kRowHalves:
      return "cut by rows of each half";
    case RankSplit::kRowThirds:
      return "cut by rows of each third";
  }
  return "";
}

}  // namespace

absl::Status CheckpointTensor::AddWhole(const TensorPlace& place, const TensorSpec& spec) {
  if (place.tensor->shape != spec.shape) return WrongShape(place, ShapeText(spec.shape));
  pieces_.push_back({.file = place.file, .tensor = *place.tensor, .rows = rows_});
  return absl::OkStatus();
}

absl::Status CheckpointTensor::AddRanks(const std::vector<TensorPlace>& ranks,
                                        const TensorSpec& spec, RankSplit split) {
  const int parts = PartsOf(split);
  int64_t rows = 0, cols = 0;  // of the ranks so far
  for (const TensorPlace& place : ranks) {
    const SourceTensor& tensor = *place.tensor;
    const bool by_columns = split == RankSplit::kColumns;
    // A vector may be a column.
    const bool dimensions =
        tensor.shape.size() == spec.shape.size() || (by_columns && tensor.shape.size() == 1);
    const bool fits = dimensions && !tensor.shape.empty() &&
                      (by_columns ? tensor.rows() == rows_ : tensor.row_elements() == cols_) &&
                      tensor.rows() % parts == 0;
    if (!fits) {
      return WrongShape(place, absl::StrFormat("%s over %d ranks, %s", ShapeText(spec.shape),
                                               ranks.size(), SplitName(split)));
    }
    const int64_t run = tensor.rows() / parts;
    for (int part = 0; part < parts; ++part) {
      pieces_.push_back({.file = place.file,
                         .tensor = tensor,
                         .source_row = part * run,
                         .row = by_columns ? 0 : part * (rows_ / parts) + rows / parts,
                         .rows = run,
                         .col = cols});
    }
    if (by_columns) cols += tensor.row_elements();
    if (!by_columns) rows += tensor.rows();
  }
  const bool complete = split == RankSplit::kColumns ? cols == cols_ : rows == rows_;
  if (complete) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s: tensor '%s' has %d %s over %d ranks, but config.json asks for %s", ranks[0].file->path,
      spec.name, split == RankSplit::kColumns ? cols : rows,
      split == RankSplit::kColumns ? "columns" : "rows", ranks.size(), ShapeText(spec.shape)));
}

absl::Status CheckpointTensor::AddPart(const TensorPlace& place, const SourcePart& part) {
  SourceTensor tensor = *place.tensor;
  const int64_t rows = cols_ == 0 ? 0 : tensor.elements() / cols_;
  const bool vector = cols_ == 1 && tensor.shape.size() == 1;
  const bool fits =
      rows == part.rows && (vector || tensor.shape.empty() || tensor.shape.back() == cols_);
  if (!fits || (tensor.shape.size() > 2 && !tensor.strides.empty())) {
    return WrongShape(place, absl::StrFormat("%d rows of %d", part.rows, cols_));
  }
  if (tensor.shape.size() > 2) tensor.shape = {rows, cols_};
  for (int64_t run = 0; run < part.to.runs; ++run) {
    pieces_.push_back({.file = place.file,
                       .tensor = tensor,
                       .source_row = part.first_row + run * part.to.run,
                       .row = part.to.begin + run * part.to.stride,
                       .rows = part.to.run});
  }
  return absl::OkStatus();
}

absl::Status CheckpointTensor::Check(const TensorSpec& spec) const {
  int64_t covered = 0;
  for (const Piece& piece : pieces_) {
    covered += piece.rows * piece.tensor.row_elements();
    if (piece.tensor.dtype == dtype()) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: tensor '%s' is %s, but other parts of '%s' are %s", piece.file->path,
                        piece.tensor.name, piece.tensor.dtype, spec.name, dtype()));
  }
  if (covered == rows_ * cols_) return absl::OkStatus();
  return absl::InternalError(absl::StrFormat("tensor '%s': parts with %d elements for %s",
                                             spec.name, covered, ShapeText(spec.shape)));
}

absl::StatusOr<CheckpointTensor> CheckpointTensor::Find(const Checkpoint& checkpoint,
                                                        const TensorSpec& spec,
                                                        const TensorSources& sources) {
  const std::vector<SourceParts>& others = sources.others;
  int64_t elements = 1;
  for (const int64_t size : spec.shape) elements *= size;
  CheckpointTensor tensor(spec.rows(), elements / spec.rows());
  const auto add = [&](const std::vector<TensorPlace>& places) {
    const bool merge = checkpoint.ranks() > 1 && sources.split != RankSplit::kWhole;
    if (!merge) return tensor.AddWhole(places[0], spec);
    if (static_cast<int>(places.size()) == checkpoint.ranks()) {
      return tensor.AddRanks(places, spec, sources.split);
    }
    return absl::NotFoundError(absl::StrFormat("%s: tensor '%s' is in %d of %d ranks",
                                               places[0].file->path, places[0].tensor->name,
                                               places.size(), checkpoint.ranks()));
  };
  absl::Status status = absl::NotFoundError(absl::StrCat("there is no tensor '", spec.name, "'"));
  const std::vector<TensorPlace> own = checkpoint.Find(spec.name);
  if (!own.empty()) status = add(own);
  for (size_t i = 0; own.empty() && i < others.size() && absl::IsNotFound(status); ++i) {
    std::vector<std::vector<TensorPlace>> places;
    for (const SourcePart& part : others[i]) places.push_back(checkpoint.Find(part.tensor));
    const bool all = std::none_of(places.begin(), places.end(), [](auto& p) { return p.empty(); });
    if (!all || places.empty()) continue;
    const SourcePart& first = others[i][0];
    if (others[i].size() == 1 && first.rows == tensor.rows_ && first.to.run == tensor.rows_) {
      status = add(places[0]);  // another name and nothing else
      continue;
    }
    if (checkpoint.ranks() > 1) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: tensor '%s' is of another layout than '%s', and cut over %d ranks; merge the ranks "
          "with the code that trained it first",
          places[0][0].file->path, first.tensor, spec.name, checkpoint.ranks()));
    }
    status = absl::OkStatus();
    for (size_t part = 0; part < places.size(); ++part) {
      status.Update(tensor.AddPart(places[part][0], others[i][part]));
    }
  }
  if (status.ok()) status = tensor.Check(spec);
  if (!status.ok()) return status;
  std::sort(tensor.pieces_.begin(), tensor.pieces_.end(),
            [](const Piece& a, const Piece& b) { return a.row < b.row; });
  return tensor;
}

std::vector<std::string> CheckpointTensor::source_names() const {
  std::set<std::string> names;
  for (const Piece& piece : pieces_) names.insert(piece.tensor.name);
  return {names.begin(), names.end()};
}

template <typename Element, typename Read>
absl::Status CheckpointTensor::ReadPieces(int64_t first, int64_t count, Element* out,
                                          Read read) const {
  std::vector<Element> narrow;
  for (const Piece& piece : pieces_) {
    const int64_t begin = std::max(first, piece.row);
    const int64_t end = std::min(first + count, piece.row + piece.rows);
    if (begin >= end) continue;
    const int64_t source_row = piece.source_row + begin - piece.row;
    const int64_t cols = piece.tensor.row_elements();
    Element* to = out + (begin - first) * cols_ + piece.col;
    if (cols == cols_) {
      absl::Status status = read(piece.file->path, piece.tensor, source_row, end - begin, to);
      if (!status.ok()) return status;
      continue;
    }
    narrow.resize((end - begin) * cols);
    absl::Status status =
        read(piece.file->path, piece.tensor, source_row, end - begin, narrow.data());
    if (!status.ok()) return status;
    for (int64_t row = 0; row < end - begin; ++row) {
      std::copy_n(narrow.data() + row * cols, cols, to + row * cols_);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckpointTensor::ReadFloats(int64_t first, int64_t count, float* out) const {
  return ReadPieces(first, count, out, ReadFloatRows);
}

absl::Status CheckpointTensor::ReadBytes(int64_t first, int64_t count, std::byte* out) const {
  const ElementType* type = FindElementType(dtype());
  if (type == nullptr || type->block_elements != 1 || type->block_bytes != 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %s is no dtype of one byte", path(), dtype()));
  }
  return ReadPieces(first, count, out, ReadRawRows);
}

}  // namespace qianyi
