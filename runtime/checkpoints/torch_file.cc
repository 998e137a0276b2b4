#include "runtime/checkpoints/torch_file.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/checkpoints/pickle.h"
#include "runtime/checkpoints/zip.h"

namespace qianyi {
namespace {

using Kind = PickleValue::Kind;

constexpr uint64_t kMaxPickleBytes = 64 << 20;
constexpr uint64_t kFirstPickleBytes = 1 << 20;
constexpr size_t kMaxTensors = 1 << 20;
constexpr int kMaxDepth = 16;
constexpr size_t kMaxTorchNameBytes = 4096;
// The number that begins the stream of pickles: 0x1950a86a20f9469cfc6c.
constexpr std::string_view kLegacyMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);
constexpr int64_t kLegacyVersion = 1001;
constexpr std::string_view kZipMagic("PK\x03\x04", 4);

struct Place {
  uint64_t begin = 0, bytes = 0;
};
using Storages = std::map<std::string, Place, std::less<>>;

std::vector<int64_t> Integers(const Pickle& pickle, uint32_t tuple) {
  std::vector<int64_t> integers;
  for (const uint32_t item : pickle.at(tuple).items) {
    const PickleValue& value = pickle.at(item);
    integers.push_back(value.kind == Kind::kInt ? value.integer : -1);  // refused by CheckPlace
  }
  return integers;
}

bool RowMajor(const SourceTensor& tensor) {
  int64_t stride = 1;
  for (size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != stride) return false;
    if (__builtin_mul_overflow(stride, std::max<int64_t>(tensor.shape[i], 1), &stride))
      return false;
  }
  return true;
}

// Collects the tensors of nested dictionaries.
class Walk {
 public:
  Walk(const Pickle& pickle, const Storages& storages) : pickle_(pickle), storages_(storages) {}

