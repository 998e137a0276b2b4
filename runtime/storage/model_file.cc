#include "runtime/storage/model_file.h"

#include <sys/stat.h>

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/model_layout.h"
#include "runtime/storage/safetensors.h"

namespace qianyi {
namespace {

constexpr uint64_t kMaxConfigBytes = 16 << 20;

bool Exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

absl::Status NotConverted(const std::string& folder) {
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s: is a checkpoint that is not in streaming layout yet; run `qianyi convert "
      "%s DESTINATION` and use that folder",
      folder, folder));
}

absl::StatusOr<std::vector<Safetensors>> OpenFiles(const std::string& folder) {
  absl::StatusOr<std::vector<std::string>> names = ListFolder(folder, ".safetensors");
  if (!names.ok()) return names.status();
  std::vector<Safetensors> files;
  for (const std::string& name : *names) {
    absl::StatusOr<Safetensors> file = Safetensors::Open(JoinPath(folder, name));
    if (!file.ok()) return file.status();
    if (!file->metadata().contains(std::string(kFormatKey))) return NotConverted(folder);
    files.push_back(*std::move(file));
  }
  if (files.empty()) {
    if (Exists(JoinPath(folder, "model.safetensors.index.json"))) return NotConverted(folder);
    return absl::NotFoundError(
        absl::StrFormat("%s: has no .safetensors file, so it is not a model", folder));
  }
  return files;
}

}  // namespace

uint64_t StoredTensor::bytes() const {
  uint64_t sum = 0;
  for (const Block& block : blocks) sum += block.bytes;
  return sum;
}

PackedFormat KeptFormat(int integer_bits) {
  return {integer_bits == 4 ? DType::kI4 : DType::kI8, 0};
}

PackedFormat FormatFor(const TensorSpec& tensor, PackedFormat requested) {
  if (tensor.use == TensorUse::kConstant) return {DType::kF32, 0};
  const int bits = requested.dtype == DType::kI4 ? 4 : 8;
  if (tensor.integer_bits > 0 && requested.integer() && tensor.integer_bits <= bits) {
    return KeptFormat(tensor.integer_bits);
  }
  if (requested.group > 0 && tensor.cols() % requested.group != 0) requested.group = 0;
  return requested;
}

absl::StatusOr<ModelFile> ModelFile::Open(const std::string& path) {
  std::error_code error;  // only when there is no current folder; then the path stays as it is
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  const std::string folder = error ? path : absolute.string();
  absl::StatusOr<std::vector<Safetensors>> headers = OpenFiles(folder);
  if (!headers.ok()) return headers.status();
  absl::StatusOr<std::string> config =
      ReadTextFile(JoinPath(folder, "config.json"), kMaxConfigBytes);
  if (!config.ok()) return config.status();
  return ReadContents(folder, *config, *headers);
}

absl::StatusOr<ModelFile> ModelFile::Lay(const ModelSpec& spec, PackedFormat format,
                                         uint64_t seed) {
  absl::StatusOr<ModelFile> model =
      LayOut(spec, format, std::vector<std::string>(spec.tensors.size(), "synth"));
  if (!model.ok()) return model.status();
  model->files = {absl::StrFormat("synth:%d", seed)};
  return model;
}

int ModelFile::Find(std::string_view name) const {
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (tensors[t].spec.name == name) return static_cast<int>(t);
  }
  return -1;
}

}  // namespace qianyi
