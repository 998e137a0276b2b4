#include "runtime/storage/source_rows.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/checkpoints/source_tensor.h"

namespace qianyi {
namespace {

// Two's complement in the low 4 bits.
int8_t SignedNibble(int bits) { return static_cast<int8_t>((bits & 15) - ((bits & 8) << 1)); }

}  // namespace

absl::StatusOr<SourceRows> SourceRows::Find(const Checkpoint& checkpoint, const TensorSpec& spec,
                                            const TensorSources& said) {
  SourceRows rows(spec, spec.shape.size() < 2 ? 1 : spec.cols());
  TensorSources sources = said;
  if (!said.thirds_where.empty() && !checkpoint.Find(said.thirds_where).empty()) {
    rows.spec_.by_head = 0;
    sources.split = RankSplit::kRowThirds;
  }
  TensorSpec stored = spec;
  const HeadSlice& slice = spec.slice;
  if (!slice.tensor.empty()) {
    stored.name = slice.tensor;
    stored.shape = {slice.heads * slice.head_rows,
                    slice.transposed ? spec.rows() / slice.heads : spec.cols()};
  }
  const bool matrix = spec.use == TensorUse::kMatrix || spec.use == TensorUse::kExpert;
  const std::vector<TensorPlace> places = checkpoint.Find(stored.name);
  const int64_t ranks = sources.split == RankSplit::kColumns ? checkpoint.ranks() : 1;
  if (matrix && slice.tensor.empty() && !places.empty() && places[0].tensor->dtype == "I8") {
    const std::vector<int64_t>& shape = places[0].tensor->shape;
    rows.bits_ = shape.size() == 2 && shape[1] * 2 * ranks == spec.cols() ? 4 : 8;
    if (rows.bits_ == 4) stored.shape[1] /= 2;
  }
  absl::StatusOr<CheckpointTensor> weight = CheckpointTensor::Find(checkpoint, stored, sources);
  if (!weight.ok()) return weight.status();
  rows.weight_ = *std::move(weight);
  if (rows.bits_ > 0) {
    const absl::Status status = rows.FindScale(checkpoint, sources.split);
    if (!status.ok()) return status;
    return rows;
  }
  const ElementType* type = FindElementType(rows.dtype());
  if (type != nullptr && type->to_floats != nullptr) return rows;
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: tensor '%s' is %s; convert reads %s, and I8 of matrices", rows.path(),
                      stored.name, rows.dtype(), FloatDtypes()));
}

absl::Status SourceRows::FindScale(const Checkpoint& checkpoint, RankSplit split) {
  TensorSpec spec{.name = absl::StrCat(spec_.name, "_scale"), .shape = {spec_.rows()}};
  if (split == RankSplit::kColumns && checkpoint.ranks() > 1) {
    scales_per_row_ = checkpoint.ranks();
    spec.shape.push_back(scales_per_row_);
  }
  absl::StatusOr<CheckpointTensor> scale =
      CheckpointTensor::Find(checkpoint, spec, {.split = split});
  if (scale.ok()) {
    scale_ = *std::move(scale);
    return absl::OkStatus();
  }
  if (!absl::IsNotFound(scale.status())) {
    return absl::InvalidArgumentError(
        absl::StrCat(scale.status().message(), ": a scale for each row"));
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: tensor '%s' is I8, but there is no '%s' with the scale of each row",
                      path(), spec_.name, spec.name));
}

std::vector<std::string> SourceRows::source_names() const {
  std::vector<std::string> names = weight_->source_names();
  if (!scale_) return names;
  for (std::string& name : scale_->source_names()) names.push_back(std::move(name));
  return names;
}

std::string SourceRows::dtype() const {
  return bits_ == 0 ? weight_->dtype() : absl::StrCat("I", bits_);
}

