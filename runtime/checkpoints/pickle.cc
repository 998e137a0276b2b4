#include "runtime/checkpoints/pickle.h"

#include <cstring>
#include <unordered_map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "runtime/checkpoints/pickle_classes.h"

namespace qianyi {
namespace {

using Kind = PickleValue::Kind;

constexpr size_t kMaxValues = 4 << 20;  // of PickleValue's size each: some 350 MB
constexpr size_t kMaxStack = 4 << 20;
constexpr size_t kMaxMarks = 1 << 16;
constexpr size_t kMaxClassBytes = 200;

std::string Shown(std::string_view text) {
  return absl::CHexEscape(std::string(text.substr(0, kMaxClassBytes)));
}

// "module.name", of bounded length.
std::string FullName(std::string_view module, std::string_view name) {
  return std::string(module.substr(0, kMaxClassBytes)) + "." +
         std::string(name.substr(0, kMaxClassBytes));
}

class Machine {
 public:
  explicit Machine(std::string_view text) : text_(text) { pickle_.values.emplace_back(); }

  absl::StatusOr<Pickle> Run() {
    while (status_.ok() && !stopped_) Step();
    if (!status_.ok()) {
      return absl::Status(status_.code(), absl::StrFormat("the pickle, at byte %d, %s", opcode_at_,
                                                          status_.message()));
    }
    pickle_.bytes = at_;
    return std::move(pickle_);
  }

 private:
  static constexpr uint32_t kNoneIndex = 0;

  // ---- errors

  void Fail(const std::string& what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(what);
  }
  void Misplaced(std::string_view what) {
    Fail(absl::StrFormat("opcode %s: %s", PickleOpcodeName(opcode_), what));
  }
  // Every refusal names what was asked for, so that the user can judge.
  void Refuse(std::string_view class_name) {
    Fail(absl::StrFormat(
        "opcode %s asks for '%s', which is none of the classes that tensors need; nothing was "
        "called. If you trust the file, load it with the library that wrote it and save its "
        "tensors alone",
        PickleOpcodeName(opcode_), Shown(class_name)));
  }

  // ---- input

  std::string_view Take(uint64_t bytes) {
    if (bytes > text_.size() - at_) {
      Fail(absl::StrFormat("ends inside opcode %s", PickleOpcodeName(opcode_)));
      return {};
    }
    const std::string_view part = text_.substr(at_, bytes);
    at_ += bytes;
    return part;
  }
  template <typename Number>
  Number TakeNumber() {
    Number value = 0;
    const std::string_view bytes = Take(sizeof(value));
    if (!bytes.empty()) std::memcpy(&value, bytes.data(), sizeof(value));
    return value;
  }
  std::string_view TakeLine() {
    const size_t end = text_.find('\n', at_);
    if (end == text_.npos) {
      Fail(absl::StrFormat("ends inside opcode %s", PickleOpcodeName(opcode_)));
      return {};
    }
    const std::string_view line = text_.substr(at_, end - at_);
    at_ = end + 1;
    return line;
  }

  // ---- values and the stack

