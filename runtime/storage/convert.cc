#include "runtime/storage/convert.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "runtime/models/registry.h"
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

class Converter {
 public:
  Converter(const ModelSpec& spec, const Checkpoint& checkpoint)
      : spec_(spec), checkpoint_(checkpoint) {}

  // Every tensor is there, in the shape asked for and a dtype we read.
  absl::Status Match(const std::string& source) {
    std::vector<std::string> missing;
    for (const TensorSpec& tensor : spec_.tensors) {
      absl::StatusOr<SourceRows> found = SourceRows::Find(checkpoint_, tensor);
      if (absl::IsNotFound(found.status())) {
        missing.push_back(tensor.name);
        continue;
      }
      if (!found.ok()) return found.status();
      sources_.push_back(*std::move(found));
    }
    if (missing.empty()) return absl::OkStatus();
    return absl::NotFoundError(absl::StrFormat("%s: lacks %d of the %d tensors of a %s model: %s",
                                               source, missing.size(), spec_.tensors.size(),
                                               spec_.family, Shown(missing)));
  }

  std::vector<std::string> original_dtypes() const {
    std::vector<std::string> dtypes;
    for (const SourceRows& source : sources_) dtypes.push_back(source.dtype());
    return dtypes;
  }

  std::vector<int> integer_bits() const {
    std::vector<int> bits;
    for (const SourceRows& source : sources_) bits.push_back(source.integer_bits());
    return bits;
  }

  std::vector<std::string> Unused() const {
    std::set<std::string> used;
    for (size_t i = 0; i < sources_.size(); ++i) {
      const std::string& name = sources_[i].name();
      used.insert(name);
      if (sources_[i].integer_bits() > 0) used.insert(name + "_scale");
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

  const ModelSpec& spec_;
  const Checkpoint& checkpoint_;
  std::vector<SourceRows> sources_;
};

}  // namespace

absl::Status Convert(const ConvertOptions& options, const ProgressFn& progress) {
  const std::string config_path = JoinPath(options.source, "config.json");
  absl::StatusOr<std::string> config = ReadTextFile(config_path, kMaxConfigBytes);
  if (!config.ok()) return config.status();
  absl::StatusOr<ModelSpec> spec = DescribeModel(*config);
  if (!spec.ok()) {
    return absl::Status(spec.status().code(),
                        absl::StrFormat("%s: %s", options.source, spec.status().message()));
  }
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(options.source);
  if (!checkpoint.ok()) return checkpoint.status();
  for (const Safetensors& file : checkpoint->files()) {
    if (file.metadata().contains(std::string(kFormatKey))) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: is in streaming layout already; convert the original checkpoint", file.path()));
    }
  }

  std::erase_if(spec->tensors, [&](const TensorSpec& tensor) {
    const std::string& name = tensor.slice.tensor.empty() ? tensor.name : tensor.slice.tensor;
    return tensor.kept && checkpoint->Find(name).entry == nullptr;
  });
  Converter converter(*spec, *checkpoint);
  absl::Status status = converter.Match(options.source);
  if (!status.ok()) return status;
  const std::vector<std::string> unused = converter.Unused();
  if (progress && !unused.empty()) {
    const std::string note = absl::StrFormat("%d tensors the model does not use are left out: %s",
                                             unused.size(), Shown(unused));
    progress({.tensor = {}, .note = note});
  }

  const std::vector<int> bits = converter.integer_bits();
  for (size_t i = 0; i < bits.size(); ++i) spec->tensors[i].integer_bits = bits[i];
  absl::StatusOr<ModelFile> model = LayOut(*spec, options.format, converter.original_dtypes());
  if (!model.ok()) return model.status();
  absl::StatusOr<std::unique_ptr<ModelWriter>> writer =
      ModelWriter::Create(*std::move(model), options.destination, options.source);
  if (!writer.ok()) return writer.status();
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
