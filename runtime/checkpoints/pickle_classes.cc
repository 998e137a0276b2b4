#include "runtime/checkpoints/pickle_classes.h"

#include <utility>

namespace qianyi {
namespace {

using enum PickleClass;

constexpr PickleClassInfo kClasses[] = {
    {"collections.OrderedDict", kOrderedDict},
    {"torch._utils._rebuild_tensor_v2", kTensor},
    {"torch._utils._rebuild_tensor", kTensor},
    {"torch._utils._rebuild_parameter", kParameter},
    {"torch._utils._rebuild_parameter_with_state", kParameter},
    {"torch.FloatStorage", kStorage, "F32"},
    {"torch.HalfStorage", kStorage, "F16"},
    {"torch.BFloat16Storage", kStorage, "BF16"},
    {"torch.DoubleStorage", kStorage, "F64"},
    {"torch.LongStorage", kStorage, "I64"},
    {"torch.IntStorage", kStorage, "I32"},
    {"torch.ShortStorage", kStorage, "I16"},
    {"torch.CharStorage", kStorage, "I8"},
    {"torch.ByteStorage", kStorage, "U8"},
    {"torch.BoolStorage", kStorage, "BOOL"},
    {"torch.ComplexFloatStorage", kStorage, "C64"},
    {"torch.ComplexDoubleStorage", kStorage, "C128"},
    {"torch.storage.UntypedStorage", kStorage, "U8"},
    {"torch.Size", kSize},
    // States of random generators, and DeepSpeed's bookkeeping.
    {"torch.device", kInert},
    {"torch.float32", kInert},
    {"torch.float16", kInert},
    {"torch.bfloat16", kInert},
    {"__builtin__.set", kInert},
    {"builtins.set", kInert},
    {"_codecs.encode", kInert},
    {"numpy.core.multiarray._reconstruct", kInert},
    {"numpy._core.multiarray._reconstruct", kInert},
    {"numpy.core.multiarray.scalar", kInert},
    {"numpy._core.multiarray.scalar", kInert},
    {"numpy.ndarray", kInert},
    {"numpy.dtype", kInert},
};

constexpr std::pair<unsigned char, std::string_view> kOpcodes[] = {
    {'(', "MARK"},
    {'.', "STOP"},
    {'0', "POP"},
    {'1', "POP_MARK"},
    {'2', "DUP"},
    {'F', "FLOAT"},
    {'I', "INT"},
    {'J', "BININT"},
    {'K', "BININT1"},
    {'L', "LONG"},
    {'M', "BININT2"},
    {'N', "NONE"},
    {'P', "PERSID"},
    {'Q', "BINPERSID"},
    {'R', "REDUCE"},
    {'S', "STRING"},
    {'T', "BINSTRING"},
    {'U', "SHORT_BINSTRING"},
    {'V', "UNICODE"},
    {'X', "BINUNICODE"},
    {'a', "APPEND"},
    {'b', "BUILD"},
    {'c', "GLOBAL"},
    {'d', "DICT"},
    {'}', "EMPTY_DICT"},
    {'e', "APPENDS"},
    {'g', "GET"},
    {'h', "BINGET"},
    {'i', "INST"},
    {'j', "LONG_BINGET"},
    {'l', "LIST"},
    {']', "EMPTY_LIST"},
    {'o', "OBJ"},
    {'p', "PUT"},
    {'q', "BINPUT"},
    {'r', "LONG_BINPUT"},
    {'s', "SETITEM"},
    {'t', "TUPLE"},
    {')', "EMPTY_TUPLE"},
    {'u', "SETITEMS"},
    {'G', "BINFLOAT"},
    {0x80, "PROTO"},
    {0x81, "NEWOBJ"},
    {0x82, "EXT1"},
    {0x83, "EXT2"},
    {0x84, "EXT4"},
    {0x85, "TUPLE1"},
    {0x86, "TUPLE2"},
    {0x87, "TUPLE3"},
    {0x88, "NEWTRUE"},
    {0x89, "NEWFALSE"},
    {0x8a, "LONG1"},
    {0x8b, "LONG4"},
    {'B', "BINBYTES"},
    {'C', "SHORT_BINBYTES"},
    {0x8c, "SHORT_BINUNICODE"},
    {0x8d, "BINUNICODE8"},
    {0x8e, "BINBYTES8"},
    {0x8f, "EMPTY_SET"},
    {0x90, "ADDITEMS"},
    {0x91, "FROZENSET"},
    {0x92, "NEWOBJ_EX"},
    {0x93, "STACK_GLOBAL"},
    {0x94, "MEMOIZE"},
    {0x95, "FRAME"},
    {0x96, "BYTEARRAY8"},
    {0x97, "NEXT_BUFFER"},
    {0x98, "READONLY_BUFFER"},
};

}  // namespace

const PickleClassInfo* FindPickleClass(std::string_view name) {
  for (const PickleClassInfo& info : kClasses) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

std::string_view PickleOpcodeName(unsigned char opcode) {
  for (const auto& [code, name] : kOpcodes) {
    if (code == opcode) return name;
  }
  return {};
}

}  // namespace qianyi
