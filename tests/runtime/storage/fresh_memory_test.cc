#include "runtime/storage/fresh_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <vector>

namespace qianyi {
namespace {

constexpr uint64_t kPiece = FreshMemory::kPieceBytes;

// Memory that nobody has touched.
class FreshMemoryTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kBytes = 5 * kPiece + 3 * 4096;

  FreshMemoryTest()
      : begin_(static_cast<std::byte*>(
            mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {}
  ~FreshMemoryTest() override { munmap(begin_, kBytes); }

  uint64_t ResidentBytes() const {
    const uint64_t page = sysconf(_SC_PAGESIZE);
    std::vector<unsigned char> pages((kBytes + page - 1) / page);
    EXPECT_EQ(mincore(begin_, kBytes, pages.data()), 0);
    return page * std::count_if(pages.begin(), pages.end(), [](auto bits) { return bits & 1; });
  }
  bool SystemCan() const {
    return madvise(begin_ + kBytes - 4096, 4096, 23 /* MADV_POPULATE_WRITE */) == 0;
  }

  std::byte* const begin_;
};

TEST_F(FreshMemoryTest, MakesAllOfIt) {
  for (const int threads : {1, 3}) {
    FreshMemory memory(begin_, kBytes, threads);
    memory.Help(kBytes);
    while (!memory.Made(kBytes)) memory.Help(kBytes);
    EXPECT_EQ(ResidentBytes(), SystemCan() ? kBytes : 0);
    EXPECT_FALSE(memory.Made(kBytes + 1));
    ASSERT_EQ(madvise(begin_, kBytes, MADV_DONTNEED), 0);
  }
}

// What counts as made is made, in the order of the bytes and nothing beyond a gap.
TEST_F(FreshMemoryTest, WithoutThreadsEachHelpMakesOnePiece) {
  if (!SystemCan()) GTEST_SKIP() << "needs Linux 5.14";
  ASSERT_EQ(madvise(begin_, kBytes, MADV_DONTNEED), 0);
  FreshMemory memory(begin_, kBytes, 0);
  EXPECT_TRUE(memory.Made(0));
  for (uint64_t made = 0; made < kBytes; made = std::min(kBytes, made + kPiece)) {
    EXPECT_FALSE(memory.Made(made + 1));
    EXPECT_EQ(ResidentBytes(), made);
    memory.Help(kBytes);
  }
  EXPECT_TRUE(memory.Made(kBytes));
  EXPECT_EQ(ResidentBytes(), kBytes);
}

TEST_F(FreshMemoryTest, SeveralHelpWithoutMissingAnything) {
  for (int round = 0; round < 20; ++round) {
    FreshMemory memory(begin_, kBytes, 1);
    std::vector<std::thread> helpers;
    for (int i = 0; i < 3; ++i) {
      helpers.emplace_back([&] {
        while (!memory.Made(kBytes)) memory.Help(kBytes);
      });
    }
    for (std::thread& helper : helpers) helper.join();
    EXPECT_EQ(ResidentBytes(), SystemCan() ? kBytes : 0);
    ASSERT_EQ(madvise(begin_, kBytes, MADV_DONTNEED), 0);
  }
}

// Help waits for the pieces of others, and for nothing once it is told to stop.
TEST_F(FreshMemoryTest, StopEndsAWait) {
  FreshMemory memory(begin_, kBytes, 0);
  while (!memory.Made(kBytes)) memory.Help(kBytes);
  std::thread waits([&] { memory.Help(kBytes + 1); });  // never made
  memory.Stop();
  waits.join();
}

// Where the system refuses, reads clear what they use, as ever.
TEST_F(FreshMemoryTest, MemoryThatCannotBeMadeCountsAsMade) {
  ASSERT_EQ(munmap(begin_, kBytes), 0);
  FreshMemory memory(begin_, kBytes, 1);
  while (!memory.Made(kBytes)) memory.Help(kBytes);
  EXPECT_TRUE(memory.Made(kBytes));
}

TEST_F(FreshMemoryTest, NoneIsMadeAtOnce) {
  FreshMemory memory(nullptr, 0, 2);
  EXPECT_TRUE(memory.Made(0));
}

}  // namespace
}  // namespace qianyi
