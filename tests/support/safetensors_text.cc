#include "tests/support/safetensors_text.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/temp_folder.h"

namespace qianyi::testing {
namespace {

template <typename T>
std::string BytesOf(const std::vector<T>& data) {
  return std::string(reinterpret_cast<const char*>(data.data()), data.size() * sizeof(T));
}

// For numbers of normal size, which weights of tests are.
uint16_t F16Bits(float value) {
  if (value == 0) return std::signbit(value) ? 0x8000 : 0;
  int exponent = 0;
  const float fraction = std::frexp(std::abs(value), &exponent);  // [0.5, 1)
  const int mantissa_bits = exponent < -13 ? 11 - (-13 - exponent) : 11;
  const float scaled = std::nearbyint(std::ldexp(fraction, mantissa_bits));
  const float rounded = std::ldexp(scaled, exponent - mantissa_bits);
  // The smallest half is 2^-24, the largest power of two 2^15.
  const int units = static_cast<int>(std::ldexp(rounded, 24));
  uint16_t bits = 0;
  if (rounded < 0x1p-14f) {
    bits = static_cast<uint16_t>(units);
  } else {
    int normal = 0;
    const float unit = std::frexp(rounded, &normal);
    bits = static_cast<uint16_t>((normal + 14) << 10 |
                                 (static_cast<int>(std::ldexp(unit, 11)) & 0x3ff));
  }
  return value < 0 ? bits | 0x8000 : bits;
}

float F16Value(uint16_t bits) {
  const int exponent = bits >> 10 & 0x1f;
  const int fraction = bits & 0x3ff;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(fraction), -24)
                              : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

uint16_t BF16Bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

TestTensor Narrow(std::string name, const char* dtype, std::vector<int64_t> shape,
                  const std::vector<float>& data, uint16_t (*bits)(float)) {
  std::vector<uint16_t> narrow(data.size());
  std::transform(data.begin(), data.end(), narrow.begin(), bits);
  return {std::move(name), dtype, std::move(shape), BytesOf(narrow)};
}

}  // namespace

size_t TestTensor::elements() const { return bytes.size() / 4; }

double TestTensor::At(size_t index) const {
  float real;
  int32_t whole;
  EXPECT_LT(index, elements()) << name;
  std::memcpy(&real, bytes.data() + 4 * index, 4);
  std::memcpy(&whole, bytes.data() + 4 * index, 4);
  return dtype == "F32" ? double{real} : double{1.0 * whole};
}

void TestTensor::Add(size_t index, double by) {
  const float real = static_cast<float>(At(index) + by);
  const int32_t whole = static_cast<int32_t>(At(index)) + (by < 0 ? -1 : 1);
  std::memcpy(bytes.data() + 4 * index,
              dtype == "F32" ? static_cast<const void*>(&real) : static_cast<const void*>(&whole),
              4);
}

TestTensor F32Tensor(std::string name, std::vector<int64_t> shape, const std::vector<float>& data) {
  return {std::move(name), "F32", std::move(shape), BytesOf(data)};
}
TestTensor F16Tensor(std::string name, std::vector<int64_t> shape, const std::vector<float>& data) {
  return Narrow(std::move(name), "F16", std::move(shape), data, F16Bits);
}
TestTensor BF16Tensor(std::string name, std::vector<int64_t> shape,
                      const std::vector<float>& data) {
  return Narrow(std::move(name), "BF16", std::move(shape), data, BF16Bits);
}

float RoundToF16(float value) { return F16Value(F16Bits(value)); }
float RoundToBF16(float value) {
  return std::bit_cast<float>(static_cast<uint32_t>(BF16Bits(value)) << 16);
}

std::vector<float> FloatsOf(const TestTensor& f32) {
  EXPECT_EQ(f32.dtype, "F32") << f32.name;
  std::vector<float> values(f32.elements());
  std::memcpy(values.data(), f32.bytes.data(), values.size() * sizeof(float));
  return values;
}

std::string WithHeader(std::string_view json, uint64_t data_bytes) {
  const uint64_t length = json.size();
  std::string text(sizeof(length), '\0');
  std::memcpy(text.data(), &length, sizeof(length));
  text += json;
  return text + std::string(data_bytes, '\x55');
}

std::string SafetensorsText(const std::vector<TestTensor>& tensors, std::string_view metadata) {
  std::vector<std::string> entries;
  if (!metadata.empty()) {
    entries.push_back(absl::StrCat("\"__metadata__\":", std::string(metadata)));
  }
  std::string data;
  for (const TestTensor& tensor : tensors) {
    const size_t begin = data.size();
    data += tensor.bytes;
    entries.push_back(absl::StrCat("\"", tensor.name, "\":{\"dtype\":\"", tensor.dtype,
                                   "\",\"shape\":[", absl::StrJoin(tensor.shape, ","),
                                   "],\"data_offsets\":[", begin, ",", data.size(), "]}"));
  }
  return WithHeader(absl::StrCat("{", absl::StrJoin(entries, ","), "}"), 0) + data;
}

void WriteZeroSafetensors(const std::string& path, std::string_view dtype, int element_bytes,
                          const std::vector<TestShape>& tensors) {
  nlohmann::json header;
  uint64_t end = 0;
  for (const auto& [name, shape] : tensors) {
    uint64_t bytes = static_cast<uint64_t>(element_bytes);
    for (const int64_t size : shape) bytes *= static_cast<uint64_t>(size);
    header[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {end, end + bytes}}};
    end += bytes;
  }
  const std::string text = WithHeader(header.dump(), 0);
  WriteText(path, text);
  ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(text.size() + end)), 0) << path;
}

size_t HeaderBytes(std::string_view file) {
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  return sizeof(length) + length;
}

std::vector<TestTensor> ReadSafetensors(const std::string& path) {
  const std::string file = ReadText(path);
  const size_t data = HeaderBytes(file);
  const nlohmann::json header = nlohmann::json::parse(file.substr(8, data - 8));
  std::vector<std::pair<size_t, TestTensor>> found;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const size_t begin = entry["data_offsets"][0];
    const size_t end = entry["data_offsets"][1];
    found.push_back(
        {begin, {name, entry["dtype"], entry["shape"], file.substr(data + begin, end - begin)}});
  }
  std::sort(found.begin(), found.end(), [](auto& a, auto& b) { return a.first < b.first; });
  std::vector<TestTensor> tensors;
  for (auto& [begin, tensor] : found) tensors.push_back(std::move(tensor));
  return tensors;
}

TestTensor& Named(std::vector<TestTensor>& tensors, std::string_view name) {
  const auto at = std::find_if(tensors.begin(), tensors.end(),
                               [name](const TestTensor& tensor) { return tensor.name == name; });
  EXPECT_NE(at, tensors.end()) << name;
  return *at;
}

}  // namespace qianyi::testing
