// Embeddings, and how likely given texts are.
#include "server/http/rest_batch.h"

#include <charconv>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/error.h"
#include "server/http/rest_api.h"
#include "server/http/rest_body.h"
#include "server/token_report.h"

namespace qianyi {
namespace {

using nlohmann::json;
using Reply = std::shared_ptr<HttpReply>;

bool IsIds(const json& list) {
  if (!list.is_array() || list.empty()) return false;
  for (const json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= (1u << 31)) return false;
  }
  return true;
}

absl::Status TakeInput(RestBody& body, EmbedRequest* embed) {
  const json& input = body.Take("input");
  const json list = input.is_string() || IsIds(input) ? json::array({input}) : input;
  bool good = list.is_array() && !list.empty();
  for (size_t i = 0; good && i < list.size(); ++i) {
    if (list[i].is_string()) {
      embed->inputs.emplace_back(list[i].get<std::string>());
    } else if (good = IsIds(list[i]); good) {
      embed->inputs.emplace_back(list[i].get<std::vector<int32_t>>());
    }
  }
  if (good) return absl::OkStatus();
  return BadParam("input", absl::StrFormat("input must be a string, a list of token ids, or a list "
                                           "of at most %d of these",
                                           kMaxEmbeddingInputs));
}

absl::Status TakeFormat(RestBody& body, bool* base64) {
  std::string format = "float";
  if (absl::Status status = body.TakeString("encoding_format", &format); !status.ok()) {
    return status;
  }
  *base64 = format == "base64";
  if (*base64 || format == "float") return absl::OkStatus();
  return BadParam("encoding_format", absl::StrFormat("encoding_format is %s; it must be float or "
                                                     "base64",
                                                     Dump(json(format.substr(0, 50)))));
}

absl::Status TakeDimensions(RestBody& body, int64_t* dimensions) {
  const json& value = body.Take("dimensions");
  if (value.is_null()) return absl::OkStatus();
  if (value.is_number_unsigned() && value.get<uint64_t>() >= 1 &&
      value.get<uint64_t>() <= (1u << 20)) {
    *dimensions = value.get<int64_t>();
    return absl::OkStatus();
  }
  return BadParam("dimensions", absl::StrFormat("dimensions is %s; it must be a whole number "
                                                "1..1048576",
                                                Dump(value).substr(0, 60)));
}

// Written without a tree of numbers, which would take ten times the memory. The bytes are those of
// little-endian floats, as this machine's are.
void AppendVector(const std::vector<float>& vector, bool base64, std::string* out) {
  if (base64) {
    const std::string_view bytes(reinterpret_cast<const char*>(vector.data()),
                                 vector.size() * sizeof(float));
    absl::StrAppend(out, "\"", absl::Base64Escape({bytes.data(), bytes.size()}), "\"");
    return;
  }
  char separator = '[';
  for (const float value : vector) {
    char digits[32];
    const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
    *out += std::exchange(separator, ',');
    out->append(digits, end);
  }
  *out += ']';
}

std::string UsageText(const Usage& usage) {
  json value = ToJson(usage);
  if (usage.completion_tokens == 0) value.erase("completion_tokens");
  return Dump(value);
}

std::string ScoreText(const BatchResult& result, size_t index, const Tokenizer& tokenizer) {
  json tokens = json::array(), logprobs = json::array();
  double sum = 0;
  for (size_t i = 0; i < result.tokens.size(); ++i) {
    const int32_t id = result.tokens[i];
    tokens.push_back(TokenKey({id, std::string(tokenizer.TokenBytes(id)), 0}));
    logprobs.push_back(static_cast<double>(result.logprobs[i]));
    sum += static_cast<double>(result.logprobs[i]);
  }
  return Dump({{"object", "score"},
               {"index", index},
               {"logprob", sum},
               {"tokens", std::move(tokens)},
               {"token_ids", result.tokens},
               {"token_logprobs", std::move(logprobs)}});
}

std::string EmbeddingText(const BatchResult& result, size_t index, bool base64) {
  std::string text = absl::StrCat(R"({"object":"embedding","index":)", index, R"(,"embedding":)");
  AppendVector(result.vector, base64, &text);
  return text + "}";
}

}  // namespace

