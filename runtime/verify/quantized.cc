// The same cases with weights that the original program quantized: the field "quantized".
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/packed.h"
#include "runtime/storage/convert.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/model_file.h"
#include "runtime/verify/fixture.h"
#include "runtime/verify/model_cases.h"
#include "runtime/verify/verify.h"

namespace qianyi {
namespace {

using Json = nlohmann::json;

constexpr char kHalfLogits[] = "logits_fp16_dequant";

double MaxDifference(const Safetensors& a, const std::string& a_name, const Safetensors& b,
                     const std::string& b_name) {
  const absl::StatusOr<std::vector<float>> left = a.ReadFloats(a_name);
  const absl::StatusOr<std::vector<float>> right = b.ReadFloats(b_name);
  if (!left.ok() || !right.ok()) return std::numeric_limits<double>::infinity();
  return LargestDifference(*left, *right);
}

class QuantizedFixture {
 public:
  QuantizedFixture(std::string folder, std::string name, const Json& variant,
                   const Json& base_cases, VerifyReport& report)
      : folder_(std::move(folder)),
        name_(std::move(name)),
        variant_(variant),
        base_cases_(base_cases),
        report_(report) {}

  absl::Status Verify();

 private:
  absl::Status Open();
  absl::StatusOr<std::unique_ptr<LoadedModel>> Load(DType dtype) const;
  absl::Status ReplayCases();
  absl::Status ReplayWeights();
  void Number(const std::string& field, double actual, double tolerance);
  void ReportRest();

