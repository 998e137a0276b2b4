// Reads JSON byte by byte and knows what may come next under a schema.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/json/json_schema.h"

namespace qianyi {

// All that is alive can be completed, and completed texts are valid. White space between the parts
// is one space, or a line break and up to 32 spaces; there is none behind the whole. Integers have
// at most 15 digits, fractions as many behind the point, exponents 2. One thread; takes all its
// memory in the constructor.
class JsonMachine {
 public:
  enum class State : uint8_t {
    kValue,     // before a value
    kFirst,     // behind { or [
    kAfter,     // behind a value in an object or a list
    kKeyStart,  // behind the comma of an object
    kColon,     // behind a key
    kString,
    kEscape,
    kHex,
    kKey,      // a property of the schema
    kFreeKey,  // another one
    kLiteral,
    kMinus,
    kZero,
    kDigits,
    kPoint,
    kFraction,
    kExponent,
    kExponentSign,
    kExponentDigits,
    kEnd,
  };

  // One way to read the text so far. Several are alive where alternatives begin alike.
  struct Thread {
    int32_t top = -1;   // frame; -1: outside of everything
    int32_t node = 0;   // of a string or number; of kValue and kColon the value that comes
    int32_t count = 0;  // characters, digits, or bytes of a key or literal
    int32_t first = 0;  // of the keys or literals that begin like this one
    int32_t last = 0;   // behind the last of them
    State state = State::kValue;
    uint8_t space = 0;          // white space here
    uint8_t more = 0;           // bytes of a character, or digits of \u, to come
    uint8_t low = 0, high = 0;  // between which the next of them is
    friend bool operator==(const Thread&, const Thread&) = default;
  };

  static constexpr int kMaxThreads = 32;
  struct Threads {
    int count = 0;
    std::array<Thread, kMaxThreads> list;
    std::span<const Thread> view() const { return {list.data(), static_cast<size_t>(count)}; }
  };

  explicit JsonMachine(JsonSchema schema);

  void Start(Threads* threads) const;
  // What is alive after one more byte; `to` is not `from`. Frames are added behind `mark()`.
  void Step(const Threads& from, uint8_t byte, Threads* to);
  bool MayEnd(const Threads& threads) const;
  // Any text of so many whole characters without quotes, backslashes and control characters may
  // come next; 0 when only some may.
  int32_t FreeCharacters(const Threads& threads) const;

  // Frames that were added since may be forgotten.
  size_t mark() const { return frames_.size(); }
  void Forget(size_t mark) { frames_.resize(mark); }
  // Keeps only the frames that these need.
  void Keep(Threads* threads);

 private:
  struct Frame {
    int32_t parent = -1;
    int32_t node = 0;
    int32_t count = 0;  // items of a list; of an object the first property that may come next
    int32_t depth = 0;
    friend bool operator==(const Frame&, const Frame&) = default;
  };

  const JsonSchema::Node& NodeOf(int32_t node) const { return schema_.nodes[size_t(node)]; }
  int32_t Depth(int32_t top) const { return top < 0 ? 0 : frames_[size_t(top)].depth; }
  bool Fits(int32_t value, int32_t depth) const {
    return depth + schema_.heights[size_t(value)] <= JsonSchema::kMaxHeight;
  }
  int32_t AddFrame(const Frame& frame);
  bool SameStack(int32_t a, int32_t b) const;
  void Add(const Thread& thread, Threads* to) const;

  void StepOne(Thread thread, uint8_t byte, Threads* to);
  bool StepSpace(Thread thread, uint8_t byte, Threads* to) const;
  void BeginValue(const Thread& thread, int32_t value, uint8_t byte, Threads* to);
  void BeginNode(Thread thread, int32_t node, uint8_t byte, Threads* to);
  void EndValue(Thread thread, Threads* to);
  void Close(Thread thread, Threads* to);
  void StepInside(Thread thread, uint8_t byte, bool first, Threads* to);
  void StepString(Thread thread, uint8_t byte, Threads* to);
  void StepEscape(Thread thread, uint8_t byte, Threads* to) const;
  bool StepCharacter(Thread* thread, uint8_t byte) const;
  void CountCharacter(Thread* thread) const;
  bool MayHaveKey(const Frame& frame) const;
  bool MayHaveFreeKey(const Frame& frame) const;
  bool IsNext(const Frame& frame, int32_t property) const;
  void BeginKey(Thread thread, Threads* to) const;
  void StepKey(Thread thread, uint8_t byte, Threads* to);
  void StepFreeKey(Thread thread, uint8_t byte, Threads* to);
  void EndKey(Thread thread, int32_t property, Threads* to);
  void StepLiteral(Thread thread, uint8_t byte, Threads* to);
  void StepNumber(Thread thread, uint8_t byte, Threads* to);
  bool IsComplete(const Thread& thread) const;

  const JsonSchema schema_;
  std::vector<Frame> frames_, kept_;
  std::vector<int32_t> moved_;  // scratch of Keep
};

}  // namespace qianyi
