#include "runtime/checkpoints/zip.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

constexpr uint64_t kEndBytes = 22;      // end of central directory
constexpr uint64_t kEnd64Bytes = 56;    // its zip64 form
constexpr uint64_t kLocatorBytes = 20;  // of the zip64 form
constexpr uint64_t kCentralBytes = 46;  // an entry of the directory
constexpr uint64_t kLocalBytes = 30;    // the header before an entry's data
constexpr uint64_t kMaxCommentBytes = 65535;
constexpr uint64_t kMaxDirectoryBytes = 64 << 20;
constexpr uint32_t kEndMark = 0x06054b50, kEnd64Mark = 0x06064b50, kLocatorMark = 0x07064b50;
constexpr uint32_t kCentralMark = 0x02014b50, kLocalMark = 0x04034b50;
constexpr uint32_t kIn64 = 0xffffffff;  // the number stands in a zip64 field

template <typename Number>
Number At(std::string_view text, size_t offset) {
  Number value;
  std::memcpy(&value, text.data() + offset, sizeof(value));
  return value;
}

struct Directory {
  uint64_t begin = 0, bytes = 0, entries = 0;
};

absl::Status Damaged(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("is no sound zip archive: ", what));
}

// The zip64 form, when the plain one says that it is too small.
absl::StatusOr<Directory> FindDirectory64(const ByteSource& file, uint64_t end_offset) {
  if (end_offset < kLocatorBytes) return Damaged("the zip64 locator is missing");
  absl::StatusOr<std::string> locator = file.ReadText(end_offset - kLocatorBytes, kLocatorBytes);
  if (!locator.ok()) return locator.status();
  if (At<uint32_t>(*locator, 0) != kLocatorMark) return Damaged("the zip64 locator is missing");
  absl::StatusOr<std::string> end = file.ReadText(At<uint64_t>(*locator, 8), kEnd64Bytes);
  if (!end.ok()) return end.status();
  if (At<uint32_t>(*end, 0) != kEnd64Mark) return Damaged("the zip64 directory end is missing");
  return Directory{.begin = At<uint64_t>(*end, 48),
                   .bytes = At<uint64_t>(*end, 40),
                   .entries = At<uint64_t>(*end, 32)};
}

absl::StatusOr<Directory> FindDirectory(const ByteSource& file) {
  const uint64_t tail_bytes = std::min(file.bytes(), kEndBytes + kMaxCommentBytes);
  const uint64_t tail_begin = file.bytes() - tail_bytes;
  absl::StatusOr<std::string> tail = file.ReadText(tail_begin, tail_bytes);
  if (!tail.ok()) return tail.status();
  if (tail_bytes < kEndBytes) return Damaged("it is shorter than the end of its directory");
  for (uint64_t at = tail_bytes - kEndBytes + 1; at-- > 0;) {
    if (At<uint32_t>(*tail, at) != kEndMark) continue;
    const std::string_view end = std::string_view(*tail).substr(at, kEndBytes);
    if (At<uint16_t>(end, 4) != At<uint16_t>(end, 6) ||
        (At<uint16_t>(end, 4) != 0 && At<uint16_t>(end, 4) != 0xffff)) {
      return Damaged("it is split over several files");
    }
    const Directory directory = {.begin = At<uint32_t>(end, 16),
                                 .bytes = At<uint32_t>(end, 12),
                                 .entries = At<uint16_t>(end, 10)};
    const bool needs64 =
        directory.begin == kIn64 || directory.bytes == kIn64 || directory.entries == 0xffff;
    if (needs64) return FindDirectory64(file, tail_begin + at);
    return directory;
  }
  return Damaged("the end of its directory is missing; is it truncated?");
}

// One entry of the directory as it stands there.
struct CentralEntry {
  std::string_view name, extra;
  uint64_t bytes = 0, packed_bytes = 0, header = 0;
  uint16_t flags = 0, method = 0;
};

