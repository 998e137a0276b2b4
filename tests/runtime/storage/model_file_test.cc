// What ModelFile::Open refuses: each case takes a good folder's header apart, changes one
// thing and puts it together again.
#include "runtime/storage/model_file.h"

#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>

#include "nlohmann/json.hpp"
#include "runtime/storage/convert.h"
#include "runtime/storage/model_layout.h"
#include "tests/runtime/storage/storage_testing.h"

namespace qianyi {
namespace {

using absl::StatusCode;
using nlohmann::ordered_json;
using testing::FailsWith;
using testing::TempFolder;

constexpr char kNorm[] = "transformer.encoder.layers.0.input_layernorm.weight";
constexpr char kDense[] = "transformer.encoder.layers.0.self_attention.dense.weight";
constexpr char kEmbedding[] = "transformer.embedding.word_embeddings.weight";

// A converted folder that tests may damage.
class ConvertedModel {
 public:
  ConvertedModel() {
    testing::WriteCheckpoint(folder_ / "source", testing::TinyChatGlm2Config());
    EXPECT_OK(Convert({.source = folder_ / "source",
                       .destination = folder_ / "model",
                       .format = {DType::kI8, 0},
                       .threads = 1},
                      nullptr));
    const std::string text = testing::ReadText(file());
    uint64_t json_bytes = 0;
    std::memcpy(&json_bytes, text.data(), sizeof(json_bytes));
    header = ordered_json::parse(text.substr(8, json_bytes));
    data_ = text.substr(8 + json_bytes);
  }

  std::string path() const { return folder_ / "model"; }
  std::string file() const { return folder_ / "model/model.safetensors"; }

  // Puts the header back, padded so that the data begins at a multiple of `align`.
  void Store(uint64_t align = kPageBytes) {
    std::string json = header.dump();
    json.resize((8 + json.size() + align - 1) / align * align - 8, ' ');
    testing::WriteText(file(), testing::WithHeader(json, 0) + data_);
  }
  absl::Status StoreAndOpen() {
    Store();
    return ModelFile::Open(path()).status();
  }

  ordered_json& metadata() { return header["__metadata__"]; }
  // Changes one field of a tensor's description.
  void Describe(const std::string& tensor, const std::function<void(ordered_json&)>& change) {
    std::string& text = metadata()["tensor:" + tensor].get_ref<std::string&>();
    ordered_json description = ordered_json::parse(text);
    change(description);
    text = description.dump();
  }
  void Rename(const std::string& from, const std::string& to) {
    const ordered_json entry = header[from];
    header.erase(from);
    header[to] = entry;
  }

  ordered_json header;

