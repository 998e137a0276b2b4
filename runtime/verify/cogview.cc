// The kind "cogview": forward passes, requests filled greedily, filters, scores of captions, sparse
// attention and magnification, each compared with the original program's numbers.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "runtime/models/registry.h"
#include "runtime/pictures/magnify.h"
#include "runtime/pictures/picture_query.h"
#include "runtime/sampler.h"
#include "runtime/sampler_math.h"
#include "runtime/storage/convert.h"
#include "runtime/storage/file_util.h"
#include "runtime/verify/cogview_cases.h"
#include "runtime/verify/cogview_sparse.h"
#include "runtime/verify/verify.h"

namespace qianyi {
namespace {

using Json = nlohmann::json;

// A folder that Convert reads: the fixture's weights, and its config.json under our model_type.
absl::Status MakeSource(const std::string& fixture, const Json& config, const std::string& source) {
  std::error_code error;
  std::filesystem::create_directory(source, error);
  if (!error) {
    std::filesystem::create_symlink(
        std::filesystem::absolute(JoinPath(fixture, "weights.safetensors")),
        JoinPath(source, "model.safetensors"), error);
  }
  if (error) return absl::InternalError(absl::StrCat(source, ": ", error.message()));
  std::ofstream file(JoinPath(source, "config.json"));
  file << config.dump();
  file.close();
  return file ? absl::OkStatus() : absl::InternalError(absl::StrCat(source, ": cannot write"));
}

// Room for the longest sequence of the cases, and for the logits of their largest batch.
LoadOptions RoomForCases(const Safetensors& tensors) {
  int64_t longest = 64, batch = 1, rows = 256;
  for (const SafetensorsEntry& entry : tensors.entries()) {
    const size_t dimensions = entry.shape.size();
    const bool inputs = absl::EndsWith(entry.name, ".input_ids");
    if (dimensions > 0 && (inputs || absl::EndsWith(entry.name, "seq"))) {
      longest = std::max(longest, entry.shape.back());
      if (dimensions == 2) batch = std::max(batch, entry.shape[0]);
    }
    if (dimensions == 2 && inputs) rows = std::max(rows, entry.elements());
    if (dimensions == 3 && absl::EndsWith(entry.name, ".text_logits")) {
      rows = std::max(rows, entry.shape[0] * entry.shape[1]);
    }
  }
  LoadOptions options;
  options.context_tokens = std::min<int64_t>(longest, 1 << 16) + 16;
  options.batch = std::min<int64_t>(batch, 64);
  options.prompt_tokens = options.batch * options.context_tokens;
  options.logit_rows = std::min<int64_t>(rows, 1 << 16);
  return options;
}

void ReplayForward(CogViewCases& cases) {
  const auto inputs = cases.Inputs("forward");
  if (!inputs.ok()) return cases.Failed("forward", inputs.status());
  const auto pass = cases.Run(*inputs);
  if (!pass.ok()) return cases.Failed("forward", pass.status());
  cases.Compare("forward.logits", pass->logits);
  for (size_t i = 0; i < pass->hidden.size(); ++i) {
    cases.Compare(absl::StrCat("forward.hidden.", i), pass->hidden[i]);
  }
  for (const auto& [name, values] : pass->first_layer) {
    cases.Compare(absl::StrCat("forward.l0.", name), values);
  }
  cases.Compare("forward.final_layernorm", pass->final_norm);
  float most = 0;
  for (const float logit : pass->logits) most = std::max(most, std::abs(logit));
  cases.CompareNumber("forward.logits_abs_max", most, kLogitTolerance);
  cases.CompareNumber("forward.rounding_noise_max_abs_logits", 0, kBetweenOriginals);
}

// One maximum over the whole batch: with the reference-only switch.
void ReplayGlobalMaximum(CogViewCases& cases, LoadedModel& original) {
  const auto inputs = cases.Inputs("ln_global_max");
  if (!inputs.ok()) return cases.Failed("ln_global_max", inputs.status());
  const auto both = cases.Run(*inputs, original);
  if (!both.ok()) return cases.Failed("ln_global_max", both.status());
  const auto alone = cases.Run({inputs->front()}, original);
  if (!alone.ok()) return cases.Failed("ln_global_max", alone.status());
  cases.Compare("ln_global_max.logits", both->logits);
  cases.Compare("ln_global_max.hidden.1", both->hidden[1]);
  cases.Compare("ln_global_max.logits_row0_alone", alone->logits);
  const std::vector<float> first(both->logits.begin(),
                                 both->logits.begin() + static_cast<int64_t>(alone->logits.size()));
  cases.CompareNumber("ln_global_max.max_abs_diff_row0_batched_vs_alone",
                      LargestDifference(alone->logits, first), 2e-3);
}

void ReplaySeparator(CogViewCases& cases) {
  auto inputs = cases.Inputs("sep_mask");
  if (!inputs.ok()) return cases.Failed("sep_mask", inputs.status());
  const int64_t sep = NumberOf(cases.Fields("sep_mask"), "sep", 0);
  for (CogViewInput& input : *inputs) input.sep = static_cast<int32_t>(sep);
  cases.Took("sep_mask.sep");
  const auto pass = cases.Run(*inputs);
  if (!pass.ok()) return cases.Failed("sep_mask", pass.status());
  cases.Compare("sep_mask.logits", pass->logits);
}

void ReplayIncremental(CogViewCases& cases) {
  const auto inputs = cases.Inputs("incremental");
  if (!inputs.ok()) return cases.Failed("incremental", inputs.status());
  const int64_t split = NumberOf(cases.Fields("incremental"), "split", 0);
  cases.Took("incremental.split");
  const auto full = cases.Run(*inputs);
  if (!full.ok()) return cases.Failed("incremental", full.status());
  const auto parts = cases.RunInChunks(*inputs, {split, cases.Length("incremental.input_ids")});
  if (!parts.ok()) return cases.Failed("incremental", parts.status());
  cases.Compare("incremental.logits_full", full->logits);
  cases.Compare("incremental.logits_first", parts->front().logits);
  cases.Compare("incremental.logits_second", parts->back().logits);
  for (size_t i = 0; i < parts->front().hidden.size(); ++i) {
    std::vector<float> memory = parts->front().hidden[i];
    memory.insert(memory.end(), parts->back().hidden[i].begin(), parts->back().hidden[i].end());
    cases.Compare(absl::StrCat("incremental.mems.", i), memory);
  }
  std::vector<float> logits = parts->front().logits;
  logits.insert(logits.end(), parts->back().logits.begin(), parts->back().logits.end());
  cases.CompareNumber("incremental.max_abs_diff_incremental_vs_full",
                      LargestDifference(logits, full->logits), 2e-3);
}

void ReplayGreedy(CogViewCases& cases, const std::string& name) {
  const auto query = cases.Ids(name + ".seq");
  if (!query.ok()) return cases.Failed(name, query.status());
  const auto filled = cases.Fill(*query);
  if (!filled.ok()) return cases.Failed(name, filled.status());
  cases.CompareIds(name + ".output", filled->output);
  cases.CompareIds(name + ".seq", *query);
  cases.Compare(name + ".step_logits_masked", filled->logits);
  if (cases.Has(name + ".position_ids"))
    cases.CompareIds(name + ".position_ids", filled->positions);
  const auto margin = std::min_element(filled->margins.begin(), filled->margins.end());
  cases.CompareNumber(name + ".min_margin", margin == filled->margins.end() ? 0 : *margin, 2e-3);
  cases.CompareNumber(name + ".steps", static_cast<double>(filled->margins.size()), 0);
}

// "filter.k5_p0.0_t1.0.probs": columns behind the codes masked, then top-k, top-p, temperature.
void ReplayFilter(CogViewCases& cases, const std::string& tensor, const PictureConfig& config) {
  std::vector<std::string> parts = absl::StrSplit(tensor.substr(sizeof("filter.k") - 1), '_');
  const bool ties = tensor == "filter.ties.k3_probs";
  int k = 3;
  float p = 0, t = 1;
  if (!ties) {
    if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &k) || parts[1].size() < 2 ||
        !absl::SimpleAtof(parts[1].substr(1), &p) || !absl::EndsWith(parts[2], ".probs") ||
        !absl::SimpleAtof(parts[2].substr(1, parts[2].size() - 7), &t)) {
      return;  // not such a name: it will be UNKNOWN
    }
  }
  const std::string from = ties ? "filter.ties.logits" : "filter.logits";
  absl::StatusOr<std::vector<float>> logits = cases.Floats(from);
  if (!logits.ok()) return cases.Failed(tensor, logits.status());
  const int64_t width = cases.Length(from);
  std::vector<float> all;
  Sampler sampler(width);
  SamplingParams params;
  params.temperature = t;
  params.top_k = static_cast<int32_t>(std::min<int64_t>(k, width));
  if (p > 0) params.top_p = p;
  for (size_t at = 0; at < logits->size(); at += width) {
    std::span<float> row(logits->data() + at, width);
    if (!ties) {
      std::fill(row.begin() + config.image_tokens, row.end(),
                -std::numeric_limits<float>::infinity());
    }
    std::vector<float> probabilities(width);
    sampler.Probabilities(params, row, {}, probabilities);
    all.insert(all.end(), probabilities.begin(), probabilities.end());
  }
  cases.Took(from);
  cases.Compare(tensor, all, 1e-5);
}

