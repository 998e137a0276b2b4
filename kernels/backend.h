// A backend is one table of kernels for one kind of device. Kernels only enqueue on
// a stream: they never allocate, never fail and never look at a model or a file.
// All activations are f32; shapes stand beside each field. Every token's result
// depends on that token's inputs alone (never on its neighbours in the batch, the
// number of threads or how the work was tiled): docs/numerics.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/operations.h"

namespace qianyi {

struct Stream {
  void* handle = nullptr;  // a thread pool on the CPU, a stream and its workspace on CUDA
};
struct Event {
  void* handle = nullptr;  // a point in a stream's work
};
struct Graph {
  void* handle = nullptr;  // work of a stream that can be given to it again, as a whole
};

// All entries are set unless marked optional. Thread-safe: a table is constant; one
// stream must be used by one thread at a time.
struct Backend {
  std::string_view name;
  std::string_view variant;  // instruction set or chip in use
  std::string_view library;  // for large batches; empty: all products are by kernels of ours

  void (*quantize)(const Quantize&, Stream) = nullptr;
  void (*linear)(const Linear&, Stream) = nullptr;
  void (*gather)(const Gather&, Stream) = nullptr;
  void (*add_rows)(const AddRows&, Stream) = nullptr;
  void (*copy_rows)(const CopyRows&, Stream) = nullptr;
  void (*layer_norm)(const LayerNorm&, Stream) = nullptr;
  void (*rms_norm)(const RmsNorm&, Stream) = nullptr;
  void (*rope)(const Rope&, Stream) = nullptr;
  void (*activate)(const Activate&, Stream) = nullptr;
  void (*gated_activate)(const GatedActivate&, Stream) = nullptr;
  void (*kv_write)(const KvWrite&, Stream) = nullptr;
  void (*attention)(const Attention&, Stream) = nullptr;
  void (*sparse_attention)(const SparseAttention&, Stream) = nullptr;
  void (*lora)(const Lora&, Stream) = nullptr;
  void (*route)(const Route&, Stream) = nullptr;
  void (*combine)(const Combine&, Stream) = nullptr;
  void (*unfold)(const Unfold&, Stream) = nullptr;
  // Optional: experts of which the host does not learn who was chosen.
  void (*group_choices)(const GroupChoices&, Stream) = nullptr;
  void (*expert_linear)(const ExpertLinear&, Stream) = nullptr;
  // Optional: where logits are far from the host, which draws tokens otherwise.
  void (*draw_tokens)(const DrawTokens&, Stream) = nullptr;

  bool (*supports)(PackedFormat) = nullptr;
  int64_t max_head_dim = 0;  // of keys and values in attention; 0 = any

  // Memory of the device, 2 MiB aligned and zeroed; null when there is no room.
  void* (*alloc)(size_t bytes) = nullptr;
  void (*free)(void* data, size_t bytes) = nullptr;

  // A stream of work. On the CPU `threads` workers (the caller is one of them); on a device any
  // number but 0, which is for copies alone.
  Stream (*create_stream)(int threads) = nullptr;
  void (*destroy_stream)(Stream) = nullptr;
  // How many of its threads a stream of the CPU works with from here on, 1 to all of them; results
  // stay the same. Does nothing on a device.
  void (*use_threads)(Stream, int threads) = nullptr;
  void (*synchronize)(Stream) = nullptr;

  // Whether kernels and the host use the same memory. Where they do not, all that arguments point
  // at, structs and tables inside them included, must be memory of alloc() or alloc_mapped().
  bool host_memory = true;
  // Memory of the host that kernels reach over the link ("mapped", "zero-copy"), for what the
  // device has no room for; zeroed, null without room.
  void* (*alloc_mapped)(size_t bytes) = nullptr;
  void (*free_mapped)(void* data, size_t bytes) = nullptr;
  // Host memory that copies go on from and to while the caller does; zeroed, null without room.
  void* (*alloc_host)(size_t bytes) = nullptr;
  void (*free_host)(void* data, size_t bytes) = nullptr;
  // In the stream's order; the host's side is of alloc_host and is left alone until it is done.
  void (*upload)(void* device, const void* host, size_t bytes, Stream) = nullptr;
  void (*download)(void* host, const void* device, size_t bytes, Stream) = nullptr;
  // Within the memory of kernels, mapped memory included.
  void (*copy)(void* to, const void* from, size_t bytes, Stream) = nullptr;

  // An event is recorded behind the work that a stream has by then. Another stream waits for it
  // with its later work; await waits on the host.
  Event (*create_event)() = nullptr;
  void (*destroy_event)(Event) = nullptr;
  void (*record)(Event, Stream) = nullptr;
  void (*wait)(Stream, Event) = nullptr;
  void (*await)(Event) = nullptr;

  // Optional: kernels that a stream is given between the two are kept and not run. False, and then
  // they run, or null, and then they did not, where the device cannot. Launching a graph enqueues
  // them all.
  bool (*begin_capture)(Stream) = nullptr;
  Graph (*end_capture)(Stream) = nullptr;
  void (*launch)(Graph, Stream) = nullptr;
  void (*destroy_graph)(Graph) = nullptr;

  // True once the device has failed; nothing that it computed since can be trusted.
  bool (*failed)() = nullptr;
  size_t library_bytes = 0;  // of the device, that `library` takes for each stream
  // With a library: from so many tokens on it makes products, in all streams; at first from 128.
  void (*use_library_from)(int64_t tokens) = nullptr;
  // Bytes of the device in all, and free; 0 where that is the host's.
  void (*memory_info)(size_t* total, size_t* free) = nullptr;
};

// The best variant this processor and operating system grant; QIANYI_CPU=reference,
// avx2, avx512 or amx in the environment asks for a lesser one.
const Backend& Cpu();

// Every variant this machine can run, the scalar float32 reference first.
struct BackendList {
  const Backend* items[8];
  int count;
};
const BackendList& CpuVariants();

// The first CUDA device; null when the program was built without CUDA, or there is no driver or
// device for it.
const Backend* Cuda();
// The same with cuBLASLt for large batches, whose results then depend on what is in a batch; the
// table of Cuda() where that library is not installed.
const Backend* FastCuda();

}  // namespace qianyi