  uint32_t Make(PickleValue value) {
    if (pickle_.values.size() >= kMaxValues) {
      Fail(absl::StrFormat("makes more than %d values", kMaxValues));
      return kNoneIndex;
    }
    pickle_.values.push_back(std::move(value));
    return static_cast<uint32_t>(pickle_.values.size() - 1);
  }
  void Push(uint32_t index) {
    if (stack_.size() >= kMaxStack) return Fail("needs too large a stack");
    stack_.push_back(index);
  }
  void PushNew(PickleValue value) { Push(Make(std::move(value))); }
  void PushInt(int64_t value) { PushNew({.kind = Kind::kInt, .integer = value}); }
  void PushText(std::string_view text) {
    if (status_.ok()) PushNew({.kind = Kind::kText, .text = std::string(text)});
  }
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  bool Has(size_t count) {
    if (stack_.size() - floor() >= count) return true;
    Misplaced("the stack is empty");
    return false;
  }
  uint32_t Pop() {
    if (!Has(1)) return kNoneIndex;
    const uint32_t top = stack_.back();
    stack_.pop_back();
    return top;
  }
  // Everything above the last mark, which goes too.
  std::vector<uint32_t> PopToMark() {
    if (marks_.empty()) {
      Misplaced("there is no mark");
      return {};
    }
    std::vector<uint32_t> items(stack_.begin() + marks_.back(), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }
  PickleValue& At(uint32_t index) { return pickle_.values[index]; }
  void PushTuple(size_t count) {
    if (!Has(count)) return;
    PickleValue tuple{.kind = Kind::kTuple};
    tuple.items.assign(stack_.end() - count, stack_.end());
    stack_.resize(stack_.size() - count);
    PushNew(std::move(tuple));
  }
  // Adds items to the list or dictionary on top of the stack. What is inert stays so.
  void AddItems(const std::vector<uint32_t>& items, Kind kind) {
    if (!Has(1)) return;
    PickleValue& target = At(stack_.back());
    if (target.kind == Kind::kNone) return;
    if (target.kind != kind || (kind == Kind::kDict && items.size() % 2 != 0)) {
      return Misplaced(kind == Kind::kDict ? "this is no dictionary, or a key has no value"
                                           : "this is no list");
    }
    target.items.insert(target.items.end(), items.begin(), items.end());
  }

  // ---- the memo

  void Put(uint32_t key) {
    if (Has(1)) memo_[key] = stack_.back();
  }
  void Get(uint32_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) return Misplaced("nothing was remembered under its number");
    Push(found->second);
  }

  // ---- classes

  void PushClass(std::string_view module, std::string_view name) {
    if (!status_.ok()) return;
    const std::string full = FullName(module, name);
    if (FindPickleClass(full) == nullptr) return Refuse(full);
    PushNew({.kind = Kind::kClass, .text = full});
  }

  void StackGlobal() {
    if (!Has(2)) return;
    const uint32_t name = Pop(), module = Pop();
    if (At(name).kind != Kind::kText || At(module).kind != Kind::kText) {
      return Misplaced("a class is named by no text");
    }
    PushClass(std::string(At(module).text), std::string(At(name).text));
  }

  // "Calls" a class with a tuple of arguments: makes what the call would have given.
  void Reduce() {
    if (!Has(2)) return;
    const uint32_t arguments = Pop(), callee = Pop();
    if (At(callee).kind != Kind::kClass) return Refuse("something that is no class");
    const PickleClassInfo& info = *FindPickleClass(At(callee).text);
    if (At(arguments).kind != Kind::kTuple) return Misplaced("arguments that are no tuple");
    const std::vector<uint32_t> items = At(arguments).items;
    switch (info.meaning) {
      case PickleClass::kOrderedDict:
        return MakeDict(items);
      case PickleClass::kTensor:
        return MakeTensor(items);
      case PickleClass::kParameter:
        if (items.empty() || At(items[0]).kind != Kind::kTensor) {
          return Misplaced("a parameter that is no tensor");
        }
        return Push(items[0]);
      case PickleClass::kSize:
        if (items.size() != 1 || At(items[0]).kind != Kind::kTuple) {
          return Misplaced("a size that is no tuple");
        }
        return Push(items[0]);
      case PickleClass::kInert:
        return Push(kNoneIndex);
      case PickleClass::kStorage:
        return Refuse(info.name);  // storages come by BINPERSID
    }
  }

  // OrderedDict() or, in old pickles, OrderedDict([[key, value], …]).
  void MakeDict(const std::vector<uint32_t>& arguments) {
    PickleValue dict{.kind = Kind::kDict};
    const bool filled = arguments.size() == 1 && At(arguments[0]).kind == Kind::kList;
    if (!filled && !arguments.empty()) return Misplaced("a dictionary of something else");
    if (filled) {
      for (const uint32_t pair : At(arguments[0]).items) {
        const PickleValue& item = At(pair);
        const bool good =
            (item.kind == Kind::kList || item.kind == Kind::kTuple) && item.items.size() == 2;
        if (!good) return Misplaced("a dictionary of something else than pairs");
        dict.items.insert(dict.items.end(), item.items.begin(), item.items.end());
      }
    }
    PushNew(std::move(dict));
  }

