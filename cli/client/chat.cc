#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "cli/client/commands.h"

namespace qianyi {
namespace {

struct ClientChatFlags {
  TextFlags text;
  std::string system;
  std::vector<std::string> messages;
  bool no_thinking = false;
};

class Conversation {
 public:
  Conversation(const ClientChatFlags& flags, const Connection& connection)
      : quiet_(flags.text.quiet), connection_(connection) {
    flags.text.Fill(&request_);
    if (!flags.system.empty()) Add("system", flags.system);
    if (flags.no_thinking) request_.mutable_chat()->set_thinking(false);
  }

  // What was asked in vain is forgotten, so that one may go on.
  absl::Status Say(const std::string& message) {
    Add("user", message);
    std::string answer;
    absl::Status status = StreamText(connection_, request_, quiet_, &answer);
    if (status.ok()) {
      Add("assistant", std::move(answer));
    } else {
      request_.mutable_chat()->mutable_messages()->RemoveLast();
    }
    return status;
  }

 private:
  void Add(const char* role, std::string content) {
    v1::ChatMessage& message = *request_.mutable_chat()->add_messages();
    message.set_role(role);
    message.set_content(std::move(content));
  }

  const bool quiet_;
  const Connection& connection_;
  v1::GenerateRequest request_;
};

absl::Status RunChat(const ClientChatFlags& flags) {
  const absl::StatusOr<Connection> connection = Connection::Open(flags.text.server);
  if (!connection.ok()) return connection.status();
  Conversation conversation(flags, *connection);
  for (const std::string& message : flags.messages) {
    if (absl::Status status = conversation.Say(message); !status.ok()) return status;
  }
  if (!flags.messages.empty()) return absl::OkStatus();
  const bool person = isatty(STDIN_FILENO) != 0;
  std::string line;
  for (;;) {
    if (person) std::fputs("> ", stderr);
    if (!std::getline(std::cin, line)) break;
    if (line.empty()) continue;
    const absl::Status status = conversation.Say(line);
    if (status.ok()) continue;
    if (!person) return status;
    std::fprintf(stderr, "qianyi: %s\n", std::string(status.message()).c_str());
  }
  return absl::OkStatus();
}

}  // namespace

void AddClientChat(CLI::App& client, Run* run) {
  auto flags = std::make_shared<ClientChatFlags>();
  CLI::App* command = client.add_subcommand("chat", "a conversation");
  command
      ->add_option("--message", flags->messages, "instead of lines of standard input; repeatable")
      ->type_name("TEXT");
  command->add_option("--system", flags->system, "what the model is told first")->type_name("TEXT");
  command->add_flag("--no-thinking", flags->no_thinking, "of models that think first");
  flags->text.Add(*command);
  command->footer(
      "Each line of standard input is a message; the end of it ends the conversation. Answers go "
      "to\n"
      "standard output as they are written, what a model thinks before to standard error.\n"
      "Example:\n  qianyi client chat --message 李白是哪个朝代的人？");
  command->callback([=] { *run = [=] { return RunChat(*flags); }; });
}

}  // namespace qianyi
