// Tokens that a device draws where the logits are, against the host's sampler.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/emulated.h"
#include "runtime/sampler.h"
#include "runtime/sampler_math.h"
#include "tests/support/floats.h"

namespace qianyi {
namespace {

using testing::kInfinity;
using testing::kNan;

using Logits = std::vector<std::vector<float>>;

std::vector<const Backend*> Devices() {
  std::vector<const Backend*> devices = {&cuda::EmulatedCuda()};
  if (Cuda() != nullptr) devices.push_back(Cuda());
  return devices;
}

// Memory of a device with what the host has.
template <typename T>
class OnDevice {
 public:
  OnDevice(const Backend& device, const std::vector<T>& values, Stream stream)
      : device_(device), bytes_(values.size() * sizeof(T)) {
    data_ = device.alloc(bytes_);
    host_ = device.alloc_host(bytes_);
    std::memcpy(host_, values.data(), bytes_);
    device.upload(data_, host_, bytes_, stream);
  }
  ~OnDevice() {
    device_.free(data_, bytes_);
    device_.free_host(host_, bytes_);
  }
  T* get() const { return static_cast<T*>(data_); }
  std::vector<T> Back(Stream stream) const {
    device_.download(host_, data_, bytes_, stream);
    device_.synchronize(stream);
    std::vector<T> values(bytes_ / sizeof(T));
    std::memcpy(values.data(), host_, bytes_);
    return values;
  }

 private:
  const Backend& device_;
  const size_t bytes_;
  void* data_;
  void* host_;
};

TokenDraw DrawOf(const SamplingParams& params, uint64_t index) {
  return {.temperature = params.temperature,
          .top_p = params.top_p,
          .min_p = params.min_p,
          .top_k = params.top_k,
          .key = DrawKey(params.seed, index)};
}

std::vector<int32_t> DrawOn(const Backend& device, const Logits& logits,
                            const std::vector<int32_t>& rows, const std::vector<TokenDraw>& draws) {
  std::vector<float> flat;
  for (const std::vector<float>& row : logits) flat.insert(flat.end(), row.begin(), row.end());
  const Stream stream = device.create_stream(1);
  std::vector<int32_t> tokens(rows.size(), -9);
  {
    const OnDevice<float> values(device, flat, stream);
    const OnDevice<int32_t> which(device, rows, stream), drawn(device, tokens, stream);
    const OnDevice<TokenDraw> how(device, draws, stream);
    const int64_t count = static_cast<int64_t>(rows.size());
    device.draw_tokens(
        {.logits = F32(values.get(), static_cast<int64_t>(logits.size()), std::ssize(logits[0])),
         .rows = which.get(),
         .draws = how.get(),
         .count = count,
         .tokens = drawn.get()},
        stream);
    tokens = drawn.Back(stream);
  }
  device.destroy_stream(stream);
  return tokens;
}

int32_t SampleOnHost(const SamplingParams& params, std::vector<float> logits, uint64_t index) {
  Sampler sampler(static_cast<int64_t>(logits.size()));
  SampledToken token;
  sampler.Sample(params, logits, {}, index, &token);
  return token.token;
}

// Rows whose filters and draws meet ties, numbers that are none, and one or no token that is left.
Logits Rows(size_t size) {
  std::mt19937 random(7);
  Logits rows;
  for (const float spread : {0.1f, 2.0f, 9.0f}) {
    std::normal_distribution<float> normal(0, spread);
    std::vector<float> row(size);
    for (float& logit : row) logit = normal(random);
    rows.push_back(row);
    for (float& logit : row) logit = std::round(logit);  // ties
    rows.push_back(row);
    for (size_t i = 0; i < size; i += 3) row[i] = i % 2 == 0 ? kNan : -kInfinity;
    rows.push_back(row);
  }
  rows.push_back(std::vector<float>(size, 1.5f));
  rows.push_back(std::vector<float>(size, -kInfinity));
  rows.push_back(std::vector<float>(size, kNan));
  rows.push_back(std::vector<float>(size, -300.0f));
  rows.back()[size / 2] = 300.0f;
  rows.push_back(std::vector<float>(size, 0.0f));
  rows.back()[size - 1] = rows.back()[size / 3] = kInfinity;
  rows.push_back(std::vector<float>(size, -0.0f));
  rows.back()[size / 2] = 0.0f;
  return rows;
}

std::vector<SamplingParams> Params() {
  std::vector<SamplingParams> all;
  for (const float temperature : {0.0f, 0.3f, 5.0f}) {
    for (const int32_t top_k : {0, 1, 7}) {
      for (const float top_p : {1.0f, 0.9f, 0.2f}) {
        all.push_back({.temperature = temperature, .top_k = top_k, .top_p = top_p});
      }
    }
  }
  all.push_back({.min_p = 0.2f});
  all.push_back({.top_k = 40, .top_p = 0.8f, .min_p = 0.01f});
  all.push_back({.top_p = 1e-6f});
  for (size_t i = 0; i < all.size(); ++i) all[i].seed = i;
  return all;
}

TEST(DrawTest, DrawsWhatTheSamplerDraws) {
  for (const Backend* device : Devices()) {
    for (const size_t size : {1, 33, 517}) {
      const Logits logits = Rows(size);
      std::vector<int32_t> rows, expected;
      std::vector<TokenDraw> draws;
      uint64_t index = 0;
      for (const SamplingParams& params : Params()) {
        for (size_t row = 0; row < logits.size(); ++row) {
          rows.push_back(static_cast<int32_t>(row));
          draws.push_back(DrawOf(params, ++index));
          expected.push_back(SampleOnHost(params, logits[row], index));
        }
      }
      const std::vector<int32_t> drawn = DrawOn(*device, logits, rows, draws);
      for (size_t i = 0; i < drawn.size(); ++i) {
        EXPECT_EQ(drawn[i], expected[i])
            << size << " tokens, row " << rows[i] << " temperature " << draws[i].temperature
            << " top_k " << draws[i].top_k << " top_p " << draws[i].top_p << " min_p "
            << draws[i].min_p;
      }
    }
  }
}

TEST(DrawTest, TokensComeAsOftenAsTheirProbabilitiesSay) {
  const std::vector<float> row = {0.0f, std::log(2.0f), -kInfinity, std::log(3.0f), std::log(4.0f)};
  const Logits logits = {row};
  for (const Backend* device : Devices()) {
    std::vector<TokenDraw> draws;
    for (uint64_t i = 0; i < 1000; ++i) draws.push_back(DrawOf({.seed = 3}, i));
    std::vector<int> times(row.size());
    for (const int32_t token : DrawOn(*device, logits, std::vector<int32_t>(draws.size()), draws)) {
      ++times.at(static_cast<size_t>(token));
    }
    for (size_t i = 0; i < row.size(); ++i) {
      EXPECT_NEAR(times[i], 100.0 * std::exp(row[i]), 60) << i;
    }
  }
}

}  // namespace
}  // namespace qianyi
