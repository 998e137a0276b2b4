#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "runtime/loaded_model.h"
#include "runtime/models/registry.h"
#include "runtime/parse_json.h"
#include "runtime/storage/convert.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/model_file.h"
#include "runtime/verify/fixture.h"
#include "runtime/verify/model_cases.h"
#include "runtime/verify/verify.h"

namespace qianyi {
namespace {

using Json = nlohmann::json;

// Logits of the same weights with another base of rotary positions, and with frequencies that
// were rounded to fp16.
constexpr char kRopeRatio[] = "logits_rope_ratio_";
constexpr char kHalfFrequencies[] = "logits_half_rounded_inv_freq";
// How far something moves logits that the folder does not hold: rounded frequencies in all cases,
// the arithmetic of another program.
constexpr char kMoves[] = "max_abs_diff_of_";

// Everything of one fixture folder that its cases share.
struct Fixture {
  Json cases;
  std::optional<Safetensors> tensors;
  std::vector<int32_t> end_tokens;
  ModelFile file;  // the converted weights
  LoadOptions options;
};

absl::Status Open(const std::string& folder, const std::string& converted,
                  const VerifyReport::Device& device, Fixture* fixture) {
  absl::StatusOr<Json> cases = ReadJson(JoinPath(folder, "cases.json"));
  if (!cases.ok()) return cases.status();
  fixture->cases = *std::move(cases);
  if (!fixture->cases.contains("cases") || !fixture->cases["cases"].is_array()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s/cases.json has no list \"cases\"", folder));
  }
  absl::StatusOr<Safetensors> tensors = Safetensors::Open(JoinPath(folder, "cases.safetensors"));
  if (!tensors.ok()) return tensors.status();
  fixture->tensors = *std::move(tensors);
  absl::Status status =
      Convert({.source = folder, .destination = converted, .format = {DType::kF32}}, {});
  if (!status.ok()) return status;
  absl::StatusOr<ModelFile> file = ModelFile::Open(converted);
  if (!file.ok()) return file.status();
  fixture->file = *std::move(file);
  absl::StatusOr<LoadOptions> options = RoomFor(fixture->cases["cases"]);
  if (!options.ok()) return options.status();
  fixture->options = *std::move(options);
  fixture->options.backend = device.backend;
  fixture->options.device_bytes = device.bytes;
  return absl::OkStatus();
}

// Another config.json for the same weights, as the mark of a tensor of logits says: rope_ratio R
// for NAME.logits_rope_ratio_R. False when the tensor is no such variant.
bool ChangeConfig(const std::string& field, Json* config) {
  if (field == kHalfFrequencies) {
    (*config)["half_rounded_inv_freq"] = true;
    return true;
  }
  double ratio = 0;
  if (!absl::StartsWith(field, kRopeRatio) ||
      !absl::SimpleAtod(field.substr(sizeof(kRopeRatio) - 1), &ratio)) {
    return false;
  }
  (*config)["rope_ratio"] = ratio;
  return true;
}

