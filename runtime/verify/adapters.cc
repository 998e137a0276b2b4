// Adapters over the model of another fixture folder.
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/adapters/lora_file.h"
#include "runtime/loaded_model.h"
#include "runtime/storage/convert.h"
#include "runtime/storage/file_util.h"
#include "runtime/verify/fixture.h"
#include "runtime/verify/model_cases.h"
#include "runtime/verify/verify.h"

namespace qianyi {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kAdapterBytes = 256 << 20;  // reserved, not taken

// Paths are relative to the folder or to its parent.
absl::StatusOr<std::string> FindBase(const std::string& folder, const Json& config) {
  const std::string base = StringOf(config, "base_model");
  std::error_code ignored;
  for (const std::string& from : {folder, JoinPath(folder, "..")}) {
    const std::string path = JoinPath(from, base);
    if (!base.empty() && std::filesystem::exists(JoinPath(path, "config.json"), ignored)) {
      return path;
    }
  }
  return absl::NotFoundError(absl::StrCat(folder, "/config.json: base_model '", base,
                                          "' is no model's folder, from there or its parent"));
}

class AdapterFixture {
 public:
  AdapterFixture(std::string folder, VerifyReport& report)
      : folder_(std::move(folder)), report_(report) {}

  // `list`: the field of cases.json with what runs, each with its `cases` when `nested`.
  absl::Status Open(const char* list, bool nested);
  absl::Status VerifyLoraCases();
  absl::Status VerifyPrefixes();
  void ReportRest();

 private:
  absl::StatusOr<std::shared_ptr<const Adapter>> Load(const std::string& folder,
                                                      const AdapterFiles& files);
  absl::Status Replay(const Json& fields, const Adapter& adapter);
  absl::Status ReplayPrefix(const Json& variant);
  absl::Status ReplaySat(const Json& fields);
  absl::StatusOr<std::string> SatFolder(const Json& fields) const;
  void ReplayKeysAndValues(const std::string& variant, const KvPrefix& prefix);
  void AddSame(const std::string& name, const Json& actual, const Json& expected);

  const std::string folder_;
  VerifyReport& report_;
  const TemporaryFolder temporary_;
  Json config_, cases_;
  std::optional<Safetensors> tensors_;
  std::unique_ptr<LoadedModel> loaded_;
  std::set<std::string> replayed_;
  int adapters_ = 0;
};

absl::Status AdapterFixture::Open(const char* list, bool nested) {
  if (absl::Status status = temporary_.status(); !status.ok()) return status;
  for (const auto& [name, json] : {std::pair("config.json", &config_), {"cases.json", &cases_}}) {
    absl::StatusOr<Json> read = ReadJson(JoinPath(folder_, name));
    if (!read.ok()) return read.status();
    *json = *std::move(read);
  }
  absl::StatusOr<Safetensors> tensors = Safetensors::Open(JoinPath(folder_, "cases.safetensors"));
  if (!tensors.ok()) return tensors.status();
  tensors_ = *std::move(tensors);
  if (!cases_.contains(list) || !cases_[list].is_array() || cases_[list].empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder_, "/cases.json has no list \"", list, "\""));
  }
  Json all = Json::array();
  for (const Json& item : cases_[list]) {
    const Json inner = item.is_object() ? item.value("cases", Json::array()) : Json();
    if (nested && (!inner.is_array() || inner.empty())) {
      return absl::InvalidArgumentError(
          absl::StrCat(folder_, "/cases.json: an entry of \"", list, "\" has no cases"));
    }
    if (nested) all.insert(all.end(), inner.begin(), inner.end());
    if (!nested) all.push_back(item);
  }
  if (cases_.contains("sat_adapter_case")) all.push_back(cases_["sat_adapter_case"]);
  absl::StatusOr<LoadOptions> options = RoomFor(all);
  if (!options.ok()) return options.status();
  options->adapter_bytes = kAdapterBytes;
  options->backend = report_.device().backend;
  options->device_bytes = report_.device().bytes;

  absl::StatusOr<std::string> base = FindBase(folder_, config_);
  if (!base.ok()) return base.status();
  const std::string converted = temporary_.path() + "/model";
  absl::Status status =
      Convert({.source = *base, .destination = converted, .format = {DType::kF32}}, {});
  if (!status.ok()) return status;
  absl::StatusOr<ModelFile> file = ModelFile::Open(converted);
  if (!file.ok()) return file.status();
  absl::StatusOr<std::unique_ptr<LoadedModel>> loaded =
      LoadedModel::Open(*std::move(file), *options);
  if (!loaded.ok()) return loaded.status();
  loaded_ = *std::move(loaded);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const Adapter>> AdapterFixture::Load(const std::string& folder,
                                                                    const AdapterFiles& files) {
  return loaded_->adapters().Load(absl::StrCat("adapter", adapters_++), folder, files);
}

