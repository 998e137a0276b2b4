#include "runtime/storage/convert.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoints/gguf_tokenizer.h"
#include "runtime/models/registry.h"
#include "runtime/parse_json.h"
#include "runtime/storage/checkpoint.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/format.h"
#include "runtime/storage/model_layout.h"
#include "runtime/storage/model_writer.h"
#include "runtime/storage/source_rows.h"

namespace qianyi {
namespace {

constexpr uint64_t kMaxConfigBytes = 16 << 20;
constexpr int64_t kSourceFloats = 1 << 20;  // read and packed at a time, at least one panel
constexpr size_t kNamesShown = 8;

std::string Shown(const std::vector<std::string>& names) {
  const size_t count = std::min(names.size(), kNamesShown);
  std::string text =
      absl::StrJoin(std::vector<std::string>(names.begin(), names.begin() + count), ", ");
  if (count < names.size()) text += absl::StrFormat(" and %d more", names.size() - count);
  return text;
}

// Numbers of larger magnitude become infinite in this dtype (round to nearest even).
float LargestFinite(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return std::nextafter(65520.0f, 0.0f);
    case DType::kBF16:
      return std::nextafter(0x1.ffp127f, 0.0f);
    default:
      return std::numeric_limits<float>::max();
  }
}

bool HasTokenizer(const std::string& folder) {
  for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.json", "ice_text.model"}) {
    std::error_code ignored;
    if (std::filesystem::exists(JoinPath(folder, name), ignored)) return true;
  }
  return false;
}

// What changes when a file of the checkpoint does.
std::string Fingerprint(const Checkpoint& checkpoint) {
  std::string text = "convert";
  for (const CheckpointFile& file : checkpoint.files()) {
    struct stat info = {};
    stat(file.path.c_str(), &info);
    absl::StrAppendFormat(&text, "\n%s %d %d.%09d", file.path, info.st_size, info.st_mtim.tv_sec,
                          info.st_mtim.tv_nsec);
  }
  return text;
}

struct Source {
  Checkpoint checkpoint = {};
  std::string config = {};  // text of config.json
  SideFiles side_files;
};

absl::Status In(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrFormat("%s: %s", path, status.message()));
}

// The checkpoint, and what stands beside it. What a GGUF file says of itself counts where there is
// no config.json, or no tokenizer.
absl::StatusOr<Source> OpenSource(const ConvertOptions& options) {
  std::error_code ignored;
  const bool is_file = std::filesystem::is_regular_file(options.source, ignored);
  const std::filesystem::path parent = std::filesystem::path(options.source).parent_path();
  const std::string folder =
      is_file ? (parent.empty() ? std::filesystem::path(".") : parent).string() : options.source;
  Source source{.side_files = {.folder = folder}};
  source.config = options.config;
  const std::string config_path = JoinPath(folder, "config.json");
  absl::Status no_config = absl::OkStatus();
  if (source.config.empty()) {
    absl::StatusOr<std::string> config = ReadTextFile(config_path, kMaxConfigBytes);
    if (config.ok()) source.config = *std::move(config);
    no_config = config.status();
    if (!no_config.ok() && !absl::IsNotFound(no_config)) return no_config;
  }
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(options.source);
  if (!checkpoint.ok()) return checkpoint.status();
  source.checkpoint = *std::move(checkpoint);
  const Gguf* gguf = source.checkpoint.gguf();
  if (gguf == nullptr)
    return no_config.ok() ? absl::StatusOr<Source>(std::move(source)) : no_config;
  const std::string& path = source.checkpoint.files()[0].path;
  if (source.config.empty()) {
    absl::StatusOr<std::string> config = ConfigFromGguf(*gguf);
    if (!config.ok()) return In(path, config.status());
    source.config = *std::move(config);
  }
  if (HasTokenizer(folder)) return source;
  absl::StatusOr<std::map<std::string, std::string>> files = TokenizerFiles(*gguf);
  if (!files.ok()) return In(path, files.status());
  source.side_files.texts = *std::move(files);
  return source;
}

class Converter {
 public:
  Converter(const Checkpoint& checkpoint, ModelSpec* spec)
      : checkpoint_(checkpoint), spec_(*spec) {}

  // Every tensor is there, in the shape asked for and a dtype we read. What is only kept where the
  // checkpoint has it leaves the spec otherwise.
  absl::Status Match(const std::string& source) {
    std::vector<std::string> missing;
    std::vector<TensorSpec> tensors;
    const nlohmann::json config = ParseJson(spec_.config_json);
    absl::StatusOr<const ModelFamily*> family = FindFamily(config);
    if (!family.ok()) return family.status();
    for (const TensorSpec& tensor : spec_.tensors) {
      TensorSources sources;
      if ((*family)->sources != nullptr) sources = (*family)->sources(config, tensor);
      absl::StatusOr<SourceRows> found = SourceRows::Find(checkpoint_, tensor, sources);
      if (absl::IsNotFound(found.status())) {
        if (!tensor.kept) missing.push_back(tensor.name);
        continue;
      }
      if (!found.ok()) return found.status();
      sources_.push_back(*std::move(found));
      tensors.push_back(tensor);
      tensors.back().integer_bits = sources_.back().integer_bits();
    }
    if (missing.empty()) {
      spec_.tensors = std::move(tensors);
      return absl::OkStatus();
    }
    return absl::NotFoundError(absl::StrFormat("%s: lacks %d of the %d tensors of a %s model: %s",
                                               source, missing.size(), spec_.tensors.size(),
                                               spec_.family, Shown(missing)));
  }

  std::vector<std::string> original_dtypes() const {
    std::vector<std::string> dtypes;
    for (const SourceRows& source : sources_) dtypes.push_back(source.dtype());
    return dtypes;
  }

