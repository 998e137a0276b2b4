#include "kernels/backend.h"

#include <cstdlib>
#include <cstring>

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/drivers.h"

namespace qianyi {
namespace cpu {
namespace {

ThreadPool& Pool(Stream stream) { return *static_cast<ThreadPool*>(stream.handle); }

// One table per instruction set; the arithmetic is the same in all of them.
template <const RowKernels& kKernels, LinearFunction kLinear>
constexpr Backend MakeBackend(std::string_view variant) {
  Backend b;
  b.name = "cpu";
  b.variant = variant;
  b.quantize = [](const Quantize& a, Stream s) { RunQuantize(a, Pool(s), kKernels); };
  b.linear = [](const Linear& a, Stream s) { RunLinear(a, Pool(s), kLinear); };
  b.gather = [](const Gather& a, Stream s) { RunGather(a, Pool(s)); };
  b.add_rows = [](const AddRows& a, Stream s) { RunAddRows(a, Pool(s), kKernels); };
  b.copy_rows = [](const CopyRows& a, Stream s) { RunCopyRows(a, Pool(s)); };
  b.layer_norm = [](const LayerNorm& a, Stream s) { RunLayerNorm(a, Pool(s), kKernels); };
  b.rms_norm = [](const RmsNorm& a, Stream s) { RunRmsNorm(a, Pool(s), kKernels); };
  b.rope = [](const Rope& a, Stream s) { RunRope(a, Pool(s), kKernels); };
  b.activate = [](const Activate& a, Stream s) { RunActivate(a, Pool(s), kKernels); };
  b.gated_activate = [](const GatedActivate& a, Stream s) {
    RunGatedActivate(a, Pool(s), kKernels);
  };
  b.kv_write = [](const KvWrite& a, Stream s) { RunKvWrite(a, Pool(s), kKernels); };
  b.attention = [](const Attention& a, Stream s) { RunAttention(a, Pool(s), kKernels); };
  b.sparse_attention = [](const SparseAttention& a, Stream s) {
    RunSparseAttention(a, Pool(s), kKernels);
  };
  b.unfold = [](const Unfold& a, Stream s) { RunUnfold(a, Pool(s)); };
  b.lora = [](const Lora& a, Stream s) { RunLora(a, Pool(s), kKernels); };
  b.route = [](const Route& a, Stream s) { RunRoute(a, Pool(s), kKernels); };
  b.combine = [](const Combine& a, Stream s) { RunCombine(a, Pool(s), kKernels); };
  b.supports = IsValid;
  b.alloc = Alloc;
  b.free = Free;
  b.create_stream = [](int threads) {
    return Stream{ThreadPool::Create(threads, kScratchBytes).release()};
  };
  b.destroy_stream = [](Stream s) { delete static_cast<ThreadPool*>(s.handle); };
  b.use_threads = [](Stream s, int threads) { Pool(s).Use(threads); };
  b.synchronize = [](Stream) {};  // every kernel returns when it is done
  b.alloc_host = b.alloc_mapped = Alloc;
  b.free_host = b.free_mapped = Free;
  b.upload = b.download = b.copy = [](void* to, const void* from, size_t bytes, Stream) {
    std::memcpy(to, from, bytes);
  };
  b.create_event = [] { return Event{}; };
  b.destroy_event = [](Event) {};
  b.record = [](Event, Stream) {};
  b.wait = [](Stream, Event) {};
  b.await = [](Event) {};
  b.failed = [] { return false; };
  b.memory_info = [](size_t* total, size_t* free) { *total = *free = 0; };
  return b;
}

constinit const Backend kReference = MakeBackend<kReferenceKernels, LinearReference>("reference");
#if defined(__x86_64__)
constinit const Backend kAvx2 = MakeBackend<kAvx2Kernels, LinearAvx2>("avx2");
constinit const Backend kAvx512 = MakeBackend<kAvx512Kernels, LinearAvx512>("avx512");
constinit const Backend kAmx = MakeBackend<kAvx512Kernels, LinearAmx>("amx");
#endif

}  // namespace

const Backend& ChooseVariant(std::string_view name) {
  const BackendList& list = CpuVariants();
  constexpr std::string_view kAscending[] = {"reference", "avx2", "avx512", "amx"};
  bool known = false;
  const Backend* best = list.items[0];
  for (std::string_view variant : kAscending) {
    for (int i = 0; i < list.count; ++i) {
      if (list.items[i]->variant == variant) best = list.items[i];
    }
    if (variant == name) {
      known = true;
      break;
    }
  }
  return known ? *best : *list.items[list.count - 1];
}

const RowKernels& BestRowKernels() {
#if defined(__x86_64__)
  if (DetectFeatures().avx512) return kAvx512Kernels;
  if (DetectFeatures().avx2) return kAvx2Kernels;
#endif
  return kReferenceKernels;
}

}  // namespace cpu

const BackendList& CpuVariants() {
  static const BackendList list = [] {
    BackendList variants{};
    variants.items[variants.count++] = &cpu::kReference;
#if defined(__x86_64__)
    const cpu::Features& features = cpu::DetectFeatures();
    if (features.avx2) variants.items[variants.count++] = &cpu::kAvx2;
    if (features.avx512) variants.items[variants.count++] = &cpu::kAvx512;
    if (features.amx) variants.items[variants.count++] = &cpu::kAmx;
#endif
    return variants;
  }();
  return list;
}

const Backend& Cpu() {
  static const Backend& chosen = []() -> const Backend& {
    const char* name = std::getenv("QIANYI_CPU");
    return cpu::ChooseVariant(name == nullptr ? "" : name);
  }();
  return chosen;
}

}  // namespace qianyi
