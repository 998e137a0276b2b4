#include "runtime/storage/block_loader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "runtime/memory_size.h"
#include "tests/runtime/faulty_reader.h"
#include "xxhash.h"

namespace qianyi {
namespace {

// What others would compute meanwhile.
class CountingObserver : public WaitObserver {
 public:
  void OnWait() override {
    ++waits;
    waits.notify_all();
  }
  void OnGoOn() override { ++goes; }
  std::atomic<int> waits{0}, goes{0};
};

// A sweep over blocks of many sizes in one file in memory.
class BlockLoaderTest : public ::testing::Test {
 protected:
  void Make(int blocks, uint64_t ring_bytes, double resident_share, FaultFn fault = nullptr,
            uint64_t lent_bytes = 0) {
    std::mt19937 random(11);
    uint64_t offset = 0, resident_bytes = 0;
    for (int i = 0; i < blocks; ++i) {
      const uint64_t bytes = 1 + random() % (3 << 20);
      const bool resident = random() % 1000 < resident_share * 1000;
      sweep_.push_back({{0, offset, bytes, 0, 0, 16}, resident, "block " + std::to_string(i)});
      offset += Padded(bytes);
      if (resident) resident_bytes += Padded(bytes);
    }
    file_.resize(offset);
    for (auto& byte : file_) byte = static_cast<std::byte>(random());
    for (SweepBlock& block : sweep_) {
      block.block.checksum = XXH3_64bits(file_.data() + block.block.offset, block.block.bytes);
    }
    resident_ = Pages(resident_bytes);
    ring_ = Pages(ring_bytes);
    lent_ = Pages(lent_bytes);
    memory_ = {.resident = resident_.get(),
               .ring = ring_.get(),
               .ring_bytes = ring_bytes,
               .lent = lent_.get(),
               .lent_bytes = lent_bytes};
    std::vector<std::unique_ptr<Reader>> readers;
    readers.push_back(std::make_unique<MemoryReader>(file_));
    if (fault) readers[0] = std::make_unique<FaultyReader>(std::move(readers[0]), fault);
    loader_ = std::make_unique<BlockLoader>(sweep_, memory_, std::move(readers));
  }
  static uint64_t Padded(uint64_t bytes) { return (bytes + 4095) / 4096 * 4096; }
  using Memory = std::unique_ptr<std::byte[], void (*)(std::byte*)>;
  static Memory Pages(uint64_t bytes) {
    const uint64_t pages = (bytes + kHugePageBytes - 1) / kHugePageBytes;
    return Memory(static_cast<std::byte*>(std::aligned_alloc(
                      kHugePageBytes, std::max<uint64_t>(1, pages) * kHugePageBytes)),
                  [](std::byte* p) { std::free(p); });
  }
  // Acquires, compares and releases; the status of the acquisition.
  absl::Status Use(int index) {
    const auto held = loader_->Acquire(index);
    if (!held.ok()) return held.status();
    const Block& block = sweep_[index].block;
    EXPECT_EQ(std::memcmp(held->data, file_.data() + block.offset, block.bytes), 0)
        << "block " << index;
    if (held->ticket != BlockLoader::kNoTicket) loader_->Release(held->ticket);
    return absl::OkStatus();
  }

