// `qianyi client`: what a running server is asked.
#include "cli/client/commands.h"

namespace qianyi {

void AddClient(CLI::App& app, Run* run) {
  CLI::App* client = app.add_subcommand("client", "ask a running server, over gRPC");
  client->require_subcommand(1);
  AddClientPoem(*client, run);
  AddClientChat(*client, run);
  AddClientPaint(*client, run);
  AddClientBench(*client, run);
  client->footer("Example:\n  qianyi client poem 春江花月夜 --form 七绝");
}

}  // namespace qianyi
