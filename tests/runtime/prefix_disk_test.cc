// Prefixes that memory has no room for: they go to disk and come back as they were.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "runtime/prefix_cache.h"
#include "tests/runtime/prefix_setup.h"
#include "tests/support/temp_folder.h"

namespace qianyi {
namespace {

constexpr size_t kStoredBytes = 4096;

class PrefixDiskTest : public ::testing::Test {
 protected:
  void Open(int64_t places) {
    prefixes_.reset();
    kv_ = *KvCache::Create(kSmallKv, DType::kF16, 8, Cpu());
    auto file = PageFile::Create(folder_.path(), places * kStoredBytes, kv_->page_bytes());
    ASSERT_TRUE(file.ok()) << file.status();
    prefixes_ = std::make_unique<PrefixCache>(*kv_, *std::move(file));
  }

  // What keys and values of a page would be: they depend on all tokens up to its end.
  std::vector<std::byte> Computed(const Sequence& sequence, int64_t page) const {
    uint32_t random = 17;
    for (int64_t i = 0; i < (page + 1) * kPageTokens; ++i) {
      random = random * 31 + static_cast<uint32_t>(sequence.tokens[static_cast<size_t>(i)]) + 1;
    }
    std::vector<std::byte> bytes(kv_->page_bytes());
    for (std::byte& byte : bytes) {
      random = random * 1664525 + 1013904223;
      byte = static_cast<std::byte>(random >> 24);
    }
    return bytes;
  }

  // Gives a sequence its pages and computes what was not there; false where there is no room.
  bool Begin(Sequence* sequence, int64_t* found) {
    *found = prefixes_->Take(1, sequence);
    std::vector<std::byte> bytes(kv_->page_bytes());
    for (size_t page = 0; page < sequence->pages.size(); ++page) {
      kv_->CopyOut(sequence->pages[page], bytes);
      EXPECT_EQ(bytes, Computed(*sequence, static_cast<int64_t>(page))) << "page " << page;
    }
    const auto tokens = static_cast<int64_t>(sequence->tokens.size());
    const auto had = static_cast<int64_t>(sequence->pages.size());
    if (!prefixes_->MakeRoom(KvCache::PagesFor(tokens) - had)) {
      kv_->Release(&sequence->pages);
      return false;
    }
    EXPECT_TRUE(kv_->Reserve(tokens, &sequence->pages));
    for (int64_t page = had; page < tokens / kPageTokens; ++page) {
      kv_->CopyIn(sequence->pages[static_cast<size_t>(page)], Computed(*sequence, page));
    }
    sequence->cached = static_cast<int32_t>(tokens);
    return true;
  }
  void End(Sequence* sequence) {
    prefixes_->Keep(1, *sequence);
    kv_->Release(&sequence->pages);
  }
  // How many of its tokens were there.
  int64_t Run(Sequence sequence) {
    int64_t found = 0;
    EXPECT_TRUE(Begin(&sequence, &found));
    End(&sequence);
    return found;
  }

  // The file without a name, by the link of its descriptor.
  std::string File() const {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code error;
      const std::string target = std::filesystem::read_symlink(entry.path(), error);
      if (target.starts_with(folder_.path())) return entry.path();
    }
    return "";
  }