void AdapterFixture::AddSame(const std::string& name, const Json& actual, const Json& expected) {
  const bool same = actual == expected;
  report_.Add({.name = name,
               .difference = same ? 0.0 : 1.0,
               .result = same ? VerifyLine::Result::kOk : VerifyLine::Result::kFail,
               .note = same ? "" : absl::StrCat("it is ", actual.dump().substr(0, 80))});
}

absl::Status AdapterFixture::Replay(const Json& fields, const Adapter& adapter) {
  const std::vector<int32_t>& ends = loaded_->model().end_tokens();
  Json complete = fields;
  // Leading tokens that all see: where only the context's length is given, it is that.
  if (complete.contains("context_length") && !complete.contains("sep")) {
    complete["sep"] = complete["context_length"];
  }
  return ModelCase(complete, ends, *tensors_, *loaded_, report_, &adapter).Replay(&replayed_);
}

absl::Status AdapterFixture::VerifyLoraCases() {
  for (const Json& fields : cases_["cases"]) {
    const std::string weights = StringOf(fields, "adapter");
    absl::StatusOr<LoraFile> file = LoraFile::Open(folder_, loaded_->store().file(), weights);
    if (!file.ok()) return file.status();
    const std::string name = StringOf(fields, "name");
    AddSame(name + ".r", file->rank(), config_.value("r", Json()));
    AddSame(name + ".lora_alpha", file->alpha(), config_.value("lora_alpha", Json()));
    absl::StatusOr<std::shared_ptr<const Adapter>> adapter = Load(folder_, {.lora = weights});
    if (!adapter.ok()) return adapter.status();
    if (absl::Status status = Replay(fields, **adapter); !status.ok()) return status;
  }
  absl::StatusOr<Json> written = ReadJson(JoinPath(folder_, "adapter_config.json"));
  if (!written.ok()) return written.status();
  AddSame("target_modules", written->value("target_modules", Json()),
          config_.value("target_modules", Json()));
  if (!cases_.contains("sat_adapter_case")) return absl::OkStatus();
  return ReplaySat(cases_["sat_adapter_case"]);
}

// The adapter in the training framework's names, with its own rank, factor and modules instead of
// those of adapter_config.json, in a folder of its own.
absl::StatusOr<std::string> AdapterFixture::SatFolder(const Json& fields) const {
  const std::string folder = JoinPath(temporary_.path(), "sat");
  std::error_code error;
  std::filesystem::create_directory(folder, error);
  const std::string weights = StringOf(fields, "adapter");
  if (!error) {
    std::filesystem::create_symlink(std::filesystem::absolute(JoinPath(folder_, weights)),
                                    JoinPath(folder, "adapter_sat.safetensors"), error);
  }
  const Json config = {{"r", fields.value("r", Json())},
                       {"lora_alpha", fields.value("lora_alpha", Json())},
                       {"target_modules", ".*"}};
  std::ofstream file(JoinPath(folder, "adapter_config.json"));
  file << config.dump();
  file.close();
  if (!error && file) return folder;
  return absl::InternalError(absl::StrCat(folder, ": cannot be written"));
}

// The logits of one full pass with it.
absl::Status AdapterFixture::ReplaySat(const Json& fields) {
  const std::string weights = StringOf(fields, "adapter");
  const std::string tensor = StringOf(fields, "logits_tensor");
  const std::string name = StringOf(fields, "name");
  if (!absl::StartsWith(tensor, absl::StrCat(name, ".")) || !fields.contains("input_ids")) {
    return absl::InvalidArgumentError(absl::StrCat(
        folder_, "/cases.json: sat_adapter_case has no input_ids, or another logits_tensor"));
  }
  Json complete = fields;
  complete["prompt_ids"] = fields["input_ids"];
  Json positions = Json::array();
  for (size_t i = 0; i < fields["input_ids"].size(); ++i) positions.push_back(i);
  complete["position_ids"] = positions;
  absl::StatusOr<std::string> folder = SatFolder(fields);
  if (!folder.ok()) return folder.status();
  absl::StatusOr<std::shared_ptr<const Adapter>> adapter =
      Load(*folder, {.lora = "adapter_sat.safetensors"});
  if (!adapter.ok()) return adapter.status();
  replayed_.insert(tensor);
  const std::vector<int32_t>& ends = loaded_->model().end_tokens();
  absl::Status status = ModelCase(complete, ends, *tensors_, *loaded_, report_, adapter->get())
                            .ReplayLogits(tensor.substr(name.size() + 1));
  for (const auto& [key, value] : fields.items()) {
    if (!absl::StartsWith(key, "max_abs_diff")) continue;
    CompareOriginals(absl::StrCat("sat_adapter_case.", key), value, report_);
  }
  complete["name"] = "sat_adapter_case";
  if (!status.ok() || !complete.contains("max_abs_change_from_base")) return status;
  return ModelCase(complete, ends, *tensors_, *loaded_, report_, adapter->get()).ReplayChange();
}

