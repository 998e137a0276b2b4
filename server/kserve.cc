#include "server/kserve.h"

#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/error.h"

namespace qianyi {
namespace {

using nlohmann::json;

constexpr char kVersion[] = "1";  // of every model: a folder has one

// Collects the only blank of each choice.
class Listener final : public CallListener {
 public:
  Listener(InferAnswer answer, InferDone done)
      : answer_(std::move(answer)), done_(std::move(done)) {}
  void OnText(int choice, int blank, std::string_view text) override {
    if (blank == 0) answer_.texts[choice].append(text);
  }
  void OnReasoning(int, std::string_view) override {}
  void OnToolCall(int, int, const ToolCall&) override {}
  void OnBlankEnd(int choice, int, FinishReason why) override {
    if (why == FinishReason::kLength) answer_.reasons[choice] = "length";
  }
  void OnEnd(const absl::Status& status, const Usage& usage) override {
    answer_.usage = usage;
    done_(status, answer_);
  }

 private:
  InferAnswer answer_;
  const InferDone done_;
};

}  // namespace

absl::StatusOr<uint64_t> StartInfer(TextService& service, const InferRequest& request,
                                    InferDone done) {
  return service.Start(request.text, [&](const Accepted& accepted) {
    InferAnswer answer;
    answer.model = accepted.model_name;
    answer.seed = accepted.seed;
    answer.texts.resize(static_cast<size_t>(request.text.parameters.n));
    answer.reasons.assign(answer.texts.size(), "stop");
    return std::make_unique<Listener>(std::move(answer), std::move(done));
  });
}

json InferMetadata(const FoundModel& model) {
  const auto tensor = [](const char* name, int extent) {
    return json{{"name", name}, {"datatype", "BYTES"}, {"shape", json::array({extent})}};
  };
  return {{"name", model.name()},
          {"versions", json::array({kVersion})},
          {"platform", "qianyi_" + model.model->engine->model().spec().family},
          {"inputs", json::array({tensor("text", 1)})},
          {"outputs", json::array({tensor("text", -1), tensor("finish_reason", -1)})}};
}

json ServerMetadataJson() {
  return {{"name", "qianyi"}, {"version", kVersion}, {"extensions", json::array()}};
}

absl::Status CheckVersion(const std::string& version) {
  if (version.empty() || version == kVersion) return absl::OkStatus();
  return WithParam(absl::NotFoundError(absl::StrFormat("version '%s' is not served; there is 1",
                                                       version.substr(0, 50))),
                   "model_version");
}

}  // namespace qianyi
