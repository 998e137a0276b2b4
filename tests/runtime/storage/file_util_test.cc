#include "runtime/storage/file_util.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace qianyi {
namespace {

// Whoever frees much teaches the C library to keep large pieces in its heap, whose pages are small
// ones that were used. Reads into those were several times slower.
TEST(AllocatePages, LargeBuffersAreNotOfTheHeap) {
  std::free(std::memset(std::malloc(24 << 20), 1, 24 << 20));
  void* const used = std::memset(std::malloc(16 << 20), 1, 16 << 20);
  void* const behind = std::malloc(1 << 20);
  std::free(used);
  constexpr uint64_t kBytes = 4 << 20;
  const PageBuffer buffer = AllocatePages(kBytes);
  ASSERT_NE(buffer, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.get()) % (2 << 20), 0u);
  std::vector<unsigned char> pages(kBytes / sysconf(_SC_PAGESIZE));
  ASSERT_EQ(mincore(buffer.get(), kBytes, pages.data()), 0);
  EXPECT_EQ(std::count(pages.begin(), pages.end(), 0), static_cast<int64_t>(pages.size()));
  std::free(behind);
}

TEST(AllocatePages, SmallOnesAreWholePages) {
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{4096}, uint64_t{100000}}) {
    const PageBuffer buffer = AllocatePages(bytes);
    ASSERT_NE(buffer, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.get()) % 4096, 0u);
    std::memset(buffer.get(), 1, bytes);
  }
}

}  // namespace
}  // namespace qianyi
