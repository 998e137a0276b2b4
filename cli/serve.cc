#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/command.h"
#include "runtime/compute_share.h"
#include "runtime/memory_size.h"
#include "server/server.h"

namespace qianyi {
namespace {

struct ServeFlags {
  std::vector<std::string> folders;
  std::string synth;
  std::string dtype = "int4";
  std::optional<int> group;
  RunFlags run;
  int64_t context = 0;
  int64_t batch = 16;
  int64_t queue = 64;
  std::string prefix_cache = "on";
  double prompt_stretch = EngineOptions().prompt_stretch;
  bool measure = false;
  std::string prefix_folder;
  uint64_t prefix_bytes = 0;
  uint64_t queue_bytes = 0;
  std::vector<std::string> adapters;
  std::vector<std::string> shares;
  std::vector<std::string> drafts;
  uint64_t adapter_bytes = 0;
  std::string log_format = "off";
  LogOptions log;
  ServerOptions server;
};

// Besides what --adapter names, where others may be loaded later.
constexpr uint64_t kSpareAdapterBytes = 256 << 20;

// "models/poet/" is served as "poet".
std::string NameOf(const std::string& folder) {
  std::filesystem::path path = std::filesystem::absolute(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

absl::StatusOr<std::vector<NamedModelFile>> OpenFiles(const ServeFlags& flags) {
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

// "[MODEL:]NAME=DIR" to the model it is for.
absl::Status AssignAdapters(const std::vector<std::string>& texts,
                            std::vector<NamedModelFile>* files) {
  for (const std::string& text : texts) {
    absl::StatusOr<NamedAdapter> adapter = ParseAdapterFlag(text);
    if (!adapter.ok()) return adapter.status();
    const size_t colon = adapter->name.rfind(':');
    const std::string model = colon == std::string::npos ? "" : adapter->name.substr(0, colon);
    const auto owner = std::find_if(files->begin(), files->end(), [&](const NamedModelFile& file) {
      return file.name == model || (model.empty() && files->size() == 1);
    });
    if (owner == files->end()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "--adapter %s: say for which model, as MODEL:NAME=DIR; there is: %s", text,
          absl::StrJoin(*files, ", ", [](std::string* out, const NamedModelFile& file) {
            out->append(file.name);
          })));
    }
    adapter->name = adapter->name.substr(colon + 1);
    owner->adapters.push_back(*std::move(adapter));
  }
  return absl::OkStatus();
}

// "MODEL=WEIGHT" to the model it is for.
absl::Status AssignShares(const std::vector<std::string>& texts,
                          std::vector<NamedModelFile>* files) {
  for (const std::string& text : texts) {
    const size_t equals = text.rfind('=');
    const std::string name = text.substr(0, std::min(equals, text.size()));
    const auto owner = std::find_if(files->begin(), files->end(),
                                    [&](const NamedModelFile& file) { return file.name == name; });
    double weight = 0;
    if (equals == std::string::npos || !absl::SimpleAtod(text.substr(equals + 1), &weight) ||
        !(weight >= 0.01 && weight <= 100) || owner == files->end()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "--share %s: it is MODEL=WEIGHT, with a weight of 0.01 to 100; the models are: %s", text,
          absl::StrJoin(*files, ", ", [](std::string* out, const NamedModelFile& file) {
            out->append(file.name);
          })));
    }
    owner->weight = weight;
  }
  return absl::OkStatus();
}

// "[MODEL=]DIR" to the model of text it is for.
absl::Status AssignDrafts(const std::vector<std::string>& texts,
                          std::vector<NamedModelFile>* files) {
  for (const std::string& text : texts) {
    const size_t equals = text.find('=');
    const std::string model = equals == std::string::npos ? "" : text.substr(0, equals);
    const auto owner = std::find_if(files->begin(), files->end(), [&](const NamedModelFile& file) {
      return file.name == model || (model.empty() && files->size() == 1);
    });
    if (owner == files->end() || !owner->draft_folder.empty()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "--draft-model %s: say once for which model, as MODEL=DIR; there is: %s", text,
          absl::StrJoin(*files, ", ", [](std::string* out, const NamedModelFile& file) {
            out->append(file.name);
          })));
    }
    owner->draft_folder = text.substr(equals == std::string::npos ? 0 : equals + 1);
  }
  return absl::OkStatus();
}

