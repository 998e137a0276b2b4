#include "runtime/storage/source_rows.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace qianyi {
namespace {

// Two's complement in the low 4 bits.
int8_t SignedNibble(int bits) { return static_cast<int8_t>((bits & 15) - ((bits & 8) << 1)); }

}  // namespace

absl::StatusOr<SourceRows> SourceRows::Find(const Checkpoint& checkpoint, const TensorSpec& spec) {
  SourceRows rows(spec, spec.shape.size() < 2 ? 1 : spec.cols());
  const HeadSlice& slice = spec.slice;
  const std::string& name = slice.tensor.empty() ? spec.name : slice.tensor;
  rows.weight_ = checkpoint.Find(name);
  if (rows.weight_.entry == nullptr) return absl::NotFoundError(absl::StrCat("no tensor ", name));
  const SafetensorsEntry& entry = *rows.weight_.entry;
  if (entry.dtype == "I8" && spec.use == TensorUse::kMatrix && slice.tensor.empty()) {
    const bool packed = entry.shape.size() == 2 && entry.shape[0] == spec.rows() &&
                        entry.shape[1] * 2 == spec.cols();
    rows.bits_ = packed ? 4 : 8;
    if (absl::Status status = rows.FindScale(checkpoint); !status.ok()) return status;
  } else if (entry.dtype != "F32" && entry.dtype != "F16" && entry.dtype != "BF16") {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: tensor '%s' is %s; convert reads F32, F16 and BF16, and I8 of matrices", rows.path(),
        name, entry.dtype));
  }
  std::vector<int64_t> wanted = spec.shape;
  if (!slice.tensor.empty()) {
    wanted = {slice.heads * slice.head_rows,
              slice.transposed ? spec.rows() / slice.heads : spec.cols()};
  }
  if (rows.bits_ != 4 && entry.shape != wanted) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: tensor '%s' has the shape [%s], but config.json asks for [%s]", rows.path(), name,
        absl::StrJoin(entry.shape, ", "), absl::StrJoin(wanted, ", ")));
  }
  return rows;
}

absl::Status SourceRows::FindScale(const Checkpoint& checkpoint) {
  const std::string name = absl::StrCat(spec_->name, "_scale");
  scale_ = checkpoint.Find(name);
  if (scale_.entry == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: tensor '%s' is I8, but there is no '%s' with the scale of each row",
                        path(), spec_->name, name));
  }
  if (scale_.entry->shape != std::vector<int64_t>{spec_->rows()}) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: tensor '%s' has the shape [%s]; it must be [%d], a scale for each row",
        scale_.file->path(), name, absl::StrJoin(scale_.entry->shape, ", "), spec_->rows()));
  }
  return absl::OkStatus();
}

std::string SourceRows::dtype() const {
  return bits_ == 0 ? weight_.entry->dtype : absl::StrCat("I", bits_);
}

template <typename Read>
absl::Status SourceRows::ForEachRun(int64_t first, int64_t count, Read read) const {
  const int64_t run = spec_->by_head;
  for (int64_t done = 0; done < count;) {
    int64_t row = first + done;
    int64_t rows = count;
    if (run > 0) {
      const int64_t heads = spec_->rows() / 3 / run, third = row / (heads * run);
      rows = std::min(run - row % run, count - done);
      row = (row / run % heads * 3 + third) * run + row % run;
    }
    if (absl::Status status = read(row, rows, done); !status.ok()) return status;
    done += rows;
  }
  return absl::OkStatus();
}

absl::Status SourceRows::ReadSlice(int64_t first, int64_t count, float* out) const {
  const HeadSlice& slice = spec_->slice;
  const int64_t head_rows = spec_->rows() / slice.heads;  // of ours
  const int64_t cols = slice.transposed ? head_rows : cols_;
  std::vector<float> part(slice.transposed ? slice.rows * cols : 0);
  for (int64_t done = 0; done < count;) {
    const int64_t head = (first + done) / head_rows, row = (first + done) % head_rows;
    const int64_t rows = std::min(head_rows - row, count - done);
    const int64_t from = head * slice.head_rows + slice.first + (slice.transposed ? 0 : row);
    float* to = slice.transposed ? part.data() : out + done * cols_;
    const int64_t taken = slice.transposed ? slice.rows : rows;
    auto status = weight_.file->ReadFloats(*weight_.entry, from * cols, taken * cols, to);
    if (!status.ok()) return status;
    for (int64_t i = 0; slice.transposed && i < rows; ++i) {
      for (int64_t j = 0; j < cols_; ++j) out[(done + i) * cols_ + j] = part[j * cols + row + i];
    }
    done += rows;
  }
  return absl::OkStatus();
}

absl::Status SourceRows::ReadFloats(int64_t first, int64_t count, float* out) const {
  if (!spec_->slice.tensor.empty()) return ReadSlice(first, count, out);
  if (bits_ == 0) {
    return ForEachRun(first, count, [&](int64_t row, int64_t rows, int64_t done) {
      return weight_.file->ReadFloats(*weight_.entry, row * cols_, rows * cols_,
                                      out + done * cols_);
    });
  }
  std::vector<int8_t> values(count * cols_);
  std::vector<float> scales(count);
  if (auto status = ReadIntegers(first, count, values.data(), scales.data()); !status.ok()) {
    return status;
  }
  for (int64_t i = 0; i < count * cols_; ++i) {
    out[i] = static_cast<float>(values[i]) * scales[i / cols_];
  }
  return absl::OkStatus();
}

absl::Status SourceRows::ReadIntegers(int64_t first, int64_t count, int8_t* out,
                                      float* scales) const {
  const int64_t bytes = bits_ == 4 ? cols_ / 2 : cols_;
  std::vector<std::byte> packed(bits_ == 4 ? count * bytes : 0);
  std::byte* to = bits_ == 4 ? packed.data() : reinterpret_cast<std::byte*>(out);
  absl::Status status = ForEachRun(first, count, [&](int64_t row, int64_t rows, int64_t done) {
    auto read =
        weight_.file->ReadBytes(*weight_.entry, row * bytes, rows * bytes, to + done * bytes);
    if (!read.ok()) return read;
    return scale_.file->ReadFloats(*scale_.entry, row, rows, scales + done);
  });
  if (!status.ok()) return status;
  for (size_t i = 0; i < packed.size(); ++i) {
    const int both = static_cast<int>(packed[i]);
    out[2 * i] = SignedNibble(both >> 4);
    out[2 * i + 1] = SignedNibble(both);
  }
  for (int64_t i = 0; i < count; ++i) {
    if (std::isfinite(scales[i])) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: tensor '%s_scale' has %g in row %d: the checkpoint is damaged",
                        scale_.file->path(), spec_->name, scales[i], first + i));
  }
  if (bits_ == 8 && std::find(out, out + count * cols_, -128) != out + count * cols_) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: tensor '%s' has -128; symmetric int8 goes from -127 to 127", path(), spec_->name));
  }
  return absl::OkStatus();
}

}  // namespace qianyi
