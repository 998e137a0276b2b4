#include "runtime/checkpoints/source_tensor.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/packed.h"
#include "runtime/checkpoints/ggml_blocks.h"
#include "runtime/storage/file_util.h"

namespace qianyi {
namespace {

constexpr int64_t kChunkBytes = 256 << 10;

void CopyFloats(const std::byte* from, int64_t elements, float* to) {
  if (elements == 0) return;  // whose places may be null, which memcpy must not be given
  std::memcpy(to, from, elements * sizeof(float));
}

template <float (*kToFloat)(uint16_t)>
void WidenHalves(const std::byte* from, int64_t elements, float* to) {
  for (int64_t i = 0; i < elements; ++i) {
    uint16_t bits;
    std::memcpy(&bits, from + i * sizeof(bits), sizeof(bits));
    to[i] = kToFloat(bits);
  }
}

constexpr ElementType kTypes[] = {
    {"F32", 1, 4, CopyFloats},
    {"F16", 1, 2, WidenHalves<HalfToFloat>},
    {"BF16", 1, 2, WidenHalves<BFloat16ToFloat>},
    {"Q8_0", 32, 34, ggml::Q8_0ToFloats},
    {"Q4_0", 32, 18, ggml::Q4_0ToFloats},
    {"Q4_1", 32, 20, ggml::Q4_1ToFloats},
    {"Q5_0", 32, 22, ggml::Q5_0ToFloats},
    {"Q5_1", 32, 24, ggml::Q5_1ToFloats},
    {"Q4_K", 256, 144, ggml::Q4_KToFloats},
    {"Q5_K", 256, 176, ggml::Q5_KToFloats},
    {"Q6_K", 256, 210, ggml::Q6_KToFloats},
    {"F64", 1, 8},
    {"I64", 1, 8},
    {"I32", 1, 4},
    {"I16", 1, 2},
    {"I8", 1, 1},
    {"U8", 1, 1},
    {"BOOL", 1, 1},
    {"C64", 1, 8},
    {"C128", 1, 16},
    {"F8_E4M3", 1, 1},
    {"F8_E5M2", 1, 1},
    {"F8_E8M0", 1, 1},
    {"U16", 1, 2},
    {"U32", 1, 4},
    {"U64", 1, 8},
};

// Bytes of the file in increasing order of offset, a window of them in memory.
class Window {
 public:
  Window(int fd, const std::string& path, int64_t window_bytes, uint64_t end)
      : fd_(fd), path_(path), end_(end), buffer_(window_bytes) {}

  // `count` bytes at `offset`, or null after an error.
  const std::byte* At(uint64_t offset, size_t count) {
    if (offset < begin_ || offset + count > begin_ + filled_) {
      begin_ = offset;
      filled_ = std::min<uint64_t>(std::max(buffer_.size(), count), end_ - offset);
      if (buffer_.size() < count) buffer_.resize(count);
      status_ = ReadExactly(fd_, path_, begin_, std::span(buffer_).first(filled_));
      if (!status_.ok()) return nullptr;
    }
    return buffer_.data() + (offset - begin_);
  }
  const absl::Status& status() const { return status_; }