  const testing::TempFolder folder_;
  std::unique_ptr<KvCache> kv_;
  std::unique_ptr<PrefixCache> prefixes_;
};

TEST_F(PrefixDiskTest, PagesGoToDiskAndComeBack) {
  Open(100);
  EXPECT_EQ(Run(Counting(112, 0)), 0);
  EXPECT_EQ(prefixes_->pages_on_disk(), 0);
  EXPECT_EQ(Run(Counting(112, 1000)), 0);
  EXPECT_EQ(prefixes_->pages_on_disk(), 6) << "of seven kept, one had room beside the other seven";
  EXPECT_EQ(Run(Counting(112, 0)), 96);
  EXPECT_EQ(Run(Counting(112, 1000)), 96);
  EXPECT_EQ(Run(Counting(112, 0)), 96);
  EXPECT_EQ(Run(Counting(40, 0)), 32) << "the beginning of what is there";
  EXPECT_TRUE(folder_.Names().empty()) << "it has no name";
}

TEST_F(PrefixDiskTest, TheLongestUnusedLeavesTheDiskFirst) {
  Open(8);
  for (const int32_t first : {0, 1000, 2000}) EXPECT_EQ(Run(Counting(128, first)), 0);
  EXPECT_EQ(prefixes_->pages_on_disk(), 8);
  EXPECT_EQ(Run(Counting(128, 2000)), 112) << "in memory";
  EXPECT_EQ(Run(Counting(128, 1000)), 112) << "on disk";
  EXPECT_EQ(Run(Counting(128, 0)), 0);
}

TEST_F(PrefixDiskTest, WhatIsDamagedIsComputedAgain) {
  Open(100);
  Run(Counting(112, 0));
  Run(Counting(112, 1000));
  const std::string file = File();
  ASSERT_NE(file, "");
  const int descriptor = open(file.c_str(), O_RDWR);
  ASSERT_GE(descriptor, 0);
  for (int place = 0; place < 3; ++place) {
    ASSERT_EQ(pwrite(descriptor, "x", 1, place * static_cast<int64_t>(kStoredBytes) + 5), 1);
  }
  close(descriptor);
  EXPECT_LT(Run(Counting(112, 0)), 96);
  EXPECT_EQ(Run(Counting(112, 0)), 96) << "and kept";
}

// A disk that takes no more: what memory has no room for is dropped, as without a disk.
TEST_F(PrefixDiskTest, AFullDiskDropsPages) {
  Open(100);
  Run(Counting(112, 0));
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit two_pages = {2 * kStoredBytes, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &two_pages), 0);
  Run(Counting(112, 1000));
  EXPECT_LE(prefixes_->pages_on_disk(), 2);
  EXPECT_LE(Run(Counting(112, 0)), 16 + 32);
  for (int i = 0; i < 50; ++i) Run(Counting(1 + i * 37 % 128, 100 * (i % 7)));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, handler);
  Run(Counting(112, 0));
  Run(Counting(112, 1000));
  EXPECT_EQ(Run(Counting(112, 0)), 96) << "it is used again when it has room";
}

// Every page is somebody's, kept or free, and what it holds is right, whatever comes and goes.
class DiskSizesTest : public PrefixDiskTest, public ::testing::WithParamInterface<int> {};

TEST_P(DiskSizesTest, NoPageIsLost) {
  Open(GetParam());
  uint32_t random = 1;
  const auto draw = [&](uint32_t below) {
    random = random * 1664525 + 1013904223;
    return static_cast<int32_t>((random >> 16) % below);
  };
  std::vector<Sequence> running;
  int64_t found = 0;
  for (int i = 0; i < 6000; ++i) {
    if (!running.empty() && draw(2) == 0) {
      const size_t at = static_cast<size_t>(draw(static_cast<uint32_t>(running.size())));
      End(&running[at]);
      running.erase(running.begin() + static_cast<int64_t>(at));
    } else {
      Sequence sequence = Counting(1 + draw(90), 1000 * draw(6));
      if (draw(3) == 0) sequence.tokens[static_cast<size_t>(sequence.pending() - 1)] = draw(9);
      int64_t more = 0;
      if (Begin(&sequence, &more)) running.push_back(std::move(sequence));
      found += more;
    }
    std::vector<bool> held(8, false);
    for (const Sequence& sequence : running) {
      for (const int32_t page : sequence.pages) held[static_cast<size_t>(page)] = true;
    }
    const int64_t in_use = std::accumulate(held.begin(), held.end(), int64_t{0});
    ASSERT_EQ(kv_->free_pages() + kv_->idle_pages() + in_use, 8) << i;
    ASSERT_LE(prefixes_->pages_on_disk(), GetParam());
    if (HasFailure()) return;
  }
  EXPECT_GT(found, 3000);
  for (Sequence& sequence : running) kv_->Release(&sequence.pages);
  EXPECT_TRUE(prefixes_->MakeRoom(8));
}

INSTANTIATE_TEST_SUITE_P(Places, DiskSizesTest, ::testing::Values(1, 3, 10, 200));

TEST(PageFileTest, RefusesWhatCannotBe) {
  const testing::TempFolder folder;
  const auto said = [](const auto& made) { return std::string(made.status().message()); };
  const auto nowhere = PageFile::Create(folder / "nowhere", 1 << 20, 1000);
  ASSERT_FALSE(nowhere.ok());
  EXPECT_NE(said(nowhere).find("nowhere: no file can be made there"), std::string::npos);
  const auto small = PageFile::Create(folder.path(), 4095, 1000);
  ASSERT_FALSE(small.ok());
  EXPECT_NE(said(small).find("give at least 4.0"), std::string::npos) << said(small);
}

}  // namespace
}  // namespace qianyi
