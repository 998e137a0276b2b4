#include "runtime/checkpoints/pickle.h"

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "runtime/checkpoints/pickle_classes.h"
#include "tests/runtime/storage/storage_testing.h"

namespace qianyi {
namespace {

using absl::StatusCode;
using testing::FailsWith;
using Kind = PickleValue::Kind;
using namespace std::string_literals;

absl::Status Refused(const std::string& text) { return ParsePickle(text).status(); }

TEST(Pickle, ReadsTheOpcodesOfTensors) {
  // {'a': (1, 300, -2, 70000), 'b': [None, 2.5], 'c': 'text'}
  const absl::StatusOr<Pickle> pickle = ParsePickle(
      "\x80\x02}q\x00(X\x01\x00\x00\x00"
      "a(K\x01M\x2c\x01J\xfe\xff\xff\xff\x8a\x03\x70\x11\x01t"
      "X\x01\x00\x00\x00"
      "b](NG@\x04\x00\x00\x00\x00\x00\x00"
      "e"
      "X\x01\x00\x00\x00"
      "cU\x04textu."s);
  ASSERT_TRUE(pickle.ok()) << pickle.status();
  const PickleValue& root = pickle->at(pickle->root);
  const PickleValue* tuple = pickle->Find(root, "a");
  ASSERT_NE(tuple, nullptr);
  ASSERT_EQ(tuple->items.size(), 4u);
  EXPECT_EQ(pickle->at(tuple->items[0]).integer, 1);
  EXPECT_EQ(pickle->at(tuple->items[1]).integer, 300);
  EXPECT_EQ(pickle->at(tuple->items[2]).integer, -2);
  EXPECT_EQ(pickle->at(tuple->items[3]).integer, 70000);
  EXPECT_EQ(pickle->Find(root, "b")->items.size(), 2u);
  EXPECT_EQ(pickle->Find(root, "c")->text, "text");
  EXPECT_EQ(pickle->Find(root, "d"), nullptr);
}

TEST(Pickle, StopsAtStop) {
  const absl::StatusOr<Pickle> pickle = ParsePickle("\x80\x02K\x05.and more"s);
  ASSERT_TRUE(pickle.ok()) << pickle.status();
  EXPECT_EQ(pickle->bytes, 5u);
  EXPECT_EQ(pickle->at(pickle->root).integer, 5);
}

TEST(Pickle, LongNumbersKeepTheirSign) {
  const auto value = [](const std::string& bytes) {
    const std::string size(1, static_cast<char>(bytes.size()));
    const auto pickle = ParsePickle(absl::StrCat("\x8a", size, bytes, "."));
    EXPECT_TRUE(pickle.ok()) << pickle.status();
    return pickle.ok() ? pickle->at(pickle->root).integer : 0;
  };
  EXPECT_EQ(value(""), 0);
  EXPECT_EQ(value("\xff"), -1);
  EXPECT_EQ(value("\xff\x7f"), 32767);
  EXPECT_EQ(value("\x00\x00\x00\x00\x01"s), int64_t{1} << 32);
  EXPECT_EQ(value("\xff\xff\xff\xff\xff\xff\xff\x7f"), INT64_MAX);
}

// Each names the opcode and the class, and calls nothing.
TEST(Pickle, RefusesToCallAnything) {
  const std::pair<std::string, std::pair<const char*, const char*>> cases[] = {
      {"cos\nsystem\n(S'x'\ntR.", {"opcode GLOBAL", "'os.system'"}},
      {"\x80\x02"
       "cbuiltins\neval\nX\x01\x00\x00\x00"
       "1\x85R."s,
       {"opcode GLOBAL", "builtins.eval"}},
      {"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x01x\x85R."s,
       {"opcode STACK_GLOBAL", "'posix.system'"}},
      {"(S'x'\nios\nsystem\n."s, {"opcode STRING", "none that tensors need"}},
      {"(ios\nsystem\n.", {"opcode INST", "'os.system'"}},
      {"(ctorch\nSize\no.", {"opcode OBJ", "'torch.Size'"}},
      {"ctorch\nSize\n)\x81.", {"opcode NEWOBJ", "'torch.Size'"}},
      {"ctorch\nSize\n)}\x92.", {"opcode NEWOBJ_EX", "'torch.Size'"}},
      {"ctorch\nFloatStorage\n)R.", {"opcode REDUCE", "'torch.FloatStorage'"}},
      {"X\x04\x00\x00\x00"
       "evil)R."s,
       {"opcode REDUCE", "no class"}},
      {"ctorch\nSize\nNb.", {"opcode BUILD", "'torch.Size'"}},
      {"\x82\x07.", {"opcode EXT1", "extension 7"}},
      {"\x83\x07\x01.", {"opcode EXT2", "extension 263"}},
      {"\x84\x07\x01\x00\x00."s, {"opcode EXT4", "extension 263"}},
      {"Pfile\n.", {"opcode PERSID", "none that tensors need"}},
      {"\x97.", {"opcode NEXT_BUFFER", "none that tensors need"}},
      {"ctorch._utils\n_rebuild_tensor_v3\n.",
       {"opcode GLOBAL", "torch._utils._rebuild_tensor_v3"}},
      {"cnumpy.core.multiarray\nfromstring\n.",
       {"opcode GLOBAL", "numpy.core.multiarray.fromstring"}},
  };
  for (const auto& [text, words] : cases) {
    EXPECT_TRUE(FailsWith(Refused(text), StatusCode::kInvalidArgument, words.first)) << text;
    EXPECT_TRUE(FailsWith(Refused(text), StatusCode::kInvalidArgument, words.second)) << text;
  }
}

TEST(Pickle, RefusesWhatIsDamaged) {
  const std::string cases[] = {
      "",                         // nothing
      "N",                        // no STOP
      ".",                        // nothing to give
      "\x80\x01N.",               // protocol
      "\x80\x09N.",               //
      "X\xff\xff\xff\xffshort.",  // longer than the file
      "J\x01\x02",                // cut
      "h\x05.",                   // nothing remembered
      "0.",                       // nothing to drop
      "t.",                       // no mark
      "(a.",                      // below the mark
      "N\x86.",                   // too few for a pair
      "}(Nu.",                    // key without value
      "K\x01K\x02"
      "a.",                 // append to a number
      "K\x01K\x02K\x03s.",  // set in a number
      "K\x01Nb.",           // attributes of a number
      ")Q.",                // persistent object
      "cone line",          // class without end
      "ctorch\nSize\nNR.",  // arguments that are no tuple
      "ctorch._utils\n_rebuild_tensor_v2\n)R.",
      "ctorch._utils\n_rebuild_parameter\n)R.",
      "ccollections\nOrderedDict\nK\x01\x85R.",
      "ccollections\nOrderedDict\n](K\x01"
      "e\x85R.",
      "\x8a\xff"
      "12.",
      "\xf0.",
      std::string(100000, '(') + ".",
  };
  for (const std::string& text : cases) {
    EXPECT_EQ(Refused(text).code(), StatusCode::kInvalidArgument) << text.substr(0, 80);
  }
}

TEST(Pickle, IsBoundedInMemory) {
  // Five bytes of a pickle would otherwise become a hundred in memory, without end.
  std::string many = "\x80\x02(";
  many.append(5 << 20, ')');
  EXPECT_TRUE(FailsWith(Refused(many + "t."), StatusCode::kInvalidArgument, "values"));
  many = "(" + std::string(5 << 20, 'N') + "t.";
  EXPECT_TRUE(FailsWith(Refused(many), StatusCode::kInvalidArgument, "stack"));
}

TEST(PickleClasses, AreFewAndNamed) {
  EXPECT_NE(FindPickleClass("collections.OrderedDict"), nullptr);
  EXPECT_EQ(FindPickleClass("os.system"), nullptr);
  EXPECT_EQ(FindPickleClass(""), nullptr);
  EXPECT_EQ(PickleOpcodeName('c'), "GLOBAL");
  EXPECT_EQ(PickleOpcodeName(0xf0), "");
}

}  // namespace
}  // namespace qianyi