absl::Status AdapterFixture::VerifyPrefixes() {
  std::vector<bool> projections;
  for (const Json& variant : cases_["variants"]) {
    if (absl::Status status = ReplayPrefix(variant); !status.ok()) return status;
    projections.push_back(variant.value("prefix_projection", Json(false)) == true);
  }
  AddSame("prefix_projection", projections, config_.value("prefix_projection", Json()));
  return absl::OkStatus();
}

absl::Status AdapterFixture::ReplayPrefix(const Json& variant) {
  const std::string name = StringOf(variant, "name");
  const std::string weights = StringOf(variant, "file");
  absl::StatusOr<std::shared_ptr<const Adapter>> adapter = Load(folder_, {.prefix = weights});
  if (!adapter.ok()) return adapter.status();
  const KvPrefix& prefix = (*adapter)->prefix();
  AddSame(name + ".pre_seq_len", prefix.slots, config_.value("pre_seq_len", Json()));
  ReplayKeysAndValues(name, prefix);
  for (const Json& fields : variant["cases"]) {
    Json named = fields;
    named["name"] = absl::StrCat(name, ".", StringOf(fields, "name"));
    if (absl::Status status = Replay(named, **adapter); !status.ok()) return status;
  }
  return absl::OkStatus();
}

// The shared pages as the decoded prefix: [layers][k, v][slots][heads][dim].
void AdapterFixture::ReplayKeysAndValues(const std::string& variant, const KvPrefix& prefix) {
  const std::string name = absl::StrCat(variant, ".past_key_values");
  replayed_.insert(name);
  std::vector<float> stored;
  for (int i = 0; i < loaded_->model().spec().kv.layers; ++i) {
    const KvLayer layer = loaded_->kv().layer(i);
    const int64_t cols[] = {layer.kv_heads * layer.key_dim, layer.kv_heads * layer.value_dim};
    for (const int part : {0, 1}) {
      for (int32_t slot = 0; slot < prefix.slots; ++slot) {
        const auto* page = reinterpret_cast<const float*>(
            layer.pages + prefix.pages[slot / kPageTokens] * layer.page_bytes);
        const float* at = page + part * kPageTokens * cols[0] + slot % kPageTokens * cols[part];
        const std::vector<float> row =
            loaded_->pass().Fetch(F32(const_cast<float*>(at), 1, cols[part]));
        stored.insert(stored.end(), row.begin(), row.end());
      }
    }
  }
  CompareTensor(name, stored, *tensors_, report_);
}

void AdapterFixture::ReportRest() {
  for (const auto& [key, value] : cases_.items()) {
    if (value.is_string() || key == "cases" || key == "variants" || key == "sat_adapter_case") {
      continue;
    }
    if (absl::StartsWith(key, "max_abs_diff")) {
      CompareOriginals(key, value, report_);
      continue;
    }
    report_.Add({.name = key,
                 .result = VerifyLine::Result::kUnknown,
                 .note = "nothing here replays this field"});
  }
  for (const SafetensorsEntry& entry : tensors_->entries()) {
    if (replayed_.contains(entry.name) || !report_.Wants(entry.name)) continue;
    report_.Add({.name = entry.name,
                 .result = VerifyLine::Result::kUnknown,
                 .note = "nothing here replays this tensor"});
  }
}

}  // namespace

absl::Status VerifyLora(const std::string& folder, VerifyReport& report) {
  AdapterFixture fixture(folder, report);
  if (absl::Status status = fixture.Open("cases", false); !status.ok()) return status;
  if (absl::Status status = fixture.VerifyLoraCases(); !status.ok()) return status;
  fixture.ReportRest();
  return absl::OkStatus();
}

absl::Status VerifyPtuning(const std::string& folder, VerifyReport& report) {
  AdapterFixture fixture(folder, report);
  if (absl::Status status = fixture.Open("variants", true); !status.ok()) return status;
  if (absl::Status status = fixture.VerifyPrefixes(); !status.ok()) return status;
  fixture.ReportRest();
  return absl::OkStatus();
}

}  // namespace qianyi
