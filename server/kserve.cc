#include "server/kserve.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "runtime/pictures/picture_file.h"
#include "server/error.h"

namespace qianyi {
namespace {

using nlohmann::json;

constexpr char kVersion[] = "1";  // of every model: a folder has one

json Member(const json& object, const char* name) {
  return object.is_object() ? object.value(name, json()) : json();
}

// [1] or [1, 1]: one text.
bool IsOne(const json& shape) {
  if (!shape.is_array() || shape.empty() || shape.size() > 2) return false;
  for (const json& extent : shape) {
    if (extent != 1) return false;
  }
  return true;
}

absl::Status ReadInput(const json& inputs, std::string* text) {
  if (!inputs.is_array() || inputs.size() != 1) {
    return BadParam("inputs", "inputs must be a list of one tensor, called text");
  }
  const json& tensor = inputs[0];
  if (Member(tensor, "name") != "text") {
    return BadParam("inputs[0].name", "inputs[0].name must be text, which is the only input");
  }
  if (Member(tensor, "datatype") != "BYTES") {
    return BadParam("inputs[0].datatype", "inputs[0].datatype must be BYTES");
  }
  if (!IsOne(Member(tensor, "shape"))) {
    return BadParam("inputs[0].shape",
                    "inputs[0].shape must be [1] or [1, 1]: send one request for each text");
  }
  json data = Member(tensor, "data");
  if (data.is_array() && data.size() == 1 && data[0].is_array()) data = json(data[0]);
  if (!data.is_array() || data.size() != 1 || !data[0].is_string()) {
    return BadParam("inputs[0].data", "inputs[0].data must be a list of one string");
  }
  *text = data[0].get<std::string>();
  return absl::OkStatus();
}

// What a model gives.
std::vector<std::string> OutputsOf(bool paints) {
  return paints ? std::vector<std::string>{"image", "seed"}
                : std::vector<std::string>{"text", "finish_reason"};
}

absl::Status ReadOutputs(const json& outputs, const std::vector<std::string>& known,
                         std::vector<std::string>* wanted) {
  if (outputs.is_null()) return absl::OkStatus();
  if (!outputs.is_array()) return BadParam("outputs", "outputs must be a list");
  for (size_t i = 0; i < outputs.size(); ++i) {
    const json name = Member(outputs[i], "name");
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      const std::string where = absl::StrFormat("outputs[%d].name", i);
      return BadParam(where, absl::StrFormat("%s must be %s", where, absl::StrJoin(known, " or ")));
    }
    wanted->push_back(name.get<std::string>());
  }
  return absl::OkStatus();
}

bool IsMember(const std::string& name) {
  return name == "id" || name == "parameters" || name == "inputs" || name == "outputs";
}

absl::Status NotSupported(const std::string& where) {
  return BadParam(where, absl::StrFormat("%s is not supported here; remove it", where));
}

// Parameters that fill a tensor of their own, or another form of answer, have none here.
absl::Status SetParameter(const std::string& name, const json& value, InferRequest* request) {
  const std::string where = "parameters." + name.substr(0, 100);
  if (auto* text = std::get_if<TextRequest>(&request->work)) {
    if (!IsParameter(name) || name == "top_logprobs") return NotSupported(where);
    return SetParameter(name, value, &text->parameters);
  }
  for (const char* known :
       {"n", "seed", "temperature", "top_k", "top_p", "min_p", "style", "size", "candidates"}) {
    if (name == known) return SetImageField(name, value, &std::get<ImageRequest>(request->work));
  }
  return NotSupported(where);
}

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
  if (!body.is_object()) return absl::InvalidArgumentError("the body must be a JSON object");
  for (const auto& [name, value] : body.items()) {
    if (!IsMember(name)) return NotSupported(name.substr(0, 100));
  }
  const absl::StatusOr<FoundModel> found = text_.FindModel(model);
  if (!found.ok()) return found.status();
  const bool paints = found->model->picture != nullptr;
  InferRequest request;
  const json id = Member(body, "id");
  if (!id.is_null() && !id.is_string()) return BadParam("id", "id must be a string");
  if (id.is_string()) request.id = id.get<std::string>();
  std::string prompt;
  absl::Status status = ReadInput(Member(body, "inputs"), &prompt);
  if (status.ok()) {
    status = ReadOutputs(Member(body, "outputs"), OutputsOf(paints), &request.outputs);
  }
  if (!status.ok()) return status;
  if (paints) {
    ImageRequest image;
    image.model = model;
    image.prompt = std::move(prompt);
    request.work = std::move(image);
  } else {
    TextRequest text;
    text.model = model;
    CompletionInput completion;
    completion.prompt = std::move(prompt);
    text.input = std::move(completion);
    request.work = std::move(text);
  }
  const json parameters = Member(body, "parameters");
  if (!parameters.is_null() && !parameters.is_object()) {
    return BadParam("parameters", "parameters must be an object");
  }
  for (const auto& [name, value] : parameters.items()) {
    if (status = SetParameter(name, value, &request); !status.ok()) return status;
  }
  return request;
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