 private:
  TempFolder folder_;
  std::string data_;
};

TEST(ModelFile, OpensWhatWasConverted) {
  ConvertedModel model;
  ASSERT_OK(model.StoreAndOpen());
  const absl::StatusOr<ModelFile> file = ModelFile::Open(model.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->files, (std::vector<std::string>{model.file()}));
  EXPECT_EQ(file->spec.family, "chatglm2");
  EXPECT_EQ(file->tensors.size(), file->spec.tensors.size());
}

TEST(ModelFile, PathsAreAbsolute) {
  ConvertedModel model;
  const std::string before = std::filesystem::current_path().string();
  std::filesystem::current_path(model.path());
  const absl::StatusOr<ModelFile> file = ModelFile::Open(".");
  std::filesystem::current_path(before);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(std::filesystem::equivalent(file->files[0], model.file()));
}

TEST(ModelFile, BlocksMayBeSpreadOverFiles) {
  ConvertedModel model;
  const absl::StatusOr<ModelFile> whole = ModelFile::Open(model.path());
  ASSERT_TRUE(whole.ok()) << whole.status();
  // The first tensor's only block moves to a file of its own.
  const StoredTensor& moved = whole->tensors[0];
  ASSERT_EQ(moved.blocks.size(), 1u);
  const std::string name = BlockName(moved, moved.blocks[0]);
  const std::string bytes = testing::ReadBlock(*whole, moved.blocks[0]);
  const uint64_t padded = RoundUpToPage(bytes.size());
  ordered_json second = {{"__metadata__", {{"qianyi_format", "1"}}}};
  second[name] = model.header[name];
  second[name]["data_offsets"] = {0, bytes.size()};
  second["__pad.0"] = {{"dtype", "U8"},
                       {"shape", {padded - bytes.size()}},
                       {"data_offsets", {bytes.size(), padded}}};
  std::string json = second.dump();
  json.resize(kPageBytes - 8, ' ');
  testing::WriteText(
      model.path() + "/second.safetensors",
      testing::WithHeader(json, 0) + bytes + std::string(padded - bytes.size(), '\0'));
  model.Rename(name, "__pad.moved");
  ASSERT_OK(model.StoreAndOpen());
  const absl::StatusOr<ModelFile> split = ModelFile::Open(model.path());
  ASSERT_TRUE(split.ok()) << split.status();
  ASSERT_EQ(split->files.size(), 2u);
  EXPECT_EQ(split->tensors[0].blocks[0].file, 1);
  EXPECT_EQ(testing::ReadTensor(*split, split->tensors[0]),
            testing::ReadTensor(*whole, whole->tensors[0]));
  // The same block in both files is one too many.
  model.Rename("__pad.moved", name);
  EXPECT_TRUE(FailsWith(model.StoreAndOpen(), StatusCode::kInvalidArgument,
                        "which another file of the folder has too"));
}

TEST(ModelFile, AnUnconvertedCheckpointSaysWhatToDo) {
  TempFolder folder;
  testing::WriteCheckpoint(folder / "source", testing::TinyChatGlm2Config());
  const std::string advice = "run `qianyi convert " + (folder / "source") + " DESTINATION`";
  EXPECT_TRUE(
      FailsWith(ModelFile::Open(folder / "source").status(), StatusCode::kInvalidArgument, advice));
  std::filesystem::remove(folder / "source/model.safetensors");
  EXPECT_TRUE(FailsWith(ModelFile::Open(folder / "source").status(), StatusCode::kNotFound,
                        "has no .safetensors file"));
  testing::WriteText(folder / "source/model.safetensors.index.json", "{}");
  EXPECT_TRUE(
      FailsWith(ModelFile::Open(folder / "source").status(), StatusCode::kInvalidArgument, advice));
  EXPECT_TRUE(
      FailsWith(ModelFile::Open(folder / "none").status(), StatusCode::kNotFound, folder / "none"));
}

TEST(ModelFile, ConfigMustBeThereAndMakeSense) {
  ConvertedModel model;
  testing::WriteText(model.path() + "/config.json", "{}");
  EXPECT_TRUE(FailsWith(ModelFile::Open(model.path()).status(), StatusCode::kInvalidArgument,
                        "model_type"));
  testing::WriteText(model.path() + "/config.json", "{");
  EXPECT_TRUE(FailsWith(ModelFile::Open(model.path()).status(), StatusCode::kInvalidArgument,
                        "config.json"));
  testing::WriteText(model.path() + "/config.json", std::string((16 << 20) + 1, ' '));
  EXPECT_TRUE(FailsWith(ModelFile::Open(model.path()).status(), StatusCode::kInvalidArgument,
                        "the limit is 16777216"));
  std::filesystem::remove(model.path() + "/config.json");
  EXPECT_TRUE(
      FailsWith(ModelFile::Open(model.path()).status(), StatusCode::kNotFound, "config.json"));
}

struct Damage {
  const char* name;
  std::function<void(ConvertedModel&)> change;
  std::string message;
};

class DamagedModel : public ::testing::TestWithParam<Damage> {};

TEST_P(DamagedModel, IsRefusedWithAReason) {
  ConvertedModel model;
  GetParam().change(model);
  EXPECT_TRUE(FailsWith(model.StoreAndOpen(), StatusCode::kInvalidArgument, GetParam().message));
}

Damage Described(const char* name, const char* tensor, const char* field, ordered_json value,
                 std::string message) {
  return {name,
          [=](ConvertedModel& model) {
            model.Describe(tensor, [&](ordered_json& d) { d[field] = value; });
          },
          std::move(message)};
}

const std::string kSum(16, '0');
std::string Row0(const char* tensor) { return std::string(tensor) + ".rows.0"; }

INSTANTIATE_TEST_SUITE_P(
    All, DamagedModel,
    ::testing::Values(
        Damage{"NoVersion", [](auto& m) { m.metadata().erase("qianyi_format"); },
               "run `qianyi convert"},
        Damage{"NewerVersion", [](auto& m) { m.metadata()["qianyi_format"] = "2"; },
               "has qianyi_format 2, but this version reads 1"},
        Damage{"TensorNotDescribed",
               [](auto& m) { m.metadata().erase(std::string("tensor:") + kDense); },
               std::string("lacks tensor '") + kDense + "' [40, 40]"},
        Damage{"BlockMissing", [](auto& m) { m.Rename(Row0(kDense), "__pad.x"); },
               "describes block '" + Row0(kDense) + "', which is not there"},
        Damage{"ConstantMissing", [](auto& m) { m.Rename(kNorm, "__pad.x"); },
               std::string("describes block '") + kNorm + "'"},
        Damage{"UnknownTensor",
               [](auto& m) {
                 m.metadata()["tensor:extra"] = m.metadata()[std::string("tensor:") + kDense];
               },
               "has tensor 'extra', for which config.json has no use"},
        Damage{"UnknownBlock", [](auto& m) { m.Rename("__pad.0", "extra.rows.0"); },
               "has tensor 'extra.rows.0', for which"},
        Described("WrongShape", kDense, "shape", {40, 41},
                  "has the shape [40, 41], but config.json asks for [40, 40]"),
        Described("NegativeShape", kDense, "shape", {-40, -40}, "has the shape [-40, -40]"),
        Described("TextShape", kDense, "shape", "40x40", "has no 'shape'"),
        Described("FractionalShape", kDense, "shape", {40.0, 40.0}, "not a list of numbers"),
        Described("WrongLayout", kDense, "layout", "rows", "has the layout 'rows'"),
        Described("PlainMatrix", kDense, "layout", "plain", "has the layout 'plain'"),
        Described("PackedConstant", kNorm, "layout", "panels16", "has the layout 'panels16'"),
        Described("UnknownDtype", kDense, "dtype", "int2", "has the dtype 'int2'"),
        Described("NoDtype", kDense, "dtype", 8, "has no text 'dtype'"),
        Described("NoOriginal", kDense, "original_dtype", nullptr, "has no text 'original_dtype'"),
        Described("GroupOfInt8", kDense, "group", 32, "has the format int8 with groups of 32"),
        Described("NegativeGroup", kDense, "group", -1, "has no sensible 'group'"),
        Described("HugeGroup", kDense, "group", 18446744073709551615u, "has no sensible 'group'"),
        Described("OtherDtype", kDense, "dtype", "f16", "has 3264 bytes; 40 rows"),
        Described("HalfConstant", kNorm, "dtype", "f16", "has the format f16"),
        Described("NoBlocks", kDense, "blocks", ordered_json::array(), "has no list of blocks"),
        Described("BlocksAreText", kDense, "blocks", "0", "has no list of blocks"),
        Described("BlockIsNumber", kDense, "blocks", {7}, "has a block that is not"),
        Described("ShortBlock", kDense, "blocks", {{0, 40}}, "has a block that is not"),
        Described("ShortChecksum", kDense, "blocks", {{0, 40, "12"}}, "has a block that is not"),
        Described("SignedChecksum", kDense, "blocks", {{0, 40, "-000000000000001"}},
                  "has a block that is not"),
        Described("TooFewRows", kDense, "blocks", {{0, 24, kSum}}, "has blocks for 24 rows"),
        Described("TooManyRows", kDense, "blocks", {{0, 48, kSum}}, "has blocks for 48 rows"),
        Described("NoRows", kDense, "blocks", {{0, 0, kSum}}, "has a block that is not"),
        Described("NegativeRows", kDense, "blocks", {{0, -40, kSum}}, "has a block that is not"),
        Described("RowsOverflow", kDense, "blocks", {{0, 9223372036854775807, kSum}},
                  "has a block that is not"),
        Described("RowsOutOfOrder", kDense, "blocks", {{16, 24, kSum}, {0, 16, kSum}},
                  "has a block from row 16 where one from row 0 should follow"),
        Described("RowsTwice", kDense, "blocks", {{0, 40, kSum}, {0, 40, kSum}},
                  "has a block from row 0 where one from row 40"),
        Described("PartialPanelInside", kDense, "blocks", {{0, 20, kSum}, {20, 20, kSum}},
                  "has a block from row 20"),
        Described("ConstantInPieces", kNorm, "blocks", {{0, 20, kSum}, {20, 20, kSum}},
                  "is a constant of several blocks"),
        Damage{"DescriptionIsNoJson",
               [](auto& m) { m.metadata()[std::string("tensor:") + kDense] = "{"; },
               "description that is not a JSON object"},
        Damage{"DescriptionIsDeep",
               [](auto& m) {
                 m.metadata()[std::string("tensor:") + kDense] = std::string(1'000'000, '[');
               },
               "description that is not a JSON object"},
        Damage{"BlockOfWrongDtype", [](auto& m) { m.header[Row0(kDense)]["dtype"] = "I8"; },
               "' is I8 [3264], not U8 [3264]"},
        Damage{"BlockOfWrongRank",
               [](auto& m) {
                 auto& shape = m.header[Row0(kDense)]["shape"];
                 shape = {1, shape[0]};
               },
               "is U8 [1, 3264], not U8 [3264]"},
        Damage{"ConstantOfWrongDtype", [](auto& m) { m.header[kNorm]["dtype"] = "I32"; },
               "is I32 [40], not F32 [40]"},
        Damage{"BlockTooLong",
               [](auto& m) {
                 // Takes 64 bytes from the padding behind it.
                 auto& block = m.header[Row0(kEmbedding)];
                 const uint64_t end = block["data_offsets"][1];
                 for (auto& [name, entry] : m.header.items()) {
                   if (name != "__metadata__" && entry["data_offsets"][0] == end) {
                     entry["data_offsets"][0] = end + 64;
                     entry["shape"][0] = entry["shape"][0].template get<uint64_t>() - 64;
                   }
                 }
                 block["data_offsets"][1] = end + 64;
                 block["shape"][0] = block["shape"][0].template get<uint64_t>() + 64;
               },
               "rows of this tensor take"}),
    [](const auto& param) { return std::string(param.param.name); });

TEST(ModelFile, BlocksMustBeginAtPages) {
  ConvertedModel model;
  model.Store(/*align=*/512);
  const uint64_t size = std::filesystem::file_size(model.file());
  if (size % kPageBytes == 0) {  // one more 512 bytes of spaces
    model.metadata()["more"] = std::string(512, 'x');
    model.Store(512);
  }
  EXPECT_TRUE(FailsWith(ModelFile::Open(model.path()).status(), StatusCode::kInvalidArgument,
                        "no multiple of 4096"));
}

TEST(ModelFile, ATruncatedFileIsRefused) {
  ConvertedModel model;
  const uint64_t size = std::filesystem::file_size(model.file());
  for (const uint64_t cut :
       {size - 1, size - kPageBytes, uint64_t{5000}, uint64_t{100}, uint64_t{8}, uint64_t{0}}) {
    std::filesystem::resize_file(model.file(), cut);
    EXPECT_TRUE(
        FailsWith(ModelFile::Open(model.path()).status(), StatusCode::kOutOfRange, model.file()))
        << cut;
  }
}

}  // namespace
}  // namespace qianyi
