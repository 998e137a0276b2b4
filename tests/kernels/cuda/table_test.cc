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

// Kernels reach mapped memory, and copies go from and to it.
TEST(CudaTableTest, MappedMemoryIsTheKernels) {
  for (const Backend* device : Devices()) {
    const Stream stream = device->create_stream(1);
    float* const host = static_cast<float*>(device->alloc_host(8));
    float* const there = static_cast<float*>(device->alloc(8));
    float* const mapped = static_cast<float*>(device->alloc_mapped(8));
    ASSERT_NE(mapped, nullptr);
    host[0] = 3, host[1] = 4;
    device->upload(there, host, 8, stream);
    device->add_rows({.table = F32(there, 1, 2), .ids = nullptr, .x = F32(mapped, 1, 2)}, stream);
    device->add_rows({.table = F32(mapped, 1, 2), .ids = nullptr, .x = F32(there, 1, 2)}, stream);
    device->copy(mapped, there, 4, stream);
    device->download(host, mapped, 8, stream);
    device->synchronize(stream);
    EXPECT_EQ(host[0], 6) << "zeroed, added to, read, and copied to";
    EXPECT_EQ(host[1], 4);
    EXPECT_EQ(device->alloc_mapped(0), nullptr);
    EXPECT_EQ(device->alloc_mapped(size_t{1} << 60), nullptr);
    device->free_mapped(mapped, 8);
    device->free(there, 8);
    device->free_host(host, 8);
    device->destroy_stream(stream);
    EXPECT_FALSE(device->failed());
  }
}

// What is captured runs when it is launched and not before, in the stream's order.
TEST(CudaTableTest, AGraphIsItsKernelsAsOftenAsItIsLaunched) {
  for (const Backend* device : Devices()) {
    const Stream stream = device->create_stream(1);
    float* const host = static_cast<float*>(device->alloc_host(4));
    float* const sum = static_cast<float*>(device->alloc(4));
    const auto value = [&] {
      device->download(host, sum, 4, stream);
      device->synchronize(stream);
      return *host;
    };
    *host = 1;
    device->upload(sum, host, 4, stream);
    ASSERT_TRUE(device->begin_capture(stream));
    for (int i = 0; i < 2; ++i) {
      device->add_rows({.table = F32(sum, 1, 1), .ids = nullptr, .x = F32(sum, 1, 1)}, stream);
    }
    const Graph graph = device->end_capture(stream);
    ASSERT_NE(graph.handle, nullptr);
    EXPECT_EQ(value(), 1);
    for (int i = 0; i < 3; ++i) device->launch(graph, stream);
    EXPECT_EQ(value(), 64);
    device->destroy_graph(graph);
    device->free(sum, 4);
    device->free_host(host, 4);
    device->destroy_stream(stream);
    EXPECT_FALSE(device->failed());
  }
}

}  // namespace
}  // namespace qianyi::testing
