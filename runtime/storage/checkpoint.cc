#include "runtime/storage/checkpoint.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoints/byte_source.h"
#include "runtime/checkpoints/torch_file.h"
#include "runtime/parse_json.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/model_layout.h"
#include "runtime/storage/safetensors.h"

namespace qianyi {
namespace {

constexpr uint64_t kMaxIndexBytes = 64 << 20;
constexpr uint64_t kMaxLatestBytes = 4096;
constexpr size_t kHeadBytes = 8;
// What training code and uploads put before the names of tensors.
constexpr std::string_view kWrappers[] = {"module.", "glm.", "model.", "module.module.",
                                          "module.glm."};
// Files beside weights that end like some.
constexpr std::string_view kNoWeights[] = {"training_args.bin", "optimizer.pt", "optimizer.bin",
                                           "scheduler.pt", "rng_state.pth"};

bool Exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

bool IsFolder(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

bool IsPlainName(std::string_view name) {
  return !name.empty() && name[0] != '.' && name.find('/') == name.npos &&
         name.find('\\') == name.npos && name.find('\0') == name.npos;
}

absl::Status InFile(const std::string& path, const absl::Status& status) {
  if (absl::StartsWith(status.message(), path)) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

std::vector<SourceTensor> FromSafetensors(const Safetensors& file) {
  std::vector<SourceTensor> tensors;
  for (const SafetensorsEntry& entry : file.entries()) {
    tensors.push_back(
        {.name = entry.name, .dtype = entry.dtype, .shape = entry.shape, .begin = entry.begin});
  }
  return tensors;
}

// Any file of weights: its first bytes say what it is.
absl::StatusOr<CheckpointFile> OpenFile(const std::string& path) {
  CheckpointFile result{.path = path};
  absl::StatusOr<FileBytes> file = FileBytes::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<std::string> head = file->ReadText(0, std::min(file->bytes(), kHeadBytes));
  if (!head.ok()) return head.status();
  if (head->starts_with(kGgufMagic)) {
    absl::StatusOr<Gguf> gguf = Gguf::Read(*file);
    if (!gguf.ok()) return InFile(path, gguf.status());
    result.tensors = gguf->tensors;
    result.gguf = *std::move(gguf);
    return result;
  }
  bool torch = LooksLikeTorch(*head);
  for (const char* suffix : {".bin", ".pt", ".pth", ".pkl"}) torch |= path.ends_with(suffix);
  if (torch) {
    absl::StatusOr<std::vector<SourceTensor>> tensors = ReadTorchContents(*file);
    if (!tensors.ok()) return InFile(path, tensors.status());
    result.tensors = *std::move(tensors);
    return result;
  }
  absl::StatusOr<Safetensors> safetensors = Safetensors::Open(path);
  if (!safetensors.ok()) return safetensors.status();
  result.tensors = FromSafetensors(*safetensors);
  result.converted = safetensors->metadata().contains(std::string(kFormatKey));
  return result;
}

// How the name of a file of a split GGUF ends, counted from 1.
std::string SplitSuffix(int64_t number, int64_t count) {
  return absl::StrFormat("-%05d-of-%05d.gguf", number, count);
}

// "mp_rank_03_model_states.pt" -> 3, anything else -> -1.
int RankOf(std::string_view name) {
  constexpr std::string_view kBefore = "mp_rank_", kAfter = "_model_states.pt";
  if (name.size() != kBefore.size() + 2 + kAfter.size() || !name.starts_with(kBefore) ||
      !name.ends_with(kAfter)) {
    return -1;
  }
  int rank = -1;
  return absl::SimpleAtoi(std::string(name.substr(kBefore.size(), 2)), &rank) ? rank : -1;
}

// The files of ranks in a folder, in order; there may be none.
absl::StatusOr<std::vector<std::string>> RankFiles(const std::string& folder) {
  absl::StatusOr<std::vector<std::string>> names = ListFolder(folder, "_model_states.pt");
  if (!names.ok()) return names.status();
  std::erase_if(*names, [](const std::string& name) { return RankOf(name) < 0; });
  for (size_t i = 0; i < names->size(); ++i) {
    if (RankOf((*names)[i]) == static_cast<int>(i)) continue;
    return absl::NotFoundError(absl::StrFormat(
        "%s: the file of rank %d of model-parallel training is missing: there are %s", folder, i,
        absl::StrJoin(*names, ", ")));
  }
  return names;
}

// The folder that the file `latest` names, or "" when there is no such file.
absl::StatusOr<std::string> LatestFolder(const std::string& folder) {
  for (const char* name : {"latest", "latest_checkpointed_iteration.txt"}) {
    const std::string path = JoinPath(folder, name);
    if (!Exists(path)) continue;
    absl::StatusOr<std::string> text = ReadTextFile(path, kMaxLatestBytes);
    if (!text.ok()) return text.status();
    const std::string latest(absl::StripAsciiWhitespace(*text));
    if (!IsPlainName(latest) || !IsFolder(JoinPath(folder, latest))) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: says '%.200s'; it must be the plain name of a folder beside it",
                          path, absl::CHexEscape(latest)));
    }
    return JoinPath(folder, latest);
  }
  return "";
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> ParseShardIndex(std::string_view json,
                                                                   const std::string& path,
                                                                   std::string_view suffix) {
  const nlohmann::json root = ParseJson(json);
  const auto map = root.is_object() ? root.find("weight_map") : root.end();
  if (map == root.end() || !map->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is not a JSON object with an object 'weight_map'"));
  }
  std::map<std::string, std::string> shards;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: weight_map['%.200s'] is not a string", path, name));
    }
    const std::string& file = shard.get_ref<const std::string&>();
    if (!IsPlainName(file) || !file.ends_with(suffix)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: weight_map['%.200s'] is '%.200s'; a shard must be the plain name of "
                          "a %s file beside it",
                          path, name, file, suffix));
    }
    shards[name] = file;
  }
  return shards;
}

