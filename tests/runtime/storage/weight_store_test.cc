#include "runtime/storage/weight_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "kernels/cuda/emulated.h"
#include "runtime/models/registry.h"
#include "runtime/plan.h"
#include "runtime/storage/device_weights.h"
#include "tests/runtime/storage/storage_testing.h"

namespace qianyi {
namespace {

// A model whose head has eleven blocks, the last of them smaller.
constexpr char kConfig[] =
    R"({"model_type":"chatglm","num_layers":1,"hidden_size":128,"ffn_hidden_size":272,)"
    R"("num_attention_heads":8,"multi_query_group_num":2,"kv_channels":16,)"
    R"("padded_vocab_size":21950,"seq_length":512})";

class WeightStoreTest : public ::testing::Test {
 protected:
  WeightStoreTest() {
    file_ = *ModelFile::Lay(testing::Describe(kConfig), {DType::kF32}, 5);
    head_ = file_.Find("transformer.output_layer.weight");
    use_ = {.file = &file_, .context_tokens = 64};
    plan_ = MakePlan({&use_, 1}, {.host_bytes = 1ull << 32})->models[0];
  }
  void Open() {
    store_ = *WeightStore::Open(file_, plan_, Cpu(), WeightStore::FileReaders(file_, {}));
  }
  const std::vector<Block>& blocks() const { return file_.tensors[head_].blocks; }
  // Waits until all has come once.
  void LoadAll() {
    contents_.resize(blocks().size());
    for (size_t b = 0; b < blocks().size(); ++b) {
      const auto lease = store_->Acquire(head_, static_cast<int>(b));
      ASSERT_OK(lease.status());
      contents_[b].assign(lease->rows().data, lease->rows().data + blocks()[b].bytes);
    }
  }
  // Waits until so many blocks have passed into the ring since it was opened; there must be room.
  void WaitForPassed(int count) {
    const uint64_t wanted = count * Padded(blocks()[0].bytes);
    const auto read = [this] {
      return store_->stats().read_bytes - store_->stats().resident_bytes;
    };
    while (read() < wanted) std::this_thread::yield();
  }
  // That a run from `block` on has `count` blocks, and the bytes of these.
  void ExpectRun(int block, int count) {
    SCOPED_TRACE(block);
    int64_t rows = 0;
    for (int b = block; b < block + count; ++b) rows += blocks()[b].rows;
    const auto run = store_->AcquireRun(head_, block);
    ASSERT_OK(run.status());
    ASSERT_EQ(run->blocks(), count);
    EXPECT_EQ(run->rows().rows, rows);
    EXPECT_EQ(run->row_begin(), blocks()[block].row_begin);
    EXPECT_EQ(run->rows().block_rows, count > 1 ? blocks()[block].rows : 0);
    for (int i = 0; i < count; ++i) {
      const std::byte* const at = count > 1 ? run->rows().blocks[i] : run->rows().data;
      const std::vector<std::byte>& expected = contents_[block + i];
      EXPECT_EQ(std::memcmp(at, expected.data(), expected.size()), 0) << "block " << i;
    }
  }
  static uint64_t Padded(uint64_t bytes) {
    return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  }

  ModelFile file_;
  int head_ = -1;
  ModelUse use_;
  ModelPlan plan_;
  std::unique_ptr<WeightStore> store_;
  std::vector<std::vector<std::byte>> contents_;  // of the blocks
};

TEST_F(WeightStoreTest, BlocksThatStayAreOneRun) {
  ASSERT_EQ(blocks().size(), 11u);
  ASSERT_LT(blocks().back().rows, blocks()[0].rows);
  Open();
  LoadAll();
  ExpectRun(0, 11);
  ExpectRun(7, 4);
  ExpectRun(10, 1);
}

TEST_F(WeightStoreTest, BlocksThatPassAreInTheRunWhenTheyHaveCome) {
  for (const int block : {2, 3, 7, 9}) plan_.tiers[head_][block] = Tier::kDisk;
  plan_.ring_bytes = 8 * Padded(blocks()[0].bytes);
  Open();
  LoadAll();
  WaitForPassed(4 + 4);  // a lap ahead
  ExpectRun(4, 3);       // the next that passes is not 7
  ExpectRun(0, 4);       // two in eight of the ring at most are in use at once
  ExpectRun(4, 6);
  ExpectRun(10, 1);
}

TEST_F(WeightStoreTest, ASmallRingPassesOneAtATime) {
  for (const int block : {2, 3, 7}) plan_.tiers[head_][block] = Tier::kDisk;
  plan_.ring_bytes = 2 * Padded(blocks()[0].bytes);
  Open();
  LoadAll();
  WaitForPassed(3 + 2);
  ExpectRun(0, 3);
  ExpectRun(3, 1);
  WaitForPassed(3 + 4);
  ExpectRun(4, 4);
}

TEST_F(WeightStoreTest, WhatHasPassedGivesItsPlaceBack) {
  for (size_t b = 0; b < blocks().size(); ++b) plan_.tiers[head_][b] = Tier::kDisk;
  plan_.ring_bytes = 8 * Padded(blocks()[0].bytes);
  Open();
  LoadAll();
  for (int round = 0; round < 20; ++round) {
    for (int block = 0; block < 11;) {
      const auto run = store_->AcquireRun(head_, block);
      ASSERT_OK(run.status());
      ASSERT_TRUE(run->passing());
      ASSERT_LE(run->blocks(), 2);
      for (int i = 0; i < run->blocks(); ++i, ++block) {
        const std::byte* const at =
            run->rows().block_rows > 0 ? run->rows().blocks[i] : run->rows().data;
        ASSERT_EQ(std::memcmp(at, contents_[block].data(), contents_[block].size()), 0) << block;
      }
    }
  }
}

TEST_F(WeightStoreTest, OnADeviceBlocksThatStayAreOneMatrix) {
  const Backend& device = cuda::EmulatedCuda();
  for (size_t b = 0; b < blocks().size(); ++b) {
    plan_.tiers[head_][b] = b == 4 ? Tier::kHost : Tier::kDevice;
  }
  Open();
  const Stream stream = device.create_stream(0);
  {
    const auto weights =
        DeviceWeights::Create(*store_, plan_, WeightStore::FileReaders(file_, {}), device, stream);
    ASSERT_OK(weights.status());
    plan_.tiers[head_].assign(blocks().size(), Tier::kHost);
    const auto all = *WeightStore::Open(file_, plan_, Cpu(), WeightStore::FileReaders(file_, {}));
    for (const auto& [block, count] : {std::pair{0, 4}, {4, 1}, {5, 6}}) {
      const auto run = (*weights)->AcquireRun(head_, block);
      ASSERT_OK(run.status());
      ASSERT_EQ(run->blocks(), count);
      EXPECT_EQ(run->rows().block_rows, 0) << "without gaps";
      const std::byte* at = run->rows().data;
      for (int b = block; b < block + count; ++b) {
        const uint64_t bytes = blocks()[b].bytes;
        void* const here = device.alloc_host(bytes);
        device.download(here, at, bytes, stream);
        device.synchronize(stream);
        const auto alone = all->Acquire(head_, b);
        EXPECT_EQ(std::memcmp(here, alone->rows().data, bytes), 0) << "block " << b;
        device.free_host(here, bytes);
        at += bytes;
      }
    }
  }
  device.destroy_stream(stream);
}

}  // namespace
}  // namespace qianyi