std::string Describe(const ServedModel& model) {
  const ModelPlan& plan = model.engine->plan().models[0];
  return absl::StrFormat("model %s: %s of weights in memory, %s streamed; %d places of %d tokens",
                         model.name, FormatSize(plan.host_bytes + plan.constant_bytes),
                         FormatSize(plan.disk_bytes), plan.use.batch, plan.use.context_tokens);
}

absl::Status CheckFolder(const std::string& adapter_folder) {
  std::error_code error;
  if (adapter_folder.empty() || std::filesystem::is_directory(adapter_folder, error)) {
    return absl::OkStatus();
  }
  return absl::NotFoundError(
      absl::StrFormat("--adapter-folder %s: there is no such folder", adapter_folder));
}

absl::Status CheckPrefixes(ServeFlags* flags) {
  if (flags->prefix_bytes == 0) return absl::OkStatus();
  if (flags->prefix_cache == "off") {
    return absl::InvalidArgumentError("--prefix-cache-disk needs --prefix-cache on");
  }
  if (flags->run.device != "cpu") {
    return absl::InvalidArgumentError("--prefix-cache-disk needs --device cpu; leave it out");
  }
  if (flags->prefix_folder.empty()) {
    flags->prefix_folder = std::filesystem::temp_directory_path().string();
  }
  return absl::OkStatus();
}

std::string Warnings(const ServerOptions& server) {
  if (IsLoopback(server.host)) return "";
  const std::string others =
      absl::StrFormat("%s can be reached from other machines, and ", server.host);
  if (server.no_keys) return others + "nobody is asked for a key";
  return server.tls.certificate.empty()
             ? others +
                   "keys and texts travel unencrypted; give --tls-cert, or put it behind "
                   "something that encrypts"
             : "";
}

// Waits for SIGTERM or SIGINT, which every thread has blocked; a second one ends at once.
void WaitForSignal(const sigset_t& signals, Log* log) {
  int signal = 0;
  sigwait(&signals, &signal);
  log->Notice(
      absl::StrFormat("%s: finishing what runs; once more to stop at once", strsignal(signal)));
  std::thread([signals] {
    int second = 0;
    sigwait(&signals, &second);
    _exit(128 + second);
  }).detach();
}

absl::Status RunServe(ServeFlags flags) {
  if (absl::Status status = flags.run.Check(); !status.ok()) return status;
  if (absl::Status status = CheckPrefixes(&flags); !status.ok()) return status;
  absl::StatusOr<LogFormat> format = ParseLogFormat(flags.log_format);
  if (!format.ok()) return format.status();
  flags.log.format = *format;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  absl::StatusOr<std::vector<NamedModelFile>> files = OpenFiles(flags);
  if (!files.ok()) return files.status();
  flags.run.options.batch = std::max<int64_t>(flags.batch, 1);  // of kAutoBatch, one
  flags.run.TuneFast(files->front().file);
  ServeModelOptions options{.load = flags.run.options,
                            .queue = flags.queue,
                            .prefix_folder = flags.prefix_folder,
                            .prefix_bytes = flags.prefix_bytes,
                            .keeps_prefixes = flags.prefix_cache == "on",
                            .prompt_stretch = flags.prompt_stretch,
                            .measures = flags.measure};
  options.load.context_tokens = flags.context;
  options.load.batch = flags.batch;
  options.load.adapter_bytes = flags.adapter_bytes;
  options.spare_adapter_bytes = flags.server.adapter_folder.empty() ? 0 : kSpareAdapterBytes;
  if (absl::Status status = AssignAdapters(flags.adapters, &*files); !status.ok()) return status;
  if (absl::Status status = AssignShares(flags.shares, &*files); !status.ok()) return status;
  if (absl::Status status = AssignDrafts(flags.drafts, &*files); !status.ok()) return status;
  if (absl::Status status = CheckFolder(flags.server.adapter_folder); !status.ok()) return status;
  flags.server.queue.bytes = static_cast<int64_t>(flags.queue_bytes);
  ComputeShare share;  // outlives the server
  options.share = &share;
  options.upload_bytes = kUploadBytes;
  auto models = OpenModels(*std::move(files), options);
  if (!models.ok()) return models.status();
  Log log(flags.log);
  flags.server.log = &log;
  std::vector<std::string> summary;
  for (const auto& model : *models) summary.push_back(Describe(*model));
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(*std::move(models), flags.server);
  if (!server.ok()) return server.status();
  for (const std::string& line : summary) log.Notice(line);
  if (const std::string warning = Warnings(flags.server); !warning.empty()) log.Warning(warning);
  log.Flush();  // what it serves is said before that it listens
  std::printf("listening on %s://%s:%d (REST) and %s:%d (gRPC)\n",
              flags.server.tls.certificate.empty() ? "http" : "https", flags.server.host.c_str(),
              (*server)->http_port(), flags.server.host.c_str(), (*server)->grpc_port());
  if (std::fflush(stdout) != 0) return OutputError();
  WaitForSignal(signals, &log);
  (*server)->Drain();
  return absl::OkStatus();
}

}  // namespace