// The texts' likelihoods given the pictures: post-selection.
void ReplayScore(CogViewCases& cases, const std::string& name, const PictureConfig& config) {
  const auto inputs = cases.Inputs(name, "seq");
  if (!inputs.ok()) return cases.Failed(name, inputs.status());
  const int64_t length = cases.Length(name + ".seq"),
                text = cases.Length(name + ".token_log_probs");
  std::vector<float> raw, terms, scores, one_by_one;
  const int64_t vocab = config.vocab_size;
  for (const bool together : {true, false}) {
    const size_t rows = inputs->size();
    for (size_t i = 0; i < rows; i += together ? rows : 1) {
      std::vector<CogViewInput> some(inputs->begin() + i,
                                     together ? inputs->end() : inputs->begin() + i + 1);
      for (CogViewInput& input : some) {
        input.first_logit = length - text - 1;
        input.last_logit = length - 1;
      }
      const auto pass = cases.Run(some);
      if (!pass.ok()) return cases.Failed(name, pass.status());
      for (size_t s = 0; s < some.size(); ++s) {
        double sum = 0;
        for (int64_t j = 0; j < text; ++j) {
          const float* row = pass->logits.data() + (s * text + j) * vocab;
          const int32_t token = some[s].ids[length - text + j];
          const double term = LogProbabilityAt({row + config.image_tokens, row + vocab},
                                               token - config.image_tokens);
          sum += term;
          if (together) terms.push_back(static_cast<float>(term));
        }
        (together ? scores : one_by_one).push_back(static_cast<float>(sum));
      }
      if (together) raw = pass->logits;
    }
  }
  cases.Took(name + ".seq");
  cases.Compare(name + ".text_logits", raw);
  cases.Compare(name + ".token_log_probs", terms);
  cases.Compare(name + ".scores", scores, 5e-3);
  cases.Compare(name + ".scores_one_by_one", one_by_one, 5e-3);
  cases.CompareList(name + ".scores", scores, 5e-3);
  cases.CompareNumber(name + ".max_abs_diff_batched_vs_single",
                      LargestDifference(scores, one_by_one), 1e-2);
  const auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
  cases.CompareNumber(name + ".best_index", static_cast<double>(best), 0);
}

