// That steps allocate nothing once sequences run: every allocation of the process is counted.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tests/runtime/engine_setup.h"

namespace {

std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};

void Count() {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

// In place of the C library's, which operator new calls as well.
extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* memory, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);

void* malloc(size_t bytes) {
  Count();
  return __libc_malloc(bytes);
}
void* calloc(size_t count, size_t bytes) {
  Count();
  return __libc_calloc(count, bytes);
}
void* realloc(void* memory, size_t bytes) {
  Count();
  return __libc_realloc(memory, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  Count();
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** memory, size_t alignment, size_t bytes) {
  Count();
  *memory = __libc_memalign(alignment, bytes);
  return *memory == nullptr ? ENOMEM : 0;
}
}

namespace qianyi {
namespace {

struct Case {
  const char* name;
  EngineSetup setup;
};

class StepsTest : public ::testing::TestWithParam<Case> {};

std::vector<GenerateRequest> Requests(const Engine& engine) {
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < 4; ++i) {
    GenerateRequest request = Request(engine, PromptIds(i, 20), i, 150);
    SamplingParams& sampling = request.sampling;
    sampling.logit_bias = {{40, 20.0f}, {41, 20.0f}};
    if (i == 1) sampling.top_k = 20;
    if (i == 2) sampling.top_p = 0.9f;
    if (i == 2) sampling.logprobs = 5;
    if (i == 3) sampling.min_p = 0.1f;
    if (i == 3) sampling.repetition_penalty = 1.2f;
    if (i == 3) sampling.presence_penalty = 0.5f;
    requests.push_back(std::move(request));
  }
  return requests;
}

// Counts on the engine's thread, from one of its steps to another: before all four have prompts, or
// once one of them has ended, there is something to allocate.
class Counting final : public Constraint {
 public:
  Counting(const std::atomic<bool>& all_are_there, std::atomic<bool>& counted)
      : all_are_there_(all_are_there), counted_(counted) {}
  void Mask(std::span<float>) override {}
  void Accept(int32_t) override {
    if (tokens_++ == 0) all_are_there_.wait(false);
    if (tokens_ == 30) allocations = 0;
    if (tokens_ == 30 || tokens_ == 110) counting = tokens_ == 30;
    if (tokens_ != 110) return;
    counted_ = true;
    counted_.notify_all();
  }

 private:
  const std::atomic<bool>& all_are_there_;
  std::atomic<bool>& counted_;
  int tokens_ = 0;
};

TEST_P(StepsTest, AllocateNothing) {
  auto engine = Open(GetParam().setup);
  std::atomic<bool> all_are_there{false}, counted{false};
  std::unique_ptr<Constraint> counts = std::make_unique<Counting>(all_are_there, counted);
  std::vector<std::shared_ptr<Sink>> sinks;
  for (GenerateRequest& request : Requests(*engine)) {
    sinks.push_back(std::make_shared<Sink>(Engine::MaxEvents(request), request.sampling.logprobs));
    ASSERT_TRUE(engine->Submit(std::move(request), sinks.back(), std::move(counts)).ok());
  }
  all_are_there = true;
  all_are_there.notify_all();
  counted.wait(false);  // this thread allocates nothing meanwhile
  for (const auto& sink : sinks) EXPECT_EQ(Collect(*sink).blanks[0].size(), 150u);
  EXPECT_EQ(allocations.load(), 0) << "in the steps of 80 tokens";
}

TEST(CountingTest, SeesAllocations) {
  allocations = 0;
  counting = true;
  auto one = std::make_unique<std::vector<int>>(1000);
  counting = false;
  EXPECT_EQ(allocations.load(), 2) << one->size();
}

INSTANTIATE_TEST_SUITE_P(
    Engines, StepsTest,
    ::testing::Values(Case{"resident", {}}, Case{"streamed", {.streamed = true}},
                      Case{"floats", {.format = {DType::kF32}}},
                      Case{"experts", {.config = kExperts}},
                      Case{"experts_streamed", {.config = kExperts, .streamed = true}},
                      Case{"latent", {.config = kLatent}}, Case{"guessing", {.guesses = 8}},
                      Case{"branching", {.guesses = 8, .branches = 8}},
                      Case{"drafting",
                           {.guesses = 12, .branches = 8, .draft = PackedFormat{DType::kI8}}}),
    [](const ::testing::TestParamInfo<Case>& one) { return std::string(one.param.name); });

}  // namespace
}  // namespace qianyi