template <typename Read>
absl::Status SourceRows::ForEachRun(int64_t first, int64_t count, Read read) const {
  const int64_t run = spec_.by_head;
  for (int64_t done = 0; done < count;) {
    int64_t row = first + done;
    int64_t rows = count;
    if (run > 0) {
      const int64_t heads = spec_.rows() / 3 / run, third = row / (heads * run);
      rows = std::min(run - row % run, count - done);
      row = (row / run % heads * 3 + third) * run + row % run;
    }
    if (absl::Status status = read(row, rows, done); !status.ok()) return status;
    done += rows;
  }
  return absl::OkStatus();
}

absl::Status SourceRows::ReadSlice(int64_t first, int64_t count, float* out) const {
  const HeadSlice& slice = spec_.slice;
  const int64_t head_rows = spec_.rows() / slice.heads;  // of ours
  const int64_t cols = slice.transposed ? head_rows : cols_;
  std::vector<float> part(slice.transposed ? slice.rows * cols : 0);
  for (int64_t done = 0; done < count;) {
    const int64_t head = (first + done) / head_rows, row = (first + done) % head_rows;
    const int64_t rows = std::min(head_rows - row, count - done);
    const int64_t from = head * slice.head_rows + slice.first + (slice.transposed ? 0 : row);
    float* to = slice.transposed ? part.data() : out + done * cols_;
    const int64_t taken = slice.transposed ? slice.rows : rows;
    auto status = weight_->ReadFloats(from, taken, to);
    if (!status.ok()) return status;
    for (int64_t i = 0; slice.transposed && i < rows; ++i) {
      for (int64_t j = 0; j < cols_; ++j) out[(done + i) * cols_ + j] = part[j * cols + row + i];
    }
    done += rows;
  }
  return absl::OkStatus();
}

absl::Status SourceRows::ReadFloats(int64_t first, int64_t count, float* out) const {
  if (!spec_.slice.tensor.empty()) return ReadSlice(first, count, out);
  if (bits_ == 0) {
    return ForEachRun(first, count, [&](int64_t row, int64_t rows, int64_t done) {
      return weight_->ReadFloats(row, rows, out + done * cols_);
    });
  }
  std::vector<int8_t> values(count * cols_);
  std::vector<float> scales(count * scales_per_row_);
  if (auto status = ReadScaled(first, count, values.data(), scales.data()); !status.ok()) {
    return status;
  }
  const int64_t run = cols_ / scales_per_row_;  // columns that share a scale
  for (int64_t i = 0; i < count * cols_; ++i) {
    out[i] = static_cast<float>(values[i]) * scales[i / run];
  }
  return absl::OkStatus();
}

absl::Status SourceRows::ReadIntegers(int64_t first, int64_t count, int8_t* out,
                                      float* scales) const {
  return ReadScaled(first, count, out, scales);
}

absl::Status SourceRows::ReadScaled(int64_t first, int64_t count, int8_t* out,
                                    float* scales) const {
  const int64_t bytes = bits_ == 4 ? cols_ / 2 : cols_;
  std::vector<std::byte> packed(bits_ == 4 ? count * bytes : 0);
  std::byte* to = bits_ == 4 ? packed.data() : reinterpret_cast<std::byte*>(out);
  absl::Status status = ForEachRun(first, count, [&](int64_t row, int64_t rows, int64_t done) {
    auto read = weight_->ReadBytes(row, rows, to + done * bytes);
    if (!read.ok()) return read;
    return scale_->ReadFloats(row, rows, scales + done * scales_per_row_);
  });
  if (!status.ok()) return status;
  for (size_t i = 0; i < packed.size(); ++i) {
    const int both = static_cast<int>(packed[i]);
    out[2 * i] = SignedNibble(both >> 4);
    out[2 * i + 1] = SignedNibble(both);
  }
  for (int64_t i = 0; i < count * scales_per_row_; ++i) {
    if (std::isfinite(scales[i])) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: tensor '%s_scale' has %g in row %d: the checkpoint is damaged",
                        scale_->path(), spec_.name, scales[i], first + i / scales_per_row_));
  }
  if (bits_ == 8 && std::find(out, out + count * cols_, -128) != out + count * cols_) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: tensor '%s' has -128; symmetric int8 goes from -127 to 127", path(), spec_.name));
  }
  return absl::OkStatus();
}

}  // namespace qianyi