void ReplayMagnification(CogViewCases& cases, const PictureConfig& config) {
  const std::string name = "super_resolution";
  const auto source = cases.Ids(name + ".code32"), text = cases.Ids(name + ".text");
  if (!source.ok()) return cases.Failed(name, source.status());
  if (!text.ok()) return cases.Failed(name, text.status());
  std::vector<int32_t> target(64 * 64, kGeneratedPlace);
  std::vector<float> margins, window_margins;
  Json windows = Json::array();
  for (size_t i = 0; i < std::size(kMagnifyWindows); ++i) {
    const MagnifyWindow& window = kMagnifyWindows[i];
    windows.push_back({window.row, window.column, window.lines});
    const std::vector<int32_t> query = MagnifyQuery(window, *text, *source, target, config);
    const auto filled = cases.Fill(query);
    if (!filled.ok()) return cases.Failed(name, filled.status());
    const std::string at = absl::StrCat(name, ".window", i);
    if (cases.Has(at + "_seq")) cases.CompareIds(at + "_seq", query);
    if (cases.Has(at + "_output")) cases.CompareIds(at + "_output", filled->output);
    TakeMagnified(window, filled->output, &target);
    margins.insert(margins.end(), filled->margins.begin(), filled->margins.end());
    window_margins.push_back(*std::min_element(filled->margins.begin(), filled->margins.end()));
  }
  for (const char* input : {".code32", ".text"}) cases.Took(name + input);
  cases.CompareIds(name + ".code64", target);
  cases.Compare(name + ".step_margins", margins, 2e-3);
  cases.CompareList(name + ".window_min_margin", window_margins, 2e-3);
  cases.CompareNumber(name + ".min_margin", *std::min_element(margins.begin(), margins.end()),
                      2e-3);
  cases.CompareNumber(name + ".steps", static_cast<double>(margins.size()), 0);
  cases.CompareJson(name + ".windows", windows);
}

