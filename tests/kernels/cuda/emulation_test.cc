// The emulation itself: it computes what a GPU would, and it catches what a GPU lets pass.
#include "kernels/cuda/device.h"
#include "tests/kernels/cuda/mirror.h"
#include "tests/kernels/expect.h"

namespace qianyi::cuda {
namespace {

using emulation::FaultCollector;

template <typename Kernel>
void RunKernel(const Kernel& kernel, Grid grid = {}) {
  emulation::RunGrid({grid.x, grid.y, grid.z}, Kernel::kThreads, &kernel,
                     [](const void* context) { (*static_cast<const Kernel*>(context))(); });
}

bool Mentions(const FaultCollector& collector, const std::string& words) {
  for (const std::string& fault : collector.faults()) {
    if (fault.find(words) != std::string::npos) return true;
  }
  return false;
}

// Turns 128 numbers round through shared memory.
struct Reverse {
  static constexpr int kThreads = 128;
  int* data;
  bool barrier;
  void operator()() const {
    QIANYI_SHARED(int, turned, kThreads);
    const Global<int> numbers(data, kThreads);
    turned.Store(ThreadIndex(), numbers.Load(ThreadIndex()));
    if (barrier) Barrier();
    numbers.Store(ThreadIndex(), turned.Load(kThreads - 1 - ThreadIndex()));
  }
};

TEST(EmulationTest, BarriersOrderAccesses) {
  emulation::SetStrictMemory(false);
  std::vector<int> numbers(128);
  for (int i = 0; i < 128; ++i) numbers[i] = i;
  FaultCollector collector;
  RunKernel(Reverse{numbers.data(), true});
  EXPECT_TRUE(collector.faults().empty()) << collector.faults()[0];
  for (int i = 0; i < 128; ++i) EXPECT_EQ(numbers[i], 127 - i);
}

TEST(EmulationTest, APlantedRaceIsCaught) {
  emulation::SetStrictMemory(false);
  std::vector<int> numbers(128, 1);
  FaultCollector collector;
  RunKernel(Reverse{numbers.data(), false});
  EXPECT_TRUE(Mentions(collector, "by another thread since the last barrier"));
}

// One half of a warp hands to the other: enough with the warp's barrier, a race without it.
struct Hand {
  static constexpr int kThreads = 32;
  bool barrier;
  void operator()() const {
    QIANYI_SHARED(int, passed, 16);
    if (Lane() < 16) passed.Store(Lane(), Lane());
    if (barrier) WarpBarrier();
    if (Lane() >= 16) passed.Load(Lane() - 16);
    if (barrier) WarpBarrier();
    if (Lane() < 16) passed.Store(15 - Lane(), 0);
  }
};

TEST(EmulationTest, AWarpOrdersItsOwnAccessesOnlyByItsBarrier) {
  {
    FaultCollector collector;
    RunKernel(Hand{true});
    EXPECT_TRUE(collector.faults().empty()) << collector.faults()[0];
  }
  FaultCollector collector;
  RunKernel(Hand{false});
  EXPECT_TRUE(Mentions(collector, "by another thread since the last barrier"));
}

struct Overrun {
  static constexpr int kThreads = 32;
  float* data;
  int64_t at;
  bool shared;
  void operator()() const {
    QIANYI_SHARED(float, row, 32);
    if (shared) {
      row.Store(at, 1.0f);
    } else if (ThreadIndex() == 0) {
      Global<float>(data, 32).Store(at, 1.0f);
    }
  }
};

TEST(EmulationTest, APlantedOverrunIsCaught) {
  emulation::SetStrictMemory(false);
  std::vector<float> data(40, 0.0f);
  for (bool shared : {false, true}) {
    for (int64_t at : {int64_t{-1}, int64_t{32}, int64_t{1} << 40}) {
      FaultCollector collector;
      RunKernel(Overrun{data.data(), at, shared});
      EXPECT_TRUE(Mentions(
          collector, shared ? "array of 32 in shared memory" : "array of 32 in global memory"));
    }
  }
  EXPECT_EQ(data[32], 0.0f) << "what faults is not written";
}

struct LeftOut {
  static constexpr int kThreads = 64;
  void operator()() const {
    if (ThreadIndex() != 40) Barrier();
  }
};

TEST(EmulationTest, ABarrierThatAThreadLeavesOutIsCaught) {
  FaultCollector collector;
  RunKernel(LeftOut{});
  EXPECT_TRUE(Mentions(collector, "63 threads wait at a barrier"));
}

struct HalfWarp {
  static constexpr int kThreads = 32;
  void operator()() const {
    if (Lane() < 16) ShuffleXor(1, 1);
  }
};

TEST(EmulationTest, AShuffleThatALaneLeavesOutIsCaught) {
  FaultCollector collector;
  RunKernel(HalfWarp{});
  EXPECT_TRUE(Mentions(collector, "for their warp"));
}

// Brings 16 bytes per thread by asynchronous copies.
struct Fetch {
  static constexpr int kThreads = 32;
  const uint32_t* from;
  uint32_t* to;
  bool wait;
  void operator()() const {
    QIANYI_SHARED(uint32_t, words, 4 * kThreads);
    const Global<const uint32_t> source(from, 4 * kThreads);
    CopyAsync16(words, 4 * ThreadIndex(), source, 4 * ThreadIndex());
    CommitCopies();
    if (wait) WaitForCopies<0>();
    Barrier();
    Global<uint32_t>(to, kThreads).Store(ThreadIndex(), words.Load(127 - 4 * ThreadIndex()));
    if (!wait) WaitForCopies<0>();
  }
};

TEST(EmulationTest, AsynchronousCopiesEndWhenTheyAreWaitedFor) {
  emulation::SetStrictMemory(false);
  struct alignas(16) {
    uint32_t words[128];
  } source;
  for (uint32_t i = 0; i < 128; ++i) source.words[i] = i;
  std::vector<uint32_t> out(32);
  {
    FaultCollector collector;
    RunKernel(Fetch{source.words, out.data(), true});
    EXPECT_TRUE(collector.faults().empty()) << collector.faults()[0];
    for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], 127 - 4 * i);
  }
  FaultCollector collector;
  RunKernel(Fetch{source.words, out.data(), false});
  EXPECT_TRUE(Mentions(collector, "under an asynchronous copy"));
}

