// The reading half of Safetensors: ranges of elements.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/checkpoints/source_tensor.h"
#include "runtime/storage/safetensors.h"

namespace qianyi {
namespace {

// The tensor as one row of elements.
absl::StatusOr<SourceTensor> Elements(const std::string& path, const SafetensorsEntry& entry,
                                      int64_t first, int64_t count) {
  if (first < 0 || count < 0 || first > entry.elements() || count > entry.elements() - first) {
    return absl::OutOfRangeError(absl::StrCat(path, ": tensor '", entry.name, "' has ",
                                              entry.elements(), " elements; asked for ", count,
                                              " from ", first));
  }
  return SourceTensor{
      .name = entry.name, .dtype = entry.dtype, .shape = {entry.elements()}, .begin = entry.begin};
}

template <typename Element>
void Widen(const std::byte* from, int64_t count, int64_t* to) {
  for (int64_t i = 0; i < count; ++i) {
    Element value;
    std::memcpy(&value, from + i * sizeof(Element), sizeof(Element));
    to[i] = value;
  }
}

absl::Status Missing(const std::string& path, std::string_view name) {
  return absl::NotFoundError(absl::StrFormat("%s: has no tensor '%s'", path, name));
}

}  // namespace

absl::Status Safetensors::ReadFloats(const SafetensorsEntry& entry, int64_t first, int64_t count,
                                     float* out) const {
  if (entry.dtype != "F32" && entry.dtype != "F16" && entry.dtype != "BF16") {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor '", entry.name, "' is ",
                                                   entry.dtype,
                                                   "; weights are read from F32, F16 or BF16"));
  }
  absl::StatusOr<SourceTensor> elements = Elements(path_, entry, first, count);
  if (!elements.ok()) return elements.status();
  return ReadFloatRows(path_, *elements, first, count, out);
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
  absl::StatusOr<SourceTensor> elements = Elements(path_, entry, first, count);
  if (!elements.ok()) return elements.status();
  return ReadRawRows(path_, *elements, first, count, out);
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
  const int64_t count = entry->elements();
  std::vector<int64_t> values(count);
  std::vector<std::byte> raw(count * SafetensorsBits(entry->dtype) / 8);
  absl::StatusOr<SourceTensor> elements = Elements(path_, *entry, 0, count);
  if (!elements.ok()) return elements.status();
  const absl::Status status = ReadRawRows(path_, *elements, 0, count, raw.data());
  if (!status.ok()) return status;
  widen(raw.data(), count, values.data());
  return values;
}

}  // namespace qianyi