  absl::Status Visit(const PickleValue& dict, const std::string& prefix, int depth) {
    if (depth > kMaxDepth) return absl::InvalidArgumentError("its dictionaries nest too deep");
    for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
      const PickleValue& key = pickle_.at(dict.items[i]);
      const PickleValue& value = pickle_.at(dict.items[i + 1]);
      const bool tensor = value.kind == Kind::kTensor;
      if (key.kind != Kind::kText || (!tensor && value.kind != Kind::kDict)) continue;
      std::string name = absl::StrCat(prefix, key.text);
      if (name.size() > kMaxTorchNameBytes) {
        return absl::InvalidArgumentError(absl::StrFormat("has a name of %d bytes", name.size()));
      }
      // A dictionary that holds itself many times over ends here too.
      if (++visited_ > kMaxTensors) {
        return absl::InvalidArgumentError(absl::StrFormat("has more than %d tensors", kMaxTensors));
      }
      absl::Status status =
          tensor ? Add(value, std::move(name)) : Visit(value, absl::StrCat(name, "."), depth + 1);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  std::vector<SourceTensor> tensors;

 private:
  absl::Status Add(const PickleValue& value, std::string name) {
    const PickleValue& storage = pickle_.at(value.items[0]);
    SourceTensor tensor{.name = std::move(name),
                        .dtype = std::string(storage.dtype),
                        .shape = Integers(pickle_, value.items[2]),
                        .strides = Integers(pickle_, value.items[3])};
    const absl::Status status = Locate(storage, pickle_.at(value.items[1]).integer, &tensor);
    if (!status.ok()) {
      return absl::Status(
          status.code(),
          absl::StrFormat("tensor '%s' %s", absl::CHexEscape(tensor.name), status.message()));
    }
    if (RowMajor(tensor)) tensor.strides.clear();
    tensors.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  absl::Status Locate(const PickleValue& storage, int64_t offset, SourceTensor* tensor) const {
    const auto found = storages_.find(storage.text);
    if (found == storages_.end()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("lies in the storage '%s', which is not there",
                          absl::CHexEscape(storage.text.substr(0, 200))));
    }
    const Place& place = found->second;
    const uint64_t width = FindElementType(tensor->dtype)->block_bytes;
    uint64_t skipped = 0, claimed = 0;
    if (offset < 0 || storage.integer < 0 ||
        __builtin_mul_overflow(static_cast<uint64_t>(offset), width, &skipped) ||
        __builtin_mul_overflow(static_cast<uint64_t>(storage.integer), width, &claimed) ||
        claimed > place.bytes || skipped > place.bytes) {
      return absl::OutOfRangeError(
          absl::StrFormat("begins at element %d of a storage of %d in %d bytes", offset,
                          storage.integer, place.bytes));
    }
    tensor->begin = place.begin + skipped;
    return CheckPlace(*tensor, place.begin + place.bytes);
  }

  const Pickle& pickle_;
  const Storages& storages_;
  size_t visited_ = 0;
};

absl::StatusOr<std::vector<SourceTensor>> Tensors(const Pickle& pickle, const Storages& storages) {
  const PickleValue* dict = &pickle.at(pickle.root);
  for (const char* key : {"module", "state_dict", "model"}) {
    const PickleValue* inner = pickle.Find(*dict, key);
    if (inner == nullptr || inner->kind != Kind::kDict) continue;
    dict = inner;
    break;
  }
  if (dict->kind != Kind::kDict) {
    return absl::InvalidArgumentError("holds no dictionary of tensors");
  }
  Walk walk(pickle, storages);
  const absl::Status status = walk.Visit(*dict, "", 0);
  if (!status.ok()) return status;
  return std::move(walk.tensors);
}

absl::StatusOr<std::vector<SourceTensor>> ReadArchive(const ByteSource& file) {
  absl::StatusOr<std::vector<ZipEntry>> entries = ReadZipContents(file);
  if (!entries.ok()) return entries.status();
  const auto pickled = std::find_if(entries->begin(), entries->end(), [](const ZipEntry& entry) {
    return entry.name.ends_with("/data.pkl");
  });
  if (pickled == entries->end()) {
    return absl::InvalidArgumentError(
        "is a zip archive without data.pkl: not what torch.save wrote");
  }
  if (pickled->bytes > kMaxPickleBytes) {
    return absl::InvalidArgumentError(absl::StrFormat("has a pickle of %d bytes, the limit is %d",
                                                      pickled->bytes, kMaxPickleBytes));
  }
  const std::string folder = pickled->name.substr(0, pickled->name.size() - 8);  // "archive/"
  Storages storages;
  for (const ZipEntry& entry : *entries) {
    if (entry.name == folder + "byteorder" && entry.bytes < 64) {
      absl::StatusOr<std::string> order = file.ReadText(entry.begin, entry.bytes);
      if (!order.ok()) return order.status();
      if (*order != "little") {
        return absl::InvalidArgumentError(
            "was written on a big-endian machine; little-endian "
            "files are read");
      }
    }
    if (entry.name.starts_with(folder + "data/")) {
      storages[entry.name.substr(folder.size() + 5)] = {entry.begin, entry.bytes};
    }
  }
  absl::StatusOr<std::string> text = file.ReadText(pickled->begin, pickled->bytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<Pickle> pickle = ParsePickle(*text);
  if (!pickle.ok()) return pickle.status();
  return Tensors(*pickle, storages);
}

// Reads pickles that follow each other in a file, without knowing how long they are.
class PickleStream {
 public:
  explicit PickleStream(const ByteSource& file) : file_(file) {}

  absl::StatusOr<Pickle> Next() {
    for (uint64_t limit = kFirstPickleBytes;; limit *= 8) {
      const uint64_t rest = file_.bytes() - offset_;
      const uint64_t bytes = std::min(rest, std::min(limit, kMaxPickleBytes));
      absl::StatusOr<std::string> text = file_.ReadText(offset_, bytes);
      if (!text.ok()) return text.status();
      absl::StatusOr<Pickle> pickle = ParsePickle(*text);
      if (pickle.ok()) offset_ += pickle->bytes;
      if (pickle.ok() || bytes == rest || bytes == kMaxPickleBytes) return pickle;
    }
  }
  uint64_t offset() const { return offset_; }

 private:
  const ByteSource& file_;
  uint64_t offset_ = 0;
};

// Finds the dtype of every storage that tensors use.
std::map<std::string, std::string_view, std::less<>> StorageTypes(const Pickle& pickle) {
  std::map<std::string, std::string_view, std::less<>> types;
  for (const PickleValue& value : pickle.values) {
    if (value.kind == Kind::kStorage) types.emplace(value.text, value.dtype);
  }
  return types;
}

// Magic number, version, machine, the object, the keys of its storages; then the storages: the
// number of elements in 8 bytes, and the elements.
absl::StatusOr<std::vector<SourceTensor>> ReadStream(const ByteSource& file) {
  PickleStream stream(file);
  absl::StatusOr<Pickle> magic = stream.Next();
  if (!magic.ok()) return magic.status();
  if (magic->at(magic->root).text != kLegacyMagic) {
    return absl::InvalidArgumentError("is a pickle, but not what torch.save wrote");
  }
  absl::StatusOr<Pickle> version = stream.Next();
  if (!version.ok()) return version.status();
  if (version->at(version->root).integer != kLegacyVersion) {
    return absl::InvalidArgumentError(
        absl::StrFormat("has version %d of PyTorch's old format; 1001 is read",
                        version->at(version->root).integer));
  }
  const absl::StatusOr<Pickle> machine = stream.Next();
  if (!machine.ok()) return machine.status();
  absl::StatusOr<Pickle> object = stream.Next();
  if (!object.ok()) return object.status();
  absl::StatusOr<Pickle> keys = stream.Next();
  if (!keys.ok()) return keys.status();
  const auto types = StorageTypes(*object);
  Storages storages;
  uint64_t offset = stream.offset();
  for (const uint32_t item : keys->at(keys->root).items) {
    const std::string& key = keys->at(item).text;
    const auto type = types.find(key);
    if (type == types.end()) {
      return absl::InvalidArgumentError(absl::StrFormat("has a storage '%s' that no tensor uses",
                                                        absl::CHexEscape(key.substr(0, 200))));
    }
    absl::StatusOr<std::string> count = file.ReadText(offset, sizeof(uint64_t));
    if (!count.ok()) return count.status();
    uint64_t elements = 0, bytes = 0;
    std::memcpy(&elements, count->data(), sizeof(elements));
    offset += sizeof(elements);
    const uint64_t width = FindElementType(type->second)->block_bytes;
    if (__builtin_mul_overflow(elements, width, &bytes) || bytes > file.bytes() - offset) {
      return absl::OutOfRangeError(absl::StrFormat(
          "storage '%s' has %d elements from byte %d, but the file has %d bytes: is "
          "it truncated?",
          absl::CHexEscape(key.substr(0, 200)), elements, offset, file.bytes()));
    }
    storages[key] = {offset, bytes};
    offset += bytes;
  }
  return Tensors(*object, storages);
}

}  // namespace

bool LooksLikeTorch(std::string_view head) {
  return head.starts_with(kZipMagic) || (head.size() > 1 && head[0] == '\x80' && head[1] < 6);
}

absl::StatusOr<std::vector<SourceTensor>> ReadTorchContents(const ByteSource& file) {
  absl::StatusOr<std::string> head = file.ReadText(0, std::min<uint64_t>(file.bytes(), 4));
  if (!head.ok()) return head.status();
  return head->starts_with(kZipMagic) ? ReadArchive(file) : ReadStream(file);
}

}  // namespace qianyi
