#include "runtime/storage/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <set>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "runtime/storage/file_util.h"

namespace qianyi {
namespace {

static_assert(std::endian::native == std::endian::little, "weights are little-endian");

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
constexpr size_t kMaxRank = 64;
constexpr size_t kMaxNameBytes = 4096;  // names are quoted in messages
constexpr uint64_t kLengthBytes = 8;

// Walks the header's JSON without building a tree: the shape of the format is the
// state, so depth and memory are bounded by construction.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;
  std::string error;

  bool key(string_t& value) override {
    if (value.size() > kMaxNameBytes) return Fail("has a name of ", value.size(), " bytes");
    if (state_ == State::kMetadata) {
      field_ = std::move(value);
      if (metadata.contains(field_)) return Fail("names metadata '", field_, "' twice");
      return true;
    }
    if (state_ == State::kTop) {
      if (!names_.insert(value).second) return Fail("names tensor '", value, "' twice");
      name_ = std::move(value);
      return true;
    }
    field_ = std::move(value);
    if (field_ == "dtype") return Once(kDtype);
    if (field_ == "shape") return Once(kShape);
    if (field_ == "data_offsets") return Once(kOffsets);
    return Fail("gives tensor '", name_, "' an unknown field '", field_, "'");
  }

  bool start_object(std::size_t) override {
    switch (state_) {
      case State::kStart:
        state_ = State::kTop;
        return true;
      case State::kTop:
        if (name_ == "__metadata__") {
          state_ = State::kMetadata;
          return true;
        }
        state_ = State::kTensor;
        seen_ = 0;
        entries.push_back({.name = name_, .dtype = {}, .shape = {}});
        return true;
      default:
        return Unexpected("an object");
    }
  }

  bool end_object() override {
    if (state_ == State::kTensor && seen_ != (kDtype | kShape | kOffsets)) {
      return Fail("tensor '", name_, "' lacks one of dtype, shape and data_offsets");
    }
    if (state_ == State::kTensor && offsets_ != 2) {
      return Fail("data_offsets of tensor '", name_, "' has ", offsets_, " numbers, not 2");
    }
    state_ = state_ == State::kTop ? State::kStart : State::kTop;
    return true;
  }

  bool start_array(std::size_t) override {
    if (state_ == State::kTensor && field_ == "shape") {
      state_ = State::kShapeArray;
      return true;
    }
    if (state_ == State::kTensor && field_ == "data_offsets") {
      state_ = State::kOffsetsArray;
      offsets_ = 0;
      return true;
    }
    return Unexpected("an array");
  }

  bool end_array() override {
    state_ = State::kTensor;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ == State::kShapeArray) {
      std::vector<int64_t>& shape = entries.back().shape;
      if (value > INT64_MAX) return Fail("tensor '", name_, "' has a dimension of ", value);
      if (shape.size() == kMaxRank) {
        return Fail("tensor '", name_, "' has more than ", kMaxRank, " dimensions");
      }
      shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (state_ == State::kOffsetsArray) {
      SafetensorsEntry& entry = entries.back();
      if (offsets_ == 0) entry.begin = value;
      if (offsets_ == 1) entry.end = value;
      if (++offsets_ > 2) return Fail("data_offsets of tensor '", name_, "' has over 2 numbers");
      return true;
    }
    return Unexpected("a number");
  }

