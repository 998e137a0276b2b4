#include "runtime/json/json_machine.h"

#include <algorithm>
#include <string>
#include <utility>

namespace qianyi {
namespace {

using Kind = JsonSchema::Kind;
using State = JsonMachine::State;

constexpr size_t kFrames = 4096;
constexpr uint8_t kOneSpace = 255;  // nothing may follow it
constexpr uint8_t kMaxSpace = 33;   // a line break and its indentation
constexpr int32_t kMaxDigits = 15;
constexpr int32_t kMaxExponentDigits = 2;

bool IsDigit(uint8_t byte) { return byte >= '0' && byte <= '9'; }

const std::string& TextOf(const std::string& text) { return text; }
const std::string& TextOf(const JsonSchema::Key& key) { return key.text; }

// Of sorted texts [*first, *last), which agree in `count` bytes, those that go on with `byte`.
template <typename Texts>
void Narrow(const Texts& texts, int32_t count, uint8_t byte, int32_t* first, int32_t* last) {
  const auto next = [&](const auto& text) {
    const std::string& bytes = TextOf(text);
    const size_t at = static_cast<size_t>(count);
    return at < bytes.size() ? static_cast<int>(static_cast<uint8_t>(bytes[at])) : -1;
  };
  const auto begin = texts.begin() + *first, end = texts.begin() + *last;
  const auto low = std::partition_point(
      begin, end, [&](const auto& text) { return next(text) < static_cast<int>(byte); });
  const auto high = std::partition_point(
      low, end, [&](const auto& text) { return next(text) == static_cast<int>(byte); });
  *first = static_cast<int32_t>(low - texts.begin());
  *last = static_cast<int32_t>(high - texts.begin());
}

bool HasSpace(State state) { return state <= State::kColon; }

}  // namespace

JsonMachine::JsonMachine(JsonSchema schema) : schema_(std::move(schema)), moved_(kFrames, -1) {
  frames_.reserve(kFrames);
  kept_.reserve(kFrames);
}

void JsonMachine::Start(Threads* threads) const {
  threads->count = 1;
  threads->list[0] = {};
  threads->list[0].node = schema_.root;
}

void JsonMachine::Step(const Threads& from, uint8_t byte, Threads* to) {
  to->count = 0;
  for (const Thread& thread : from.view()) StepOne(thread, byte, to);
}

bool JsonMachine::MayEnd(const Threads& threads) const {
  const auto view = threads.view();
  return std::any_of(view.begin(), view.end(), [this](const Thread& thread) {
    return thread.state == State::kEnd || (thread.top < 0 && IsComplete(thread));
  });
}

int32_t JsonMachine::FreeCharacters(const Threads& threads) const {
  int32_t most = 0;
  for (const Thread& thread : threads.view()) {
    if (thread.more > 0) continue;
    if (thread.state == State::kFreeKey && thread.first == thread.last) {
      return JsonSchema::kUnlimited;
    }
    if (thread.state != State::kString) continue;
    const int32_t limit = NodeOf(thread.node).most;
    most = std::max(most, limit == JsonSchema::kUnlimited ? limit : limit - thread.count);
  }
  return most;
}

int32_t JsonMachine::AddFrame(const Frame& frame) {
  if (frames_.size() == kFrames) return -1;
  frames_.push_back(frame);
  return static_cast<int32_t>(frames_.size()) - 1;
}

bool JsonMachine::SameStack(int32_t a, int32_t b) const {
  while (a != b) {
    if (a < 0 || b < 0) return false;
    const Frame &x = frames_[size_t(a)], &y = frames_[size_t(b)];
    if (x.node != y.node || x.count != y.count) return false;
    a = x.parent;
    b = y.parent;
  }
  return true;
}

// Once; what finds no room any more is given up, which leaves the others as they are.
void JsonMachine::Add(const Thread& thread, Threads* to) const {
  for (const Thread& other : to->view()) {
    Thread same = other;
    same.top = thread.top;
    if (same == thread && SameStack(thread.top, other.top)) return;
  }
  if (to->count < kMaxThreads) to->list[static_cast<size_t>(to->count++)] = thread;
}

void JsonMachine::Keep(Threads* threads) {
  kept_.clear();
  std::array<int32_t, JsonSchema::kMaxHeight + 1> chain;
  for (int i = 0; i < threads->count; ++i) {
    Thread& thread = threads->list[static_cast<size_t>(i)];
    size_t length = 0;
    for (int32_t at = thread.top; at >= 0; at = frames_[size_t(at)].parent) chain[length++] = at;
    int32_t parent = -1;
    while (length-- > 0) {
      int32_t& moved = moved_[size_t(chain[length])];
      if (moved < 0) {
        moved = static_cast<int32_t>(kept_.size());
        kept_.push_back(frames_[size_t(chain[length])]);
        kept_.back().parent = parent;
      }
      parent = moved;
    }
    thread.top = parent;
  }
  std::fill(moved_.begin(), moved_.begin() + static_cast<int64_t>(frames_.size()), -1);
  frames_.swap(kept_);
}

void JsonMachine::StepOne(Thread thread, uint8_t byte, Threads* to) {
  if (HasSpace(thread.state)) {
    if (StepSpace(thread, byte, to)) return;
    thread.space = 0;
  }
  switch (thread.state) {
    case State::kValue:
      return BeginValue(thread, thread.node, byte, to);
    case State::kFirst:
      return StepInside(thread, byte, /*first=*/true, to);
    case State::kAfter:
      return StepInside(thread, byte, /*first=*/false, to);
    case State::kKeyStart:
      if (byte == '"') BeginKey(thread, to);
      return;
    case State::kColon:
      if (byte != ':') return;
      thread.state = State::kValue;
      return Add(thread, to);
    case State::kString:
      return StepString(thread, byte, to);
    case State::kEscape:
    case State::kHex:
      return StepEscape(thread, byte, to);
    case State::kKey:
      return StepKey(thread, byte, to);
    case State::kFreeKey:
      return StepFreeKey(thread, byte, to);
    case State::kLiteral:
      return StepLiteral(thread, byte, to);
    case State::kEnd:
      return;
    default:
      return StepNumber(thread, byte, to);
  }
}

bool JsonMachine::StepSpace(Thread thread, uint8_t byte, Threads* to) const {
  if (byte != ' ' && byte != '\n') return false;
  if (thread.space == 0) {
    thread.space = byte == ' ' ? kOneSpace : 1;
  } else if (byte == ' ' && thread.space < kMaxSpace) {
    ++thread.space;
  } else {
    return true;  // too much of it
  }
  Add(thread, to);
  return true;
}

void JsonMachine::BeginValue(const Thread& thread, int32_t value, uint8_t byte, Threads* to) {
  for (const int32_t node : schema_.values[size_t(value)]) BeginNode(thread, node, byte, to);
}

void JsonMachine::BeginNode(Thread thread, int32_t index, uint8_t byte, Threads* to) {
  const JsonSchema::Node& node = NodeOf(index);
  const int32_t depth = Depth(thread.top);
  if (depth + node.height > JsonSchema::kMaxHeight) return;
  thread.node = index;
  thread.count = 0;
  switch (node.kind) {
    case Kind::kObject:
    case Kind::kArray:
      if (byte != (node.kind == Kind::kObject ? '{' : '[')) return;
      thread.top = AddFrame({thread.top, index, 0, depth + 1});
      if (thread.top < 0) return;
      thread.node = 0;
      thread.state = State::kFirst;
      break;
    case Kind::kString:
      if (byte != '"') return;
      thread.state = State::kString;
      break;
    case Kind::kNumber:
    case Kind::kInteger:
      if (byte != '-' && !IsDigit(byte)) return;
      thread.state = byte == '-' ? State::kMinus : byte == '0' ? State::kZero : State::kDigits;
      thread.count = 1;
      break;
    case Kind::kLiterals:
      thread.first = 0;
      thread.last = static_cast<int32_t>(node.literals.size());
      thread.state = State::kLiteral;
      return StepLiteral(thread, byte, to);
  }
  Add(thread, to);
}

void JsonMachine::EndValue(Thread thread, Threads* to) {
  const int32_t top = thread.top;
  thread = {};
  thread.top = top;
  thread.state = top < 0 ? State::kEnd : State::kAfter;
  if (top >= 0) {
    Frame frame = frames_[size_t(top)];
    const JsonSchema::Node& node = NodeOf(frame.node);
    if (node.kind == Kind::kArray) {
      // Beyond what is asked for, how many there are matters no more.
      const int32_t matters = node.most == JsonSchema::kUnlimited ? node.least : node.most;
      if (frame.count < matters) {
        ++frame.count;
        thread.top = AddFrame(frame);
        if (thread.top < 0) return;
      }
    }
  }
  Add(thread, to);
}

void JsonMachine::Close(Thread thread, Threads* to) {
  thread.top = frames_[size_t(thread.top)].parent;
  EndValue(thread, to);
}

void JsonMachine::StepInside(Thread thread, uint8_t byte, bool first, Threads* to) {
  const Frame frame = frames_[size_t(thread.top)];
  const JsonSchema::Node& node = NodeOf(frame.node);
  if (node.kind == Kind::kArray) {
    const bool more = frame.count < node.most && Fits(node.items, frame.depth);
    if (byte == ']') {
      if (frame.count >= node.least) Close(thread, to);
    } else if (more && first) {
      BeginValue(thread, node.items, byte, to);
    } else if (more && byte == ',') {
      thread.state = State::kValue;
      thread.node = node.items;
      Add(thread, to);
    }
    return;
  }
  const bool more = MayHaveKey(frame) || MayHaveFreeKey(frame);
  if (byte == '}') {
    const bool complete = size_t(node.required[size_t(frame.count)]) == node.properties.size();
    if (complete) Close(thread, to);
  } else if (more && first && byte == '"') {
    BeginKey(thread, to);
  } else if (more && !first && byte == ',') {
    thread.state = State::kKeyStart;
    Add(thread, to);
  }
}

// A property may come when no required one is left out for it.
bool JsonMachine::IsNext(const Frame& frame, int32_t property) const {
  const JsonSchema::Node& node = NodeOf(frame.node);
  return property >= frame.count && property <= node.required[size_t(frame.count)] &&
         Fits(node.properties[size_t(property)], frame.depth);
}

bool JsonMachine::MayHaveKey(const Frame& frame) const {
  const int32_t count = static_cast<int32_t>(NodeOf(frame.node).properties.size());
  for (int32_t property = frame.count; property < count; ++property) {
    if (IsNext(frame, property)) return true;
  }
  return false;
}

bool JsonMachine::MayHaveFreeKey(const Frame& frame) const {
  const JsonSchema::Node& node = NodeOf(frame.node);
  return node.additional != JsonSchema::kNone && Fits(node.additional, frame.depth) &&
         size_t(node.required[size_t(frame.count)]) == node.properties.size();
}

void JsonMachine::BeginKey(Thread thread, Threads* to) const {
  const Frame& frame = frames_[size_t(thread.top)];
  thread.count = 0;
  thread.first = 0;
  thread.last = static_cast<int32_t>(NodeOf(frame.node).keys.size());
  if (MayHaveKey(frame)) {
    thread.state = State::kKey;
    Add(thread, to);
  }
  if (MayHaveFreeKey(frame)) {
    thread.state = State::kFreeKey;
    Add(thread, to);
  }
}

void JsonMachine::StepKey(Thread thread, uint8_t byte, Threads* to) {
  const Frame& frame = frames_[size_t(thread.top)];
  const auto& keys = NodeOf(frame.node).keys;
  Narrow(keys, thread.count, byte, &thread.first, &thread.last);
  ++thread.count;
  for (int32_t i = thread.first; i < thread.last; ++i) {
    const JsonSchema::Key& key = keys[size_t(i)];
    if (!IsNext(frame, key.property)) continue;
    if (key.text.size() == size_t(thread.count)) return EndKey(thread, key.property, to);
    return Add(thread, to);
  }
}

// The keys that begin like it are those it must not become.
void JsonMachine::StepFreeKey(Thread thread, uint8_t byte, Threads* to) {
  const auto& keys = NodeOf(frames_[size_t(thread.top)].node).keys;
  if (thread.first < thread.last) {
    Narrow(keys, thread.count, byte, &thread.first, &thread.last);
    ++thread.count;
  }
  if (thread.first == thread.last) thread.first = thread.last = thread.count = 0;
  if (byte == '"' && thread.more == 0) {
    if (thread.first == thread.last) EndKey(thread, JsonSchema::kNone, to);
    return;
  }
  if (byte != '\\' && StepCharacter(&thread, byte)) Add(thread, to);
}

void JsonMachine::EndKey(Thread thread, int32_t property, Threads* to) {
  Frame frame = frames_[size_t(thread.top)];
  const JsonSchema::Node& node = NodeOf(frame.node);
  const bool listed = property != JsonSchema::kNone;
  frame.count = listed ? property + 1 : static_cast<int32_t>(node.properties.size());
  thread = {};
  thread.top = AddFrame(frame);
  if (thread.top < 0) return;
  thread.node = listed ? node.properties[size_t(property)] : node.additional;
  thread.state = State::kColon;
  Add(thread, to);
}

// One byte of a character, by table 3-7 of the Unicode Standard; false where it may not be.
bool JsonMachine::StepCharacter(Thread* thread, uint8_t byte) const {
  if (thread->more > 0) {
    if (byte < thread->low || byte > thread->high) return false;
    --thread->more;
    thread->low = thread->more > 0 ? 0x80 : 0;
    thread->high = thread->more > 0 ? 0xBF : 0;
    return true;
  }
  if (byte < 0x20 || (byte >= 0x80 && byte < 0xC2) || byte > 0xF4) return false;
  if (byte < 0x80) return true;
  thread->more = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
  thread->low = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
  thread->high = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
  return true;
}

void JsonMachine::CountCharacter(Thread* thread) const {
  const JsonSchema::Node& node = NodeOf(thread->node);
  const int32_t matters = node.most == JsonSchema::kUnlimited ? node.least : node.most;
  if (thread->count < matters) ++thread->count;
}

void JsonMachine::StepString(Thread thread, uint8_t byte, Threads* to) {
  const JsonSchema::Node& node = NodeOf(thread.node);
  if (thread.more == 0) {
    if (byte == '"') {
      if (thread.count >= node.least) EndValue(thread, to);
      return;
    }
    if (node.most != JsonSchema::kUnlimited && thread.count >= node.most) return;
    if (byte == '\\') {
      thread.state = State::kEscape;
      return Add(thread, to);
    }
  }
  if (!StepCharacter(&thread, byte)) return;
  if (thread.more == 0) CountCharacter(&thread);
  Add(thread, to);
}

// \u never writes a surrogate: those would have to come in pairs, and what they stand for can be
// written as it is.
void JsonMachine::StepEscape(Thread thread, uint8_t byte, Threads* to) const {
  if (thread.state == State::kEscape && byte == 'u') {
    thread.state = State::kHex;
    thread.more = 4;
    return Add(thread, to);
  }
  if (thread.state == State::kEscape) {
    if (std::string_view("\"\\/bfnrt").find(static_cast<char>(byte)) == std::string_view::npos) {
      return;
    }
  } else {
    const bool letter = (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F');
    if (!letter && !IsDigit(byte)) return;
    const bool surrogate = thread.more == 3 && thread.low == 'd';
    if (surrogate && (letter || byte > '7')) return;
    thread.low = thread.more == 4 && (byte == 'd' || byte == 'D') ? 'd' : 0;
    if (--thread.more > 0) return Add(thread, to);
    thread.low = 0;
  }
  thread.state = State::kString;
  CountCharacter(&thread);
  Add(thread, to);
}

void JsonMachine::StepLiteral(Thread thread, uint8_t byte, Threads* to) {
  const auto& literals = NodeOf(thread.node).literals;
  Thread longer = thread;
  Narrow(literals, thread.count, byte, &longer.first, &longer.last);
  ++longer.count;
  if (longer.first < longer.last) {
    const std::string& shortest = literals[size_t(longer.first)];
    const bool whole = shortest.size() == size_t(longer.count);
    // One that others go on from, as 1 from 12, ends with what comes behind it.
    if (whole && longer.last - longer.first == 1) return EndValue(longer, to);
    return Add(longer, to);
  }
  if (!IsComplete(thread)) return;
  Threads ended;
  EndValue(thread, &ended);
  for (const Thread& next : ended.view()) StepOne(next, byte, to);
}

// Whether what has been read of a number or a literal is one already.
bool JsonMachine::IsComplete(const Thread& thread) const {
  switch (thread.state) {
    case State::kZero:
    case State::kDigits:
    case State::kFraction:
    case State::kExponentDigits:
      return true;
    case State::kLiteral:
      return thread.first < thread.last && thread.count > 0 &&
             NodeOf(thread.node).literals[size_t(thread.first)].size() == size_t(thread.count);
    default:
      return false;
  }
}

void JsonMachine::StepNumber(Thread thread, uint8_t byte, Threads* to) {
  const bool whole = NodeOf(thread.node).kind == Kind::kInteger;
  const State state = thread.state;
  const auto become = [&](State next, int32_t count) {
    thread.state = next;
    thread.count = count;
    Add(thread, to);
  };
  if (IsDigit(byte)) {
    const int32_t most = state == State::kExponentDigits ? kMaxExponentDigits : kMaxDigits;
    if (state == State::kMinus) return become(byte == '0' ? State::kZero : State::kDigits, 1);
    if (state == State::kPoint) return become(State::kFraction, 1);
    if (state == State::kExponent || state == State::kExponentSign) {
      return become(State::kExponentDigits, 1);
    }
    if (state != State::kZero && thread.count < most) become(state, thread.count + 1);
    return;
  }
  const bool integral = state == State::kZero || state == State::kDigits;
  if (byte == '.') {
    if (!whole && integral) become(State::kPoint, 0);
    return;
  }
  if (byte == 'e' || byte == 'E') {
    if (!whole && (integral || state == State::kFraction)) become(State::kExponent, 0);
    return;
  }
  if (state == State::kExponent && (byte == '+' || byte == '-')) {
    return become(State::kExponentSign, 0);
  }
  if (!IsComplete(thread)) return;
  Threads ended;
  EndValue(thread, &ended);
  for (const Thread& next : ended.view()) StepOne(next, byte, to);
}

}  // namespace qianyi