  const std::string folder_, name_;
  const Json& variant_;
  const Json& base_cases_;
  VerifyReport& report_;
  const TemporaryFolder temporary_;
  std::unique_ptr<Safetensors> weights_, floats_, tensors_, base_tensors_;
  std::set<std::string> replayed_;
};

absl::Status QuantizedFixture::Open() {
  if (absl::Status status = temporary_.status(); !status.ok()) return status;
  const std::pair<std::string, std::unique_ptr<Safetensors>*> files[] = {
      {StringOf(variant_, "weights_file"), &weights_},
      {"weights.safetensors", &floats_},
      {StringOf(variant_, "cases_file"), &tensors_},
      {"cases.safetensors", &base_tensors_}};
  for (const auto& [file, to] : files) {
    absl::StatusOr<Safetensors> opened = Safetensors::Open(JoinPath(folder_, file));
    if (!opened.ok()) return opened.status();
    *to = std::make_unique<Safetensors>(*std::move(opened));
  }
  // A checkpoint of its own: the config, and these weights.
  std::error_code error;
  const auto link = [&](const std::string& from, const char* name) {
    const std::filesystem::path target = std::filesystem::absolute(from, error);
    if (!error) std::filesystem::create_symlink(target, JoinPath(temporary_.path(), name), error);
  };
  link(JoinPath(folder_, "config.json"), "config.json");
  if (!error) link(weights_->path(), "model.safetensors");
  if (!error) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(temporary_.path(), ": ", error.message()));
}

absl::StatusOr<std::unique_ptr<LoadedModel>> QuantizedFixture::Load(DType dtype) const {
  const std::string to = absl::StrCat(temporary_.path(), "/", static_cast<int>(dtype));
  absl::Status status =
      Convert({.source = temporary_.path(), .destination = to, .format = {dtype}}, {});
  if (!status.ok()) return status;
  absl::StatusOr<ModelFile> file = ModelFile::Open(to);
  if (!file.ok()) return file.status();
  absl::StatusOr<LoadOptions> options = RoomFor(base_cases_);
  if (!options.ok()) return options.status();
  options->kv_dtype = DType::kF32;
  options->backend = report_.device().backend;
  options->device_bytes = report_.device().bytes;
  return LoadedModel::Open(*std::move(file), *options);
}

void QuantizedFixture::Number(const std::string& field, double actual, double tolerance) {
  VerifyLine line{.name = absl::StrCat(name_, ".", field), .tolerance = tolerance, .note = {}};
  const Json stated = variant_.value(field, Json());
  line.difference = stated.is_number() ? std::abs(actual - stated.get<double>())
                                       : std::numeric_limits<double>::infinity();
  line.result = line.difference <= tolerance ? VerifyLine::Result::kOk : VerifyLine::Result::kFail;
  report_.Add(std::move(line));
}

absl::Status QuantizedFixture::ReplayCases() {
  // Integers times scales in f32; then the same rounded to fp16, as the original's kernels do.
  absl::StatusOr<std::unique_ptr<LoadedModel>> exact = Load(DType::kF32);
  if (!exact.ok()) return exact.status();
  absl::StatusOr<std::unique_ptr<LoadedModel>> half = Load(DType::kF16);
  if (!half.ok()) return half.status();
  const std::vector<int32_t>& ends = (*exact)->model().end_tokens();
  double half_change = 0;
  report_.set_prefix(absl::StrCat(name_, "."));
  for (const Json& own : variant_["cases"]) {
    const std::string name = StringOf(own, "name");
    const auto base = std::find_if(base_cases_.begin(), base_cases_.end(),
                                   [&](const Json& at) { return StringOf(at, "name") == name; });
    if (name.empty() || base == base_cases_.end()) {
      return absl::InvalidArgumentError(absl::StrCat(folder_, "/cases.json: quantized.", name_,
                                                     " has the case '", name,
                                                     "', which is not among the others"));
    }
    Json fields = own;
    for (const char* key : {"prompt_ids", "input_ids", "position_ids", "sep", "continuation"}) {
      if (base->contains(key)) fields[key] = (*base)[key];
    }
    fields.erase("max_abs_diff_to_unquantised_logits");
    absl::Status status = ModelCase(fields, ends, *tensors_, **exact, report_).Replay(&replayed_);
    const std::string logits = name + ".logits", rounded = absl::StrCat(name, ".", kHalfLogits);
    if (status.ok() && tensors_->Find(rounded) != nullptr) {
      replayed_.insert(rounded);
      half_change = std::max(half_change, MaxDifference(*tensors_, logits, *tensors_, rounded));
      status = ModelCase(fields, ends, *tensors_, **half, report_).ReplayLogits(kHalfLogits);
    }
    if (!status.ok()) return status;
    if (!own.contains("max_abs_diff_to_unquantised_logits")) continue;
    const double difference = MaxDifference(*tensors_, logits, *base_tensors_, logits);
    const Json& stated = own["max_abs_diff_to_unquantised_logits"];
    VerifyLine line{.name = name + ".max_abs_diff_to_unquantised_logits",
                    .tolerance = 2 * kLogitTolerance,
                    .note = {}};
    line.difference = std::abs(difference - (stated.is_number() ? stated.get<double>() : 1e300));
    line.result =
        line.difference <= line.tolerance ? VerifyLine::Result::kOk : VerifyLine::Result::kFail;
    report_.Add(std::move(line));
  }
  report_.set_prefix("");
  Number("max_logit_change_if_dequantised_weights_are_rounded_to_fp16", half_change,
         2 * kLogitTolerance);
  return absl::OkStatus();
}

// That the stored integers are those of the original's quantizer, which divides in fp16, and how
// many would be others if it divided in f32.
absl::Status QuantizedFixture::ReplayWeights() {
  int64_t entries = 0, wrong = 0, others = 0;
  for (const SafetensorsEntry& entry : weights_->entries()) {
    if (entry.dtype != "I8") continue;
    const absl::StatusOr<std::vector<int64_t>> stored = weights_->ReadIntegers(entry.name);
    const absl::StatusOr<std::vector<float>> scale = weights_->ReadFloats(entry.name + "_scale");
    const absl::StatusOr<std::vector<float>> values = floats_->ReadFloats(entry.name);
    for (const absl::Status& status : {stored.status(), scale.status(), values.status()}) {
      if (!status.ok()) return status;
    }
    const int64_t rows = entry.shape.empty() ? 0 : entry.shape[0];
    const int64_t count = static_cast<int64_t>(values->size());
    const bool packed = stored->size() * 2 == values->size();
    if (rows == 0 || count % rows != 0 || static_cast<int64_t>(scale->size()) != rows ||
        (!packed && stored->size() != values->size())) {
      return absl::InvalidArgumentError(absl::StrCat(weights_->path(), ": tensor '", entry.name,
                                                     "' is not of the float's shape"));
    }
    const int64_t cols = count / rows;
    const float levels = packed ? 7.0f : 127.0f;
    for (int64_t r = 0; r < rows; ++r) {
      float most = 0;
      for (int64_t c = 0; c < cols; ++c) most = std::max(most, std::abs((*values)[r * cols + c]));
      const float step = HalfToFloat(FloatToHalf(most / levels));
      wrong += step == (*scale)[r] ? 0 : 1;
      for (int64_t c = 0; c < cols; ++c) {
        const int64_t at = r * cols + c;
        int64_t integer = (*stored)[packed ? at / 2 : at];
        if (packed) {
          const int64_t bits = (c % 2 == 0 ? integer >> 4 : integer) & 15;
          integer = bits - (bits >= 8 ? 16 : 0);
        }
        const float exact = (*values)[at] / step;
        const auto rounded = static_cast<int64_t>(std::rint(HalfToFloat(FloatToHalf(exact))));
        wrong += integer == rounded ? 0 : 1;
        others += integer == static_cast<int64_t>(std::rint(exact)) ? 0 : 1;
      }
    }
    entries += count;
  }
  report_.Add({.name = name_ + ".weights",
               .difference = static_cast<double>(wrong),
               .result = wrong == 0 ? VerifyLine::Result::kOk : VerifyLine::Result::kFail,
               .note = wrong == 0 ? "" : "integers or scales that are not the original's"});
  Number("entries", static_cast<double>(entries), 0);
  Number("entries_that_differ_if_division_is_fp32", static_cast<double>(others), 0);
  return absl::OkStatus();
}

void QuantizedFixture::ReportRest() {
  const auto unknown = [&](const std::string& what, const char* note) {
    const std::string name = absl::StrCat(name_, ".", what);
    report_.Add({.name = name, .result = VerifyLine::Result::kUnknown, .note = note});
  };
  const std::set<std::string> known = {
      "cases", "entries", "entries_that_differ_if_division_is_fp32",
      "max_logit_change_if_dequantised_weights_are_rounded_to_fp16"};
  for (const auto& [key, value] : variant_.items()) {
    if (!value.is_string() && !known.contains(key)) unknown(key, "nothing here replays this field");
  }
  for (const SafetensorsEntry& entry : tensors_->entries()) {
    if (!replayed_.contains(entry.name)) unknown(entry.name, "nothing here replays this tensor");
  }
}

absl::Status QuantizedFixture::Verify() {
  absl::Status status = Open();
  if (status.ok()) status = ReplayWeights();
  if (status.ok()) status = ReplayCases();
  report_.set_prefix("");
  if (status.ok()) ReportRest();
  return status;
}

}  // namespace

absl::Status VerifyQuantized(const std::string& folder, const Json& quantized, const Json& cases,
                             VerifyReport& report) {
  for (const auto& [name, variant] : quantized.items()) {
    if (!variant.is_object() || !variant.contains("cases") || !variant["cases"].is_array()) {
      return absl::InvalidArgumentError(
          absl::StrCat(folder, "/cases.json: quantized.", name, " has no list \"cases\""));
    }
    absl::Status status = QuantizedFixture(folder, name, variant, cases, report).Verify();
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace qianyi
