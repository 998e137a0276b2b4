// A library with the part of cuBLASLt's interface that kernels/cuda/cublaslt.cc uses, for tests
// without a device: it multiplies on the processor what the real one would on the stream, and
// refuses what the real one's documentation forbids. Pointers are the host's.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cuda/cublaslt.h"
#include "tests/support/fake_cublaslt/control.h"

namespace {

using Algorithm = qianyi::cuda::CublasLtFunctions::Algorithm;
using Heuristic = qianyi::cuda::CublasLtFunctions::Heuristic;

FakeCublasLt state;

struct Operation {
  int compute_type, scale_type;
  int transpose_a = 0;
  uint32_t epilogue = 1;
  const float* bias = nullptr;
};
struct Layout {
  int type;
  uint64_t rows, cols;
  int64_t stride;
};
struct Preference {
  size_t workspace_bytes = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};
};

constexpr int kSuccess = 0, kInvalidValue = 7, kExecutionFailed = 13, kNotSupported = 15;
constexpr int kFloat = 0, kBFloat16 = 14, kComputeFloat = 68;
constexpr uint32_t kNoEpilogue = 1, kAddBias = 4;

template <typename T>
int Make(void** out, T object) {
  *out = new T(object);
  ++state.objects;
  return kSuccess;
}
template <typename T>
int Destroy(void* object) {
  delete static_cast<T*>(object);
  --state.objects;
  return kSuccess;
}
template <typename T>
int Set(T* field, const void* value, size_t bytes) {
  if (bytes != sizeof(T)) return kInvalidValue;
  std::memcpy(field, value, bytes);
  return kSuccess;
}

float Widen(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

bool IsLayout(const Layout& layout, int type, uint64_t rows, uint64_t cols) {
  return layout.type == type && layout.rows == rows && layout.cols == cols &&
         layout.stride >= static_cast<int64_t>(rows);
}

// op(A) [m, k] is A [k, m] transposed.
bool Fits(const Operation& operation, const Layout& a, const Layout& b, const Layout& c,
          const Layout& d) {
  return operation.compute_type == kComputeFloat && operation.scale_type == kFloat &&
         operation.transpose_a == 1 &&
         (operation.epilogue == kNoEpilogue ||
          (operation.epilogue == kAddBias && operation.bias != nullptr)) &&
         IsLayout(a, kBFloat16, a.rows, a.cols) && IsLayout(b, kBFloat16, a.rows, b.cols) &&
         IsLayout(c, kFloat, a.cols, b.cols) && IsLayout(d, kFloat, a.cols, b.cols);
}

bool IsAligned(const void* data, uint64_t alignment) {
  return reinterpret_cast<uintptr_t>(data) % alignment == 0;
}

// What an algorithm was found for: it is good for nothing else.
Algorithm AlgorithmOf(const Layout& a, const Layout& b, const Layout& c, const Layout& d,
                      const Preference& preference, uint32_t bias_alignment) {
  const uint32_t* align = preference.alignment;
  return {{a.rows, a.cols, b.cols, static_cast<uint64_t>(c.stride), static_cast<uint64_t>(d.stride),
           align[0] | uint64_t{align[1]} << 32, align[2] | uint64_t{align[3]} << 32,
           preference.workspace_bytes << 16 | bias_alignment}};
}

}  // namespace

extern "C" {

FakeCublasLt* fake_cublaslt() { return &state; }

int cublasLtCreate(void** handle) { return Make(handle, 0); }
int cublasLtDestroy(void* handle) { return Destroy<int>(handle); }
size_t cublasLtGetVersion() { return 130102; }

int cublasLtMatmulDescCreate(void** operation, int compute_type, int scale_type) {
  return Make(operation, Operation{.compute_type = compute_type, .scale_type = scale_type});
}
int cublasLtMatmulDescDestroy(void* operation) { return Destroy<Operation>(operation); }
int cublasLtMatmulDescSetAttribute(void* object, int attribute, const void* value, size_t bytes) {
  Operation& operation = *static_cast<Operation*>(object);
  switch (attribute) {
    case 3:
      return Set(&operation.transpose_a, value, bytes);
    case 7:
      return Set(&operation.epilogue, value, bytes);
    case 8:
      return Set(&operation.bias, value, bytes);
    default:
      return kInvalidValue;
  }
}

int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t cols,
                               int64_t stride) {
  return Make(layout, Layout{type, rows, cols, stride});
}
int cublasLtMatrixLayoutDestroy(void* layout) { return Destroy<Layout>(layout); }