struct Count {
  static constexpr int kThreads = 96;
  int* total;
  void operator()() const {
    QIANYI_SHARED(int, count, 1);
    if (ThreadIndex() == 0) count.Store(0, 0);
    Barrier();
    AtomicAdd(count, 0, 1);
    Barrier();
    if (ThreadIndex() == 0) AtomicAdd(Global<int>(total, 1), 0, count.Load(0));
  }
};

TEST(EmulationTest, AtomicsDoNotRace) {
  emulation::SetStrictMemory(false);
  int total = 0;
  FaultCollector collector;
  RunKernel(Count{&total}, {3, 2, 1});
  EXPECT_TRUE(collector.faults().empty()) << collector.faults()[0];
  EXPECT_EQ(total, 6 * 96);
}

// C = A B with entries placed as device.h says.
struct Product {
  static constexpr int kThreads = 32;
  const int8_t* a;  // [16][32]
  const int8_t* b;  // [32][8]
  int32_t* c;       // [16][8]
  void operator()() const {
    const int g = Lane() / 4, t = Lane() % 4;
    uint32_t x[4], y[2];
    for (int i = 0; i < 4; ++i) x[i] = Quad(a + (g + i % 2 * 8) * 32 + 4 * t + i / 2 * 16, 1);
    for (int i = 0; i < 2; ++i) y[i] = Quad(b + (4 * t + 16 * i) * 8 + g, 8);
    int32_t sum[4] = {1, 2, 3, 4};
    MmaInt8(sum, x, y);
    for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i] - 1 - i;
  }
  static uint32_t Quad(const int8_t* first, int step) {
    uint32_t word = 0;
    for (int i = 0; i < 4; ++i) word |= uint32_t{static_cast<uint8_t>(first[i * step])} << 8 * i;
    return word;
  }
};

TEST(EmulationTest, FragmentsMultiply) {
  std::vector<int8_t> a(16 * 32), b(32 * 8);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<int8_t>(i * 37 % 255 - 127);
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<int8_t>(i * 91 % 255 - 127);
  std::vector<int32_t> c(16 * 8);
  RunKernel(Product{a.data(), b.data(), c.data()});
  for (int row = 0; row < 16; ++row) {
    for (int col = 0; col < 8; ++col) {
      int32_t sum = 0;
      for (int k = 0; k < 32; ++k) sum += a[row * 32 + k] * b[k * 8 + col];
      EXPECT_EQ(c[row * 8 + col], sum);
    }
  }
}

TEST(EmulationTest, KernelsReachTheDevicesMemoryOnly) {
  const Backend& device = *qianyi::testing::Devices()[0];
  std::vector<int> numbers(128);
  {
    FaultCollector collector;
    RunKernel(Reverse{numbers.data(), true});
    EXPECT_TRUE(Mentions(collector, "memory of the host"));
  }
  int* memory = static_cast<int*>(device.alloc(127 * sizeof(int)));
  {
    FaultCollector collector;
    RunKernel(Reverse{memory, true});
    EXPECT_TRUE(Mentions(collector, "out of an allocation"));
  }
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(*memory = 1, "") << "nor does the host reach it";
  device.free(memory, 127 * sizeof(int));
}

// Work is done as late as it may be, so a wait that is left out shows.
TEST(EmulationTest, StreamsWaitForEventsOnly) {
  const Backend& device = *qianyi::testing::Devices()[0];
  const Stream copies = device.create_stream(1), work = device.create_stream(1);
  int* host = static_cast<int*>(device.alloc_host(8));
  void* memory = device.alloc(4);
  for (bool wait : {false, true}) {
    host[0] = 7 + wait, host[1] = 0;
    device.upload(memory, &host[0], 4, copies);
    const Event event = device.create_event();
    device.record(event, copies);
    if (wait) device.wait(work, event);
    device.download(&host[1], memory, 4, work);
    EXPECT_EQ(host[1], 0) << "nothing is done before it must be";
    device.synchronize(work);
    EXPECT_EQ(host[1], wait ? 8 : 0);
    device.await(event);
    device.destroy_event(event);
  }
  device.free(memory, 4);
  device.free_host(host, 8);
  device.destroy_stream(copies);
  device.destroy_stream(work);
}

}  // namespace
}  // namespace qianyi::cuda