  bool number_integer(number_integer_t value) override {
    return Unexpected(absl::StrCat("the negative number ", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return Unexpected(absl::StrCat("the number ", text));
  }

  bool string(string_t& value) override {
    if (state_ == State::kMetadata) {
      metadata.emplace(std::move(field_), std::move(value));
      return true;
    }
    if (state_ == State::kTensor && field_ == "dtype") {
      if (value.size() > kMaxNameBytes) return Fail("has a dtype of ", value.size(), " bytes");
      entries.back().dtype = std::move(value);
      return true;
    }
    return Unexpected("a string");
  }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception& exception) override {
    return Fail("is not JSON at byte ", position + kLengthBytes, ": ",
                std::string(exception.what()).substr(0, kMaxNameBytes));
  }

 private:
  enum class State { kStart, kTop, kMetadata, kTensor, kShapeArray, kOffsetsArray };
  enum Field { kDtype = 1, kShape = 2, kOffsets = 4 };

  template <typename... Parts>
  bool Fail(const Parts&... parts) {
    if (error.empty()) error = absl::StrCat("the header ", parts...);
    return false;
  }
  bool Unexpected(const std::string& what) {
    return Fail("has ", what, " where the format has none", name_.empty() ? "" : ", in '", name_,
                name_.empty() ? "" : "'");
  }
  bool Once(Field field) {
    if (seen_ & field) return Fail("tensor '", name_, "' has two fields '", field_, "'");
    seen_ |= field;
    return true;
  }

  State state_ = State::kStart;
  std::set<std::string> names_;
  std::string name_;
  std::string field_;
  int seen_ = 0;
  int offsets_ = 0;
};

// The bytes a tensor must have, or an error naming it. Dimensions of 0 are allowed, yet
// the others must not overflow: nobody multiplies them safely later.
absl::StatusOr<uint64_t> TensorBytes(const SafetensorsEntry& entry) {
  const int bits = SafetensorsBits(entry.dtype);
  if (bits == 0) {
    return absl::InvalidArgumentError(absl::StrCat("has the unknown dtype '", entry.dtype, "'"));
  }
  int64_t product = 1;
  bool empty = false;
  bool overflow = false;
  for (const int64_t size : entry.shape) {
    if (size == 0) empty = true;
    if (size > 0) overflow |= __builtin_mul_overflow(product, size, &product);
  }
  int64_t total_bits = 0;
  overflow |= __builtin_mul_overflow(product, static_cast<int64_t>(bits), &total_bits);
  if (overflow) {
    return absl::InvalidArgumentError(absl::StrCat(
        "has the shape [", absl::StrJoin(entry.shape, ", "), "], too large to address"));
  }
  if (empty) return 0;
  if (total_bits % 8 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", product, " elements of ", bits, " bits, which fill no whole bytes"));
  }
  return static_cast<uint64_t>(total_bits / 8);
}

absl::Status CheckEntry(const SafetensorsEntry& entry, uint64_t data_bytes) {
  if (entry.begin > entry.end) {
    return absl::OutOfRangeError(
        absl::StrCat("begins at byte ", entry.begin, " and ends before, at ", entry.end));
  }
  if (entry.end > data_bytes) {
    return absl::OutOfRangeError(absl::StrCat("ends at byte ", entry.end, " of the data, but only ",
                                              data_bytes,
                                              " bytes follow the header: is the file "
                                              "truncated?"));
  }
  absl::StatusOr<uint64_t> bytes = TensorBytes(entry);
  if (!bytes.ok()) return bytes.status();
  if (*bytes != entry.end - entry.begin) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", entry.end - entry.begin, " bytes, but ", entry.dtype, " [",
                     absl::StrJoin(entry.shape, ", "), "] takes ", *bytes));
  }
  return absl::OkStatus();
}

absl::Status InFile(const std::string& path, const absl::Status& status,
                    const std::string& tensor) {
  return absl::Status(status.code(),
                      absl::StrCat(path, ": tensor '", tensor, "' ", status.message()));
}

// The format wants the data covered once: neither holes nor overlaps nor bytes left over.
absl::Status CheckCovering(const std::vector<SafetensorsEntry>& entries, uint64_t data_bytes,
                           const std::string& path) {
  uint64_t covered = 0;
  std::string previous = "the header";
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin != covered) {
      return absl::OutOfRangeError(absl::StrCat(
          path, ": tensor '", entry.name, "' begins at byte ", entry.begin, " of the data and ",
          entry.begin < covered ? "overlaps '" : "leaves a hole after '", previous,
          "', which ends at ", covered));
    }
    covered = entry.end;
    previous = entry.name;
  }
  if (covered != data_bytes) {
    return absl::OutOfRangeError(absl::StrCat(path, ": ", data_bytes - covered,
                                              " bytes after the last tensor belong to none"));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> HeaderBytes(std::string_view head, uint64_t file_bytes,
                                     const std::string& path) {
  if (file_bytes < kLengthBytes || head.size() < kLengthBytes) {
    return absl::OutOfRangeError(
        absl::StrCat(path, ": has ", file_bytes, " bytes, too few for a safetensors file"));
  }
  uint64_t bytes = 0;
  std::memcpy(&bytes, head.data(), sizeof(bytes));
  if (bytes > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is not a safetensors file: it claims a ", "header of ", bytes,
                     " bytes, the limit is ", kMaxHeaderBytes));
  }
  if (bytes > file_bytes - kLengthBytes) {
    return absl::OutOfRangeError(absl::StrCat(path, ": claims a header of ", bytes,
                                              " bytes, but the whole file has ", file_bytes));
  }
  return bytes;
}

}  // namespace

