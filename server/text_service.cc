#include "server/text_service.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "runtime/chat/tool_name_constraint.h"
#include "runtime/verse/verse_constraint.h"
#include "server/best_of.h"
#include "server/error.h"
#include "server/json_form.h"
#include "server/request_account.h"

namespace qianyi {
namespace {

struct Prepared {
  Prompt prompt;
  MakeConstraint constraint;
  ChatReading reading;
};

absl::StatusOr<std::vector<int32_t>> EncodeCompletion(const CompletionInput& input,
                                                      const ServedModel& model) {
  if (!input.prompt_ids.empty()) return input.prompt_ids;
  const Model& glm = model.engine->model();
  const auto is_blank = [&](std::string_view word) {
    return input.prompt.find(word) != std::string::npos;
  };
  std::vector<PromptPart> parts = {{input.prompt, /*commands=*/true}};
  if (!input.suffix.empty()) {
    if (!glm.spec().bidirectional) {
      return BadParam("suffix", "suffix needs a model that fills blanks; this one continues text");
    }
    if (is_blank("[MASK]") || is_blank("[sMASK]") || is_blank("[gMASK]")) {
      return BadParam("suffix",
                      "suffix cannot be joined to a prompt that has blanks of its own; "
                      "write it into the prompt");
    }
    parts.push_back({"[MASK]", /*commands=*/true});
    parts.push_back({input.suffix, /*commands=*/false});
  }
  auto ids = glm.Encode(*model.tokenizer, parts);
  return ids.ok() ? ids : WithParam(ids.status(), "prompt");
}

absl::StatusOr<MakeConstraint> PoemForm(const TaskInput& input, const ServedModel& model) {
  const auto name = input.fields.find("form");
  if (name == input.fields.end() || name->second.empty()) return MakeConstraint();
  absl::StatusOr<VerseForm> form = FindVerseForm(name->second);
  if (!form.ok()) return WithParam(form.status(), "form");
  const PoemRules rules = {.rhyme = input.rhyme.value_or(form->rhymes()), .tones = input.tones};
  MakeConstraint make = [verse = model.verse.get(), form = *form, rules,
                         ends = model.engine->model().end_tokens()] {
    return MakePoemConstraint(*verse, form, rules, ends);
  };
  // What can be wrong is wrong every time: one that can be made once can be made again.
  if (auto trial = make(); !trial.ok()) return WithParam(trial.status(), "form");
  return make;
}

absl::StatusOr<MakeConstraint> CoupletForm(const TaskInput& input, const ServedModel& model) {
  MakeConstraint make = [verse = model.verse.get(), upper = input.fields.find("upper")->second,
                         rules = CoupletRules{.tones = input.tones},
                         ends = model.engine->model().end_tokens()] {
    return MakeCoupletConstraint(*verse, upper, rules, ends);
  };
  if (auto trial = make(); !trial.ok()) return WithParam(trial.status(), "upper");
  return make;
}

absl::StatusOr<Prepared> PrepareTask(const TaskInput& input, const ServedModel& model,
                                     std::vector<int32_t>* ids) {
  if (absl::Status status = CheckFields(input.task, input.fields); !status.ok()) return status;
  Prepared prepared;
  absl::StatusOr<MakeConstraint> constraint = MakeConstraint();
  if (input.task == Task::kPoem) constraint = PoemForm(input, model);
  if (input.task == Task::kCouplet) constraint = CoupletForm(input, model);
  if (!constraint.ok()) return constraint.status();
  prepared.constraint = *std::move(constraint);
  prepared.reading = {model.prompts.task_format(), Prompts::TaskOptions()};
  auto encoded =
      model.prompts.EncodeTask(input.task, input.fields, model.engine->model(), *model.tokenizer);
  if (!encoded.ok()) return encoded.status();
  *ids = *std::move(encoded);
  return prepared;
}

// What a chat asks for that its model's format does not have.
absl::Status CheckChat(const ChatInput& chat, const ServedModel& model) {
  const ChatFormat* format = model.prompts.chat_format();
  if (!chat.options.tools.empty() && (format == nullptr || !format->tools)) {
    return BadParam("tools",
                    absl::StrFormat("tools are not supported by model %s, as its chat format has "
                                    "none; remove tools, or ask a model that calls them",
                                    model.name));
  }
  if (chat.thinking.value_or(false) && (format == nullptr || !format->thinking)) {
    return BadParam(chat.thinking_param,
                    absl::StrFormat("%s asks model %s to think, which its chat format does not "
                                    "have; remove it",
                                    chat.thinking_param, model.name));
  }
  return absl::OkStatus();
}

absl::StatusOr<Prepared> PrepareChat(ChatInput chat, bool formed, const ServedModel& model,
                                     std::vector<int32_t>* ids) {
  if (absl::Status status = CheckChat(chat, model); !status.ok()) return status;
  if (formed) {
    if (absl::Status status = CheckFormedChat(chat); !status.ok()) return status;
    chat.options.thinking = false;
  }
  Prepared prepared;
  prepared.reading = {model.prompts.chat_format(), chat.options};
  auto encoded = model.prompts.EncodeChat(chat.messages, chat.options, model.engine->model(),
                                          *model.tokenizer);
  if (!encoded.ok()) return WithParam(encoded.status(), "messages");
  *ids = *std::move(encoded);
  const ChatOptions& options = chat.options;
  const bool chooses = options.choice == ToolChoice::kRequired && options.chosen_tool.empty();
  if (prepared.reading.format == nullptr || !chooses || options.tools.size() < 2) return prepared;
  std::vector<std::string> names;
  for (const ChatTool& tool : options.tools) names.push_back(tool.name);
  prepared.constraint = [&model, names = std::move(names),
                         after = prepared.reading.format->after_tool_name]()
      -> absl::StatusOr<std::unique_ptr<Constraint>> {
    return MakeToolNameConstraint(*model.tokenizer, names, after);
  };
  return prepared;
}

// The model's own, and those at which a message of the format ends.
std::vector<int32_t> EndTokens(const ChatFormat* format, const ServedModel& model) {
  std::vector<int32_t> ends = model.engine->model().end_tokens();
  if (format == nullptr) return ends;
  for (const std::string_view word : format->end_words) {
    const int32_t id = model.tokenizer->WordId(word);
    if (id >= 0 && std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  }
  return ends;
}

absl::StatusOr<Prepared> Prepare(const TextRequest& request, const ServedModel& model) {
  Prepared prepared;
  std::vector<int32_t> ids;
  if (const auto* completion = std::get_if<CompletionInput>(&request.input)) {
    auto encoded = EncodeCompletion(*completion, model);
    if (!encoded.ok()) return encoded.status();
    ids = *std::move(encoded);
  } else if (const auto* chat = std::get_if<ChatInput>(&request.input)) {
    auto prepared_chat = PrepareChat(*chat, request.json_form.has_value(), model, &ids);
    if (!prepared_chat.ok()) return prepared_chat.status();
    prepared = *std::move(prepared_chat);
  } else {
    auto task = PrepareTask(std::get<TaskInput>(request.input), model, &ids);
    if (!task.ok()) return task.status();
    prepared = *std::move(task);
  }
  auto prompt = model.engine->model().LayOut(std::move(ids));
  if (!prompt.ok()) return WithCode(prompt.status(), "context_length_exceeded");
  prepared.prompt = *std::move(prompt);
  if (request.json_form.has_value()) {
    const std::vector<int32_t> ends = EndTokens(prepared.reading.format, model);
    auto form = JsonForm(request, prepared.prompt, ends, model);
    if (!form.ok()) return form.status();
    prepared.constraint = *std::move(form);
    prepared.reading.plain = true;
  }
  return prepared;
}

// What the model's config says for parameters that the request leaves open.
absl::StatusOr<Parameters> WithDefaults(const TextRequest& request, const ServedModel& model) {
  Parameters parameters = request.parameters;
  Prompts::Defaults defaults;
  if (const auto* task = std::get_if<TaskInput>(&request.input)) {
    defaults = model.prompts.TaskDefaults(task->task);
  } else if (std::holds_alternative<ChatInput>(request.input)) {
    defaults = model.prompts.ChatDefaults();
  }
  const std::vector<std::string>& set = request.parameters.set;
  for (const auto& [name, value] : defaults) {
    if (std::find(set.begin(), set.end(), name) != set.end()) continue;
    absl::Status status = SetParameter(name, nlohmann::json(value), &parameters);
    if (!status.ok()) return status;
  }
  return parameters;
}

// What the context and the position tables have room for, for each blank.
int64_t RoomForTokens(const Prompt& prompt, const ModelSpec& spec, int64_t context_tokens) {
  const int64_t blanks = static_cast<int64_t>(prompt.blanks.size());
  int64_t room = (context_tokens - static_cast<int64_t>(prompt.tokens.size())) / blanks - 1;
  for (const Blank& blank : prompt.blanks) {
    for (const int row : {0, 1}) {
      if (blank.stride[row] == 0) continue;
      room = std::min(room, (spec.max_positions - blank.position[row]) / blank.stride[row]);
    }
  }
  return room;
}

absl::Status CheckBestOf(const Parameters& parameters, bool streamed) {
  if (parameters.best_of == 0) return absl::OkStatus();
  if (parameters.best_of < parameters.n) {
    return BadParam("best_of", absl::StrFormat("best_of is %d; it must be at least n, which is %d",
                                               parameters.best_of, parameters.n));
  }
  if (streamed && parameters.best_of > parameters.n) {
    return BadParam("best_of", absl::StrFormat("best_of is %d, and a stream cannot take back what "
                                               "it showed; remove stream or best_of",
                                               parameters.best_of));
  }
  return absl::OkStatus();
}

uint64_t DrawSeed() {
  // Below 2^53, so that a client whose numbers are doubles can send it back.
  thread_local std::mt19937_64 random{std::random_device{}()};
  return random() >> 11;
}

// The engine's request, once it is known to fit.
absl::StatusOr<GenerateRequest> MakeGenerate(Prompt prompt, const ChatFormat* format,
                                             const TextRequest& request,
                                             const Parameters& parameters,
                                             const ServedModel& model) {
  const Engine& engine = *model.engine;
  const int64_t context = model.use().context_tokens;
  const int64_t room = RoomForTokens(prompt, engine.model().spec(), context);
  // A default bends to the room; what was asked for does not.
  const auto& set = request.parameters.set;
  const bool asked = std::find(set.begin(), set.end(), "max_tokens") != set.end();
  int64_t max_tokens = parameters.max_tokens > 0 ? parameters.max_tokens : room;
  if (!asked) max_tokens = std::min(max_tokens, room);
  if (room < 1 || max_tokens > room) {
    const absl::Status status = absl::InvalidArgumentError(absl::StrFormat(
        "the prompt has %d tokens and %d blank(s), which leaves room for %d tokens each in a "
        "context of %d; max_tokens is %d: shorten the prompt or lower it",
        prompt.tokens.size(), prompt.blanks.size(), std::max<int64_t>(room, 0), context,
        max_tokens));
    return WithParam(WithCode(status, "context_length_exceeded"), asked ? "max_tokens" : "prompt");
  }
  if (prompt.blanks.size() > 1 && !parameters.stop.empty()) {
    return BadParam("stop", "stop works with one blank; this prompt has more");
  }
  if (prompt.blanks.size() > 1 && (parameters.sampling.report_logprob || parameters.best_of > 0)) {
    const char* const name = parameters.best_of > 0 ? "best_of" : "logprobs";
    return BadParam(name, absl::StrFormat("%s works with one blank; this prompt has more", name));
  }
  GenerateRequest generate{.prompt = std::move(prompt),
                           .sampling = parameters.sampling,
                           .max_tokens = static_cast<int32_t>(max_tokens),
                           .end_tokens = EndTokens(format, model)};
  if (!parameters.seeded) generate.sampling.seed = DrawSeed();
  absl::Status status = Engine::Check(generate, engine.model().spec(), context);
  if (!status.ok()) return status;
  return generate;
}

}  // namespace

TextService::TextService(std::vector<std::unique_ptr<ServedModel>> models,
                         const QueueLimits& limits, Log& log)
    : log_(log),
      admission_(LinesOf(models, limits.tokens), MemoryOf(models, limits.bytes)),
      models_(std::move(models)),
      metrics_(models_, admission_) {
  const auto is_text = [](const auto& model) { return model->picture == nullptr; };
  const auto text = std::find_if(models_.begin(), models_.end(), is_text);
  if (models_.size() == 1) only_ = models_.front().get();
  if (std::count_if(models_.begin(), models_.end(), is_text) == 1) only_ = text->get();
}

TextService::~TextService() { Drain(0); }

std::string FoundModel::name() const {
  return adapter == nullptr ? model->name : model->name + ":" + adapter->name();
}

const ServedModel* TextService::FindBase(std::string_view name) const {
  if (name.empty()) return only_;
  for (const auto& model : models_) {
    if (model->name == name) return model.get();
  }
  return nullptr;
}

absl::StatusOr<FoundModel> TextService::FindModel(std::string_view name) const {
  if (const ServedModel* model = FindBase(name)) return FoundModel{model, nullptr};
  const size_t colon = name.rfind(':');
  const ServedModel* base =
      colon == std::string_view::npos ? nullptr : FindBase(name.substr(0, colon));
  if (base != nullptr) {
    auto adapter = base->engine->adapters().Find(name.substr(colon + 1));
    if (adapter.ok()) return FoundModel{base, *std::move(adapter)};
  }
  std::string known;
  for (const auto& model : models_) {
    absl::StrAppendFormat(&known, "%s%s", known.empty() ? "" : ", ", model->name);
    for (const auto& adapter : model->engine->adapters().List()) {
      absl::StrAppendFormat(&known, ", %s:%s", model->name, adapter->name());
    }
  }
  const std::string shown(name.substr(0, 100));
  return WithParam(WithCode(absl::NotFoundError(absl::StrFormat(
                                "model '%s' is not served here; there is: %s", shown, known)),
                            "model_not_found"),
                   "model");
}

absl::StatusOr<uint64_t> TextService::Start(const TextRequest& request,
                                            const MakeListener& make_listener) {
  ++starting_;  // before it looks at draining_, so that Drain misses none
  absl::StatusOr<uint64_t> call = Accept(request, make_listener);
  --starting_;
  if (!call.ok()) metrics_.CountRejected(ReasonOf(call.status()));
  return call;
}

absl::StatusOr<Ticket> TextService::Admit(const Caller& caller, const ServedModel& model,
                                          const Load& load, bool batch) {
  const auto at = std::find_if(models_.begin(), models_.end(),
                               [&](const auto& other) { return other.get() == &model; });
  return admission_.Admit(caller, static_cast<size_t>(at - models_.begin()), load, batch);
}

absl::StatusOr<FoundModel> TextService::FindTextModel(std::string_view name) const {
  absl::StatusOr<FoundModel> found = FindModel(name);
  if (!found.ok()) return found;
  const ServedModel& model = *found->model;
  if (model.picture != nullptr) {
    return BadParam(
        "model", absl::StrFormat("model %s is one of pictures; name a model of text", model.name));
  }
  if (model.tokenizer == nullptr) {
    return BadParam(
        "model", absl::StrFormat("model %s has no tokenizer, so it cannot read text", model.name));
  }
  return found;
}

absl::StatusOr<int64_t> TextService::CountTokens(const TextRequest& request) {
  if (draining_) return absl::UnavailableError("the server is shutting down; try another");
  const absl::StatusOr<FoundModel> found = FindTextModel(request.model);
  if (!found.ok()) return found.status();
  const Load load{.choices = 1, .bytes = request.body_bytes};
  const absl::StatusOr<Ticket> ticket = Admit(request.caller, *found->model, load, request.batch);
  if (!ticket.ok()) return ticket.status();
  absl::StatusOr<Prepared> prepared = Prepare(request, *found->model);
  if (!prepared.ok()) return prepared.status();
  return static_cast<int64_t>(prepared->prompt.tokens.size());
}

absl::StatusOr<uint64_t> TextService::Accept(const TextRequest& request,
                                             const MakeListener& make_listener) {
  if (draining_) return absl::UnavailableError("the server is shutting down; try another");
  const absl::StatusOr<FoundModel> found = FindTextModel(request.model);
  if (!found.ok()) return found.status();
  const ServedModel& model = *found->model;
  if (absl::Status status = CheckBestOf(request.parameters, request.streamed); !status.ok()) {
    return status;
  }
  const int64_t choices = request.parameters.candidates();
  absl::StatusOr<Ticket> ticket = Admit(
      request.caller, model, {.choices = choices, .bytes = request.body_bytes}, request.batch);
  if (!ticket.ok()) return ticket.status();
  absl::StatusOr<Prepared> prepared = Prepare(request, model);
  if (!prepared.ok()) return prepared.status();
  const absl::StatusOr<Parameters> parameters = WithDefaults(request, model);
  if (!parameters.ok()) return parameters.status();
  absl::StatusOr<GenerateRequest> generate = MakeGenerate(
      std::move(prepared->prompt), prepared->reading.format, request, *parameters, model);
  if (!generate.ok()) return generate.status();
  generate->adapter = found->adapter;
  generate->turn = ticket->turn();
  absl::Status grown = ticket->Grow(LoadOf(*generate, choices));
  if (!grown.ok()) return grown;

  const Accepted accepted{&model, found->name(), generate->sampling.seed,
                          static_cast<int>(generate->prompt.blanks.size()),
                          static_cast<int64_t>(generate->prompt.tokens.size())};
  std::unique_ptr<CallListener> listener = make_listener(accepted);
  const int candidates = static_cast<int>(parameters->candidates());
  if (candidates > parameters->n) {
    listener = MakeBestOf(static_cast<int>(parameters->n), candidates, std::move(listener));
    generate->sampling.report_logprob = true;
  }
  generate->sampling.report_unmasked = true;
  const SamplingParams& sampling = generate->sampling;
  auto call = std::make_unique<TextCall>(
      model, metrics_.Of(model), static_cast<int64_t>(generate->prompt.tokens.size()),
      parameters->stop, std::move(prepared->reading), std::move(listener));
  call->Hold(*std::move(ticket));
  if (log_.requests()) call->LogTo(log_, LogLine(request, accepted.model_name, log_.prompts()));
  for (int64_t i = 0; i < candidates; ++i) {
    GenerateRequest choice = *generate;
    choice.sampling.seed += static_cast<uint64_t>(i);
    absl::StatusOr<std::unique_ptr<Constraint>> constraint = nullptr;
    if (prepared->constraint) constraint = prepared->constraint();
    if (!constraint.ok()) return constraint.status();
    auto sink = std::make_shared<Sink>(Engine::MaxEvents(choice), sampling.logprobs, pump_.bell());
    auto id = model.engine->Submit(std::move(choice), sink, *std::move(constraint));
    if (!id.ok()) {
      call->Cancel();  // choices before it; its listener never hears of anything
      return id.status();
    }
    call->AddChoice(*id, std::move(sink), WantsLogprobs(sampling));
  }
  return pump_.Add(std::move(call));
}

absl::StatusOr<uint64_t> TextService::StartBatch(const BatchRequest& request,
                                                 const MakeDone& make_done) {
  ++starting_;
  absl::StatusOr<uint64_t> call = AcceptBatch(request, make_done);
  --starting_;
  if (!call.ok()) metrics_.CountRejected(ReasonOf(call.status()));
  return call;
}

absl::StatusOr<uint64_t> TextService::AcceptBatch(const BatchRequest& request,
                                                  const MakeDone& make_done) {
  if (draining_) return absl::UnavailableError("the server is shutting down; try another");
  const absl::StatusOr<FoundModel> found = FindTextModel(request.model);
  if (!found.ok()) return found.status();
  const ServedModel& model = *found->model;
  absl::StatusOr<Ticket> ticket =
      Admit(request.caller, model,
            {.choices = BatchCall::Together(CountOf(request), model), .bytes = request.body_bytes},
            request.caller.batch);
  if (!ticket.ok()) return ticket.status();
  absl::StatusOr<std::vector<BatchJob>> jobs = PrepareBatch(request, model);
  if (!jobs.ok()) return jobs.status();
  const Usage usage = UsageOf(request, *jobs);
  for (BatchJob& job : *jobs) job.request.adapter = found->adapter;
  auto call = std::make_unique<BatchCall>(model, metrics_.Of(model), *std::move(jobs), pump_.bell(),
                                          make_done(*found, usage));
  if (absl::Status status = ticket->Grow(call->load()); !status.ok()) return status;
  call->Hold(*std::move(ticket), usage.prompt_tokens + usage.completion_tokens);
  if (absl::Status status = call->Begin(); !status.ok()) return status;
  return pump_.Add(std::move(call));
}

double TextService::uptime_seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
}

void TextService::Drain(double seconds) {
  draining_ = true;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  const auto busy = [this] { return starting_ > 0 || pump_.active() > 0; };
  while (busy() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  while (busy()) {
    pump_.CancelAll();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

}  // namespace qianyi
