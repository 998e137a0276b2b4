#include "runtime/tokenizers/commands.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizers/utf8.h"

namespace qianyi {
namespace {

constexpr size_t kMaxCommands = 1024;

struct StandardTable {
  std::string_view name;
  std::vector<CommandToken> commands;
};

const std::vector<StandardTable>& StandardTables() {
  static const std::vector<StandardTable> tables = {
      {"glm-english",
       {{"pad", "<|endoftext|>", 50256, false},
        {"eos", "<|endoftext|>", 50256, false},
        {"sop", "<|startofpiece|>", 50257, false},
        {"eop", "<|endofpiece|>", 50258, false},
        {"ENC", "[CLS]", 50259, false},
        {"MASK", "[MASK]", 50260, true},
        {"sep", "[SEP]", 50261, false},
        {"unk", "[UNK]", 50262, false},
        {"gMASK", "[gMASK]", 50263, true},
        {"sMASK", "[sMASK]", 50264, true},
        {"dBLOCK", "[dBLOCK]", 50265, false}}},
      {"glm-chinese",
       {{"pad", "<|endoftext|>", 50000, false},
        {"eos", "<|endoftext|>", 50000, false},
        {"sep", "[SEP]", 50001, false},
        {"ENC", "[CLS]", 50002, false},
        {"MASK", "[MASK]", 50003, true},
        {"unk", "[UNK]", 50004, false},
        {"sop", "<|startofpiece|>", 50006, false},
        {"eop", "<|endofpiece|>", 50007, false},
        {"sMASK", "[sMASK]", 50008, true},
        {"gMASK", "[gMASK]", 50009, true},
        {"dBLOCK", "[dBLOCK]", 50010, false}}},
      {"glm-chinese-not-fixed",
       {{"pad", "<|endoftext|>", 50000, false},
        {"eos", "<|endoftext|>", 50000, false},
        {"sep", "[SEP]", 50001, false},
        {"ENC", "[CLS]", 50002, false},
        {"MASK", "[MASK]", 50003, true},
        {"unk", "[UNK]", 50004, false},
        {"sop", "<|startofpiece|>", 50006, false},
        {"eop", "<|endofpiece|>", 50007, false},
        {"gMASK", "[gMASK]", 50007, true},
        {"sMASK", "[sMASK]", 50008, true},
        {"dBLOCK", "[dBLOCK]", 50009, false}}},
  };
  return tables;
}

}  // namespace

const std::vector<CommandToken>* StandardCommands(std::string_view name) {
  for (const StandardTable& table : StandardTables()) {
    if (table.name == name) return &table.commands;
  }
  return nullptr;
}

absl::StatusOr<std::vector<CommandToken>> ParseCommands(const nlohmann::json& list) {
  if (!list.is_array()) {
    return absl::InvalidArgumentError("the command table is not a list");
  }
  std::vector<CommandToken> commands;
  for (const nlohmann::json& entry : list) {
    const auto bad = [&](const char* field, const std::string& rule) {
      return absl::InvalidArgumentError(
          absl::StrCat("command ", commands.size(), ": \"", field, "\" must be ", rule));
    };
    const auto field = [&](const char* name) {
      const auto at = entry.is_object() ? entry.find(name) : entry.end();
      return entry.is_object() && at != entry.end() ? *at : nlohmann::json();
    };
    const nlohmann::json name = field("name");
    const nlohmann::json token = field("token");
    const nlohmann::json id = field("id");
    const nlohmann::json lstrip = field("lstrip");
    if (!name.is_string()) return bad("name", "a string");
    if (!token.is_string() || token.get<std::string>().empty()) {
      return bad("token", "a string that is not empty");
    }
    if (!id.is_number_integer() || id.get<uint64_t>() > kMaxTokenId) {
      return bad("id", absl::StrCat("an integer from 0 to ", kMaxTokenId));
    }
    if (!lstrip.is_null() && !lstrip.is_boolean()) return bad("lstrip", "true or false");
    commands.push_back({name.get<std::string>(), token.get<std::string>(),
                        static_cast<int32_t>(id.get<uint64_t>()),
                        lstrip.is_boolean() && lstrip.get<bool>()});
  }
  return commands;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> CommandTokenizer::Create(
    std::shared_ptr<const TextTokenizer> text, std::vector<CommandToken> commands) {
  if (commands.size() > kMaxCommands) {
    return absl::InvalidArgumentError(absl::StrCat("the command table has ", commands.size(),
                                                   " entries; at most ", kMaxCommands,
                                                   " are allowed"));
  }
  for (const CommandToken& command : commands) {
    if (absl::Status status = CheckWord("command", command.word, command.id); !status.ok()) {
      return status;
    }
  }
  return std::unique_ptr<Tokenizer>(new CommandTokenizer(std::move(text), std::move(commands)));
}

CommandTokenizer::CommandTokenizer(std::shared_ptr<const TextTokenizer> text,
                                   std::vector<CommandToken> commands)
    : WordTokenizer(std::move(text)), commands_(std::move(commands)) {
  for (const CommandToken& command : commands_) {
    by_word_[command.word] = &command;
    AddWord(command.word, command.id);
  }
}

const CommandToken* CommandTokenizer::FindWord(std::string_view word) const {
  const auto at = by_word_.find(word);
  return at == by_word_.end() ? nullptr : at->second;
}

void CommandTokenizer::CutAt(const CommandToken& command, std::string_view text,
                             std::vector<Piece>* pieces) const {
  while (true) {
    const size_t at = text.find(command.word);
    if (at == std::string_view::npos) break;
    std::string_view before = text.substr(0, at);
    if (command.strips_left) before = StripRight(before);
    if (!before.empty()) pieces->push_back({before, nullptr});
    pieces->push_back({text.substr(at, command.word.size()), FindWord(command.word)});
    text.remove_prefix(at + command.word.size());
  }
  if (!text.empty()) pieces->push_back({text, nullptr});
}

std::vector<CommandTokenizer::Piece> CommandTokenizer::Cut(std::string_view text) const {
  std::vector<Piece> pieces = {{text, nullptr}};
  std::vector<Piece> cut;
  for (const CommandToken& command : commands_) {
    cut.clear();
    for (const Piece& piece : pieces) {
      if (piece.command != nullptr) {
        cut.push_back(piece);
      } else if (const CommandToken* whole = FindWord(piece.text)) {
        // A piece that happens to be a command word is not cut by the words within it.
        cut.push_back({piece.text, whole});
      } else {
        CutAt(command, piece.text, &cut);
      }
    }
    pieces.swap(cut);
  }
  return pieces;
}

absl::Status CommandTokenizer::EncodeWithWords(std::string_view text,
                                               std::vector<int32_t>* ids) const {
  if (IsBlank(text)) return absl::OkStatus();
  for (const Piece& piece : Cut(text)) {
    const CommandToken* command = piece.command != nullptr ? piece.command : FindWord(piece.text);
    if (command != nullptr) {
      ids->push_back(command->id);
    } else if (absl::Status status = plain().Encode(piece.text, ids); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

int32_t CommandTokenizer::CommandId(std::string_view role) const {
  for (const CommandToken& command : commands_) {
    if (command.role == role) return command.id;
  }
  return -1;
}

}  // namespace qianyi