absl::StatusOr<RestBatch> ParseEmbeddings(const std::string& text) {
  absl::StatusOr<RestBody> body = RestBody::Parse(text);
  if (!body.ok()) return body.status();
  RestBatch request;
  EmbedRequest embed;
  for (absl::Status status : {body->TakeString("model", &request.batch.model),
                              TakeInput(*body, &embed), TakeFormat(*body, &request.base64),
                              TakeDimensions(*body, &embed.dimensions), body->TakeRest(nullptr)}) {
    if (!status.ok()) return status;
  }
  request.batch.input = std::move(embed);
  return request;
}

absl::StatusOr<RestBatch> ParseScore(const std::string& text) {
  absl::StatusOr<RestBody> body = RestBody::Parse(text);
  if (!body.ok()) return body.status();
  RestBatch request;
  ScoreRequest score;
  const json& list = body->Take("continuations");
  for (absl::Status status : {body->TakeString("model", &request.batch.model),
                              body->TakeString("prompt", &score.prompt), body->TakeRest(nullptr)}) {
    if (!status.ok()) return status;
  }
  bool good = list.is_array();
  for (size_t i = 0; good && i < list.size(); ++i) {
    good = list[i].is_string();
    if (good) score.continuations.push_back(list[i].get<std::string>());
  }
  if (!good) return BadParam("continuations", "continuations must be a list of strings");
  request.batch.input = std::move(score);
  return request;
}

void RestApi::StartBatch(const HttpRequest& http, absl::StatusOr<RestBatch> request,
                         const Reply& reply) {
  if (!request.ok()) {
    service_.metrics().CountRejected("invalid");
    reply->Send(ErrorResponse(request.status()));
    return;
  }
  request->batch.caller = http.caller;
  request->batch.body_bytes = static_cast<int64_t>(http.body.size());
  const absl::StatusOr<uint64_t> call =
      service_.StartBatch(request->batch, [&](const FoundModel& found, const Usage& usage) {
        const bool scores = std::holds_alternative<ScoreRequest>(request->batch.input);
        return [scores, base64 = request->base64, reply, name = found.name(), usage,
                tokenizer = found.model->tokenizer.get()](const absl::Status& status,
                                                          std::vector<BatchResult> results) {
          if (!status.ok()) {
            reply->Send(ErrorResponse(status));
            return;
          }
          HttpResponse response;
          response.body = R"({"object":"list","data":[)";
          for (size_t i = 0; i < results.size(); ++i) {
            if (i > 0) response.body += ',';
            response.body += scores ? ScoreText(results[i], i, *tokenizer)
                                    : EmbeddingText(results[i], i, base64);
            results[i] = {};
          }
          absl::StrAppend(&response.body, R"(],"model":)", Dump(json(name)), R"(,"usage":)",
                          UsageText(usage), "}\n");
          reply->Send(std::move(response));
        };
      });
  if (!call.ok()) {
    reply->Send(ErrorResponse(call.status()));
    return;
  }
  reply->OnGone([this, id = *call] { service_.Cancel(id); });
}

void RestApi::AddBatchRoutes() {
  routes_.push_back({Scope::kInference, "POST", "/v1/embeddings",
                     [this](const HttpRequest& request, const Reply& reply) {
                       StartBatch(request, ParseEmbeddings(request.body), reply);
                     }});
  routes_.push_back({Scope::kInference, "POST", "/v1/score",
                     [this](const HttpRequest& request, const Reply& reply) {
                       StartBatch(request, ParseScore(request.body), reply);
                     }});
}

}  // namespace qianyi