  void MakeTensor(const std::vector<uint32_t>& arguments) {
    const bool good = arguments.size() >= 4 && At(arguments[0]).kind == Kind::kStorage &&
                      At(arguments[1]).kind == Kind::kInt &&
                      At(arguments[2]).kind == Kind::kTuple &&
                      At(arguments[3]).kind == Kind::kTuple;
    if (!good) return Misplaced("a tensor without storage, offset, shape and strides");
    PushNew({.kind = Kind::kTensor, .items = {arguments.begin(), arguments.begin() + 4}});
  }

  // ('storage', class, key, device, elements[, view]).
  void PersistentId() {
    const uint32_t id = Pop();
    const std::vector<uint32_t> items = At(id).items;
    const bool good = At(id).kind == Kind::kTuple && items.size() >= 5 &&
                      At(items[0]).kind == Kind::kText && At(items[0]).text == "storage" &&
                      At(items[1]).kind == Kind::kClass && At(items[2]).kind == Kind::kText &&
                      At(items[4]).kind == Kind::kInt;
    if (!good) return Misplaced("a persistent object that is no storage");
    const PickleClassInfo& info = *FindPickleClass(At(items[1]).text);
    if (info.meaning != PickleClass::kStorage) return Refuse(info.name);
    if (items.size() > 5 && At(items[5]).kind != Kind::kNone) {
      return Misplaced("a storage that is a view of another one, as PyTorch 0.3 had them");
    }
    PushNew({.kind = Kind::kStorage,
             .dtype = info.dtype,
             .integer = At(items[4]).integer,
             .text = At(items[2]).text});
  }

  // Attributes of a dictionary or of something inert: of no use.
  void Build() {
    Pop();
    if (!Has(1)) return;
    const PickleValue& target = At(stack_.back());
    if (target.kind == Kind::kDict || target.kind == Kind::kNone) return;
    if (target.kind == Kind::kClass) return Refuse(target.text);
    Misplaced("this has no attributes to set");
  }

  // ---- the program

  // A whole number of any size; what does not fit 64 bits is kept as its bytes.
  void PushLong(std::string_view bytes) {
    if (!status_.ok()) return;
    if (bytes.size() > sizeof(int64_t)) return PushText(bytes);
    int64_t value = 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    const size_t unused = 64 - 8 * bytes.size();
    if (unused > 0 && unused < 64) {  // the sign
      value = static_cast<int64_t>(static_cast<uint64_t>(value) << unused) >> unused;
    }
    PushInt(value);
  }

  void Step() {
    opcode_at_ = at_;
    if (at_ >= text_.size()) return Fail("ends without opcode STOP");
    opcode_ = static_cast<unsigned char>(text_[at_++]);
    if (!StepValue() && !StepContainer() && !StepObject()) {
      const std::string_view name = PickleOpcodeName(opcode_);
      Fail(name.empty() ? absl::StrFormat("has 0x%02x, which is no opcode", opcode_)
                        : absl::StrFormat("opcode %s is none that tensors need", name));
    }
  }

  // Opcodes that push numbers and texts. False: it is none of them.
  bool StepValue() {
    switch (opcode_) {
      case 'N':   // NONE
      case 0x88:  // NEWTRUE
      case 0x89:  // NEWFALSE
        Push(kNoneIndex);
        return true;
      case 'J':
        PushInt(TakeNumber<int32_t>());
        return true;
      case 'K':
        PushInt(TakeNumber<uint8_t>());
        return true;
      case 'M':
        PushInt(TakeNumber<uint16_t>());
        return true;
      case 0x8a:  // LONG1
        PushLong(Take(TakeNumber<uint8_t>()));
        return true;
      case 'G':  // BINFLOAT
        Take(8);
        Push(kNoneIndex);
        return true;
      case 'X':  // BINUNICODE
      case 'T':  // BINSTRING, BINBYTES
      case 'B':
        PushText(Take(TakeNumber<uint32_t>()));
        return true;
      case 'U':   // SHORT_BINSTRING
      case 'C':   // SHORT_BINBYTES
      case 0x8c:  // SHORT_BINUNICODE
        PushText(Take(TakeNumber<uint8_t>()));
        return true;
      default:
        return false;
    }
  }

