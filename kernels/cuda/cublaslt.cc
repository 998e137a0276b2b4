#include "kernels/cuda/cublaslt.h"

#include <dlfcn.h>

#include <algorithm>

namespace qianyi::cuda {
namespace {

using Object = CublasLtFunctions::Object;

constexpr int kFloat = 0, kBFloat16 = 14;  // cudaDataType_t
constexpr int kComputeFloat = 68;          // cublasComputeType_t
constexpr int kTransposed = 1;             // cublasOperation_t
enum OperationAttribute { kTransposeA = 3, kEpilogue = 7, kBiasPointer = 8 };
enum Epilogue { kNoEpilogue = 1, kAddBias = 4 };
enum PreferenceAttribute { kWorkspaceBytes = 1, kAlignmentA = 5 };  // of B, C, D: behind it

// The largest power of two up to 256 that divides an address: algorithms may suppose it.
uint32_t Alignment(const void* data) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(data) | 256;
  return static_cast<uint32_t>(address & (~address + 1));
}

void* OpenLibrary(const char* path) {
  if (path != nullptr) return dlopen(path, RTLD_NOW | RTLD_LOCAL);
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
  }
  return nullptr;
}

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

bool FindAll(void* library, CublasLtFunctions* lt) {
  return Find(library, "cublasLtCreate", &lt->create) &&
         Find(library, "cublasLtDestroy", &lt->destroy) &&
         Find(library, "cublasLtGetVersion", &lt->version) &&
         Find(library, "cublasLtMatmulDescCreate", &lt->create_operation) &&
         Find(library, "cublasLtMatmulDescDestroy", &lt->destroy_operation) &&
         Find(library, "cublasLtMatmulDescSetAttribute", &lt->set_operation) &&
         Find(library, "cublasLtMatrixLayoutCreate", &lt->create_layout) &&
         Find(library, "cublasLtMatrixLayoutDestroy", &lt->destroy_layout) &&
         Find(library, "cublasLtMatmulPreferenceCreate", &lt->create_preference) &&
         Find(library, "cublasLtMatmulPreferenceDestroy", &lt->destroy_preference) &&
         Find(library, "cublasLtMatmulPreferenceSetAttribute", &lt->set_preference) &&
         Find(library, "cublasLtMatmulAlgoGetHeuristic", &lt->heuristic) &&
         Find(library, "cublasLtMatmul", &lt->multiply);
}

// All that a choice depends on.
struct Shape {
  int64_t rows, tokens, cols, residual_stride, out_stride;
  uint32_t bias_alignment, residual_alignment, out_alignment;

  friend bool operator==(const Shape&, const Shape&) = default;

  uint64_t Hash() const {
    uint64_t hash = 0;
    for (const int64_t part :
         {rows, tokens, cols, residual_stride, out_stride, int64_t{bias_alignment},
          int64_t{residual_alignment}, int64_t{out_alignment}}) {
      hash = (hash ^ static_cast<uint64_t>(part)) * 0x9e3779b97f4a7c15u;
      hash ^= hash >> 32;
    }
    return hash;
  }
};

Shape ShapeOf(const LibraryProduct& product) {
  const bool residual = product.residual != nullptr;
  return {.rows = product.rows,
          .tokens = product.tokens,
          .cols = product.cols,
          .residual_stride = residual ? product.residual_stride : 0,
          .out_stride = product.out_stride,
          .bias_alignment = product.bias != nullptr ? Alignment(product.bias) : 0,
          .residual_alignment = residual ? Alignment(product.residual) : 0,
          .out_alignment = Alignment(product.out)};
}

}  // namespace

// The library counts by columns: its A is the weights [cols, rows], taken transposed, its B is x
// [cols, tokens], and its C and D are [rows, tokens].
struct CublasLt::Choice {
  const CublasLtFunctions& lt;
  const Shape shape;
  Object operation = nullptr, a = nullptr, b = nullptr, c = nullptr, d = nullptr;
  CublasLtFunctions::Algorithm algorithm = {};
  bool usable = false;

  Choice(const CublasLtFunctions& functions, const Shape& of) : lt(functions), shape(of) {}
  ~Choice() {
    if (operation != nullptr) lt.destroy_operation(operation);
    for (const Object layout : {a, b, c, d}) {
      if (layout != nullptr) lt.destroy_layout(layout);
    }
  }
  Choice(const Choice&) = delete;
  Choice& operator=(const Choice&) = delete;