int cublasLtMatmulPreferenceCreate(void** preference) { return Make(preference, Preference{}); }
int cublasLtMatmulPreferenceDestroy(void* preference) { return Destroy<Preference>(preference); }
int cublasLtMatmulPreferenceSetAttribute(void* object, int attribute, const void* value,
                                         size_t bytes) {
  Preference& preference = *static_cast<Preference*>(object);
  if (attribute == 1) return Set(&preference.workspace_bytes, value, bytes);
  if (attribute < 5 || attribute > 8) return kInvalidValue;
  return Set(&preference.alignment[attribute - 5], value, bytes);
}

int cublasLtMatmulAlgoGetHeuristic(void*, void* operation_object, void* a, void* b, void* c,
                                   void* d, void* preference_object, int wanted, Heuristic* results,
                                   int* found) {
  ++state.searches;
  *found = 0;
  const Operation& operation = *static_cast<Operation*>(operation_object);
  const Preference& preference = *static_cast<Preference*>(preference_object);
  if (wanted < 1 || !Fits(operation, *static_cast<Layout*>(a), *static_cast<Layout*>(b),
                          *static_cast<Layout*>(c), *static_cast<Layout*>(d))) {
    return kInvalidValue;
  }
  if (state.refuses) return kNotSupported;
  uint32_t bias_alignment = 4;
  while (bias_alignment < 256 && IsAligned(operation.bias, bias_alignment * 2)) bias_alignment *= 2;
  results[0] = {};
  results[0].algorithm =
      AlgorithmOf(*static_cast<Layout*>(a), *static_cast<Layout*>(b), *static_cast<Layout*>(c),
                  *static_cast<Layout*>(d), preference, bias_alignment);
  results[0].workspace_bytes = preference.workspace_bytes;
  *found = 1;
  return kSuccess;
}

int cublasLtMatmul(void*, void* operation_object, const void* alpha, const void* a_data,
                   void* a_layout, const void* b_data, void* b_layout, const void* beta,
                   const void* c_data, void* c_layout, void* d_data, void* d_layout,
                   const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void*) {
  const Operation& operation = *static_cast<Operation*>(operation_object);
  const Layout &a = *static_cast<Layout*>(a_layout), &b = *static_cast<Layout*>(b_layout);
  const Layout &c = *static_cast<Layout*>(c_layout), &d = *static_cast<Layout*>(d_layout);
  const uint64_t* asked = algorithm->data;
  const uint64_t wanted_bytes = asked[7] >> 16;
  if (!Fits(operation, a, b, c, d) || asked[0] != a.rows || asked[1] != a.cols ||
      asked[2] != b.cols || asked[3] != static_cast<uint64_t>(c.stride) ||
      asked[4] != static_cast<uint64_t>(d.stride) || !IsAligned(a_data, asked[5] & 0xffffffff) ||
      !IsAligned(b_data, asked[5] >> 32) || !IsAligned(c_data, asked[6] & 0xffffffff) ||
      !IsAligned(d_data, asked[6] >> 32) || !IsAligned(operation.bias, asked[7] & 0xffff) ||
      workspace_bytes < wanted_bytes) {
    return kInvalidValue;
  }
  if (state.fails) return kExecutionFailed;
  std::memset(workspace, 0x5a, wanted_bytes);
  ++state.products;
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  for (uint64_t j = 0; j < d.cols; ++j) {
    const uint16_t* x = static_cast<const uint16_t*>(b_data) + j * b.stride;
    for (uint64_t i = 0; i < d.rows; ++i) {
      const uint16_t* w = static_cast<const uint16_t*>(a_data) + i * a.stride;
      float sum = 0;
      for (uint64_t k = 0; k < a.rows; ++k) sum += Widen(w[k]) * Widen(x[k]);
      float y = scale * sum;
      if (keep != 0) y += keep * static_cast<const float*>(c_data)[j * c.stride + i];
      if (operation.epilogue == kAddBias) y += operation.bias[i];
      static_cast<float*>(d_data)[j * d.stride + i] = y;
    }
  }
  return kSuccess;
}

}  // extern "C"
