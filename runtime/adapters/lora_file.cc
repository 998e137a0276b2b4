#include "runtime/adapters/lora_file.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "runtime/adapters/in_file.h"
#include "runtime/parse_json.h"
#include "runtime/storage/file_util.h"

namespace qianyi {
namespace {

using Json = nlohmann::json;

constexpr char kPeftPrefix[] = "base_model.model.";
constexpr uint64_t kMaxConfigBytes = 1 << 20;

std::string Shown(const Json& value) {
  return value.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 80);
}

bool IsOff(const Json& value) {
  return value.is_null() || value == false ||
         ((value.is_array() || value.is_object()) && value.empty());
}

// Fields that change what the adapter computes, and that nothing here does.
absl::Status RefuseUnsupported(const Json& config, const std::string& path) {
  const Json bias = config.value("bias", Json("none"));
  if (bias != "none") {
    return InFile(path, absl::StrCat("bias is ", Shown(bias), "; only \"none\" can be run"));
  }
  for (const char* field :
       {"modules_to_save", "use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform",
        "layer_replication", "lora_bias", "trainable_token_indices", "target_parameters"}) {
    if (config.contains(field) && !IsOff(config[field])) {
      return InFile(path, absl::StrCat(field, " is ", Shown(config[field]),
                                       "; adapters that use it cannot be run"));
    }
  }
  return absl::OkStatus();
}

// "MODULE.lora_A.weight" of PEFT, "MODULE.matrix_A.N" of SwissArmyTransformer: the module (there
// with its part N) and which of the two it is; 0 when it is neither.
char SplitName(absl::string_view name, std::string* module) {
  for (const char side : {'A', 'B'}) {
    const std::string peft = absl::StrCat(".lora_", std::string(1, side), ".weight");
    if (absl::EndsWith(name, peft)) {
      name.remove_suffix(peft.size());
      if (absl::StartsWith(name, kPeftPrefix)) name.remove_prefix(sizeof(kPeftPrefix) - 1);
      *module = std::string(name);
      return side;
    }
    const std::string sat = absl::StrCat(".matrix_", std::string(1, side), ".");
    const size_t at = name.rfind(sat);
    if (at != name.npos) {
      *module = absl::StrCat(name.substr(0, at), ".", name.substr(at + sat.size()));
      return side;
    }
  }
  return 0;
}

}  // namespace

// What a module's name stands for.
struct LoraFile::Targets {
  struct Target {
    int tensor;
    int64_t cols;
    RowRuns rows;
  };
  std::map<std::string, Target, std::less<>> by_module;

  explicit Targets(const ModelFile& model) {
    for (size_t i = 0; i < model.tensors.size(); ++i) {
      const TensorSpec& spec = model.tensors[i].spec;
      absl::string_view name = spec.name;
      if (spec.use != TensorUse::kMatrix || spec.kept || !absl::EndsWith(name, ".weight")) continue;
      name.remove_suffix(absl::string_view(".weight").size());
      by_module[std::string(name)] = {static_cast<int>(i), spec.cols(), {0, spec.rows(), 0, 1}};
    }
    for (const ModuleAlias& alias : model.spec.aliases) {
      const int tensor = model.Find(alias.tensor);
      by_module[alias.module] = {tensor, model.tensors[tensor].spec.cols(), alias.rows};
    }
  }
};

absl::StatusOr<LoraFile> LoraFile::Open(const std::string& folder, const ModelFile& model,
                                        const std::string& weights) {
  const std::string config_path = JoinPath(folder, "adapter_config.json");
  absl::StatusOr<std::string> config = ReadTextFile(config_path, kMaxConfigBytes);
  if (!config.ok()) return config.status();
  std::string path = JoinPath(folder, weights.empty() ? "adapter_model.safetensors" : weights);
  std::error_code ignored;
  const std::string other = JoinPath(folder, "adapter_sat.safetensors");
  if (weights.empty() && !std::filesystem::exists(path, ignored) &&
      std::filesystem::exists(other, ignored)) {
    path = other;
  }
  absl::StatusOr<Safetensors> tensors = Safetensors::Open(path);
  if (!tensors.ok()) return tensors.status();
  return Parse(*config, config_path, *std::move(tensors), model);
}

absl::StatusOr<LoraFile> LoraFile::Parse(const std::string& config_text,
                                         const std::string& config_path, Safetensors tensors,
                                         const ModelFile& model) {
  LoraFile file;
  file.config_path_ = config_path;
  const Json config = ParseJson(config_text);
  if (absl::Status status = file.CheckConfig(config); !status.ok()) return status;
  file.tensors_ = std::move(tensors);
  const Targets targets(model);
  if (absl::Status status = file.Match(targets); !status.ok()) return status;
  if (absl::Status status = file.CheckRows(model); !status.ok()) return status;
  if (absl::Status status = file.CheckTargets(config, targets); !status.ok()) return status;
  return file;
}

