#include "server/kserve.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/pictures/picture_file.h"
#include "server/error.h"

namespace qianyi {
namespace {

using nlohmann::json;

constexpr char kVersion[] = "1";  // of every model: a folder has one

// Collects the only blank of each choice.
class TextListener final : public CallListener {
 public:
  TextListener(InferRequest request, const Accepted& accepted, int64_t choices, InferDone done)
      : request_(std::move(request)),
        model_(accepted.model_name),
        seed_(accepted.seed),
        texts_(static_cast<size_t>(choices)),
        reasons_(texts_.size(), "stop"),
        done_(std::move(done)) {}
  void OnText(int choice, int blank, std::string_view text) override {
    if (blank == 0) texts_[choice].append(text);
  }
  void OnReasoning(int, std::string_view) override {}
  void OnToolCall(int, int, const ToolCall&) override {}
  void OnBlankEnd(int choice, int, FinishReason why) override {
    if (why == FinishReason::kLength) reasons_[choice] = "length";
  }
  void OnEnd(const absl::Status& status, const Usage& usage) override {
    InferAnswer answer = {model_,
                          {{"prompt_tokens", usage.prompt_tokens},
                           {"completion_tokens", usage.completion_tokens},
                           {"seed", static_cast<int64_t>(seed_)}},
                          {}};
    const std::vector<int64_t> shape = {static_cast<int64_t>(texts_.size())};
    if (request_.Wants("text")) answer.tensors.push_back({"text", shape, std::move(texts_)});
    if (request_.Wants("finish_reason")) {
      answer.tensors.push_back({"finish_reason", shape, std::move(reasons_)});
    }
    done_(status, answer);
  }

 private:
  const InferRequest request_;
  const std::string model_;
  const uint64_t seed_;
  std::vector<std::string> texts_;
  std::vector<std::string> reasons_;
  const InferDone done_;
};

// [pictures, height, width, 3] of what lossless files hold.
absl::StatusOr<InferTensor> ImageTensor(const std::vector<FinishedPicture>& pictures) {
  InferTensor tensor = {"image", {}, std::string()};
  std::string& bytes = std::get<std::string>(tensor.data);
  for (const FinishedPicture& one : pictures) {
    absl::StatusOr<Picture> picture = DecodePicture(one.file);
    if (!picture.ok()) return picture.status();
    tensor.shape = {static_cast<int64_t>(pictures.size()), picture->height, picture->width,
                    picture->channels};
    bytes.append(picture->bytes.begin(), picture->bytes.end());
  }
  return tensor;
}

class PictureListener final : public ImageListener {
 public:
  PictureListener(InferRequest request, const AcceptedImage& accepted, InferDone done)
      : request_(std::move(request)), accepted_(accepted), done_(std::move(done)) {}
  void OnProgress(ImageProgress) override {}
  void OnEnd(const absl::StatusOr<ImageResult>& result) override {
    if (!result.ok()) {
      done_(result.status(), {});
      return;
    }
    InferAnswer answer = {accepted_.model->name,
                          {{"prompt_tokens", accepted_.prompt_tokens},
                           {"completion_tokens", result->output_tokens},
                           {"seed", static_cast<int64_t>(accepted_.seed)}},
                          {}};
    if (request_.Wants("image")) {
      absl::StatusOr<InferTensor> image = ImageTensor(result->pictures);
      if (!image.ok()) {
        done_(image.status(), {});
        return;
      }
      answer.tensors.push_back(*std::move(image));
    }
    if (request_.Wants("seed")) {
      std::vector<int64_t> seeds;
      for (const FinishedPicture& one : result->pictures) {
        seeds.push_back(static_cast<int64_t>(one.seed));
      }
      const auto count = static_cast<int64_t>(seeds.size());
      answer.tensors.push_back({"seed", {count}, std::move(seeds)});
    }
    done_(absl::OkStatus(), answer);
  }

 private:
  const InferRequest request_;
  const AcceptedImage accepted_;
  const InferDone done_;
};

}  // namespace

bool InferRequest::Wants(std::string_view tensor) const {
  return outputs.empty() || std::find(outputs.begin(), outputs.end(), tensor) != outputs.end();
}

void InferRequest::SetCaller(const Caller& caller, int64_t body_bytes) {
  if (auto* text = std::get_if<TextRequest>(&work)) {
    text->caller = caller;
    text->batch |= caller.batch;
    text->body_bytes = body_bytes;
  } else {
    auto& image = std::get<ImageRequest>(work);
    image.caller = caller;
    image.body_bytes = body_bytes;
  }
}

const char* InferTensor::datatype() const {
  constexpr const char* kNames[] = {"BYTES", "INT64", "UINT8"};
  return kNames[data.index()];
}

absl::StatusOr<InferRequest> InferService::Read(const std::string& model, const json& body) const {
  const absl::StatusOr<FoundModel> found = text_.FindModel(model);
  if (!found.ok()) return found.status();
  return ReadInfer(model, found->model->picture != nullptr, body);
}

absl::StatusOr<InferService::Call> InferService::Start(InferRequest request, InferDone done) {
  if (const auto* text = std::get_if<TextRequest>(&request.work)) {
    const absl::StatusOr<uint64_t> id = text_.Start(*text, [&](const Accepted& accepted) {
      return std::make_unique<TextListener>(request, accepted, text->parameters.n, std::move(done));
    });
    if (!id.ok()) return id.status();
    return Call{false, *id};
  }
  const absl::StatusOr<uint64_t> id =
      images_.Start(std::get<ImageRequest>(request.work), [&](const AcceptedImage& accepted) {
        return std::make_unique<PictureListener>(request, accepted, std::move(done));
      });
  if (!id.ok()) return id.status();
  return Call{true, *id};
}

void InferService::Cancel(Call call) {
  if (call.paints) {
    images_.Cancel(call.id);
  } else {
    text_.Cancel(call.id);
  }
}

json InferService::Metadata(const FoundModel& model) {
  const auto tensor = [](const char* name, const char* datatype, std::vector<int> shape) {
    return json{{"name", name}, {"datatype", datatype}, {"shape", std::move(shape)}};
  };
  const json outputs =
      model.model->picture != nullptr
          ? json::array({tensor("image", "UINT8", {-1, -1, -1, 3}), tensor("seed", "INT64", {-1})})
          : json::array({tensor("text", "BYTES", {-1}), tensor("finish_reason", "BYTES", {-1})});
  return {{"name", model.name()},
          {"versions", json::array({kVersion})},
          {"platform", "qianyi_" + model.model->engine->model().spec().family},
          {"inputs", json::array({tensor("text", "BYTES", {1})})},
          {"outputs", outputs}};
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
