// The reading half of Safetensors: ranges of elements, converted as they come.
#include <algorithm>
#include <cstring>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/packed.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/safetensors.h"

namespace qianyi {
namespace {

constexpr size_t kChunkBytes = 256 << 10;

// Calls convert(bytes, count, done) for pieces of elements [first, first + count).
template <typename Convert>
absl::Status ReadElements(const std::string& path, const SafetensorsEntry& entry, int64_t first,
                          int64_t count, Convert convert) {
  if (first < 0 || count < 0 || first > entry.elements() || count > entry.elements() - first) {
    return absl::OutOfRangeError(absl::StrCat(path, ": tensor '", entry.name, "' has ",
                                              entry.elements(), " elements; asked for ", count,
                                              " from ", first));
  }
  absl::StatusOr<UniqueFd> fd = OpenForReading(path);
  if (!fd.ok()) return fd.status();
  const size_t width = SafetensorsBits(entry.dtype) / 8;
  std::vector<std::byte> buffer(std::min(kChunkBytes, static_cast<size_t>(count) * width));
  for (int64_t done = 0; done < count;) {
    const int64_t part = std::min<int64_t>(count - done, kChunkBytes / width);
    const absl::Status status = ReadExactly(fd->get(), path, entry.begin + (first + done) * width,
                                            std::span(buffer).first(part * width));
    if (!status.ok()) return status;
    convert(buffer.data(), part, done);
    done += part;
  }
  return absl::OkStatus();
}

template <typename Element>
void Widen(const std::byte* from, int64_t count, int64_t* to) {
  for (int64_t i = 0; i < count; ++i) {
    Element value;
    std::memcpy(&value, from + i * sizeof(Element), sizeof(Element));
    to[i] = value;
  }
}

template <float (*kToFloat)(uint16_t)>
void WidenHalves(const std::byte* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, from + i * sizeof(bits), sizeof(bits));
    to[i] = kToFloat(bits);
  }
}

absl::Status Missing(const std::string& path, std::string_view name) {
  return absl::NotFoundError(absl::StrFormat("%s: has no tensor '%s'", path, name));
}

}  // namespace

absl::Status Safetensors::ReadFloats(const SafetensorsEntry& entry, int64_t first, int64_t count,
                                     float* out) const {
  void (*convert)(const std::byte*, int64_t, float*) = nullptr;
  if (entry.dtype == "F32") {
    convert = [](const std::byte* from, int64_t n, float* to) {
      std::memcpy(to, from, n * sizeof(float));
    };
  } else if (entry.dtype == "F16") {
    convert = WidenHalves<HalfToFloat>;
  } else if (entry.dtype == "BF16") {
    convert = WidenHalves<BFloat16ToFloat>;
  } else {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor '", entry.name, "' is ",
                                                   entry.dtype,
                                                   "; weights are read from F32, F16 or BF16"));
  }
  return ReadElements(
      path_, entry, first, count,
      [&](const std::byte* from, int64_t n, int64_t done) { convert(from, n, out + done); });
}

absl::StatusOr<std::vector<float>> Safetensors::ReadFloats(std::string_view name) const {
  const SafetensorsEntry* entry = Find(name);
  if (entry == nullptr) return Missing(path_, name);
  std::vector<float> values(entry->elements());
  const absl::Status status = ReadFloats(*entry, 0, entry->elements(), values.data());
  if (!status.ok()) return status;
  return values;
}

absl::Status Safetensors::ReadBytes(const SafetensorsEntry& entry, int64_t first, int64_t count,
                                    std::byte* out) const {
  if (SafetensorsBits(entry.dtype) != 8) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": tensor '", entry.name, "' is ", entry.dtype, ", not of bytes"));
  }
  return ReadElements(
      path_, entry, first, count,
      [&](const std::byte* from, int64_t n, int64_t done) { std::memcpy(out + done, from, n); });
}

absl::StatusOr<std::vector<int64_t>> Safetensors::ReadIntegers(std::string_view name) const {
  const SafetensorsEntry* entry = Find(name);
  if (entry == nullptr) return Missing(path_, name);
  void (*widen)(const std::byte*, int64_t, int64_t*) = nullptr;
  if (entry->dtype == "I32") widen = Widen<int32_t>;
  if (entry->dtype == "I64") widen = Widen<int64_t>;
  if (entry->dtype == "U8" || entry->dtype == "BOOL") widen = Widen<uint8_t>;
  if (entry->dtype == "I8") widen = Widen<int8_t>;
  if (widen == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": tensor '", entry->name, "' is ", entry->dtype,
                     "; integers are read from I32, I64, U8, I8 or BOOL"));
  }
  std::vector<int64_t> values(entry->elements());
  const absl::Status status = ReadElements(path_, *entry, 0, entry->elements(),
                                           [&](const std::byte* from, int64_t n, int64_t done) {
                                             widen(from, n, values.data() + done);
                                           });
  if (!status.ok()) return status;
  return values;
}

}  // namespace qianyi
