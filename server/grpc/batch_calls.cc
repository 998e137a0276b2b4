#include "server/grpc/batch_calls.h"

#include <string>
#include <utility>
#include <vector>

#include "server/grpc/cancellation.h"
#include "server/grpc/messages.h"
#include "server/grpc/requests.h"

namespace qianyi {
namespace {

void Write(const std::vector<BatchResult>& results, const Tokenizer&, v1::EmbedResponse* response) {
  for (const BatchResult& result : results) {
    response->add_embeddings()->mutable_values()->Assign(result.vector.begin(),
                                                         result.vector.end());
  }
}

void Write(const std::vector<BatchResult>& results, const Tokenizer& tokenizer,
           v1::ScoreResponse* response) {
  for (const BatchResult& result : results) {
    v1::ContinuationScore* score = response->add_scores();
    double sum = 0;
    for (size_t i = 0; i < result.tokens.size(); ++i) {
      v1::TokenLogprob* token = score->add_tokens();
      token->set_token(result.tokens[i]);
      token->set_piece(std::string(tokenizer.TokenBytes(result.tokens[i])));
      token->set_logprob(static_cast<double>(result.logprobs[i]));
      sum += static_cast<double>(result.logprobs[i]);
    }
    score->set_logprob(sum);
  }
}

template <typename Request, typename Response>
class BatchReactor final : public grpc::ServerUnaryReactor {
 public:
  BatchReactor(TextService& text, const char* method, Response* response)
      : text_(text), method_(method), response_(response), cancellation_(text) {}

  void Start(const absl::StatusOr<Caller>& caller, const Request& message) {
    absl::StatusOr<BatchRequest> request =
        caller.ok() ? ParseRequest(message) : absl::StatusOr<BatchRequest>(caller.status());
    if (!request.ok()) {
      End(request.status());
      return;
    }
    request->caller = *caller;
    request->body_bytes = static_cast<int64_t>(message.ByteSizeLong());
    const auto call =
        text_.StartBatch(*request, [this](const FoundModel& found, const Usage& usage) {
          response_->set_model(found.name());
          SetUsage(usage, response_->mutable_usage());
          return [this, tokenizer = found.model->tokenizer.get()](
                     const absl::Status& status, const std::vector<BatchResult>& results) {
            if (status.ok()) Write(results, *tokenizer, response_);
            End(status);
          };
        });
    if (call.ok()) {
      cancellation_.SetCall(*call);
    } else {
      End(call.status());
    }
  }

  void OnCancel() override { cancellation_.Cancel(); }
  void OnDone() override { delete this; }

 private:
  void End(const absl::Status& status) {
    const grpc::Status answer = ToGrpcStatus(status);
    text_.metrics().CountGrpc(method_, answer.error_code());
    Finish(answer);
  }

  TextService& text_;
  const char* const method_;
  Response* const response_;
  Cancellation cancellation_;
};

template <typename Request, typename Response>
grpc::ServerUnaryReactor* StartReactor(TextService& text, const char* method,
                                       const absl::StatusOr<Caller>& caller, const Request& request,
                                       Response* response) {
  auto* call = new BatchReactor<Request, Response>(text, method, response);  // OnDone deletes it
  call->Start(caller, request);
  return call;
}

}  // namespace

grpc::ServerUnaryReactor* StartEmbed(TextService& text, const absl::StatusOr<Caller>& caller,
                                     const v1::EmbedRequest& request, v1::EmbedResponse* response) {
  return StartReactor(text, "Embed", caller, request, response);
}

grpc::ServerUnaryReactor* StartScore(TextService& text, const absl::StatusOr<Caller>& caller,
                                     const v1::ScoreRequest& request, v1::ScoreResponse* response) {
  return StartReactor(text, "Score", caller, request, response);
}

}  // namespace qianyi