  bool Describe(const void* bias) {
    const int transposed = kTransposed;
    const uint32_t epilogue = bias != nullptr ? kAddBias : kNoEpilogue;
    const int64_t c_stride = shape.residual_stride > 0 ? shape.residual_stride : shape.out_stride;
    return lt.create_operation(&operation, kComputeFloat, kFloat) == 0 &&
           lt.set_operation(operation, kTransposeA, &transposed, sizeof(transposed)) == 0 &&
           lt.set_operation(operation, kEpilogue, &epilogue, sizeof(epilogue)) == 0 &&
           SetBias(bias) &&
           lt.create_layout(&a, kBFloat16, shape.cols, shape.rows, shape.cols) == 0 &&
           lt.create_layout(&b, kBFloat16, shape.cols, shape.tokens, shape.cols) == 0 &&
           lt.create_layout(&c, kFloat, shape.rows, shape.tokens, c_stride) == 0 &&
           lt.create_layout(&d, kFloat, shape.rows, shape.tokens, shape.out_stride) == 0;
  }

  // Heuristics look at its alignment too.
  bool SetBias(const void* bias) const {
    return bias == nullptr || lt.set_operation(operation, kBiasPointer, &bias, sizeof(bias)) == 0;
  }

  bool FindAlgorithm(Object handle, size_t workspace_bytes) {
    Object preference = nullptr;
    if (lt.create_preference(&preference) != 0) return false;
    const uint32_t c_alignment =
        shape.residual_alignment > 0 ? shape.residual_alignment : shape.out_alignment;
    const uint32_t alignments[] = {256, 256, c_alignment, shape.out_alignment};
    bool set = lt.set_preference(preference, kWorkspaceBytes, &workspace_bytes,
                                 sizeof(workspace_bytes)) == 0;
    for (int i = 0; i < 4; ++i) {
      set = set && lt.set_preference(preference, kAlignmentA + i, &alignments[i],
                                     sizeof(alignments[i])) == 0;
    }
    CublasLtFunctions::Heuristic found = {};
    int count = 0;
    const bool asked =
        set && lt.heuristic(handle, operation, a, b, c, d, preference, 1, &found, &count) == 0;
    lt.destroy_preference(preference);
    algorithm = found.algorithm;
    return asked && count == 1 && found.state == 0;
  }
};

std::unique_ptr<CublasLt> CublasLt::Open(const char* path) {
  // Never closed: what it registered with the driver lives as long as the process.
  void* const library = OpenLibrary(path);
  CublasLtFunctions lt;
  Object handle = nullptr;
  if (library == nullptr || !FindAll(library, &lt) || lt.create(&handle) != 0) return nullptr;
  return std::unique_ptr<CublasLt>(new CublasLt(lt, handle));
}

CublasLt::CublasLt(const CublasLtFunctions& functions, Object handle)
    : lt_(functions), handle_(handle) {}

CublasLt::~CublasLt() {
  for (std::unique_ptr<Choice>& choice : choices_) choice.reset();
  lt_.destroy(handle_);
}

std::string CublasLt::name() const {
  const size_t version = lt_.version();  // major · 10000 + minor · 100 + patch
  return "cuBLASLt " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) +
         "." + std::to_string(version % 100);
}

const CublasLt::Choice* CublasLt::Choose(const LibraryProduct& product, size_t workspace_bytes) {
  const Shape shape = ShapeOf(product);
  std::unique_ptr<Choice>& choice = choices_[shape.Hash() % kChoices];
  if (choice == nullptr || !(choice->shape == shape)) {
    choice = std::make_unique<Choice>(lt_, shape);
    choice->usable =
        choice->Describe(product.bias) && choice->FindAlgorithm(handle_, workspace_bytes);
  }
  return choice->usable ? choice.get() : nullptr;
}

bool CublasLt::Multiply(const Choice& choice, const LibraryProduct& product, void* workspace,
                        size_t workspace_bytes, void* stream) {
  const float one = 1.0f;
  const float beta = product.residual != nullptr ? product.residual_scale : 0.0f;
  const void* const c = product.residual != nullptr ? product.residual : product.out;
  return choice.SetBias(product.bias) &&
         lt_.multiply(handle_, choice.operation, &one, product.weights, choice.a, product.x,
                      choice.b, &beta, c, choice.c, product.out, choice.d, &choice.algorithm,
                      workspace, workspace_bytes, stream) == 0;
}

}  // namespace qianyi::cuda
