// What callers do on their own threads: requests are checked, and put into the engine's inbox.
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/engine_call.h"

namespace qianyi {

int64_t Engine::MaxEvents(const GenerateRequest& request) {
  return static_cast<int64_t>(request.prompt.blanks.size()) * (int64_t{request.max_tokens} + 1);
}

absl::Status Engine::Check(const GenerateRequest& request, const ModelSpec& spec,
                           int64_t context_tokens) {
  if (absl::Status status = Validate(request.sampling, spec.vocab_size); !status.ok()) {
    return status;
  }
  for (const int32_t end : request.end_tokens) {
    if (end < 0 || end >= spec.vocab_size) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "stop token %d; tokens of this model are 0 to %d", end, spec.vocab_size - 1));
    }
  }
  const int64_t prompt = static_cast<int64_t>(request.prompt.tokens.size());
  const int64_t blanks = static_cast<int64_t>(request.prompt.blanks.size());
  if (request.max_tokens < 1 || request.max_tokens > spec.max_positions) {
    return absl::InvalidArgumentError(absl::StrFormat("max_tokens is %d; it must be 1..%d",
                                                      request.max_tokens, spec.max_positions));
  }
  const int64_t total = Generation::MaxCached(request.prompt, request.max_tokens);
  if (prompt < 1 || blanks < 1 || total > context_tokens) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the prompt has %d tokens and %d blank(s) of max_tokens %d each need one more to start: "
        "%d in all, but the context is %d; shorten the prompt, lower max_tokens or raise --context",
        prompt, blanks, request.max_tokens, total, context_tokens));
  }
  int64_t moved = 0;
  for (const Blank& blank : request.prompt.blanks) {
    for (int row : {0, 1}) {
      const int64_t last = blank.position[row] + (row == 0 ? moved : 0) +
                           int64_t{blank.stride[row]} * request.max_tokens;
      if (last > spec.max_positions) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "max_tokens %d would reach position %d; the model has positions up to %d; lower it",
            request.max_tokens, last, spec.max_positions));
      }
    }
    // What fills a mask moves the later ones on.
    if (request.prompt.refill) moved += request.max_tokens - 1;
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Engine::Submit(GenerateRequest request, std::shared_ptr<Sink> sink,
                                        std::unique_ptr<Constraint> constraint) {
  if (constraint != nullptr && request.prompt.blanks.size() != 1) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the prompt has %d blanks; a constrained request has one", request.prompt.blanks.size()));
  }
  if (absl::Status status = Check(request, model().spec(), use_.context_tokens); !status.ok()) {
    return status;
  }
  return Enqueue(
      std::make_unique<Call>(std::move(request), std::move(sink), std::move(constraint)));
}

absl::StatusOr<uint64_t> Engine::Submit(GenerateRequest request,
                                        std::vector<Candidate> candidates) {
  const int64_t places = static_cast<int64_t>(running_.size());
  if (candidates.empty() || static_cast<int64_t>(candidates.size()) > places) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d candidates; they run together, and there are %d places; ask for 1..%d, "
                        "or raise --batch",
                        candidates.size(), places, places));
  }
  if (request.prompt.blanks.size() != 1) {
    return absl::InvalidArgumentError("a prompt of several candidates has one blank");
  }
  std::unique_ptr<Call> leader;
  for (Candidate& candidate : candidates) {
    request.sampling = std::move(candidate.sampling);
    absl::Status status = Check(request, model().spec(), use_.context_tokens);
    if (!status.ok()) return status;
    auto call =
        std::make_unique<Call>(request, std::move(candidate.sink), std::move(candidate.constraint));
    if (leader == nullptr) {
      leader = std::move(call);
    } else {
      leader->followers.push_back(std::move(call));
    }
  }
  return Enqueue(std::move(leader));
}

absl::StatusOr<uint64_t> Engine::Enqueue(std::unique_ptr<Call> call) {
  const int64_t candidates = call->candidates();
  std::lock_guard lock(mutex_);
  if (queued_ + candidates > options_.queue) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%d requests are waiting, and at most %d may; try again later", queued_, options_.queue));
  }
  queued_ += candidates;
  call->id = next_id_++;
  const uint64_t id = call->id;
  call->queued_nanoseconds = NowNanoseconds();
  for (auto& follower : call->followers) {
    follower->id = id;
    follower->queued_nanoseconds = call->queued_nanoseconds;
  }
  inbox_.push_back(std::move(call));
  wake_.notify_one();
  return id;
}

void Engine::Cancel(uint64_t id) {
  std::lock_guard lock(mutex_);
  cancelled_.push_back(id);
  wake_.notify_one();
}

}  // namespace qianyi
