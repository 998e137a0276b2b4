// The classes and functions that pickles of tensors name, and what this reader takes them for. None
// is ever called.
#pragma once

#include <string_view>

namespace qianyi {

enum class PickleClass : unsigned char {
  kOrderedDict,  // a dictionary
  kTensor,       // storage, offset, shape, strides, …
  kParameter,    // its first argument, a tensor
  kStorage,      // of elements of `dtype`
  kSize,         // its argument, a tuple
  kInert,        // kept as "none": beside the weights in states of training, of no use here
};

struct PickleClassInfo {
  std::string_view name;  // "module.name"
  PickleClass meaning = PickleClass::kInert;
  std::string_view dtype = {};  // of storages, as safetensors calls it
};

// Null for any other.
const PickleClassInfo* FindPickleClass(std::string_view name);
// "GLOBAL" for 'c'; empty for what is no opcode.
std::string_view PickleOpcodeName(unsigned char opcode);

}  // namespace qianyi
