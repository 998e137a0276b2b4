#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "cli/client/commands.h"
#include "nlohmann/json.hpp"

namespace qianyi {
namespace {

using Clock = std::chrono::steady_clock;

struct ClientBenchFlags {
  ServerFlags server;
  std::string model;
  std::string prompt = "春天";
  int streams = 8;
  int requests = 0;
  int64_t max_tokens = 64;
  int64_t seed = 0;
  std::vector<int64_t> banned;  // token ids
  bool json = false;
};

// What one stream saw, or all of them.
struct Seen {
  int64_t answers = 0;
  int64_t tokens = 0;
  std::vector<double> first_seconds;  // of each answer, from its request on
  std::vector<double> gap_seconds;    // between messages with text of one answer
  std::map<std::string, int64_t> errors;
  absl::Status first_error;

  void Add(const Seen& other) {
    answers += other.answers;
    tokens += other.tokens;
    first_seconds.insert(first_seconds.end(), other.first_seconds.begin(),
                         other.first_seconds.end());
    gap_seconds.insert(gap_seconds.end(), other.gap_seconds.begin(), other.gap_seconds.end());
    for (const auto& [kind, count] : other.errors) errors[kind] += count;
    if (first_error.ok()) first_error = other.first_error;
  }
};

double SecondsBetween(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

void AskOnce(const Connection& connection, v1::Inference::Stub& stub,
             const v1::GenerateRequest& request, Seen* seen) {
  grpc::ClientContext context;
  connection.Prepare(&context);
  auto last = Clock::now();
  bool begun = false;
  const auto stream = stub.GenerateStream(&context, request);
  v1::GenerateChunk chunk;
  while (stream->Read(&chunk)) {
    if (chunk.has_usage()) seen->tokens += chunk.usage().completion_tokens();
    if (chunk.text().empty()) continue;
    const auto now = Clock::now();
    (begun ? seen->gap_seconds : seen->first_seconds).push_back(SecondsBetween(last, now));
    last = now;
    begun = true;
  }
  const absl::Status status = connection.Explain(stream->Finish());
  if (status.ok()) {
    ++seen->answers;
  } else {
    ++seen->errors[absl::StatusCodeToString(status.code())];
    if (seen->first_error.ok()) seen->first_error = status;
  }
}

// Each request has a seed of its own, whichever stream sends it.
void AskUntilAllAre(const ClientBenchFlags& flags, const Connection& connection, int stream,
                    std::atomic<int>* next, Seen* seen) {
  const auto stub = connection.NewStub(stream);
  for (int i = (*next)++; i < flags.requests; i = (*next)++) {
    v1::GenerateRequest request;
    request.set_model(flags.model);
    request.mutable_completion()->set_prompt(flags.prompt);
    request.mutable_parameters()->set_max_tokens(flags.max_tokens);
    request.mutable_parameters()->set_seed(flags.seed + i);
    for (const int64_t id : flags.banned) {
      (*request.mutable_parameters()->mutable_logit_bias())[std::to_string(id)] = -100;
    }
    AskOnce(connection, *stub, request, seen);
  }
}

// The least value that `percent` of them do not exceed.
double Percentile(const std::vector<double>& sorted, int percent) {
  if (sorted.empty()) return 0;
  const size_t rank = (sorted.size() * static_cast<size_t>(percent) + 99) / 100;
  return sorted[std::max<size_t>(rank, 1) - 1];
}

nlohmann::json Percentiles(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return {{"p50", Percentile(seconds, 50)},
          {"p90", Percentile(seconds, 90)},
          {"p99", Percentile(seconds, 99)},
          {"max", Percentile(seconds, 100)},
          {"count", seconds.size()}};
}

void Print(const nlohmann::json& report) {
  std::printf("%.2f tokens/s: %lld tokens of %lld answers in %.2f s, %lld streams\n",
              report["tokens_per_second"].get<double>(), report["tokens"].get<long long>(),
              report["answers"].get<long long>(), report["seconds"].get<double>(),
              report["streams"].get<long long>());
  for (const auto& [key, name] : {std::pair("first_token_seconds", "time to first token"),
                                  std::pair("inter_token_seconds", "between tokens")}) {
    const nlohmann::json& times = report[key];
    std::printf("%-20s p50 %.1f ms, p90 %.1f ms, p99 %.1f ms, max %.1f ms\n", name,
                1e3 * times["p50"].get<double>(), 1e3 * times["p90"].get<double>(),
                1e3 * times["p99"].get<double>(), 1e3 * times["max"].get<double>());
  }
  for (const auto& [kind, count] : report["errors"].items()) {
    std::printf("errors %s: %lld\n", kind.c_str(), count.get<long long>());
  }
}

absl::Status RunClientBench(ClientBenchFlags flags) {
  const absl::StatusOr<Connection> connection = Connection::Open(flags.server);
  if (!connection.ok()) return connection.status();
  if (flags.requests == 0) flags.requests = 4 * flags.streams;
  std::atomic<int> next = 0;
  std::vector<Seen> each(flags.streams);
  const auto begin = Clock::now();
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < flags.streams; ++i) {
      threads.emplace_back([&, i] { AskUntilAllAre(flags, *connection, i, &next, &each[i]); });
    }
  }
  const double seconds = SecondsBetween(begin, Clock::now());
  Seen all;
  for (const Seen& one : each) all.Add(one);
  if (all.answers == 0) return all.first_error;
  if (!all.first_error.ok()) {
    std::fprintf(stderr, "the first error: %s\n", std::string(all.first_error.message()).c_str());
  }
  const nlohmann::json report = {{"streams", flags.streams},
                                 {"answers", all.answers},
                                 {"tokens", all.tokens},
                                 {"seconds", seconds},
                                 {"tokens_per_second", static_cast<double>(all.tokens) / seconds},
                                 {"first_token_seconds", Percentiles(all.first_seconds)},
                                 {"inter_token_seconds", Percentiles(all.gap_seconds)},
                                 {"errors", all.errors}};
  if (flags.json) {
    std::printf("%s\n", report.dump(1).c_str());
  } else {
    Print(report);
  }
  return absl::OkStatus();
}

}  // namespace

void AddClientBench(CLI::App& client, Run* run) {
  auto flags = std::make_shared<ClientBenchFlags>();
  CLI::App* command = client.add_subcommand("bench", "how fast a server answers several at once");
  flags->server.Add(*command);
  command->add_option("--model", flags->model, "one that is served [the only one]")
      ->type_name("NAME");
  command->add_option("--streams", flags->streams, "answers at once, each over its own connection")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--requests", flags->requests, "in all [4 for each stream]")
      ->check(CLI::Range(1, 1 << 24))
      ->type_name("N");
  command->add_option("--prompt", flags->prompt, "what is continued")->capture_default_str();
  command->add_option("--max-tokens", flags->max_tokens, "of an answer")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--ban", flags->banned, "an id that no answer has: the end's, so that all go on")
      ->check(CLI::NonNegativeNumber)
      ->type_name("ID");
  command->add_option("--seed", flags->seed, "request i has seed + i")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 62))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "print JSON");
  command->footer(
      "Times are what a client sees: from a request to its first piece of text, and between "
      "pieces,\n"
      "which are mostly a token each. The same seeds give the same tokens.\n"
      "Example:\n  qianyi client bench --streams 16 --requests 200 --json");
  command->callback([=] { *run = [=] { return RunClientBench(*flags); }; });
}

}  // namespace qianyi