// "[ROI1] 44 21 [BASE] [BOI1] [MASK]*16": numbers stand for pieces of text.
void ReplayQueries(CogViewCases& cases, const PictureConfig& config) {
  for (const auto& [key, value] : cases.Fields("queries").items()) {
    std::vector<int32_t> query;
    const std::string text = value.is_string() ? value.get<std::string>() : "";
    for (const std::string& word : std::vector<std::string>(absl::StrSplit(text, ' '))) {
      int32_t number = 0;
      if (const auto command = config.commands.find(word); command != config.commands.end()) {
        query.push_back(command->second);
      } else if (absl::StartsWith(word, "[MASK]*") && absl::SimpleAtoi(word.substr(7), &number) &&
                 number >= 0 && number < 1 << 16) {
        query.insert(query.end(), number, kGeneratedPlace);
      } else if (absl::SimpleAtoi(word, &number)) {
        query.push_back(config.image_tokens + number);
      }
    }
    const auto expected = cases.Ids(key + "_greedy.seq");
    cases.CompareJson(absl::StrCat("queries.", key), Json(text),
                      expected.ok() && *expected == query);
  }
}

}  // namespace

absl::Status VerifyCogView(const std::string& folder, VerifyReport& report) {
  absl::StatusOr<Json> config = ReadJson(JoinPath(folder, "config.json"));
  if (!config.ok()) return config.status();
  (*config)["model_type"] = "cogview";
  absl::StatusOr<PictureConfig> picture = PictureConfig::Read(*config);
  if (!picture.ok()) return picture.status();
  const TemporaryFolder temporary;
  if (absl::Status made = temporary.status(); !made.ok()) return made;
  const std::string source = temporary.path() + "/source", model = temporary.path() + "/model";
  if (absl::Status made = MakeSource(folder, *config, source); !made.ok()) return made;
  absl::Status status =
      Convert({.source = source, .destination = model, .format = {DType::kF32}}, {});
  if (!status.ok()) return status;
  absl::StatusOr<ModelFile> file = ModelFile::Open(model);
  if (!file.ok()) return file.status();
  absl::StatusOr<CogViewCases> cases = CogViewCases::Open(folder, *picture, report);
  if (!cases.ok()) return cases.status();

  LoadOptions options = RoomForCases(cases->tensors());
  options.backend = report.device().backend;
  options.device_bytes = report.device().bytes;
  options.sparse_slots = file->spec.kv.layers * options.prompt_tokens * options.context_tokens;
  absl::StatusOr<std::unique_ptr<LoadedModel>> loaded = LoadedModel::Open(*file, options);
  if (!loaded.ok()) return loaded.status();
  cases->Use(**loaded);
  Json reference = *config;
  reference["original_layernorm"] = true;
  absl::StatusOr<ModelSpec> spec = DescribeModel(reference.dump());
  if (!spec.ok()) return spec.status();
  file->spec = *std::move(spec);
  absl::StatusOr<std::unique_ptr<LoadedModel>> original =
      LoadedModel::Open(*std::move(file), options);
  if (!original.ok()) return original.status();

  if (cases->HasCase("forward")) ReplayForward(*cases);
  if (cases->HasCase("ln_global_max")) ReplayGlobalMaximum(*cases, **original);
  if (cases->HasCase("sep_mask")) ReplaySeparator(*cases);
  if (cases->HasCase("incremental")) ReplayIncremental(*cases);
  for (const std::string& tensor : cases->Names()) {
    if (!cases->HasCase(tensor.substr(0, tensor.rfind('.')))) continue;
    if (absl::EndsWith(tensor, "_greedy.seq")) {
      ReplayGreedy(*cases, tensor.substr(0, tensor.size() - 4));
    } else if (absl::StartsWith(tensor, "filter.") && absl::EndsWith(tensor, "probs")) {
      ReplayFilter(*cases, tensor, *picture);
    } else if (absl::StartsWith(tensor, "self_score") && absl::EndsWith(tensor, ".seq")) {
      ReplayScore(*cases, tensor.substr(0, tensor.size() - 4), *picture);
    }
  }
  if (cases->HasCase("super_resolution")) ReplayMagnification(*cases, *picture);
  ReplayQueries(*cases, *picture);
  ReplaySparse(*cases, *config);
  cases->Rest();
  return absl::OkStatus();
}

}  // namespace qianyi