 private:
  const int fd_;
  const std::string& path_;
  const uint64_t end_;
  uint64_t begin_ = 0;
  uint64_t filled_ = 0;
  std::vector<std::byte> buffer_;
  absl::Status status_;
};

struct Axis {
  int64_t count, stride, out_stride;  // of elements
};

// The axes of rows [first, first + count), the widest stride first: walked like this, offsets in
// the file only grow.
std::vector<Axis> AxesOf(const SourceTensor& tensor, int64_t count) {
  std::vector<Axis> axes;
  int64_t out_stride = 1;
  for (size_t i = tensor.shape.size(); i-- > 0;) {
    axes.push_back({i == 0 ? count : tensor.shape[i], tensor.strides[i], out_stride});
    out_stride *= tensor.shape[i];
  }
  std::stable_sort(axes.begin(), axes.end(),
                   [](const Axis& a, const Axis& b) { return a.stride > b.stride; });
  return axes;
}

// Gathers elements of a tensor with strides into `out`.
absl::Status GatherRows(int fd, const std::string& path, const SourceTensor& tensor, int width,
                        int64_t first, int64_t count, std::byte* out) {
  const std::vector<Axis> axes = AxesOf(tensor, count);
  uint64_t end = 1;  // of the elements, from the first of these rows
  int64_t run = 1;   // elements that lie side by side
  for (const Axis& axis : axes) end += (axis.count - 1) * axis.stride;
  for (size_t i = axes.size(); i-- > 0 && axes[i].stride <= run;) {
    run = std::max(run, (axes[i].count - 1) * axes[i].stride + run);
  }
  const uint64_t begin = tensor.begin + first * tensor.strides[0] * width;
  Window window(fd, path, std::min<int64_t>(run * width, kChunkBytes), begin + end * width);
  std::vector<int64_t> index(axes.size());
  int64_t from = 0, to = 0;
  while (true) {
    const std::byte* element = window.At(begin + from * width, width);
    if (element == nullptr) return window.status();
    std::memcpy(out + to * width, element, width);
    size_t axis = axes.size();
    while (axis-- > 0) {
      from += axes[axis].stride;
      to += axes[axis].out_stride;
      if (++index[axis] < axes[axis].count) break;
      from -= axes[axis].count * axes[axis].stride;
      to -= axes[axis].count * axes[axis].out_stride;
      index[axis] = 0;
    }
    if (axis == SIZE_MAX) return absl::OkStatus();
  }
}

absl::Status CheckRows(const std::string& path, const SourceTensor& tensor, int64_t first,
                       int64_t count) {
  if (first >= 0 && count >= 0 && first <= tensor.rows() && count <= tensor.rows() - first) {
    return absl::OkStatus();
  }
  return absl::OutOfRangeError(absl::StrFormat("%s: tensor '%s' has %d rows; asked for %d from %d",
                                               path, tensor.name, tensor.rows(), count, first));
}

}  // namespace

int64_t SourceTensor::elements() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

const ElementType* FindElementType(std::string_view dtype) {
  for (const ElementType& type : kTypes) {
    if (type.name == dtype) return &type;
  }
  return nullptr;
}

std::string FloatDtypes() {
  std::string list;
  for (const ElementType& type : kTypes) {
    if (type.to_floats == nullptr) continue;
    list += list.empty() ? "" : ", ";
    list += type.name;
  }
  return list;
}

absl::Status CheckPlace(const SourceTensor& tensor, uint64_t file_bytes) {
  const ElementType* type = FindElementType(tensor.dtype);
  if (type == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("has the unknown dtype '", tensor.dtype, "'"));
  }
  const auto too_large = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("has the shape [", absl::StrJoin(tensor.shape, ", "), "], strides [",
                     absl::StrJoin(tensor.strides, ", "), "], too large to address"));
  };
  const bool strided = !tensor.strides.empty();
  if (strided && (tensor.strides.size() != tensor.shape.size() || type->block_elements > 1)) {
    return absl::InvalidArgumentError(absl::StrFormat("has %d strides for %d dimensions",
                                                      tensor.strides.size(), tensor.shape.size()));
  }
  int64_t product = 1, last = 0;  // last: index of the farthest element
  bool empty = false;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    const int64_t size = tensor.shape[i];
    if (size < 0 || (strided && tensor.strides[i] < 0)) return too_large();
    if (size == 0) empty = true;
    if (size > 0 && __builtin_mul_overflow(product, size, &product)) return too_large();
    int64_t reach = 0;
    if (strided && size > 0 &&
        (__builtin_mul_overflow(size - 1, tensor.strides[i], &reach) ||
         __builtin_add_overflow(last, reach, &last))) {
      return too_large();
    }
  }
  if (product > std::numeric_limits<int64_t>::max() / 64) return too_large();
  if (empty && tensor.begin <= file_bytes) return absl::OkStatus();
  if (empty) return absl::OutOfRangeError("begins beyond the file");
  const int64_t row = tensor.shape.empty() ? 1 : tensor.shape.back();
  if (row % type->block_elements != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("has rows of %d elements, which are no whole blocks of %d as %s has them",
                        row, type->block_elements, type->name));
  }
  const int64_t blocks = strided ? last + 1 : product / type->block_elements;
  uint64_t bytes = 0, end = 0;
  if (blocks <= 0 ||
      __builtin_mul_overflow(static_cast<uint64_t>(blocks),
                             static_cast<uint64_t>(type->block_bytes), &bytes) ||
      __builtin_add_overflow(tensor.begin, bytes, &end)) {
    return too_large();
  }
  if (end > file_bytes) {
    return absl::OutOfRangeError(
        absl::StrFormat("ends at byte %d, but the file has %d: is it truncated?", end, file_bytes));
  }
  return absl::OkStatus();
}

absl::Status ReadFloatRows(const std::string& path, const SourceTensor& tensor, int64_t first,
                           int64_t count, float* out) {
  absl::Status status = CheckRows(path, tensor, first, count);
  if (!status.ok()) return status;
  const ElementType* type = FindElementType(tensor.dtype);
  if (type == nullptr || type->to_floats == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": tensor '", tensor.name, "' is ",
                                                   tensor.dtype, "; weights are read from ",
                                                   FloatDtypes()));
  }
  const int64_t row = tensor.row_elements();
  if (row == 0 || count == 0) return absl::OkStatus();
  if (!tensor.strides.empty()) {
    std::vector<std::byte> raw(count * row * type->block_bytes);
    status = ReadRawRows(path, tensor, first, count, raw.data());
    if (status.ok()) type->to_floats(raw.data(), count * row, out);
    return status;
  }
  absl::StatusOr<UniqueFd> fd = OpenForReading(path);
  if (!fd.ok()) return fd.status();
  const int64_t blocks = count * row / type->block_elements;
  const int64_t step = kChunkBytes / type->block_bytes;
  std::vector<std::byte> buffer(std::min(step, blocks) * type->block_bytes);
  const uint64_t begin = tensor.begin + first * row / type->block_elements * type->block_bytes;
  for (int64_t done = 0; done < blocks; done += step) {
    const int64_t part = std::min(step, blocks - done);
    status = ReadExactly(fd->get(), path, begin + done * type->block_bytes,
                         std::span(buffer).first(part * type->block_bytes));
    if (!status.ok()) return status;
    type->to_floats(buffer.data(), part * type->block_elements, out + done * type->block_elements);
  }
  return absl::OkStatus();
}

absl::Status ReadRawRows(const std::string& path, const SourceTensor& tensor, int64_t first,
                         int64_t count, std::byte* out) {
  absl::Status status = CheckRows(path, tensor, first, count);
  if (!status.ok()) return status;
  const int64_t row = tensor.row_elements();
  if (row == 0 || count == 0) return absl::OkStatus();
  const int width = FindElementType(tensor.dtype)->block_bytes;
  absl::StatusOr<UniqueFd> fd = OpenForReading(path);
  if (!fd.ok()) return fd.status();
  if (!tensor.strides.empty()) return GatherRows(fd->get(), path, tensor, width, first, count, out);
  return ReadExactly(fd->get(), path, tensor.begin + first * row * width,
                     std::span(out, count * row * width));
}

}  // namespace qianyi
