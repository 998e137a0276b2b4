// The commands of `qianyi client`, and the flags that those about text share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "cli/client/connection.h"
#include "cli/command.h"
#include "qianyi/v1/inference.pb.h"

namespace qianyi {

void AddClientPoem(CLI::App& client, Run* run);
void AddClientChat(CLI::App& client, Run* run);
void AddClientPaint(CLI::App& client, Run* run);
void AddClientBench(CLI::App& client, Run* run);

// What is absent has the server's default, or the model's.
struct TextFlags {
  ServerFlags server;
  std::string model;
  std::optional<int64_t> max_tokens, seed;
  std::optional<double> temperature, top_p;
  bool quiet = false;

  void Add(CLI::App& command);
  void Fill(v1::GenerateRequest* request) const;
};

// Writes an answer to standard output as it comes, what a model thinks to standard error; a line
// feed ends it. `text`, if not null, gets it too. An error that comes after some text is one.
absl::Status StreamText(const Connection& connection, const v1::GenerateRequest& request,
                        bool quiet, std::string* text);

}  // namespace qianyi