absl::Status LoraFile::CheckConfig(const Json& config) {
  const std::string& path = config_path_;
  if (!config.is_object()) return InFile(path, "is not a JSON object");
  const Json type = config.value("peft_type", Json("LORA"));
  if (type != "LORA") {
    return InFile(path, absl::StrCat("peft_type is ", Shown(type), "; only \"LORA\" can be run"));
  }
  const Json rank = config.value("r", Json());
  if (!rank.is_number_integer() || rank.get<double>() < 1 || rank.get<double>() > kMaxLoraRank) {
    return InFile(path, absl::StrCat("r is ", Shown(rank), "; it must be 1..", kMaxLoraRank));
  }
  const Json alpha = config.value("lora_alpha", Json());
  if (!alpha.is_number() || !(std::abs(alpha.get<double>()) <= 1e6)) {
    return InFile(path, absl::StrCat("lora_alpha is ", Shown(alpha), "; it must be -1e6..1e6"));
  }
  const Json rslora = config.value("use_rslora", Json(false));
  if (!rslora.is_boolean()) {
    return InFile(path,
                  absl::StrCat("use_rslora is ", Shown(rslora), "; it must be true or false"));
  }
  // fan_in_fan_out says how the base stored its weight; A and B are the same either way.
  rank_ = rank.get<int64_t>();
  alpha_ = alpha.get<double>();
  const double divisor = rslora.get<bool>() ? std::sqrt(1.0 * rank_) : 1.0 * rank_;
  scale_ = static_cast<float>(alpha_ / divisor);
  return RefuseUnsupported(config, path);
}