int SafetensorsBits(std::string_view dtype) {
  static constexpr std::pair<std::string_view, int> kBits[] = {
      {"F32", 32},    {"F16", 16}, {"BF16", 16}, {"I8", 8},      {"U8", 8},
      {"I32", 32},    {"I64", 64}, {"F64", 64},  {"BOOL", 8},    {"I16", 16},
      {"U16", 16},    {"U32", 32}, {"U64", 64},  {"F8_E4M3", 8}, {"F8_E5M2", 8},
      {"F8_E8M0", 8}, {"C64", 64}, {"F4", 4},    {"F6_E2M3", 6}, {"F6_E3M2", 6}};
  for (const auto& [name, bits] : kBits) {
    if (name == dtype) return bits;
  }
  return 0;
}

int64_t SafetensorsEntry::elements() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

absl::StatusOr<Safetensors> Safetensors::Open(const std::string& path) {
  absl::StatusOr<UniqueFd> fd = OpenForReading(path);
  if (!fd.ok()) return fd.status();
  absl::StatusOr<uint64_t> size = FileSize(fd->get(), path);
  if (!size.ok()) return size.status();
  std::string head(std::min(*size, kLengthBytes), '\0');
  absl::Status read = ReadExactly(fd->get(), path, 0, std::as_writable_bytes(std::span(head)));
  if (!read.ok()) return read;
  absl::StatusOr<uint64_t> header_bytes = HeaderBytes(head, *size, path);
  if (!header_bytes.ok()) return header_bytes.status();
  head.resize(kLengthBytes + *header_bytes);
  read = ReadExactly(fd->get(), path, 0, std::as_writable_bytes(std::span(head)));
  if (!read.ok()) return read;
  return Parse(head, *size, path);
}

absl::StatusOr<Safetensors> Safetensors::Parse(std::string_view head, uint64_t file_bytes,
                                               const std::string& path) {
  absl::StatusOr<uint64_t> header_bytes = HeaderBytes(head, file_bytes, path);
  if (!header_bytes.ok()) return header_bytes.status();
  if (head.size() - kLengthBytes < *header_bytes) {
    return absl::OutOfRangeError(absl::StrCat(path, ": the header of ", *header_bytes,
                                              " bytes is cut off after ",
                                              head.size() - kLengthBytes));
  }
  const std::string_view json = head.substr(kLengthBytes, *header_bytes);
  if (json.empty() || json[0] != '{') {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is not a safetensors file: its header does not begin with '{'"));
  }
  // The parser takes a zero byte for the end, and would let anything follow.
  if (const size_t zero = json.find('\0'); zero != json.npos) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": the header is not JSON at byte ", zero + kLengthBytes, ": a zero"));
  }
  HeaderReader reader;
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &reader)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", reader.error));
  }

  Safetensors result;
  result.path_ = path;
  result.file_bytes_ = file_bytes;
  result.entries_ = std::move(reader.entries);
  result.metadata_ = std::move(reader.metadata);
  std::vector<SafetensorsEntry>& entries = result.entries_;
  const uint64_t data_begin = kLengthBytes + *header_bytes;
  for (const SafetensorsEntry& entry : entries) {
    const absl::Status status = CheckEntry(entry, file_bytes - data_begin);
    if (!status.ok()) return InFile(path, status, entry.name);
  }
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  const absl::Status covering = CheckCovering(entries, file_bytes - data_begin, path);
  if (!covering.ok()) return covering;
  for (SafetensorsEntry& entry : entries) {
    entry.begin += data_begin;
    entry.end += data_begin;
  }
  result.by_name_.resize(entries.size());
  std::iota(result.by_name_.begin(), result.by_name_.end(), 0u);
  std::sort(result.by_name_.begin(), result.by_name_.end(),
            [&](uint32_t a, uint32_t b) { return entries[a].name < entries[b].name; });
  return result;
}

const SafetensorsEntry* Safetensors::Find(std::string_view name) const {
  const auto found = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [&](uint32_t index, std::string_view n) { return entries_[index].name < n; });
  if (found == by_name_.end() || entries_[*found].name != name) return nullptr;
  return &entries_[*found];
}

}  // namespace qianyi
