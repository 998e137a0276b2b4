#include <memory>
#include <string>

#include "cli/client/commands.h"

namespace qianyi {
namespace {

struct ClientPoemFlags {
  TextFlags text;
  std::string title, form, author;
  bool no_rhyme = false, tones = false;
};

absl::Status RunPoem(const ClientPoemFlags& flags) {
  const absl::StatusOr<Connection> connection = Connection::Open(flags.text.server);
  if (!connection.ok()) return connection.status();
  v1::GenerateRequest request;
  flags.text.Fill(&request);
  v1::PoemTask& poem = *request.mutable_poem();
  poem.set_title(flags.title);
  poem.set_form(flags.form);
  poem.set_author(flags.author);
  if (flags.no_rhyme) poem.set_rhyme(false);
  if (flags.tones) poem.set_tones(true);
  return StreamText(*connection, request, flags.text.quiet, nullptr);
}

}  // namespace

void AddClientPoem(CLI::App& client, Run* run) {
  auto flags = std::make_shared<ClientPoemFlags>();
  CLI::App* command = client.add_subcommand("poem", "a poem that keeps its form");
  command->add_option("TITLE", flags->title, "what it is about")->required();
  command->add_option("--form", flags->form, "五绝, 七绝, 五律, 七律, or a tune [free verse]");
  command->add_option("--author", flags->author, "in whose manner");
  command->add_flag("--no-rhyme", flags->no_rhyme, "it need not rhyme");
  command->add_flag("--tones", flags->tones, "keep the regulated tones");
  flags->text.Add(*command);
  command->footer(
      "The poem goes to standard output as it is written.\n"
      "Example:\n  qianyi client poem 春江花月夜 --form 七绝 --author 李白 --seed 7");
  command->callback([=] { *run = [=] { return RunPoem(*flags); }; });
}

}  // namespace qianyi