absl::Status Checkpoint::AddFile(const std::string& path) {
  absl::StatusOr<CheckpointFile> file = OpenFile(path);
  if (!file.ok()) return file.status();
  files_.push_back(*std::move(file));
  return absl::OkStatus();
}

// The other files of a GGUF checkpoint whose first file is there.
absl::Status Checkpoint::AddSplits() {
  const CheckpointFile first = files_[0];
  const int64_t count = first.gguf->Int("split.count").value_or(1);
  if (count <= 1) return absl::OkStatus();
  const std::string end = SplitSuffix(1, count);
  if (first.gguf->Int("split.no") != 0 || !first.path.ends_with(end)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: is one of %d files of a split GGUF; name the first, which ends in %s",
                        first.path, count, end));
  }
  const std::string begin = first.path.substr(0, first.path.size() - end.size());
  for (int64_t i = 1; i < count; ++i) {
    const std::string path = begin + SplitSuffix(i + 1, count);
    absl::Status status = AddFile(path);
    if (!status.ok()) return status;
    const std::optional<Gguf>& gguf = files_.back().gguf;
    if (gguf && gguf->Int("split.no") == i && gguf->Int("split.count") == count) {
      std::vector<SourceTensor>& all = files_[0].gguf->tensors;
      all.insert(all.end(), gguf->tensors.begin(), gguf->tensors.end());
      continue;
    }
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: is not file %d of the %d that %s says there are", path, i + 1, count, first.path));
  }
  size_t tensors = 0;
  for (const CheckpointFile& file : files_) tensors += file.tensors.size();
  const int64_t claimed =
      first.gguf->Int("split.tensors.count").value_or(static_cast<int64_t>(tensors));
  if (claimed == static_cast<int64_t>(tensors)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: says that there are %d tensors, but the "
                      "%d files have %d",
                      first.path, claimed, count, tensors));
}

