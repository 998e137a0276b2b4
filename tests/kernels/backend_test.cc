// Choosing a variant, streams and memory.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/thread_pool.h"
#include "tests/kernels/cases.h"
#include "tests/kernels/expect.h"

namespace qianyi::testing {
namespace {

TEST(VariantsTest, TheReferenceIsFirstAndAllAreComplete) {
  const BackendList& list = CpuVariants();
  ASSERT_GE(list.count, 1);
  EXPECT_EQ(list.items[0]->variant, "reference");
  std::set<std::string> names;
  for (int i = 0; i < list.count; ++i) {
    const Backend& b = *list.items[i];
    EXPECT_EQ(b.name, "cpu");
    EXPECT_TRUE(names.emplace(b.variant).second);
    EXPECT_TRUE(b.quantize && b.linear && b.gather && b.add_rows && b.copy_rows && b.layer_norm &&
                b.rms_norm && b.rope && b.activate && b.gated_activate && b.kv_write &&
                b.attention && b.sparse_attention && b.unfold && b.lora && b.supports && b.alloc &&
                b.free && b.create_stream && b.destroy_stream && b.use_threads && b.synchronize);
    for (PackedFormat format : kFormats) EXPECT_TRUE(b.supports(format));
    EXPECT_FALSE(b.supports({DType::kI4, 48}));
  }
}

TEST(VariantsTest, ALesserOneCanBeAskedFor) {
  const BackendList& list = CpuVariants();
  const Backend* best = list.items[list.count - 1];
  EXPECT_EQ(cpu::ChooseVariant("reference").variant, "reference");
  EXPECT_EQ(&cpu::ChooseVariant(""), best);
  EXPECT_EQ(&cpu::ChooseVariant("no such thing"), best);
  EXPECT_EQ(&cpu::ChooseVariant("amx"), best) << "the best there is, up to the one named";
  for (int i = 0; i < list.count; ++i) {
    EXPECT_EQ(&cpu::ChooseVariant(list.items[i]->variant), list.items[i]);
  }
}

// In a process of its own each, since Cpu() decides once.
TEST(VariantsTest, TheEnvironmentIsObeyed) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (int i = 0; i < CpuVariants().count; ++i) {
    const std::string variant(CpuVariants().items[i]->variant);
    EXPECT_EXIT(
        {
          setenv("QIANYI_CPU", variant.c_str(), 1);
          std::exit(Cpu().variant == variant ? 0 : 1);
        },
        ::testing::ExitedWithCode(0), "");
  }
}

TEST(ThreadPoolTest, EveryIndexOnce) {
  for (int threads : {1, 2, 3, 8}) {
    const auto pool = cpu::ThreadPool::Create(threads, 64);
    ASSERT_NE(pool, nullptr);
    EXPECT_EQ(pool->threads(), threads);
    for (int64_t count : {0, 1, 2, 7, 64, 1000}) {
      for (int64_t grain : {1, 3, 64}) {
        std::vector<std::atomic<int>> seen(count);
        pool->Run(count, grain, [&](int64_t begin, int64_t end, int worker) {
          EXPECT_LT(begin, end);
          EXPECT_LT(worker, threads);
          for (int64_t i = begin; i < end; ++i) ++seen[i];
        });
        for (int64_t i = 0; i < count; ++i) ASSERT_EQ(seen[i], 1) << i << " of " << count;
      }
    }
  }
}

TEST(ThreadPoolTest, FewerAndAllAgain) {
  const auto pool = cpu::ThreadPool::Create(4, 64);
  for (int round = 0; round < 3000; ++round) {
    const int threads = 1 + round * 7 % 4;
    pool->Use(threads);
    EXPECT_EQ(pool->threads(), threads);
    std::vector<std::atomic<int>> seen(40);
    pool->Run(40, 1 + round % 3, [&](int64_t begin, int64_t end, int worker) {
      EXPECT_LT(worker, 4);
      for (int64_t i = begin; i < end; ++i) ++seen[i];
    });
    for (const std::atomic<int>& times : seen) ASSERT_EQ(times, 1);
  }
}

TEST(ThreadPoolTest, NeitherNoneNorMoreThanThereAre) {
  const auto pool = cpu::ThreadPool::Create(2, 0);
  pool->Use(0);
  EXPECT_EQ(pool->threads(), 1);
  pool->Use(9);
  EXPECT_EQ(pool->threads(), 2);
}

TEST(ThreadPoolTest, ThoseThatRestSleep) {
  const auto pool = cpu::ThreadPool::Create(4, 0);
  pool->Use(2);
  std::set<std::thread::id> workers;
  std::mutex mutex;
  const auto work = [&](int64_t, int64_t, int) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    const std::lock_guard lock(mutex);
    workers.insert(std::this_thread::get_id());
  };
  pool->Run(8, 1, work);  // those that waited for a job when it was said
  workers.clear();
  for (int job = 0; job < 20; ++job) pool->Run(8, 1, work);
  EXPECT_EQ(workers.size(), 2);
  pool->Use(4);
  for (int job = 0; job < 200 && workers.size() < 4; ++job) pool->Run(8, 1, work);
  EXPECT_EQ(workers.size(), 4);
}

// What one job wrote the next may read, and a job's description may not outlive it.
TEST(ThreadPoolTest, ManyShortJobsSeeEachOther) {
  const auto pool = cpu::ThreadPool::Create(4, 0);
  std::vector<int64_t> values(64, 0);
  for (int round = 0; round < 20000; ++round) {
    const int64_t add = round;
    pool->Run(64, 1 + round % 5, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) values[i] += add;
    });
  }
  for (int64_t value : values) EXPECT_EQ(value, int64_t{20000} * 19999 / 2);
}

TEST(ThreadPoolTest, WorkersHaveScratchOfTheirOwn) {
  const auto pool = cpu::ThreadPool::Create(3, 100);
  std::atomic<int> failures = 0;
  pool->Run(300, 1, [&](int64_t begin, int64_t, int worker) {
    std::byte* scratch = pool->scratch(worker);
    if (reinterpret_cast<uintptr_t>(scratch) % 64 != 0) ++failures;
    std::memset(scratch, static_cast<int>(begin % 256), 100);
    std::this_thread::yield();
    for (int i = 0; i < 100; ++i) {
      if (scratch[i] != static_cast<std::byte>(begin % 256)) ++failures;
    }
  });
  EXPECT_EQ(failures, 0);
}

TEST(ThreadPoolTest, IdleWorkersSleep) {
  const auto pool = cpu::ThreadPool::Create(3, 0);
  pool->Run(8, 1, [](int64_t, int64_t, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const std::clock_t begin = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, 0.1);
}

TEST(MemoryTest, IsAlignedZeroedAndReturned) {
  for (size_t bytes : {size_t{1}, size_t{5000}, size_t{3} << 20}) {
    std::byte* data = static_cast<std::byte*>(Cpu().alloc(bytes));
    ASSERT_NE(data, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % (2 << 20), 0u);
    for (size_t i = 0; i < bytes; i += 997) EXPECT_EQ(data[i], std::byte{0});
    std::memset(data, 7, bytes);
    Cpu().free(data, bytes);
  }
  Cpu().free(nullptr, 0);
}

TEST(MemoryTest, NoRoomIsNull) {
  EXPECT_EQ(Cpu().alloc(SIZE_MAX - 5), nullptr);
  EXPECT_EQ(Cpu().alloc(size_t{1} << 60), nullptr);
  EXPECT_EQ(Cpu().alloc(0), nullptr);
}

}  // namespace
}  // namespace qianyi::testing
