#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cli/command.h"
#include "server/access/key_file.h"

namespace qianyi {
namespace {

struct KeysFlags {
  std::string file;
  std::string add, remove;
  std::string scopes = "inference";
  KeyLimits limits;
};

absl::StatusOr<std::vector<ApiKey>> ReadOrBegin(const std::string& path) {
  absl::StatusOr<std::vector<ApiKey>> keys = ReadKeyFile(path);
  if (absl::IsNotFound(keys.status())) return std::vector<ApiKey>();
  return keys;
}

auto Find(std::vector<ApiKey>& keys, const std::string& name) {
  return std::find_if(keys.begin(), keys.end(),
                      [&](const ApiKey& key) { return key.name == name; });
}

absl::Status AddKey(const KeysFlags& flags) {
  absl::StatusOr<std::vector<ApiKey>> keys = ReadOrBegin(flags.file);
  if (!keys.ok()) return keys.status();
  if (Find(*keys, flags.add) != keys->end()) {
    return absl::AlreadyExistsError(absl::StrFormat(
        "%s has a key of the name %s; remove it first, or choose another", flags.file, flags.add));
  }
  ApiKey key{.name = flags.add, .scopes = {}, .limits = flags.limits};
  for (const std::string& scope : std::vector<std::string>(absl::StrSplit(flags.scopes, ','))) {
    absl::StatusOr<Scope> parsed = ParseScope(scope);
    if (!parsed.ok()) return parsed.status();
    key.scopes.push_back(*parsed);
  }
  if (absl::Status status = CheckKey(key); !status.ok()) return status;
  const absl::StatusOr<std::string> secret = NewApiKey();
  if (!secret.ok()) return secret.status();
  key.sha256 = HashOf(*secret);
  keys->push_back(std::move(key));
  if (absl::Status status = WriteKeyFile(flags.file, *keys); !status.ok()) return status;
  std::printf("%s\n", secret->c_str());
  std::fprintf(stderr, "qianyi: this is the only time that the key is shown; %s keeps its hash\n",
               flags.file.c_str());
  return absl::OkStatus();
}

absl::Status RemoveKey(const KeysFlags& flags) {
  absl::StatusOr<std::vector<ApiKey>> keys = ReadKeyFile(flags.file);
  if (!keys.ok()) return keys.status();
  const auto at = Find(*keys, flags.remove);
  if (at == keys->end()) {
    return absl::NotFoundError(
        absl::StrFormat("%s has no key of the name %s", flags.file, flags.remove));
  }
  keys->erase(at);
  return WriteKeyFile(flags.file, *keys);
}

absl::Status ListKeys(const KeysFlags& flags) {
  absl::StatusOr<std::vector<ApiKey>> keys = ReadKeyFile(flags.file);
  if (!keys.ok()) return keys.status();
  for (const ApiKey& key : *keys) {
    const std::string scopes = absl::StrJoin(
        key.scopes, ",", [](std::string* out, Scope scope) { *out += NameOf(scope); });
    std::printf("%s\t%s\tconcurrency %lld\ttokens a minute %lld\tweight %g\n", key.name.c_str(),
                scopes.c_str(), static_cast<long long>(key.limits.concurrency),
                static_cast<long long>(key.limits.tokens_per_minute), key.limits.weight);
  }
  return absl::OkStatus();
}

absl::Status RunKeys(const KeysFlags& flags) {
  if (!flags.add.empty() && !flags.remove.empty()) {
    return absl::InvalidArgumentError("--add and --remove are two steps; give one of them");
  }
  if (!flags.add.empty()) return AddKey(flags);
  if (!flags.remove.empty()) return RemoveKey(flags);
  return ListKeys(flags);
}

}  // namespace

void AddKeys(CLI::App& app, Run* run) {
  auto flags = std::make_shared<KeysFlags>();
  CLI::App* command = app.add_subcommand("keys", "make, remove and list keys of a server");
  command->add_option("--file", flags->file, "the file that the server reads")
      ->type_name("FILE")
      ->required();
  command->add_option("--add", flags->add, "make a key of this name, and print it")
      ->type_name("NAME");
  command->add_option("--remove", flags->remove, "the key of this name works no longer")
      ->type_name("NAME");
  command
      ->add_option("--scopes", flags->scopes,
                   "what it may do: inference, metrics, admin, separated by commas")
      ->type_name("LIST")
      ->capture_default_str();
  command->add_option("--concurrency", flags->limits.concurrency, "answers at once; 0 = any number")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
      ->capture_default_str();
  command
      ->add_option("--tokens-per-minute", flags->limits.tokens_per_minute,
                   "of prompts and answers; 0 = any number")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  command->add_option("--weight", flags->limits.weight, "share of the places while others wait")
      ->check(CLI::Range(0.01, 100.0))
      ->capture_default_str();
  command->footer(
      "Without --add and --remove, lists them. A server that runs takes changes within a second.\n"
      "Example:\n"
      "  qianyi keys --file keys.json --add alice --tokens-per-minute 60000");
  command->callback([=] { *run = [=] { return RunKeys(*flags); }; });
}

}  // namespace qianyi
