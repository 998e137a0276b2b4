// Products by NVIDIA's cuBLASLt, which is looked for at run time: no header and no library of it is
// needed to build, and a machine without it loses nothing but speed. Values of its constants:
// cuBLAS Library User's Guide, "cuBLASLt Datatypes Reference"; the same in its versions 12 and 13.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace qianyi::cuda {

// out[t, r] = residual_scale · residual[t, r] + Σ_k x[t, k] w[r, k] + bias[r], in the device's
// memory.
struct LibraryProduct {
  int64_t rows = 0, tokens = 0;
  int64_t cols = 0;                 // a multiple of 64, without gaps between rows
  const void* weights = nullptr;    // bf16 [rows, cols], 256-byte aligned, as x
  const void* x = nullptr;          // bf16 [tokens, cols]
  const float* bias = nullptr;      // [rows], or null
  const float* residual = nullptr;  // or null; may be `out`
  int64_t residual_stride = 0;      // elements
  float residual_scale = 1.0f;
  float* out = nullptr;
  int64_t out_stride = 0;
};

// What cuBLASLt is asked by. `state` of Heuristic: 0 where `algorithm` can be used.
struct CublasLtFunctions {
  struct Algorithm {
    uint64_t data[8];
  };
  struct Heuristic {
    Algorithm algorithm;
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
  };
  using Object = void*;  // a handle, a description, a layout, a preference
  int (*create)(Object*);
  int (*destroy)(Object);
  size_t (*version)();
  int (*create_operation)(Object*, int compute_type, int scale_type);
  int (*destroy_operation)(Object);
  int (*set_operation)(Object, int attribute, const void*, size_t bytes);
  int (*create_layout)(Object*, int type, uint64_t rows, uint64_t cols, int64_t stride);
  int (*destroy_layout)(Object);
  int (*create_preference)(Object*);
  int (*destroy_preference)(Object);
  int (*set_preference)(Object, int attribute, const void*, size_t bytes);
  int (*heuristic)(Object handle, Object operation, Object a, Object b, Object c, Object d,
                   Object preference, int wanted, Heuristic*, int* found);
  int (*multiply)(Object handle, Object operation, const void* alpha, const void* a, Object,
                  const void* b, Object, const void* beta, const void* c, Object, void* d, Object,
                  const Algorithm*, void* workspace, size_t workspace_bytes, void* stream);
};

// Of one stream, and of one thread at a time.
class CublasLt {
 public:
  // The library at `path`, or where that is null the system's; null where there is none, or none
  // that works here. To be called when the device has been used.
  static std::unique_ptr<CublasLt> Open(const char* path);
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // "cuBLASLt 13.1.0".
  std::string name() const;

  // How a product of such a shape is made; null where the library cannot. What is found is kept, so
  // that a shape that comes again costs no allocation; good until the next call.
  struct Choice;
  const Choice* Choose(const LibraryProduct& product, size_t workspace_bytes);
  // Enqueues it on a cudaStream_t; false, and then nothing was enqueued, where the library fails.
  bool Multiply(const Choice& choice, const LibraryProduct& product, void* workspace,
                size_t workspace_bytes, void* stream);

 private:
  CublasLt(const CublasLtFunctions& functions, CublasLtFunctions::Object handle);

  static constexpr int kChoices = 256;
  const CublasLtFunctions lt_;
  const CublasLtFunctions::Object handle_;
  std::array<std::unique_ptr<Choice>, kChoices> choices_;  // by the hash of the shape
};

}  // namespace qianyi::cuda
