// The CUDA table on a real device: memory, streams, copies and events by the CUDA runtime, which
// is linked statically and finds the driver when it is first called.
#include <cstring>
#include <string>

#include "kernels/cuda/kernel_table.h"

namespace qianyi {
namespace cuda {
namespace {

// Errors that kernels leave behind stay with the context: one look a step is enough. What an
// allocation refuses is not such an error.
void* AllocDevice(size_t bytes) {
  void* data = nullptr;
  if (bytes == 0 || cudaMalloc(&data, bytes) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  if (cudaMemset(data, 0, bytes) != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess) {
    cudaFree(data);
    return nullptr;
  }
  return data;
}
void FreeDevice(void* data, size_t) { cudaFree(data); }
// With unified addresses, which every 64-bit system has, kernels reach this memory by the host's
// pointer.
template <unsigned kFlags>
void* AllocHost(size_t bytes) {
  void* data = nullptr;
  if (bytes == 0 || cudaHostAlloc(&data, bytes, kFlags) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  std::memset(data, 0, bytes);
  return data;
}

DeviceStream& Of(Stream stream) { return *static_cast<DeviceStream*>(stream.handle); }
DeviceEvent& Of(Event event) { return *static_cast<DeviceEvent*>(event.handle); }

// A stream without workspace or handle fails with its first work, and failed() says so.
Stream CreateStream(int threads) {
  DeviceStream* stream = new DeviceStream;
  cudaStreamCreateWithFlags(&stream->stream, cudaStreamNonBlocking);
  if (threads > 0) stream->workspace = AllocDevice(kWorkspaceBytes);
  return {stream};
}
void DestroyStream(Stream stream) {
  cudaStreamSynchronize(Of(stream).stream);
  Of(stream).library.Close(FreeDevice);
  cudaStreamDestroy(Of(stream).stream);
  FreeDevice(Of(stream).workspace, kWorkspaceBytes);
  delete &Of(stream);
}
Stream CreateFastStream(int threads) {
  const Stream stream = CreateStream(threads);
  if (threads > 0) {
    Of(stream).library.Open(nullptr, LibraryRoom::kRowsBytes, AllocDevice, FreeDevice);
  }
  return stream;
}
Event CreateEvent() {
  DeviceEvent* event = new DeviceEvent;
  cudaEventCreateWithFlags(&event->event, cudaEventDisableTiming);
  return {event};
}
void DestroyEvent(Event event) {
  cudaEventDestroy(Of(event).event);
  delete &Of(event);
}
template <cudaMemcpyKind kKind>
void CopyBytes(void* to, const void* from, size_t bytes, Stream stream) {
  cudaMemcpyAsync(to, from, bytes, kKind, Of(stream).stream);
}

// Of this thread alone: another one may allocate meanwhile.
bool BeginCapture(Stream stream) {
  if (cudaStreamBeginCapture(Of(stream).stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess) {
    return true;
  }
  cudaGetLastError();
  return false;
}
Graph EndCapture(Stream stream) {
  cudaGraph_t captured = nullptr;
  cudaGraphExec_t graph = nullptr;
  if (cudaStreamEndCapture(Of(stream).stream, &captured) != cudaSuccess ||
      cudaGraphInstantiate(&graph, captured, 0) != cudaSuccess) {
    cudaGetLastError();
    graph = nullptr;
  }
  if (captured != nullptr) cudaGraphDestroy(captured);
  return {graph};
}
cudaGraphExec_t Of(Graph graph) { return static_cast<cudaGraphExec_t>(graph.handle); }

// "NVIDIA H100 80GB HBM3", kept for the table.
const char* DeviceName() {
  static const cudaDeviceProp properties = [] {
    cudaDeviceProp found{};
    cudaGetDeviceProperties(&found, 0);
    return found;
  }();
  return properties.name;
}

Backend MakeTable() {
  Backend b = hardware::KernelTable();
  b.variant = DeviceName();
  b.alloc = AllocDevice;
  b.free = FreeDevice;
  b.create_stream = CreateStream;
  b.destroy_stream = DestroyStream;
  b.use_threads = [](Stream, int) {};
  b.synchronize = [](Stream stream) { cudaStreamSynchronize(Of(stream).stream); };
  b.alloc_host = AllocHost<cudaHostAllocDefault>;
  b.free_host = [](void* data, size_t) { cudaFreeHost(data); };
  b.alloc_mapped = AllocHost<cudaHostAllocMapped>;
  b.free_mapped = b.free_host;
  b.upload = CopyBytes<cudaMemcpyHostToDevice>;
  b.download = CopyBytes<cudaMemcpyDeviceToHost>;
  b.copy = CopyBytes<cudaMemcpyDefault>;
  b.create_event = CreateEvent;
  b.destroy_event = DestroyEvent;
  b.record = [](Event event, Stream stream) {
    cudaEventRecord(Of(event).event, Of(stream).stream);
  };
  b.wait = [](Stream stream, Event event) {
    cudaStreamWaitEvent(Of(stream).stream, Of(event).event, 0);
  };
  b.await = [](Event event) { cudaEventSynchronize(Of(event).event); };
  b.begin_capture = BeginCapture;
  b.end_capture = EndCapture;
  b.launch = [](Graph graph, Stream stream) { cudaGraphLaunch(Of(graph), Of(stream).stream); };
  b.destroy_graph = [](Graph graph) { cudaGraphExecDestroy(Of(graph)); };
  b.failed = [] { return cudaPeekAtLastError() != cudaSuccess; };
  b.memory_info = [](size_t* total, size_t* free) { cudaMemGetInfo(free, total); };
  return b;
}

}  // namespace
}  // namespace cuda

const Backend* Cuda() {
  static const Backend* const table = []() -> const Backend* {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      cudaGetLastError();
      return nullptr;
    }
    static const Backend made = cuda::MakeTable();
    return &made;
  }();
  return table;
}

const Backend* FastCuda() {
  static const Backend* const table = []() -> const Backend* {
    const std::unique_ptr<cuda::CublasLt> library =
        Cuda() == nullptr ? nullptr : cuda::CublasLt::Open(nullptr);
    if (library == nullptr) return Cuda();
    static const std::string name = library->name();
    static Backend made = cuda::MakeTable();
    made.linear = cuda::hardware::RunLibraryLinear;
    made.create_stream = cuda::CreateFastStream;
    made.library = name;
    made.library_bytes = cuda::LibraryRoom::kBytes;
    made.use_library_from = cuda::hardware::UseLibraryFrom;
    return &made;
  }();
  return table;
}

}  // namespace qianyi
