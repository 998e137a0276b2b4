#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "cli/command.h"
#include "runtime/memory_size.h"
#include "server/server.h"

namespace qianyi {
namespace {

struct Flags {
  std::vector<std::string> folders;
  std::string synth;
  std::string dtype = "int4";
  std::optional<int> group;
  RunFlags run;
  int64_t context = 0;
  int64_t batch = 16;
  int64_t queue = 64;
  ServerOptions server;
};

// "models/poet/" is served as "poet".
std::string NameOf(const std::string& folder) {
  std::filesystem::path path = std::filesystem::absolute(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

absl::StatusOr<std::vector<NamedModelFile>> OpenFiles(const Flags& flags) {
  std::vector<NamedModelFile> files;
  for (const std::string& folder : flags.folders) {
    ModelFlags model;
    model.folder = folder;
    absl::StatusOr<ModelFile> file = model.Open();
    if (!file.ok()) return file.status();
    files.push_back({NameOf(folder), folder, *std::move(file)});
  }
  if (!flags.synth.empty()) {
    ModelFlags model;
    model.synth = flags.synth;
    model.dtype = flags.dtype;
    model.group = flags.group;
    absl::StatusOr<ModelFile> file = model.Open();
    if (!file.ok()) return file.status();
    files.push_back({NameOf(flags.synth), "", *std::move(file)});
  }
  if (files.empty()) {
    return absl::InvalidArgumentError(
        "no model given; say --model DIR with a folder made by qianyi convert, such as "
        "models/poet");
  }
  return files;
}

std::string Describe(const ServedModel& model) {
  const ModelPlan& plan = model.engine->plan().models[0];
  return absl::StrFormat(
      "qianyi: model %s: %s of weights in memory, %s streamed; %d places of %d tokens\n",
      model.name, FormatSize(plan.host_bytes + plan.constant_bytes), FormatSize(plan.disk_bytes),
      plan.use.batch, plan.use.context_tokens);
}

bool IsLoopback(const std::string& host) { return host == "::1" || host.rfind("127.", 0) == 0; }

// Waits for SIGTERM or SIGINT, which every thread has blocked; a second one ends at once.
void WaitForSignal(const sigset_t& signals) {
  int signal = 0;
  sigwait(&signals, &signal);
  std::fprintf(stderr, "qianyi: %s: finishing what runs; once more to stop at once\n",
               strsignal(signal));
  std::thread([signals] {
    int second = 0;
    sigwait(&signals, &second);
    _exit(128 + second);
  }).detach();
}

absl::Status RunServe(const Flags& flags) {
  if (absl::Status status = flags.run.Check(); !status.ok()) return status;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  absl::StatusOr<std::vector<NamedModelFile>> files = OpenFiles(flags);
  if (!files.ok()) return files.status();
  ServeModelOptions options{.load = flags.run.options, .queue = flags.queue};
  options.load.context_tokens = flags.context;
  options.load.batch = flags.batch;
  auto models = OpenModels(*std::move(files), options);
  if (!models.ok()) return models.status();
  std::string summary;
  for (const auto& model : *models) summary += Describe(*model);
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(*std::move(models), flags.server);
  if (!server.ok()) return server.status();
  if (!IsLoopback(flags.server.host)) {
    summary += absl::StrFormat(
        "qianyi: warning: %s can be reached from other machines, and nobody is asked for a key\n",
        flags.server.host);
  }
  std::fputs(summary.c_str(), stderr);
  std::printf("listening on http://%s:%d (REST) and %s:%d (gRPC)\n", flags.server.host.c_str(),
              (*server)->http_port(), flags.server.host.c_str(), (*server)->grpc_port());
  if (std::fflush(stdout) != 0) return OutputError();
  WaitForSignal(signals);
  (*server)->Drain();
  return absl::OkStatus();
}

}  // namespace

void AddServe(CLI::App& app, Run* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("serve", "answer over REST and gRPC");
  command->add_option("--model", flags->folders, "model folder; repeatable")->type_name("DIR");
  command->add_option("--synth", flags->synth, "a model of invented weights, for timing")
      ->type_name("CONFIG");
  AddFormat(*command, &flags->dtype, &flags->group);
  command->add_option("--host", flags->server.host, "address to listen on")->capture_default_str();
  command->add_option("--http-port", flags->server.http_port, "0 = a free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command->add_option("--grpc-port", flags->server.grpc_port, "0 = a free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  flags->run.Add(*command);
  command->add_option("--context", flags->context, "tokens of one request [2048 at most]")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
  command->add_option("--batch", flags->batch, "requests that run at once")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 12))
      ->capture_default_str();
  command->add_option("--queue", flags->queue, "requests that may wait; more are refused")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command
      ->add_option("--drain-seconds", flags->server.drain_seconds,
                   "for requests in progress when told to end")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  command->footer(
      "A folder's last name is the model's name in requests. The page is at /.\n"
      "Example:\n"
      "  qianyi serve --model models/poet --http-port 8080 --grpc-port 50051");
  command->callback([=] { *run = [=] { return RunServe(*flags); }; });
}

}  // namespace qianyi
