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

absl::Status CheckUtf8(std::string_view text) {
  const size_t good = WellFormedPrefix(text);
  if (good == text.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the text is not UTF-8 at byte ", good));
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
    if (command.word.empty() || WellFormedPrefix(command.word) != command.word.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("command \"", command.role, "\" has no word, or one that is not UTF-8"));
    }
    if (command.id < 0 || command.id > kMaxTokenId) {
      return absl::InvalidArgumentError(absl::StrCat("command ", command.word, " has the id ",
                                                     command.id, "; ids are 0 to ", kMaxTokenId));
    }
  }
  return std::unique_ptr<Tokenizer>(new CommandTokenizer(std::move(text), std::move(commands)));
}

CommandTokenizer::CommandTokenizer(std::shared_ptr<const TextTokenizer> text,
                                   std::vector<CommandToken> commands)
    : text_(std::move(text)), commands_(std::move(commands)), vocab_size_(text_->size()) {
  for (const CommandToken& command : commands_) {
    by_word_[command.word] = &command;
    by_id_[command.id] = &command;
    vocab_size_ = std::max(vocab_size_, command.id + 1);
  }
}

const CommandToken* CommandTokenizer::FindWord(std::string_view word) const {
  const auto at = by_word_.find(word);
  return at == by_word_.end() ? nullptr : at->second;
}

const CommandToken* CommandTokenizer::FindId(int32_t id) const {
  const auto at = by_id_.find(id);
  return at == by_id_.end() ? nullptr : at->second;
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

absl::StatusOr<std::vector<int32_t>> CommandTokenizer::Encode(std::string_view text,
                                                              bool specials) const {
  if (absl::Status status = CheckUtf8(text); !status.ok()) return status;
  std::vector<int32_t> ids;
  if (!specials) {
    if (absl::Status status = text_->Encode(text, &ids); !status.ok()) return status;
    return ids;
  }
  if (IsBlank(text)) return ids;
  for (const Piece& piece : Cut(text)) {
    const CommandToken* command = piece.command != nullptr ? piece.command : FindWord(piece.text);
    if (command != nullptr) {
      ids.push_back(command->id);
    } else if (absl::Status status = text_->Encode(piece.text, &ids); !status.ok()) {
      return status;
    }
  }
  return ids;
}

absl::StatusOr<std::string> CommandTokenizer::Decode(std::span<const int32_t> ids) const {
  std::string bytes;
  bool run_start = true;
  for (const int32_t id : ids) {
    if (FindId(id) == nullptr && !text_->Contains(id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("id ", id, " is not in the vocabulary of ", vocab_size_, " tokens"));
    }
    bytes += NextBytes(id, &run_start);
  }
  std::string text;
  text.reserve(bytes.size());
  AppendRepaired(bytes, /*last=*/true, &text);
  return text;
}

std::string_view CommandTokenizer::TokenBytes(int32_t id) const {
  bool run_start = false;
  return NextBytes(id, &run_start);
}

std::string_view CommandTokenizer::NextBytes(int32_t id, bool* run_start) const {
  if (const CommandToken* command = FindId(id)) {
    *run_start = true;
    return command->word;
  }
  return text_->Bytes(id, run_start);
}

int32_t CommandTokenizer::WordId(std::string_view word) const {
  const CommandToken* command = FindWord(word);
  return command == nullptr ? -1 : command->id;
}

int32_t CommandTokenizer::CommandId(std::string_view role) const {
  for (const CommandToken& command : commands_) {
    if (command.role == role) return command.id;
  }
  return -1;
}

}  // namespace qianyi