// Replays the case's variants: the full pass under another config.
absl::Status ReplayVariants(const Fixture& fixture, const Json& fields, VerifyReport& report,
                            std::set<std::string>* replayed) {
  const std::string prefix = StringOf(fields, "name") + ".";
  for (const SafetensorsEntry& entry : fixture.tensors->entries()) {
    if (!absl::StartsWith(entry.name, prefix)) continue;
    const std::string field = entry.name.substr(prefix.size());
    Json config = ParseJson(fixture.file.spec.config_json);
    if (!ChangeConfig(field, &config)) continue;
    absl::StatusOr<ModelSpec> spec = DescribeModel(config.dump());
    if (!spec.ok()) return spec.status();
    ModelFile file = fixture.file;
    file.spec = *std::move(spec);
    absl::StatusOr<std::unique_ptr<LoadedModel>> loaded =
        LoadedModel::Open(std::move(file), fixture.options);
    if (!loaded.ok()) return loaded.status();
    replayed->insert(entry.name);
    absl::Status status = ModelCase(fields, fixture.end_tokens, *fixture.tensors, **loaded, report)
                              .ReplayLogits(field);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// How far another rope_ratio moves the logits, from the two tensors that were replayed.
void ReplayRopeRatioChange(const Fixture& fixture, const Json& variant, VerifyReport& report) {
  const std::string tensor = StringOf(variant, "logits_tensor");
  VerifyLine line{.name = "rope_ratio_variant", .tolerance = 2 * kLogitTolerance, .note = {}};
  absl::StatusOr<std::vector<float>> base =
      fixture.tensors->ReadFloats(StringOf(variant, "case") + ".logits");
  absl::StatusOr<std::vector<float>> moved = fixture.tensors->ReadFloats(tensor);
  double ratio = 0;
  const size_t mark = tensor.find(kRopeRatio);
  const bool named = mark != std::string::npos &&
                     absl::SimpleAtod(tensor.substr(mark + sizeof(kRopeRatio) - 1), &ratio);
  const Json stated = variant.is_object() ? variant.value("rope_ratio", Json()) : Json();
  const Json most = variant.is_object() ? variant.value("max_abs_change", Json()) : Json();
  if (!base.ok() || !moved.ok() || base->size() != moved->size() || !named || !stated.is_number() ||
      stated.get<double>() != ratio || !most.is_number()) {
    line.note = "its case, tensor and rope_ratio do not belong together";
    line.difference = std::numeric_limits<double>::infinity();
  } else {
    const double change = LargestDifference(*base, *moved);
    line.difference = std::abs(change - most.get<double>());
  }
  line.result =
      line.difference <= line.tolerance ? VerifyLine::Result::kOk : VerifyLine::Result::kFail;
  report.Add(std::move(line));
}

// What cases.json says beside its cases.
absl::Status ReplayRest(const std::string& folder, const Fixture& fixture, VerifyReport& report) {
  for (const auto& [key, value] : fixture.cases.items()) {
    if (key == "cases" || absl::StartsWith(key, kMoves) || value.is_string()) continue;
    if (absl::StartsWith(key, "max_abs_diff")) {
      CompareOriginals(key, value, report);
    } else if (key == "end_token_ids") {
      const bool same = value == Json(fixture.end_tokens);
      report.Add({.name = key,
                  .difference = same ? 0.0 : 1.0,
                  .result = same ? VerifyLine::Result::kOk : VerifyLine::Result::kFail,
                  .note = same ? "" : "not the end tokens of config.json"});
    } else if (key == "quantized") {
      absl::Status status = VerifyQuantized(folder, value, fixture.cases["cases"], report);
      if (!status.ok()) return status;
    } else if (key == "rope_ratio_variant") {
      ReplayRopeRatioChange(fixture, value, report);
    } else {
      report.Add({.name = key,
                  .result = VerifyLine::Result::kUnknown,
                  .note = "nothing here replays this field"});
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status VerifyModel(const std::string& folder, VerifyReport& report) {
  const TemporaryFolder temporary;
  if (absl::Status made = temporary.status(); !made.ok()) return made;
  Fixture fixture;
  absl::Status status = Open(folder, temporary.path() + "/model", report.device(), &fixture);
  if (!status.ok()) return status;
  absl::StatusOr<std::unique_ptr<LoadedModel>> loaded =
      LoadedModel::Open(fixture.file, fixture.options);
  if (!loaded.ok()) return loaded.status();
  fixture.end_tokens = (*loaded)->model().end_tokens();

  std::set<std::string> replayed;
  for (const Json& fields : fixture.cases["cases"]) {
    status =
        ModelCase(fields, fixture.end_tokens, *fixture.tensors, **loaded, report).Replay(&replayed);
    if (!status.ok()) return status;
    status = ReplayVariants(fixture, fields, report, &replayed);
    if (!status.ok()) return status;
  }
  status = ReplayRest(folder, fixture, report);
  if (!status.ok()) return status;
  for (const SafetensorsEntry& entry : fixture.tensors->entries()) {
    if (replayed.count(entry.name) != 0 || !report.Wants(entry.name)) continue;
    VerifyLine line{.name = entry.name, .note = "nothing here replays this tensor"};
    line.result = VerifyLine::Result::kUnknown;
    report.Add(std::move(line));
  }
  return absl::OkStatus();
}

}  // namespace qianyi