  // Opcodes of the stack, the memo, tuples, lists and dictionaries.
  bool StepContainer() {
    switch (opcode_) {
      case '(':
        if (marks_.size() >= kMaxMarks) Fail("nests too deep");
        marks_.push_back(stack_.size());
        return true;
      case '0':
        Pop();
        return true;
      case 'q':
        Put(TakeNumber<uint8_t>());
        return true;
      case 'r':
        Put(TakeNumber<uint32_t>());
        return true;
      case 0x94:  // MEMOIZE
        Put(static_cast<uint32_t>(memo_.size()));
        return true;
      case 'h':
        Get(TakeNumber<uint8_t>());
        return true;
      case 'j':
        Get(TakeNumber<uint32_t>());
        return true;
      case ')':
        PushTuple(0);
        return true;
      case 0x85:
      case 0x86:
      case 0x87:
        PushTuple(opcode_ - 0x84);
        return true;
      case 't':
        PushNew({.kind = Kind::kTuple, .items = PopToMark()});
        return true;
      case ']':
        PushNew({.kind = Kind::kList});
        return true;
      case '}':
        PushNew({.kind = Kind::kDict});
        return true;
      case 'a': {
        const uint32_t item = Pop();
        AddItems({item}, Kind::kList);
        return true;
      }
      case 'e':
        AddItems(PopToMark(), Kind::kList);
        return true;
      case 's': {
        const uint32_t value = Pop(), key = Pop();
        AddItems({key, value}, Kind::kDict);
        return true;
      }
      case 'u':
        AddItems(PopToMark(), Kind::kDict);
        return true;
      default:
        return false;
    }
  }

  // Opcodes of classes, objects and the program itself. Those that would make an object of any
  // class are known here only to name the class.
  bool StepObject() {
    switch (opcode_) {
      case 0x80:  // PROTO
        if (const int protocol = TakeNumber<uint8_t>(); protocol < 2 || protocol > 5) {
          Misplaced(absl::StrFormat("protocol %d; 2 to 5 are known", protocol));
        }
        return true;
      case 0x95:  // FRAME: how much to read ahead
        TakeNumber<uint64_t>();
        return true;
      case '.':
        pickle_.root = Pop();
        stopped_ = true;
        return true;
      case 'c': {
        const std::string_view module = TakeLine();
        PushClass(module, TakeLine());
        return true;
      }
      case 0x93:
        StackGlobal();
        return true;
      case 'R':
        Reduce();
        return true;
      case 'Q':
        PersistentId();
        return true;
      case 'b':
        Build();
        return true;
      case 'i': {  // INST
        const std::string_view module = TakeLine(), name = TakeLine();
        Refuse(FullName(module, name));
        return true;
      }
      case 'o': {  // OBJ: mark, class, arguments
        const std::vector<uint32_t> items = PopToMark();
        Refuse(items.empty() ? "nothing" : std::string(At(items[0]).text));
        return true;
      }
      case 0x81:    // NEWOBJ: class, arguments
      case 0x92: {  // NEWOBJ_EX: class, arguments, named arguments
        Pop();
        if (opcode_ == 0x92) Pop();
        Refuse(At(Pop()).text);
        return true;
      }
      case 0x82:  // EXT1, EXT2, EXT4: a class by its number in a registry
        Refuse(absl::StrFormat("extension %d", TakeNumber<uint8_t>()));
        return true;
      case 0x83:
        Refuse(absl::StrFormat("extension %d", TakeNumber<uint16_t>()));
        return true;
      case 0x84:
        Refuse(absl::StrFormat("extension %d", TakeNumber<uint32_t>()));
        return true;
      default:
        return false;
    }
  }

  const std::string_view text_;
  size_t at_ = 0;
  size_t opcode_at_ = 0;
  unsigned char opcode_ = 0;
  bool stopped_ = false;
  absl::Status status_;
  Pickle pickle_;
  std::vector<uint32_t> stack_;
  std::vector<size_t> marks_;  // heights of the stack
  std::unordered_map<uint32_t, uint32_t> memo_;
};

}  // namespace

const PickleValue* Pickle::Find(const PickleValue& dict, std::string_view key) const {
  if (dict.kind != Kind::kDict) return nullptr;
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
    const PickleValue& name = at(dict.items[i]);
    if (name.kind == Kind::kText && name.text == key) return &at(dict.items[i + 1]);
  }
  return nullptr;
}

absl::StatusOr<Pickle> ParsePickle(std::string_view text) { return Machine(text).Run(); }

}  // namespace qianyi
