// Input: a GGUF file, whole. Its vocabulary and its configuration are read as well.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "runtime/checkpoints/ggml_blocks.h"
#include "runtime/checkpoints/gguf.h"
#include "runtime/checkpoints/gguf_tokenizer.h"
#include "runtime/models/registry.h"
#include "runtime/tokenizers/tokenizer_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto gguf = qianyi::Gguf::Read(qianyi::MemoryBytes(text));
  if (!gguf.ok()) return 0;
  for (const qianyi::SourceTensor& tensor : gguf->tensors) {
    if (!qianyi::CheckPlace(tensor, size).ok()) std::abort();
    // All of a small tensor's bytes, whatever they are.
    const qianyi::ElementType* type = qianyi::FindElementType(tensor.dtype);
    if (type->to_floats == nullptr || tensor.elements() > 4096) continue;
    std::vector<float> values(tensor.elements());
    type->to_floats(reinterpret_cast<const std::byte*>(data) + tensor.begin, tensor.elements(),
                    values.data());
  }
  const auto config = qianyi::ConfigFromGguf(*gguf);
  if (config.ok()) (void)qianyi::DescribeModel(*config);
  const auto files = qianyi::TokenizerFiles(*gguf);
  if (files.ok() && files->contains("tokenizer.json")) {
    (void)qianyi::ParseTokenizerJson(files->at("tokenizer.json"), "fuzz");
  }
  return 0;
}
