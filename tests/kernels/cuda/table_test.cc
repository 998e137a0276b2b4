// Which entries of the table CUDA has.
#include <string>

#include "tests/kernels/cuda/mirror.h"
#include "tests/kernels/expect.h"

namespace qianyi::testing {
namespace {

TEST(CudaTableTest, HasEveryEntryThatTheCpuHas) {
  for (const Backend* device : Devices()) {
    // Behind the names there are function pointers and flags: word by word, what is set for the
    // CPU is set here as well.
    for (size_t at = offsetof(Backend, quantize); at < sizeof(Backend); at += sizeof(void*)) {
      if (at == offsetof(Backend, host_memory) || at == offsetof(Backend, max_head_dim)) continue;
      void *cpu, *cuda;
      std::memcpy(&cpu, reinterpret_cast<const char*>(&Cpu()) + at, sizeof(cpu));
      std::memcpy(&cuda, reinterpret_cast<const char*>(device) + at, sizeof(cuda));
      EXPECT_TRUE(cuda != nullptr || cpu == nullptr)
          << "the entry at byte " << at << " of Backend has no CUDA kernel";
    }
    EXPECT_EQ(device->name, "cuda");
    EXPECT_FALSE(device->host_memory);
  }
}

TEST(CudaTableTest, MemoryIsZeroedAndReturned) {
  for (const Backend* device : Devices()) {
    std::vector<char> host(5000, 1);
    void* memory = device->alloc(5000);
    ASSERT_NE(memory, nullptr);
    size_t total = 0, before = 0, after = 0;
    device->memory_info(&total, &before);
    const Stream stream = device->create_stream(1);
    char* staging = static_cast<char*>(device->alloc_host(5000));
    std::memset(staging, 1, 5000);
    device->download(staging, memory, 5000, stream);
    device->synchronize(stream);
    for (int i = 0; i < 5000; ++i) ASSERT_EQ(staging[i], 0);
    device->destroy_stream(stream);
    device->free(memory, 5000);
    device->free_host(staging, 5000);
    device->memory_info(&total, &after);
    EXPECT_GT(after, before);
    EXPECT_EQ(device->alloc(size_t{1} << 60), nullptr);
    EXPECT_EQ(device->alloc(0), nullptr);
    EXPECT_FALSE(device->failed());
  }
}

}  // namespace
}  // namespace qianyi::testing