absl::Status LoraFile::Match(const Targets& targets) {
  std::map<std::string, Part> parts;
  for (const SafetensorsEntry& entry : tensors_.entries()) {
    std::string module;
    const char side = SplitName(entry.name, &module);
    if (side == 0) {
      return InFile(tensors_.path(), absl::StrCat("tensor '", entry.name,
                                                  "' is no lora_A, lora_B, matrix_A or matrix_B"));
    }
    const SafetensorsEntry*& place = side == 'A' ? parts[module].a : parts[module].b;
    if (place != nullptr) {
      return InFile(tensors_.path(), absl::StrCat("tensors '", place->name, "' and '", entry.name,
                                                  "' are for the same module"));
    }
    place = &entry;
  }
  if (parts.empty()) return InFile(tensors_.path(), "has no tensors");
  for (const auto& [module, part] : parts) {
    if (absl::Status status = AddPart(targets, module, part); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status LoraFile::AddPart(const Targets& targets, const std::string& module,
                               const Part& part) {
  const std::string& path = tensors_.path();
  const SafetensorsEntry* present = part.a != nullptr ? part.a : part.b;
  if (part.a == nullptr || part.b == nullptr) {
    return InFile(path, absl::StrCat("tensor '", present->name, "' has no ",
                                     part.a == nullptr ? "A" : "B", " beside it"));
  }
  const auto target = targets.by_module.find(module);
  if (target == targets.by_module.end()) {
    return InFile(path,
                  absl::StrCat("tensor '", present->name, "': the model has no matrix of the name ",
                               module, "; was the adapter made for another model?"));
  }
  const auto& [tensor, cols, rows] = target->second;
  const auto check = [&](const SafetensorsEntry& entry, std::vector<int64_t> shape) {
    if (entry.shape == shape) return absl::OkStatus();
    return InFile(path,
                  absl::StrCat("tensor '", entry.name, "' is [", absl::StrJoin(entry.shape, ", "),
                               "]; with r ", rank_, " of adapter_config.json it must be [",
                               absl::StrJoin(shape, ", "), "]"));
  };
  if (absl::Status status = check(*part.a, {rank_, cols}); !status.ok()) return status;
  if (absl::Status status = check(*part.b, {rows.rows(), rank_}); !status.ok()) return status;
  auto matrix = std::find_if(matrices_.begin(), matrices_.end(),
                             [wanted = tensor](const Matrix& it) { return it.tensor == wanted; });
  if (matrix == matrices_.end()) {
    matrices_.push_back({.tensor = tensor, .cols = cols, .parts = {}});
    matrix = matrices_.end() - 1;
  }
  matrix->parts.push_back({part.a, part.b, rows});
  matrix->stacked |= !rows.together();
  return absl::OkStatus();
}

// No row may be named twice: parts of one matrix are added side by side.
absl::Status LoraFile::CheckRows(const ModelFile& model) {
  for (const Matrix& matrix : matrices_) {
    const int64_t rows = model.tensors[matrix.tensor].spec.rows();
    std::vector<const Part*> owner(rows, nullptr);
    for (const Part& part : matrix.parts) {
      for (int64_t i = 0; i < part.rows.rows(); ++i) {
        const int64_t row = part.rows.Row(i);
        if (owner[row] != nullptr) {
          return InFile(tensors_.path(),
                        absl::StrCat("tensors '", owner[row]->b->name, "' and '", part.b->name,
                                     "' both add to row ", row, " of ",
                                     model.tensors[matrix.tensor].spec.name));
        }
        owner[row] = &part;
      }
    }
    const int64_t parts = static_cast<int64_t>(matrix.parts.size());
    if (parts * rank_ > kMaxLoraRank || parts > kMaxLoraParts) {
      return InFile(
          tensors_.path(),
          absl::StrCat(parts, " parts of rank ", rank_, " add to ",
                       model.tensors[matrix.tensor].spec.name, "; at most ", kMaxLoraParts,
                       " parts and a rank of ", kMaxLoraRank, " together can be run"));
    }
    const int64_t stacked_rows = matrix.stacked ? parts * rows : 0;
    for (const Part& part : matrix.parts) {
      floats_ += rank_ * (matrix.cols + (matrix.stacked ? 0 : part.rows.rows()));
    }
    floats_ += rank_ * stacked_rows;
  }
  return absl::OkStatus();
}

bool LoraFile::Covers(int tensor, const RowRuns& rows) const {
  for (const Matrix& matrix : matrices_) {
    if (matrix.tensor != tensor) continue;
    // An alias of the whole may come as its parts, as SwissArmyTransformer has it.
    int64_t covered = 0;
    for (const Part& part : matrix.parts) {
      if (part.rows == rows) return true;
      covered += part.rows.rows();
    }
    return rows.Row(rows.rows() - 1) == rows.rows() - 1 && covered == rows.rows();
  }
  return false;
}

// What adapter_config.json names must be there, in every layer.
absl::Status LoraFile::CheckTargets(const Json& config, const Targets& targets) const {
  const Json names = config.value("target_modules", Json());
  if (names.is_string()) return absl::OkStatus();  // an expression: what matched it is in the file
  if (!names.is_array() || names.empty()) {
    return InFile(config_path_, absl::StrCat("target_modules is ", Shown(names),
                                             "; it must be a list of names, or a text"));
  }
  for (const Json& name : names) {
    if (!name.is_string()) {
      return InFile(config_path_, absl::StrCat("target_modules has ", Shown(name), ", no name"));
    }
    const std::string text = name.get<std::string>();
    bool found = false;
    for (const auto& [module, target] : targets.by_module) {
      if (module != text && !absl::EndsWith(module, absl::StrCat(".", text))) continue;
      found = true;
      if (!Covers(target.tensor, target.rows)) {
        return InFile(tensors_.path(), absl::StrCat("target_modules names ", text,
                                                    ", but there is nothing for ", module));
      }
    }
    if (!found) {
      return InFile(config_path_,
                    absl::StrCat("target_modules names ", text, ", which the model does not have"));
    }
  }
  return absl::OkStatus();
}

absl::Status LoraFile::ReadFinite(const SafetensorsEntry& entry, float* out) const {
  absl::Status status = tensors_.ReadFloats(entry, 0, entry.elements(), out);
  if (!status.ok()) return status;
  for (int64_t i = 0; i < entry.elements(); ++i) {
    if (!std::isfinite(out[i])) {
      return InFile(tensors_.path(), absl::StrCat("tensor '", entry.name, "' has ", out[i],
                                                  " at element ", i, "; it must be finite"));
    }
  }
  return absl::OkStatus();
}

// A as it is; B transposed, row i of the part to its row of the matrix, less `row_begin`.
absl::Status LoraFile::ReadPart(const Part& part, int64_t row_begin, int64_t stride, float* a,
                                float* b) const {
  if (absl::Status status = ReadFinite(*part.a, a); !status.ok()) return status;
  std::vector<float> rows(part.b->elements());
  if (absl::Status status = ReadFinite(*part.b, rows.data()); !status.ok()) return status;
  for (int64_t i = 0; i < part.rows.rows(); ++i) {
    const int64_t row = part.rows.Row(i);
    for (int64_t j = 0; j < rank_; ++j) b[j * stride + row - row_begin] = rows[i * rank_ + j];
  }
  return absl::OkStatus();
}

absl::Status LoraFile::Read(float* memory, std::vector<std::vector<LoraWeights>>* by_tensor) const {
  for (const Matrix& matrix : matrices_) {
    std::vector<LoraWeights>& weights = (*by_tensor)[matrix.tensor];
    const int64_t parts = static_cast<int64_t>(matrix.parts.size());
    if (matrix.stacked) {
      int64_t rows = 0;
      for (const Part& part : matrix.parts) {
        rows = std::max(rows, part.rows.Row(part.rows.rows() - 1) + 1);
      }
      float* a = memory;
      float* b = memory + parts * rank_ * matrix.cols;
      memory = b + parts * rank_ * rows;
      std::fill(b, memory, 0.0f);  // rows of the other parts
      weights.push_back({a, b, parts * rank_, scale_, 0, rows});
      for (const Part& part : matrix.parts) {
        if (absl::Status status = ReadPart(part, 0, rows, a, b); !status.ok()) return status;
        a += rank_ * matrix.cols;
        b += rank_ * rows;
      }
      continue;
    }
    for (const Part& part : matrix.parts) {
      float* a = memory;
      float* b = a + rank_ * matrix.cols;
      memory = b + rank_ * part.rows.rows();
      weights.push_back({a, b, rank_, scale_, part.rows.begin, part.rows.rows()});
      absl::Status status = ReadPart(part, part.rows.begin, part.rows.rows(), a, b);
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace qianyi
