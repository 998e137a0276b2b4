// Safetensors files made and read by hand, so that tests do not trust the code under test.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qianyi::testing {

struct TestTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;

  // One number of an F32 or I32 tensor, read or moved by `by` (integers by its sign).
  double At(size_t index) const;
  void Add(size_t index, double by);
  size_t elements() const;
};

// Values are rounded to nearest even where the dtype is narrower.
TestTensor F32Tensor(std::string name, std::vector<int64_t> shape, const std::vector<float>& data);
TestTensor F16Tensor(std::string name, std::vector<int64_t> shape, const std::vector<float>& data);
TestTensor BF16Tensor(std::string name, std::vector<int64_t> shape, const std::vector<float>& data);
float RoundToF16(float value);
float RoundToBF16(float value);
std::vector<float> FloatsOf(const TestTensor& f32);

// A file as the format wants it; `metadata` is the text of a JSON object or "".
std::string SafetensorsText(const std::vector<TestTensor>& tensors, std::string_view metadata = "");
// Length, header and `data_bytes` bytes.
std::string WithHeader(std::string_view json, uint64_t data_bytes);

// A file of zeros that takes no room on the disk, to stand for a large checkpoint.
struct TestShape {
  std::string name;
  std::vector<int64_t> shape;
};
void WriteZeroSafetensors(const std::string& path, std::string_view dtype, int element_bytes,
                          const std::vector<TestShape>& tensors);

// Of a file that is in order; tensors as they stand in it, without metadata.
std::vector<TestTensor> ReadSafetensors(const std::string& path);
TestTensor& Named(std::vector<TestTensor>& tensors, std::string_view name);
// How long the header of a file is, its 8 bytes of length included.
size_t HeaderBytes(std::string_view file);

}  // namespace qianyi::testing
