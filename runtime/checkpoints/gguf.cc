#include "runtime/checkpoints/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>
#include <type_traits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is little-endian");

constexpr uint64_t kFirstHeadBytes = 1 << 20;
constexpr uint64_t kMaxHeadBytes = 64 << 20;
constexpr uint64_t kMaxCount = 1 << 20;  // of tensors and of metadata
constexpr uint64_t kMaxGgufNameBytes = 4096;
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kDefaultAlignment = 32;

enum ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

// ggml's names of the formats in a file.
constexpr std::pair<uint32_t, std::string_view> kTensorTypes[] = {
    {0, "F32"},     {1, "F16"},    {2, "Q4_0"},     {3, "Q4_1"},    {6, "Q5_0"},     {7, "Q5_1"},
    {8, "Q8_0"},    {9, "Q8_1"},   {10, "Q2_K"},    {11, "Q3_K"},   {12, "Q4_K"},    {13, "Q5_K"},
    {14, "Q6_K"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"},
    {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {23, "IQ4_XS"}, {24, "I8"},      {25, "I16"},
    {26, "I32"},    {27, "I64"},   {28, "F64"},     {29, "IQ1_M"},  {30, "BF16"},    {34, "TQ1_0"},
    {35, "TQ2_0"},  {39, "MXFP4"}};

std::string TensorTypeName(uint32_t type) {
  for (const auto& [number, name] : kTensorTypes) {
    if (number == type) return std::string(name);
  }
  return absl::StrFormat("ggml type %d", type);
}

class Parser {
 public:
  Parser(std::string_view head, uint64_t file_bytes) : head_(head), file_bytes_(file_bytes) {}

  absl::StatusOr<Gguf> Run() {
    ReadHead();
    for (uint64_t i = 0; i < metadata_ && status_.ok(); ++i) ReadMetadata();
    for (uint64_t i = 0; i < tensors_ && status_.ok(); ++i) ReadTensor();
    if (status_.ok()) PlaceTensors();
    if (!status_.ok()) return status_;
    return std::move(result_);
  }

 private:
  void Fail(const std::string& what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(what);
  }

  // ---- input: zeros and empty texts after an error

  bool Has(uint64_t bytes) {
    if (!status_.ok()) return false;
    if (bytes <= head_.size() - at_) return true;
    status_ = absl::OutOfRangeError(
        absl::StrFormat("ends inside its metadata at byte %d: is it truncated?", head_.size()));
    return false;
  }
  template <typename Number>
  Number Take() {
    Number value{};
    if (!Has(sizeof(value))) return value;
    std::memcpy(&value, head_.data() + at_, sizeof(value));
    at_ += sizeof(value);
    return value;
  }
  std::string TakeText(uint64_t limit, const char* what) {
    const uint64_t bytes = Take<uint64_t>();
    if (bytes > limit) Fail(absl::StrFormat("has a %s of %d bytes", what, bytes));
    if (!Has(bytes)) return "";
    std::string text(head_.substr(at_, bytes));
    at_ += bytes;
    return text;
  }

  // ---- metadata

  void ReadHead() {
    if (!Has(kGgufMagic.size())) return;
    if (!head_.starts_with(kGgufMagic)) return Fail("is no GGUF file");
    at_ = kGgufMagic.size();
    const uint32_t version = Take<uint32_t>();
    tensors_ = Take<uint64_t>();
    metadata_ = Take<uint64_t>();
    if (!status_.ok()) return;
    if (version != 2 && version != 3) {
      return Fail(absl::StrFormat("is GGUF of version %d%s; versions 2 and 3 are read", version,
                                  (version & 0xffff) == 0 ? " (big-endian)" : ""));
    }
    if (tensors_ > kMaxCount || metadata_ > kMaxCount) {
      Fail(absl::StrFormat("claims %d tensors and %d metadata; the limit is %d", tensors_,
                           metadata_, kMaxCount));
    }
  }

  void ReadMetadata() {
    std::string key = TakeText(kMaxGgufNameBytes, "key");
    const uint32_t type = Take<uint32_t>();
    GgufValue value = type == kArray ? TakeArray(key) : TakeValue(type, key);
    if (status_.ok() && !result_.metadata.emplace(key, std::move(value)).second) {
      Fail(absl::StrFormat("has the metadata '%s' twice", absl::CHexEscape(key)));
    }
  }

  GgufValue TakeValue(uint32_t type, const std::string& key) {
    switch (type) {
      case kU8:
        return int64_t{Take<uint8_t>()};
      case kI8:
        return int64_t{Take<int8_t>()};
      case kU16:
        return int64_t{Take<uint16_t>()};
      case kI16:
        return int64_t{Take<int16_t>()};
      case kU32:
        return int64_t{Take<uint32_t>()};
      case kI32:
        return int64_t{Take<int32_t>()};
      case kBool:
        return int64_t{Take<uint8_t>() != 0};
      case kU64:  // what does not fit becomes negative, which no caller takes
      case kI64:
        return Take<int64_t>();
      case kF32:
        return double{Take<float>()};
      case kF64:
        return Take<double>();
      case kString:
        return TakeText(kMaxHeadBytes, "text");
      default:
        Fail(absl::StrFormat("gives '%s' the unknown type %d", absl::CHexEscape(key), type));
        return int64_t{0};
    }
  }

  template <typename Element>
  GgufValue TakeList(uint32_t type, uint64_t count, uint64_t least_bytes, const std::string& key) {
    std::vector<Element> list;
    if (!Has(count)) return list;  // each takes a byte at least: no overflow below
    if (!Has(count * least_bytes)) return list;
    list.reserve(count);
    for (uint64_t i = 0; i < count && status_.ok(); ++i) {
      list.push_back(std::get<Element>(TakeValue(type, key)));
    }
    return list;
  }

  GgufValue TakeArray(const std::string& key) {
    const uint32_t type = Take<uint32_t>();
    const uint64_t count = Take<uint64_t>();
    if (type == kString) return TakeList<std::string>(type, count, 8, key);
    if (type == kF32 || type == kF64) {
      return TakeList<double>(type, count, type == kF32 ? 4 : 8, key);
    }
    if (type == kArray || type > kF64) {
      Fail(absl::StrFormat("gives '%s' a list of type %d, which is none that is read",
                           absl::CHexEscape(key), type));
      return int64_t{0};
    }
    return TakeList<int64_t>(type, count, 1, key);
  }

  // ---- tensors

  void ReadTensor() {
    SourceTensor tensor{.name = TakeText(kMaxGgufNameBytes, "name")};
    const uint32_t dimensions = Take<uint32_t>();
    if (dimensions > kMaxDimensions) {
      return Fail(absl::StrFormat("tensor '%s' has %d dimensions; %d are allowed",
                                  absl::CHexEscape(tensor.name), dimensions, kMaxDimensions));
    }
    for (uint32_t i = 0; i < dimensions; ++i) tensor.shape.push_back(Take<int64_t>());
    std::reverse(tensor.shape.begin(), tensor.shape.end());
    const uint32_t type = Take<uint32_t>();
    tensor.begin = Take<uint64_t>();
    tensor.dtype = TensorTypeName(type);
    if (!status_.ok()) return;
    if (FindElementType(tensor.dtype) == nullptr) {
      return Fail(absl::StrFormat("tensor '%s' is %s; read are %s", absl::CHexEscape(tensor.name),
                                  tensor.dtype, FloatDtypes()));
    }
    if (!names_.insert(tensor.name).second) {
      return Fail(absl::StrFormat("has the tensor '%s' twice", absl::CHexEscape(tensor.name)));
    }
    result_.tensors.push_back(std::move(tensor));
  }

  // Offsets count from the first multiple of the alignment after what was read so far.
  void PlaceTensors() {
    const int64_t alignment = result_.Int("general.alignment").value_or(kDefaultAlignment);
    if (alignment < 8 || alignment > (1 << 20) || alignment % 8 != 0) {
      return Fail(absl::StrFormat("has general.alignment %d; it must be a multiple of 8 to 1048576",
                                  alignment));
    }
    const uint64_t data = (at_ + alignment - 1) / alignment * alignment;
    for (SourceTensor& tensor : result_.tensors) {
      absl::Status status = absl::OkStatus();
      if (tensor.begin % alignment != 0) {
        status = absl::InvalidArgumentError(
            absl::StrFormat("begins at byte %d, no multiple of %d", tensor.begin, alignment));
      }
      if (__builtin_add_overflow(tensor.begin, data, &tensor.begin)) {
        status = absl::OutOfRangeError("begins beyond the file");
      }
      if (status.ok()) status = CheckPlace(tensor, file_bytes_);
      if (status.ok()) continue;
      status_ = absl::Status(
          status.code(),
          absl::StrFormat("tensor '%s' %s", absl::CHexEscape(tensor.name), status.message()));
      return;
    }
  }

  const std::string_view head_;
  const uint64_t file_bytes_;
  uint64_t at_ = 0;
  uint64_t tensors_ = 0, metadata_ = 0;
  std::set<std::string> names_;
  Gguf result_;
  absl::Status status_;
};

template <typename Value>
const Value* Get(const Gguf& gguf, std::string_view key) {
  const auto found = gguf.metadata.find(key);
  return found == gguf.metadata.end() ? nullptr : std::get_if<Value>(&found->second);
}

}  // namespace

std::optional<int64_t> Gguf::Int(std::string_view key) const {
  const int64_t* value = Get<int64_t>(*this, key);
  return value == nullptr ? std::nullopt : std::optional(*value);
}

std::optional<double> Gguf::Number(std::string_view key) const {
  if (const double* value = Get<double>(*this, key)) return *value;
  if (const int64_t* value = Get<int64_t>(*this, key)) return static_cast<double>(*value);
  return std::nullopt;
}

std::string Gguf::Text(std::string_view key) const {
  const std::string* value = Get<std::string>(*this, key);
  return value == nullptr ? "" : *value;
}

const std::vector<std::string>* Gguf::Texts(std::string_view key) const {
  return Get<std::vector<std::string>>(*this, key);
}
const std::vector<int64_t>* Gguf::Ints(std::string_view key) const {
  return Get<std::vector<int64_t>>(*this, key);
}
const std::vector<double>* Gguf::Numbers(std::string_view key) const {
  return Get<std::vector<double>>(*this, key);
}

const SourceTensor* Gguf::Find(std::string_view tensor) const {
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const SourceTensor& t) { return t.name == tensor; });
  return found == tensors.end() ? nullptr : &*found;
}

absl::StatusOr<Gguf> Gguf::Parse(std::string_view head, uint64_t file_bytes) {
  return Parser(head, file_bytes).Run();
}

absl::StatusOr<Gguf> Gguf::Read(const ByteSource& file) {
  for (uint64_t limit = kFirstHeadBytes;; limit *= 8) {
    const uint64_t bytes = std::min({file.bytes(), limit, kMaxHeadBytes});
    absl::StatusOr<std::string> head = file.ReadText(0, bytes);
    if (!head.ok()) return head.status();
    absl::StatusOr<Gguf> gguf = Parse(*head, file.bytes());
    const bool more = bytes < file.bytes() && bytes < kMaxHeadBytes;
    if (gguf.ok() || !more || !absl::IsOutOfRange(gguf.status())) return gguf;
  }
}

}  // namespace qianyi