  std::vector<std::string> Unused() const {
    std::set<std::string> used;
    for (const SourceRows& source : sources_) {
      for (std::string& name : source.source_names()) used.insert(std::move(name));
    }
    std::vector<std::string> unused;
    for (std::string& name : checkpoint_.names()) {
      if (!used.contains(name)) unused.push_back(std::move(name));
    }
    return unused;
  }

  // Thread-safe.
  absl::Status Fill(const StoredTensor& tensor, int index, const Block& block,
                    std::byte* out) const {
    const SourceRows& source = sources_[index];
    const bool constant = tensor.spec.use == TensorUse::kConstant;
    const int64_t cols = source.cols();
    const int64_t step = std::max<int64_t>(1, kSourceFloats / cols / kPanelRows) * kPanelRows;
    std::vector<float> values(std::min(step, block.rows) * cols);
    for (int64_t row = 0; row < block.rows; row += step) {
      const int64_t count = std::min(step, block.rows - row);
      const int64_t first = block.row_begin + row;
      std::byte* panels = out + row / kPanelRows * PanelBytes(tensor.format, cols);
      if (KeepsIntegers(source, tensor.format)) {
        if (auto status = CopyIntegers(tensor, source, first, count, panels); !status.ok()) {
          return status;
        }
        continue;
      }
      absl::Status status = source.ReadFloats(first, count, values.data());
      if (!status.ok()) return status;
      status = CheckFinite(tensor, source, values.data(), first, count, cols);
      if (!status.ok()) return status;
      if (constant) {
        std::copy_n(values.data(), count * cols, reinterpret_cast<float*>(out) + row * cols);
      } else {
        PackRows(tensor.format, values.data(), count, cols, cols, panels);
      }
    }
    return absl::OkStatus();
  }

 private:
  static bool KeepsIntegers(const SourceRows& source, PackedFormat format) {
    return source.integer_bits() > 0 && format == KeptFormat(source.integer_bits());
  }
  static absl::Status CopyIntegers(const StoredTensor& tensor, const SourceRows& source,
                                   int64_t first, int64_t count, std::byte* out) {
    const int64_t cols = source.cols();
    std::vector<int8_t> values(count * cols);
    std::vector<float> scales(count);
    auto status = source.ReadIntegers(first, count, values.data(), scales.data());
    if (!status.ok()) return status;
    PackIntegers(tensor.format, values.data(), scales.data(), nullptr, count, cols, cols, out);
    return absl::OkStatus();
  }

  static absl::Status CheckFinite(const StoredTensor& tensor, const SourceRows& source,
                                  const float* values, int64_t first_row, int64_t rows,
                                  int64_t cols) {
    const float limit = LargestFinite(tensor.format.dtype);
    for (int64_t row = 0; row < rows; ++row) {
      const float* begin = values + row * cols;
      bool good = true;
      for (int64_t i = 0; i < cols; ++i) good &= std::abs(begin[i]) <= limit;  // false for NaN
      if (good) continue;
      const float* bad =
          std::find_if(begin, begin + cols, [&](float v) { return !(std::abs(v) <= limit); });
      const bool finite = std::isfinite(*bad);
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: tensor '%s' has the value %g in row %d, column %d, %s",
                          source.path(), tensor.spec.name, *bad, first_row + row, bad - begin,
                          finite ? absl::StrFormat("too large for %s; choose bf16 or f32",
                                                   DTypeName(tensor.format.dtype))
                                 : std::string("which is no number: the checkpoint is damaged")));
    }
    return absl::OkStatus();
  }

  const Checkpoint& checkpoint_;
  ModelSpec& spec_;
  std::vector<SourceRows> sources_;  // of the spec's tensors
};

}  // namespace

absl::Status Convert(const ConvertOptions& options, const ProgressFn& progress) {
  absl::StatusOr<Source> source = OpenSource(options);
  if (!source.ok()) return source.status();
  const Checkpoint* checkpoint = &source->checkpoint;
  absl::StatusOr<ModelSpec> spec = DescribeModel(source->config);
  if (!spec.ok()) {
    return absl::Status(spec.status().code(),
                        absl::StrFormat("%s: %s", options.source, spec.status().message()));
  }
  for (const CheckpointFile& file : checkpoint->files()) {
    if (file.converted) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: is in streaming layout already; convert the original checkpoint", file.path));
    }
  }

  Converter converter(*checkpoint, &*spec);
  absl::Status status = converter.Match(options.source);
  if (!status.ok()) return status;
  const std::vector<std::string> unused = converter.Unused();
  if (progress && !unused.empty()) {
    const std::string note = absl::StrFormat("%d tensors the model does not use are left out: %s",
                                             unused.size(), Shown(unused));
    progress({.tensor = {}, .note = note});
  }

  absl::StatusOr<ModelFile> model = LayOut(*spec, options.format, converter.original_dtypes());
  if (!model.ok()) return model.status();
  absl::StatusOr<std::unique_ptr<ModelWriter>> writer = ModelWriter::Create(
      *std::move(model), options.destination, source->side_files, Fingerprint(*checkpoint));
  if (!writer.ok()) return writer.status();
  if (progress && (*writer)->earlier_blocks() > 0) {
    const std::string note =
        absl::StrFormat("%d of %d blocks are there from a run that was cut off: going on from them",
                        (*writer)->earlier_blocks(), FileOrder((*writer)->model()).size());
    progress({.tensor = {}, .note = note});
  }
  const ModelFile& layout = (*writer)->model();
  return WriteModel(
      **writer, options.threads,
      [&](int tensor, int block, std::byte* out) {
        const StoredTensor& stored = layout.tensors[tensor];
        return converter.Fill(stored, tensor, stored.blocks[block], out);
      },
      progress);
}

}  // namespace qianyi