void AddServe(CLI::App& app, Run* run) {
  auto flags = std::make_shared<ServeFlags>();
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
  command
      ->add_option("--keys", flags->server.key_file,
                   "ask for a key of this file; see qianyi keys [nobody is asked]")
      ->type_name("FILE")
      ->envname("QIANYI_KEYS");
  command->add_flag("--no-keys", flags->server.no_keys,
                    "ask nobody for a key, though others can reach --host");
  command
      ->add_option("--tls-cert", flags->server.tls.certificate,
                   "certificate of both ports, PEM [no TLS]")
      ->type_name("FILE");
  command->add_option("--tls-key", flags->server.tls.key, "its private key, PEM")
      ->type_name("FILE");
  command
      ->add_option("--tls-client-ca", flags->server.tls.client_ca,
                   "clients must show a certificate that this one signed, PEM")
      ->type_name("FILE");
  command
      ->add_option("--allow-host", flags->server.origins.hosts,
                   "name by which clients reach this server without a key; repeatable")
      ->type_name("NAME");
  command
      ->add_option("--allow-origin", flags->server.origins.origins,
                   "web page that may call this server, as https://NAME; repeatable")
      ->type_name("ORIGIN");
  flags->run.Add(*command);
  command
      ->add_option("--prompt-stretch", flags->prompt_stretch,
                   "a step in which others generate may take so many times as long by tokens of "
                   "prompts: less makes tokens come more evenly, and first tokens later; 0: any")
      ->check(CLI::Range(0.0, 1000.0))
      ->capture_default_str()
      ->type_name("X");
  flags->run.AddGuesses(*command);
  command
      ->add_option("--draft-model", flags->drafts,
                   "a small model of the same vocabulary, which makes the guesses that what was "
                   "said before does not; the same tokens come; repeatable")
      ->type_name("[MODEL=]DIR");
  command
      ->add_option("--adapter", flags->adapters,
                   "LoRA or P-tuning v2 adapter, which requests name as MODEL:NAME; repeatable")
      ->type_name("[MODEL:]NAME=DIR");
  command
      ->add_option("--adapter-folder", flags->server.adapter_folder,
                   "let clients load adapters from folders below this one [none]")
      ->type_name("DIR");
  AddSize(*command, "--adapter-memory", &flags->adapter_bytes,
          "for all adapters of a model [what --adapter needs, and 256 MiB with --adapter-folder]");
  command
      ->add_option("--share", flags->shares,
                   "a model's share of the processors beside others [1 each]; repeatable")
      ->type_name("MODEL=WEIGHT");
  command->add_option("--context", flags->context, "tokens of one request [2048 at most]")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
  AddBatch(*command, &flags->batch, 1 << 12,
           "requests that run at once, or auto: as many as this machine, measured for two seconds, "
           "gets most tokens/s from");
  command->add_flag("--measure", flags->measure,
                    "first measure what the machine's links sustain, in about two seconds, for "
                    "/metrics to say; otherwise it says what was measured before");
  command->add_option("--queue", flags->queue, "requests that may wait; more are refused")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command
      ->add_option("--prefix-cache", flags->prefix_cache,
                   "on: what a prompt begins with is not computed again while the cache has room, "
                   "for requests of the same key; the same tokens come")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
  AddSize(*command, "--prefix-cache-disk", &flags->prefix_bytes,
          "of disk, for each model: what the cache has no room for any more goes there [none]");
  command
      ->add_option("--prefix-cache-folder", flags->prefix_folder,
                   "where its file is, which has no name [the system's temporary folder]")
      ->type_name("DIR");
  command
      ->add_option("--queue-tokens", flags->server.queue.tokens,
                   "tokens of those that run or wait, of each model [of so many full contexts]")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  AddSize(*command, "--queue-memory", &flags->queue_bytes,
          "for requests that run or wait, besides the cache [64 MiB, more for long contexts]");
  command
      ->add_option("--log-format", flags->log_format,
                   "of a line for each request on standard error: off, text or json")
      ->capture_default_str();
  command->add_flag("--log-prompts", flags->log.prompts, "and in it what users wrote");
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
