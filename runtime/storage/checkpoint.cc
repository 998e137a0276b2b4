#include "runtime/storage/checkpoint.h"

#include <sys/stat.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "runtime/parse_json.h"
#include "runtime/storage/file_util.h"

namespace qianyi {
namespace {

constexpr uint64_t kMaxIndexBytes = 64 << 20;

bool Exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

bool IsFolder(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

bool IsPlainShardName(std::string_view name) {
  return name.ends_with(".safetensors") && name[0] != '.' && name.find('/') == name.npos &&
         name.find('\\') == name.npos && name.find('\0') == name.npos;
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> ParseShardIndex(std::string_view json,
                                                                   const std::string& path) {
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
    if (!IsPlainShardName(file)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: weight_map['%.200s'] is '%.200s'; a shard must be the plain name of "
                          "a .safetensors file beside it",
                          path, name, file));
    }
    shards[name] = file;
  }
  return shards;
}

absl::Status Checkpoint::AddFile(const std::string& path) {
  absl::StatusOr<Safetensors> file = Safetensors::Open(path);
  if (!file.ok()) return file.status();
  for (const SafetensorsEntry& entry : file->entries()) {
    file_of_.emplace(entry.name, static_cast<int>(files_.size()));
  }
  files_.push_back(*std::move(file));
  return absl::OkStatus();
}

absl::Status Checkpoint::AddIndex(const std::string& folder, const std::string& index_path) {
  absl::StatusOr<std::string> text = ReadTextFile(index_path, kMaxIndexBytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<std::map<std::string, std::string>> shards = ParseShardIndex(*text, index_path);
  if (!shards.ok()) return shards.status();
  std::map<std::string, int> file_index;
  for (const auto& [tensor, shard] : *shards) {
    const auto [known, is_new] = file_index.emplace(shard, static_cast<int>(files_.size()));
    if (is_new) {
      const std::string path = JoinPath(folder, shard);
      if (!Exists(path)) {
        return absl::NotFoundError(absl::StrCat(path, ": this shard, which ", index_path,
                                                " names, is missing: fetch it again"));
      }
      absl::StatusOr<Safetensors> file = Safetensors::Open(path);
      if (!file.ok()) return file.status();
      files_.push_back(*std::move(file));
    }
    if (files_[known->second].Find(tensor) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          index_path, ": says that ", shard, " has tensor '", tensor, "', but it does not"));
    }
    file_of_.emplace(tensor, known->second);
  }
  return absl::OkStatus();
}

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& path) {
  Checkpoint checkpoint;
  const auto finish = [&](const absl::Status& status) -> absl::StatusOr<Checkpoint> {
    if (!status.ok()) return status;
    return std::move(checkpoint);
  };
  if (!IsFolder(path)) return finish(checkpoint.AddFile(path));

  const std::string single = JoinPath(path, "model.safetensors");
  if (Exists(single)) return finish(checkpoint.AddFile(single));
  const std::string index = JoinPath(path, "model.safetensors.index.json");
  if (Exists(index)) return finish(checkpoint.AddIndex(path, index));
  const std::string weights = JoinPath(path, "weights.safetensors");
  if (Exists(weights)) return finish(checkpoint.AddFile(weights));

  absl::StatusOr<std::vector<std::string>> names = ListFolder(path, ".safetensors");
  if (!names.ok()) return names.status();
  if (names->empty()) {
    return absl::NotFoundError(absl::StrCat(path, ": has no .safetensors file"));
  }
  if (names->size() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": has several .safetensors files (", absl::StrJoin(*names, ", "),
                     ") and no model.safetensors.index.json: name one of them"));
  }
  return finish(checkpoint.AddFile(JoinPath(path, names->front())));
}

CheckpointTensor Checkpoint::Find(std::string_view name) const {
  const auto found = file_of_.find(name);
  if (found == file_of_.end()) return {};
  const Safetensors& file = files_[found->second];
  return {&file, file.Find(name)};
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : file_of_) names.push_back(name);
  return names;
}

}  // namespace qianyi
