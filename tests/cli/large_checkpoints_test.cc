// Checkpoints far larger than the memory in use, as sparse files: zeros that take no room on disk.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"
#include "tests/support/safetensors_text.h"

namespace qianyi::testing {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr uint64_t kMostResidentBytes = 64 << 20;

json LargeConfig() {
  return {{"model_type", "chatglm"},  {"num_layers", 1},
          {"hidden_size", 512},       {"ffn_hidden_size", 64},
          {"num_attention_heads", 4}, {"multi_query_group_num", 2},
          {"kv_channels", 16},        {"padded_vocab_size", 200 << 10},
          {"seq_length", 64},         {"add_qkv_bias", false}};
}

template <typename Number>
std::string Raw(Number value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  return bytes;
}

int64_t Elements(const TestShape& tensor) {
  int64_t elements = 1;
  for (const int64_t size : tensor.shape) elements *= size;
  return elements;
}

// One tensor of bfloat16 in a pickle, as torch.save writes it.
std::string PickledTensor(const TestShape& tensor, const std::string& key) {
  const auto text = [](const std::string& word) {
    return absl::StrCat("X", Raw(static_cast<uint32_t>(word.size())), word);
  };
  const auto number = [](int64_t value) { return absl::StrCat("\x8a\x08", Raw(value)); };
  std::string shape = "(", strides = "(";
  int64_t stride = Elements(tensor);
  for (const int64_t size : tensor.shape) {
    shape += number(size);
    strides += number(stride /= size);
  }
  return absl::StrCat(text(tensor.name), "ctorch._utils\n_rebuild_tensor_v2\n((", text("storage"),
                      "ctorch\nBFloat16Storage\n", text(key), text("cpu"), number(Elements(tensor)),
                      "tQK", std::string(1, '\0'), shape, "t", strides, "t\x89}tR");
}

// A zip64 archive of stored entries whose data are a pickle, and zeros.
void WriteTorch(const std::string& path, const std::vector<TestShape>& tensors) {
  std::string pickle = "\x80\x02}(";
  for (size_t i = 0; i < tensors.size(); ++i) {
    pickle += PickledTensor(tensors[i], absl::StrCat(i));
  }
  pickle += "u.";
  std::ofstream file(path, std::ios::binary);
  std::string directory;
  const auto add = [&](const std::string& name, const std::string& data, uint64_t zeros) {
    const uint64_t begin = static_cast<uint64_t>(file.tellp());
    const uint64_t bytes = data.size() + zeros;
    const std::string names = Raw(static_cast<uint16_t>(name.size()));
    file << "PK\x03\x04" << std::string(22, '\0') << names << Raw<uint16_t>(0) << name << data;
    file.seekp(static_cast<std::streamoff>(zeros), std::ios::cur);
    directory += "PK\x01\x02" + std::string(16, '\0') + std::string(8, '\xff') + names +
                 Raw<uint16_t>(28) + std::string(10, '\0') + std::string(4, '\xff') + name +
                 Raw<uint16_t>(1) + Raw<uint16_t>(24) + Raw(bytes) + Raw(bytes) + Raw(begin);
  };
  add("archive/data.pkl", pickle, 0);
  for (size_t i = 0; i < tensors.size(); ++i) {
    add(absl::StrCat("archive/data/", i), "", 2 * static_cast<uint64_t>(Elements(tensors[i])));
  }
  const uint64_t begin = static_cast<uint64_t>(file.tellp()), entries = tensors.size() + 1;
  file << directory << "PK\x06\x06" << Raw<uint64_t>(44) << std::string(12, '\0') << Raw(entries)
       << Raw(entries) << Raw<uint64_t>(directory.size()) << Raw(begin) << "PK\x06\x07"
       << std::string(4, '\0') << Raw(begin + directory.size()) << Raw<uint32_t>(1) << "PK\x05\x06"
       << std::string(4, '\0') << std::string(12, '\xff') << Raw<uint16_t>(0);
}

void ExpectSmall(const std::string& source, const TempFolder& temp) {
  const ProcessResult result =
      Qianyi({"convert", source, temp / "model", "--dtype", "int4", "--threads", "2"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(Output({"generate", "--model", temp / "model", "--prompt-ids", "9", "--max-tokens", "2",
                    "--temperature", "0"}),
            "0,0\n");
  if (!kSanitized) {
    EXPECT_LT(result.peak_resident_bytes, kMostResidentBytes);
  }
}

// Beyond 4 GiB, where a zip needs its 64-bit form.
TEST(LargeCheckpoints, OfTorchNeedLittleMemory) {
  TempFolder temp;
  fs::create_directory(temp / "source");
  WriteText(temp / "source/config.json", LargeConfig().dump());
  std::vector<TestShape> tensors = {{"unused", {int64_t{5} << 29}}};
  for (const TestShape& tensor : ChatGlm2Tensors(LargeConfig())) tensors.push_back(tensor);
  WriteTorch(temp / "source/pytorch_model.bin", tensors);
  ASSERT_GT(fs::file_size(temp / "source/pytorch_model.bin"), uint64_t{5} << 30);
  ExpectSmall(temp / "source", temp);
}

TEST(LargeCheckpoints, OfGgufNeedLittleMemory) {
  TempFolder temp;
  fs::create_directory(temp / "source");
  WriteText(temp / "source/config.json", LargeConfig().dump());
  const auto text = [](const std::string& word) {
    return Raw(static_cast<uint64_t>(word.size())) + word;
  };
  const std::vector<TestShape> tensors = ChatGlm2Tensors(LargeConfig());
  std::string head = "GGUF" + Raw<uint32_t>(3) + Raw<uint64_t>(tensors.size()) + Raw<uint64_t>(0);
  uint64_t end = 0;
  for (const TestShape& tensor : tensors) {
    head += text(tensor.name) + Raw(static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i-- > 0;) head += Raw(tensor.shape[i]);
    head += Raw<uint32_t>(30) + Raw(end);  // BF16
    end += (2 * static_cast<uint64_t>(Elements(tensor)) + 31) / 32 * 32;
  }
  const std::string path = temp / "source/model.gguf";
  WriteText(path, head);
  fs::resize_file(path, (head.size() + 31) / 32 * 32 + end);
  ASSERT_GT(fs::file_size(path), 400u << 20);
  ExpectSmall(temp / "source", temp);
}

}  // namespace
}  // namespace qianyi::testing
