#include "kernels/cuda/emulated.h"

#include <cstring>
#include <functional>
#include <vector>

#include "kernels/cuda/kernel_table.h"

namespace qianyi::cuda {
namespace {

DeviceStream& Of(Stream stream) { return *static_cast<DeviceStream*>(stream.handle); }
DeviceEvent& Of(Event event) { return *static_cast<DeviceEvent*>(event.handle); }

Stream CreateStream(int threads) {
  DeviceStream* stream = new DeviceStream;
  if (threads > 0) stream->workspace = emulation::Allocate(kWorkspaceBytes);
  return {stream};
}
void DestroyStream(Stream stream) {
  Of(stream).queue.RunAll();
  Of(stream).library.Close(emulation::Free);
  emulation::Free(Of(stream).workspace, kWorkspaceBytes);
  delete &Of(stream);
}

void Upload(void* device, const void* host, size_t bytes, Stream stream) {
  Of(stream).queue.Add([=] {
    if (void* to = emulation::HostAddress(device, bytes)) std::memcpy(to, host, bytes);
  });
}
void Download(void* host, const void* device, size_t bytes, Stream stream) {
  Of(stream).queue.Add([=] {
    if (const void* from = emulation::HostAddress(device, bytes)) std::memcpy(host, from, bytes);
  });
}
void Copy(void* to, const void* from, size_t bytes, Stream stream) {
  Of(stream).queue.Add([=] {
    void* target = emulation::HostAddress(to, bytes);
    const void* source = emulation::HostAddress(from, bytes);
    if (target != nullptr && source != nullptr) std::memcpy(target, source, bytes);
  });
}

void Record(Event event, Stream stream) { Of(event) = {&Of(stream), Of(stream).queue.added()}; }
void Await(Event event) {
  if (Of(event).stream != nullptr) Of(event).stream->queue.RunUntil(Of(event).count);
}
void Wait(Stream stream, Event event) {
  const DeviceEvent at = Of(event);  // the event may be recorded again before the stream gets here
  if (at.stream == nullptr) return;
  Of(stream).queue.Add([at] { at.stream->queue.RunUntil(at.count); });
}

using Works = std::vector<std::function<void()>>;
const Works& Of(Graph graph) { return *static_cast<const Works*>(graph.handle); }
void LaunchGraph(Graph graph, Stream stream) {
  for (const std::function<void()>& work : Of(graph)) Of(stream).queue.Add(work);
}

Backend MakeTable() {
  Backend b = emulated::KernelTable();
  b.variant = "emulated";
  b.alloc = emulation::Allocate;
  b.free = emulation::Free;
  b.create_stream = CreateStream;
  b.destroy_stream = DestroyStream;
  b.use_threads = [](Stream, int) {};
  b.synchronize = [](Stream stream) { Of(stream).queue.RunAll(); };
  b.alloc_host = Cpu().alloc;
  b.free_host = Cpu().free;
  b.alloc_mapped = emulation::AllocateMapped;
  b.free_mapped = emulation::Free;
  b.upload = Upload;
  b.download = Download;
  b.copy = Copy;
  b.create_event = [] { return Event{new DeviceEvent}; };
  b.destroy_event = [](Event event) { delete &Of(event); };
  b.record = Record;
  b.wait = Wait;
  b.await = Await;
  b.begin_capture = [](Stream stream) {
    Of(stream).queue.BeginCapture();
    return true;
  };
  b.end_capture = [](Stream stream) { return Graph{new Works(Of(stream).queue.EndCapture())}; };
  b.launch = LaunchGraph;
  b.destroy_graph = [](Graph graph) { delete &Of(graph); };
  b.failed = [] { return false; };
  b.memory_info = [](size_t* total, size_t* free) {
    *total = size_t{64} << 30;
    *free = *total - emulation::AllocatedBytes();
  };
  return b;
}

const char* library = nullptr;

Stream CreateFastStream(int threads) {
  constexpr size_t kFewRowsBytes = size_t{64} << 10;
  const Stream stream = CreateStream(threads);
  if (threads > 0) {
    Of(stream).library.Open(library, kFewRowsBytes, emulation::Allocate, emulation::Free);
  }
  return stream;
}

}  // namespace

const Backend& EmulatedCuda() {
  static const Backend table = MakeTable();
  return table;
}

const Backend& EmulatedFastCuda(const char* library_path) {
  static const Backend table = [] {
    Backend b = MakeTable();
    b.linear = emulated::RunLibraryLinear;
    b.create_stream = CreateFastStream;
    b.library = "cuBLASLt";
    b.library_bytes = LibraryRoom::kBytes;
    b.use_library_from = emulated::UseLibraryFrom;
    return b;
  }();
  library = library_path;
  return table;
}

}  // namespace qianyi::cuda