  std::vector<SweepBlock> sweep_;
  std::vector<std::byte> file_;
  Memory resident_ = Pages(0), ring_ = Pages(0), lent_ = Pages(0);
  BlockLoader::Memory memory_;
  // What faults are made by: the loader reads ahead until it is destroyed, after a test's own
  // variables are gone.
  std::mt19937 random_{9};
  std::atomic<bool> broken_{true};
  CountingObserver observer_;
  std::unique_ptr<BlockLoader> loader_;
};

TEST_F(BlockLoaderTest, SweepsRoundAndRound) {
  Make(40, 7 << 20, 0.3);
  for (int lap = 0; lap < 5; ++lap) {
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(Use(i).ok());
  }
  uint64_t streamed = 0;
  for (const SweepBlock& block : sweep_) streamed += block.resident ? 0 : Padded(block.block.bytes);
  // Five laps of the streamed ones, the resident ones once, and what is in the ring already.
  EXPECT_GE(loader_->read_bytes(), 5 * streamed);
  EXPECT_LE(loader_->read_bytes(), 5 * streamed + loader_->resident_read_bytes() + (7 << 20));
}

TEST_F(BlockLoaderTest, SaysWhenItWaitsAndWhenItGoesOn) {
  for (const double resident_share : {0.0, 1.0}) {
    loader_.reset();
    sweep_.clear();
    observer_.waits = observer_.goes = 0;
    // Nothing is read until somebody was told of the wait.
    Make(4, 16 << 20, resident_share, [this](uint64_t) {
      observer_.waits.wait(0);
      return Fault{};
    });
    loader_->Observe(&observer_);
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(Use(i).ok());
    EXPECT_GE(observer_.waits, 1);
    EXPECT_EQ(observer_.waits, observer_.goes);
    // What is there needs no waiting.
    const int waits = observer_.waits;
    for (int i = 0; i < 4 && resident_share > 0; ++i) ASSERT_TRUE(Use(i).ok());
    EXPECT_EQ(observer_.waits, waits);
  }
}

TEST_F(BlockLoaderTest, SmallestRing) {
  Make(30, 6 << 20, 0.0);  // two of the largest blocks
  for (int lap = 0; lap < 3; ++lap) {
    for (int i = 0; i < 30; ++i) ASSERT_TRUE(Use(i).ok());
  }
}

TEST_F(BlockLoaderTest, EverythingResidentIsReadOnce) {
  Make(20, 0, 1.0);
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Use(i).ok());
  const uint64_t read = loader_->read_bytes();
  EXPECT_EQ(read, loader_->resident_read_bytes());
  for (int lap = 0; lap < 3; ++lap) {
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(Use(i).ok());
  }
  EXPECT_EQ(loader_->read_bytes(), read);
}

TEST_F(BlockLoaderTest, AnyOrderIsServed) {
  Make(25, 8 << 20, 0.4);
  std::mt19937 random(5);
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(Use(random() % 25).ok());
}

TEST_F(BlockLoaderTest, ALeaseIsKeptWhileOthersPass) {
  Make(20, 16 << 20, 0.0);
  const auto held = loader_->Acquire(3);
  ASSERT_TRUE(held.ok());
  for (int i = 4; i < 7; ++i) ASSERT_TRUE(Use(i).ok());
  const Block& block = sweep_[3].block;
  EXPECT_EQ(std::memcmp(held->data, file_.data() + block.offset, block.bytes), 0);
  loader_->Release(held->ticket);
  for (int i = 7; i < 20; ++i) ASSERT_TRUE(Use(i).ok());
}

TEST_F(BlockLoaderTest, ShortReadsAreCompleted) {
  Make(30, 7 << 20, 0.3,
       [this](uint64_t) { return Fault{.at_most = 4096 + random_() % 300000, .status = {}}; });
  for (int lap = 0; lap < 2; ++lap) {
    for (int i = 0; i < 30; ++i) ASSERT_TRUE(Use(i).ok());
  }
}

TEST_F(BlockLoaderTest, AReadErrorFailsItsBlockAndNoOther) {
  Make(12, 7 << 20, 0.0, [this](uint64_t offset) {
    const Block& bad = sweep_[5].block;
    const bool hit = broken_ && offset >= bad.offset && offset < bad.offset + bad.bytes;
    return Fault{.status = hit ? absl::DataLossError("Input/output error") : absl::OkStatus()};
  });
  for (int i = 0; i < 12; ++i) {
    const absl::Status status = Use(i);
    EXPECT_EQ(status.ok(), i != 5) << status;
    if (i == 5) {
      EXPECT_NE(status.message().find("block 5"), absl::string_view::npos) << status;
      EXPECT_NE(status.message().find("Input/output error"), absl::string_view::npos) << status;
    }
  }
  broken_ = false;  // the next lap reads it again, apart from what is in the ring already
  for (int lap = 0; lap < 2; ++lap) {
    for (int i = 0; i < 12; ++i) ASSERT_TRUE(Use(i).ok() || lap == 0);
  }
}

TEST_F(BlockLoaderTest, ADamagedBlockIsToldByItsChecksum) {
  Make(10, 7 << 20, 0.5);
  loader_.reset();
  for (int bad : {1, 4, 7})
    file_[sweep_[bad].block.offset + sweep_[bad].block.bytes / 2] ^= std::byte{4};
  std::vector<std::unique_ptr<Reader>> readers;
  readers.push_back(std::make_unique<MemoryReader>(file_));
  loader_ = std::make_unique<BlockLoader>(sweep_, memory_, std::move(readers));
  for (int i = 0; i < 10; ++i) {
    const absl::Status status = Use(i);
    const bool bad = i == 1 || i == 4 || i == 7;
    EXPECT_EQ(status.ok(), !bad);
    if (bad) {
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
      EXPECT_NE(status.message().find("checksum"), absl::string_view::npos) << status;
    }
  }
}

// ---- Lent memory ----

TEST_F(BlockLoaderTest, WhatIsLentIsReadNoMore) {
  Make(40, 7 << 20, 0.3, nullptr, 64 << 20);
  uint64_t streamed = 0;
  for (const SweepBlock& block : sweep_) streamed += block.resident ? 0 : Padded(block.block.bytes);
  loader_->Lend(64 << 20);  // all of them, and more
  for (int lap = 0; lap < 2; ++lap) {
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(Use(i).ok());
  }
  EXPECT_EQ(loader_->lent_bytes(), streamed);
  const uint64_t read = loader_->read_bytes();
  for (int lap = 0; lap < 3; ++lap) {
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(Use(i).ok());
  }
  EXPECT_EQ(loader_->read_bytes(), read);
}

TEST_F(BlockLoaderTest, WithLessLentBlocksPassAgain) {
  Make(60, 7 << 20, 0.2, nullptr, 96 << 20);
  uint64_t streamed = 0;
  for (const SweepBlock& block : sweep_) streamed += block.resident ? 0 : Padded(block.block.bytes);
  for (const uint64_t lent : {96, 20, 0, 40, 6, 96, 0}) {
    loader_->Lend(lent << 20);
    EXPECT_LE(loader_->lent_bytes(), lent << 20) << "at once";
    for (int lap = 0; lap < 2; ++lap) {
      for (int i = 0; i < 60; ++i) ASSERT_TRUE(Use(i).ok());
    }
    EXPECT_LE(loader_->lent_bytes(), lent << 20);
    if (lent > 0) {
      EXPECT_GT(loader_->lent_bytes(), std::min(streamed - 1, (lent - 5) << 20));
    }
  }
}

TEST_F(BlockLoaderTest, AnyOrderAnyAmountLentShortReads) {
  Make(
      25, 8 << 20, 0.2,
      [this](uint64_t) { return Fault{.at_most = 4096 + random_() % 900000, .status = {}}; },
      40 << 20);
  std::mt19937 random(6);
  for (int i = 0; i < 600; ++i) {
    if (i % 7 == 0) loader_->Lend(random() % (44 << 20));
    ASSERT_TRUE(Use(i < 300 ? i % 25 : random() % 25).ok());
  }
}

TEST_F(BlockLoaderTest, AReadErrorOnTheWayToLentMemoryFailsItsBlockAndNoOther) {
  Make(
      12, 32 << 20, 0.0,
      [this](uint64_t offset) {
        const Block& bad = sweep_[5].block;
        const bool hit = broken_ && offset >= bad.offset && offset < bad.offset + bad.bytes;
        return Fault{.status = hit ? absl::DataLossError("Input/output error") : absl::OkStatus()};
      },
      32 << 20);
  loader_->Lend(32 << 20);
  for (int lap = 0; lap < 3; ++lap) {
    for (int i = 0; i < 12; ++i) {
      if (i == 5 && lap > 0) continue;
      EXPECT_EQ(Use(i).ok(), i != 5);
    }
  }
  broken_ = false;
  // Perhaps it was tried once more before that.
  if (!Use(5).ok()) {
    ASSERT_TRUE(Use(5).ok());
  }
}

// Those that pass on both sides of one that is here are given back as one.
TEST_F(BlockLoaderTest, ARunIsGivenBackAcrossLentBlocks) {
  Make(16, 32 << 20, 0.0, nullptr, 32 << 20);
  loader_->Lend(8 << 20);
  for (int lap = 0; lap < 40; ++lap) {
    for (int begin = 0; begin < 16;) {
      const auto held = loader_->Acquire(begin);
      ASSERT_TRUE(held.ok());
      uint64_t first = held->ticket;
      int passing = first != BlockLoader::kNoTicket ? 1 : 0, end = begin + 1;
      for (; end < 16; ++end) {
        const BlockLoader::Held next = loader_->AcquireIfHere(end);
        if (next.data == nullptr) break;
        const Block& block = sweep_[end].block;
        ASSERT_EQ(std::memcmp(next.data, file_.data() + block.offset, block.bytes), 0) << end;
        if (next.ticket != BlockLoader::kNoTicket && passing++ == 0) first = next.ticket;
      }
      if (passing > 0) loader_->Release(first, passing);
      begin = end;
    }
  }
}

// A lap of few blocks is read again while the first is being checked.
TEST_F(BlockLoaderTest, ReadAgainBeforeItsFirstCheckHasEnded) {
  for (int round = 0; round < 300; ++round) {
    loader_.reset();
    sweep_.clear();
    Make(1 + round % 2, 16 << 20, 0.0);
    for (int lap = 0; lap < 4; ++lap) {
      for (size_t i = 0; i < sweep_.size(); ++i) {
        ASSERT_TRUE(Use(static_cast<int>(i)).ok());
      }
    }
  }
}

TEST_F(BlockLoaderTest, EndsWhileReadsAreUnderWay) {
  for (int round = 0; round < 10; ++round) {
    sweep_.clear();
    Make(10, 7 << 20, 0.5, nullptr, 8 << 20);
    loader_->Lend(round % 3 * (4 << 20));
    if (round % 2 == 0) {
      ASSERT_TRUE(Use(0).ok());
    }
    loader_.reset();
  }
}

}  // namespace
}  // namespace qianyi