absl::Status Checkpoint::AddIndex(const std::string& folder, const std::string& index_path,
                                  std::string_view suffix) {
  absl::StatusOr<std::string> text = ReadTextFile(index_path, kMaxIndexBytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<std::map<std::string, std::string>> shards =
      ParseShardIndex(*text, index_path, suffix);
  if (!shards.ok()) return shards.status();
  std::map<std::string, std::vector<std::string_view>> tensors_of;
  for (const auto& [tensor, shard] : *shards) tensors_of[shard].push_back(tensor);
  for (auto& [shard, wanted] : tensors_of) {
    const std::string path = JoinPath(folder, shard);
    if (!Exists(path)) {
      return absl::NotFoundError(absl::StrCat(path, ": this shard, which ", index_path,
                                              " names, is missing: fetch it again"));
    }
    const absl::Status status = AddFile(path);
    if (!status.ok()) return status;
    std::vector<SourceTensor>& tensors = files_.back().tensors;
    std::sort(tensors.begin(), tensors.end(),
              [](const SourceTensor& a, const SourceTensor& b) { return a.name < b.name; });
    for (const std::string_view tensor : wanted) {
      const auto found = std::lower_bound(
          tensors.begin(), tensors.end(), tensor,
          [](const SourceTensor& a, std::string_view name) { return a.name < name; });
      if (found != tensors.end() && found->name == tensor) continue;
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: says that %s has tensor '%s', but it does not", index_path, shard, tensor));
    }
    // What the index does not name is not part of the checkpoint.
    std::erase_if(tensors, [&wanted = wanted](const SourceTensor& tensor) {
      return !std::binary_search(wanted.begin(), wanted.end(), std::string_view(tensor.name));
    });
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::AddRanks(const std::string& folder,
                                  const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const absl::Status status = AddFile(JoinPath(folder, name));
    if (!status.ok()) return status;
  }
  ranks_ = static_cast<int>(names.size());
  return absl::OkStatus();
}

absl::Status Checkpoint::AddOnlyFile(const std::string& folder) {
  for (const char* suffix : {".gguf", ".safetensors", ".bin", ".pt", ".pth"}) {
    absl::StatusOr<std::vector<std::string>> names = ListFolder(folder, suffix);
    if (!names.ok()) return names.status();
    std::erase_if(*names, [](const std::string& name) {
      return std::find(std::begin(kNoWeights), std::end(kNoWeights), name) != std::end(kNoWeights);
    });
    const bool split = suffix == std::string_view(".gguf") && !names->empty() &&
                       names->front().ends_with(SplitSuffix(1, names->size()));
    if (names->size() == 1 || split) return AddFile(JoinPath(folder, names->front()));
    if (names->size() > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(folder, ": has several ", suffix, " files (", absl::StrJoin(*names, ", "),
                       ") and no index such as model.safetensors.index.json: name one of them"));
    }
  }
  return absl::NotFoundError(
      absl::StrCat(folder, ": has no .safetensors, .gguf, .bin, .pt or .pth file"));
}

absl::Status Checkpoint::AddFolder(const std::string& folder) {
  struct Choice {
    const char* file;
    const char* index;
    const char* suffix;
  };
  for (const Choice& choice :
       {Choice{"model.safetensors", "model.safetensors.index.json", ".safetensors"},
        Choice{"weights.safetensors", nullptr, nullptr},
        Choice{"pytorch_model.bin", "pytorch_model.bin.index.json", ".bin"}}) {
    if (Exists(JoinPath(folder, choice.file))) return AddFile(JoinPath(folder, choice.file));
    if (choice.index != nullptr && Exists(JoinPath(folder, choice.index))) {
      return AddIndex(folder, JoinPath(folder, choice.index), choice.suffix);
    }
  }
  absl::StatusOr<std::string> latest = LatestFolder(folder);
  if (!latest.ok()) return latest.status();
  const std::string& ranks_folder = latest->empty() ? folder : *latest;
  absl::StatusOr<std::vector<std::string>> ranks = RankFiles(ranks_folder);
  if (!ranks.ok()) return ranks.status();
  if (!ranks->empty()) return AddRanks(ranks_folder, *ranks);
  return AddOnlyFile(ranks_folder);
}

void Checkpoint::Index() {
  for (size_t file = 0; file < files_.size(); ++file) {
    for (size_t i = 0; i < files_[file].tensors.size(); ++i) {
      std::vector<std::pair<int, int>>& places = places_[files_[file].tensors[i].name];
      // Of a name that two shards have, the first counts.
      if (places.empty() || ranks_ > 1) {
        places.emplace_back(static_cast<int>(file), static_cast<int>(i));
      }
    }
  }
}

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& path) {
  Checkpoint checkpoint;
  const absl::Status status =
      IsFolder(path) ? checkpoint.AddFolder(path) : checkpoint.AddFile(path);
  if (!status.ok()) return status;
  if (checkpoint.gguf() != nullptr) {
    const absl::Status splits = checkpoint.AddSplits();
    if (!splits.ok()) return splits;
  }
  checkpoint.Index();
  return checkpoint;
}

std::vector<TensorPlace> Checkpoint::Find(std::string_view name) const {
  auto found = places_.find(name);
  for (const std::string_view wrapper : kWrappers) {
    if (found != places_.end()) break;
    found = places_.find(std::string(wrapper) + std::string(name));
  }
  std::vector<TensorPlace> places;
  if (found == places_.end()) return places;
  for (const auto& [file, tensor] : found->second) {
    places.push_back({&files_[file], &files_[file].tensors[tensor]});
  }
  return places;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  for (const auto& [name, places] : places_) names.push_back(name);
  return names;
}

}  // namespace qianyi
