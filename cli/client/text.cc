// What `client poem` and `client chat` share.
#include <chrono>
#include <cstdio>

#include "cli/client/commands.h"

namespace qianyi {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void Write(const std::string& text, std::FILE* to) { std::fwrite(text.data(), 1, text.size(), to); }

}  // namespace

void TextFlags::Add(CLI::App& command) {
  server.Add(command);
  command.add_option("--model", model, "one that is served, or MODEL:ADAPTER [the only one]")
      ->type_name("NAME");
  command.add_option("--max-tokens", max_tokens, "of the answer [what there is room for]")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->type_name("N");
  command.add_option("--temperature", temperature, "0 to 2; 0 = always the best token")
      ->check(CLI::Range(0.0, 2.0))
      ->type_name("T");
  command.add_option("--top-p", top_p, "keep the best tokens that make up this much")
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("P");
  command.add_option("--seed", seed, "the same seed gives the same text [another each time]")
      ->check(CLI::NonNegativeNumber)
      ->type_name("N");
  command.add_flag("--quiet", quiet, "no summary on standard error");
}

void TextFlags::Fill(v1::GenerateRequest* request) const {
  request->set_model(model);
  v1::Parameters& parameters = *request->mutable_parameters();
  if (max_tokens.has_value()) parameters.set_max_tokens(*max_tokens);
  if (seed.has_value()) parameters.set_seed(*seed);
  if (temperature.has_value()) parameters.set_temperature(*temperature);
  if (top_p.has_value()) parameters.set_top_p(*top_p);
}

absl::Status StreamText(const Connection& connection, const v1::GenerateRequest& request,
                        bool quiet, std::string* text) {
  const auto stub = connection.NewStub();
  grpc::ClientContext context;
  connection.Prepare(&context);
  const auto begin = Clock::now();
  double first_seconds = 0;
  int64_t tokens = 0;
  v1::FinishReason finish = v1::FINISH_REASON_UNSPECIFIED;
  const auto stream = stub->GenerateStream(&context, request);
  v1::GenerateChunk chunk;
  while (stream->Read(&chunk)) {
    if (first_seconds == 0) first_seconds = SecondsSince(begin);
    Write(chunk.reasoning(), stderr);
    Write(chunk.text(), stdout);
    if (std::fflush(stdout) != 0) {
      context.TryCancel();
      stream->Finish();
      return OutputError();
    }
    if (text != nullptr) *text += chunk.text();
    if (chunk.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) finish = chunk.finish_reason();
    if (chunk.has_usage()) tokens = chunk.usage().completion_tokens();
  }
  const absl::Status status = connection.Explain(stream->Finish());
  if (status.ok() || first_seconds > 0) std::fputc('\n', stdout);
  if (!status.ok() || quiet) return status;
  const double seconds = SecondsSince(begin);
  std::fprintf(
      stderr, "%lld tokens in %.2f s (%.2f tokens/s), the first after %.2f s%s\n",
      static_cast<long long>(tokens), seconds, tokens / seconds, first_seconds,
      finish == v1::FINISH_REASON_LENGTH ? "; cut off by --max-tokens or the context" : "");
  return absl::OkStatus();
}

}  // namespace qianyi
