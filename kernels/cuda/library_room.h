// What a stream needs for products by cuBLASLt: the library, and rows of bf16 for it.
#pragma once

#include <memory>

#include "kernels/cuda/cublaslt.h"

namespace qianyi::cuda {

struct LibraryRoom {
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what it wants on sm_90
  static constexpr size_t kRowsBytes = size_t{64} << 20;
  // On the device, with about what the library's own code takes there.
  static constexpr size_t kBytes = kWorkspaceBytes + 2 * kRowsBytes + (size_t{128} << 20);

  std::unique_ptr<CublasLt> library;  // null: the stream does without
  size_t rows_bytes = 0;              // of weights, and of x
  void* weights = nullptr;
  void* x = nullptr;
  void* workspace = nullptr;

  bool ready() const { return library != nullptr; }
  bool CanMultiply(const LibraryProduct& product) const {
    return library->Choose(product, kWorkspaceBytes) != nullptr;
  }
  bool Multiply(const LibraryProduct& product, void* work, void* stream) const {
    const CublasLt::Choice* const choice = library->Choose(product, kWorkspaceBytes);
    return choice != nullptr && library->Multiply(*choice, product, work, kWorkspaceBytes, stream);
  }

  // With memory of the device; without room for all of it, or without a library at `path` (null:
  // the system's), the stream does without.
  template <typename Alloc, typename Free>
  void Open(const char* path, size_t bytes_of_rows, Alloc alloc, Free free) {
    std::unique_ptr<CublasLt> opened = CublasLt::Open(path);
    if (opened == nullptr) return;
    rows_bytes = bytes_of_rows;
    weights = alloc(rows_bytes);
    x = alloc(rows_bytes);
    workspace = alloc(kWorkspaceBytes);
    if (weights != nullptr && x != nullptr && workspace != nullptr) {
      library = std::move(opened);
    } else {
      Close(free);
    }
  }
  template <typename Free>
  void Close(Free free) {
    library.reset();
    if (weights != nullptr) free(weights, rows_bytes);
    if (x != nullptr) free(x, rows_bytes);
    if (workspace != nullptr) free(workspace, kWorkspaceBytes);
    weights = x = workspace = nullptr;
  }
};

}  // namespace qianyi::cuda