absl::StatusOr<CentralEntry> NextEntry(std::string_view* directory) {
  if (directory->size() < kCentralBytes || At<uint32_t>(*directory, 0) != kCentralMark) {
    return Damaged("its directory ends too early");
  }
  const std::string_view fixed = *directory;
  const size_t name = At<uint16_t>(fixed, 28), extra = At<uint16_t>(fixed, 30),
               comment = At<uint16_t>(fixed, 32);
  if (directory->size() - kCentralBytes < name + extra + comment) {
    return Damaged("its directory ends inside an entry");
  }
  CentralEntry entry = {.name = fixed.substr(kCentralBytes, name),
                        .extra = fixed.substr(kCentralBytes + name, extra),
                        .bytes = At<uint32_t>(fixed, 24),
                        .packed_bytes = At<uint32_t>(fixed, 20),
                        .header = At<uint32_t>(fixed, 42),
                        .flags = At<uint16_t>(fixed, 8),
                        .method = At<uint16_t>(fixed, 10)};
  directory->remove_prefix(kCentralBytes + name + extra + comment);
  return entry;
}

// Replaces numbers that say "in the zip64 field" by those there, in the field's order.
absl::Status Widen(CentralEntry* entry) {
  std::string_view extra = entry->extra;
  std::string_view field;
  while (extra.size() >= 4) {
    const uint16_t tag = At<uint16_t>(extra, 0);
    const size_t bytes = At<uint16_t>(extra, 2);
    extra.remove_prefix(4);
    if (bytes > extra.size()) break;
    if (tag == 1) field = extra.substr(0, bytes);
    extra.remove_prefix(bytes);
  }
  for (uint64_t* number : {&entry->bytes, &entry->packed_bytes, &entry->header}) {
    if (*number != kIn64) continue;
    if (field.size() < sizeof(uint64_t)) return Damaged("a zip64 field is missing");
    *number = At<uint64_t>(field, 0);
    field.remove_prefix(sizeof(uint64_t));
  }
  return absl::OkStatus();
}

absl::StatusOr<ZipEntry> Locate(const ByteSource& file, const CentralEntry& entry) {
  const std::string name = absl::CHexEscape(std::string(entry.name.substr(0, 200)));
  if (entry.method != 0 || (entry.flags & 1) != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "entry '%s' is %s; only entries stored as they are can be read", name,
        entry.method != 0 ? absl::StrFormat("compressed (method %d)", entry.method) : "encrypted"));
  }
  if (entry.bytes != entry.packed_bytes) {
    return Damaged(absl::StrFormat("entry '%s' is stored in %d bytes and has %d", name,
                                   entry.packed_bytes, entry.bytes));
  }
  absl::StatusOr<std::string> local = file.ReadText(entry.header, kLocalBytes);
  if (!local.ok()) return local.status();
  if (At<uint32_t>(*local, 0) != kLocalMark) {
    return Damaged(absl::StrFormat("entry '%s' has no header at byte %d", name, entry.header));
  }
  // In the file, so no overflow: the header is, and these are 16 bits each.
  const uint64_t begin =
      entry.header + kLocalBytes + At<uint16_t>(*local, 26) + At<uint16_t>(*local, 28);
  if (begin > file.bytes() || entry.bytes > file.bytes() - begin) {
    return absl::OutOfRangeError(
        absl::StrFormat("entry '%s' has %d bytes from byte %d, but the file has %d", name,
                        entry.bytes, begin, file.bytes()));
  }
  return ZipEntry{.name = std::string(entry.name), .begin = begin, .bytes = entry.bytes};
}

}  // namespace

absl::StatusOr<std::vector<ZipEntry>> ReadZipContents(const ByteSource& file) {
  absl::StatusOr<Directory> place = FindDirectory(file);
  if (!place.ok()) return place.status();
  if (place->bytes > kMaxDirectoryBytes) {
    return Damaged(absl::StrFormat("its directory has %d bytes, the limit is %d", place->bytes,
                                   kMaxDirectoryBytes));
  }
  absl::StatusOr<std::string> text = file.ReadText(place->begin, place->bytes);
  if (!text.ok()) return text.status();
  std::string_view directory = *text;
  if (place->entries > directory.size() / kCentralBytes) {
    return Damaged(absl::StrFormat("its directory of %d bytes is too small for %d entries",
                                   place->bytes, place->entries));
  }
  std::vector<ZipEntry> entries;
  for (uint64_t i = 0; i < place->entries; ++i) {
    absl::StatusOr<CentralEntry> central = NextEntry(&directory);
    if (!central.ok()) return central.status();
    const absl::Status status = Widen(&*central);
    if (!status.ok()) return status;
    absl::StatusOr<ZipEntry> entry = Locate(file, *central);
    if (!entry.ok()) return entry.status();
    entries.push_back(*std::move(entry));
  }
  return entries;
}

}  // namespace qianyi
