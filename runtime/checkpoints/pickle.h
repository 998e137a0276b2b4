// Python pickles, as far as checkpoints need them. A pickle is a program for a stack machine that
// can call anything; this reader calls nothing. It knows the opcodes that build tuples, lists,
// dictionaries and texts, and the classes named in pickle_classes.h; whatever else a pickle asks
// for is refused, and the error names the opcode and the class. Checked for size at every step.
// https://github.com/python/cpython/blob/3.11/Lib/pickletools.py
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace qianyi {

struct PickleValue {
  enum class Kind : uint8_t {
    kNone,     // also what is of no use to us: floats, booleans, states of random generators
    kInt,      // that fits 64 bits
    kText,     // str or bytes
    kTuple,    // items
    kList,     // items
    kDict,     // items: key, value, key, value, …
    kClass,    // text: "torch.FloatStorage"
    kStorage,  // text: its key; dtype; integer: how many elements it has
    kTensor,   // items: storage, offset, shape tuple, strides tuple
  };
  Kind kind = Kind::kNone;
  std::string_view dtype = {};
  int64_t integer = 0;
  std::string text = {};
  std::vector<uint32_t> items = {};  // indices into Pickle::values
};

// What a pickle says. Values refer to each other by index, and may be shared or even contain
// themselves, so walk them with a limit.
struct Pickle {
  std::vector<PickleValue> values;
  uint32_t root = 0;
  uint64_t bytes = 0;  // up to and with STOP: others may follow in the same file

  const PickleValue& at(uint32_t index) const { return values[index]; }
  // The value of a text key in a dictionary, or null.
  const PickleValue* Find(const PickleValue& dict, std::string_view key) const;
};

absl::StatusOr<Pickle> ParsePickle(std::string_view text);

}  // namespace qianyi
