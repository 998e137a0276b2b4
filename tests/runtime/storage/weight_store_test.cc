#include "runtime/storage/weight_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
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
  // Waits until all that stays has come.
  void LoadAll() {
    for (size_t b = 0; b < blocks().size(); ++b) ASSERT_OK(store_->Acquire(head_, b).status());
  }
  std::vector<std::byte> Contents(int block) {
    const auto lease = store_->Acquire(head_, block);
    return {lease->rows().data, lease->rows().data + blocks()[block].bytes};
  }
  // That a run from `block` on has `count` blocks, and the bytes of these.
  void ExpectRun(int block, int count) {
    SCOPED_TRACE(block);
    int64_t rows = 0;
    for (int b = block; b < block + count; ++b) rows += blocks()[b].rows;
    std::vector<const std::byte*> places;
    {
      const auto run = store_->AcquireRun(head_, block);
      ASSERT_OK(run.status());
      EXPECT_EQ(run->blocks(), count);
      EXPECT_EQ(run->rows().rows, rows);
      EXPECT_EQ(run->row_begin(), blocks()[block].row_begin);
      EXPECT_EQ(run->rows().block_rows, count > 1 ? blocks()[block].rows : 0);
      for (int i = 0; i < run->blocks(); ++i) {
        places.push_back(run->rows().data + i * run->rows().block_stride);
        if (run->passing()) continue;
        const std::vector<std::byte> alone = Contents(block + i);
        EXPECT_EQ(std::memcmp(places[i], alone.data(), alone.size()), 0) << "block " << i;
      }
    }
  }

  ModelFile file_;
  int head_ = -1;
  ModelUse use_;
  ModelPlan plan_;
  std::unique_ptr<WeightStore> store_;
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

TEST_F(WeightStoreTest, ARunEndsBeforeABlockThatPasses) {
  for (const int block : {2, 3, 7}) plan_.tiers[head_][block] = Tier::kDisk;
  plan_.ring_bytes = 8 << 20;
  Open();
  LoadAll();
  ExpectRun(0, 2);
  ExpectRun(2, 1);
  ExpectRun(3, 1);
  ExpectRun(4, 3);
  ExpectRun(7, 1);
  ExpectRun(8, 3);
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
