// Linear layers with AMX: signed bytes times signed bytes, 16 tokens × 16 rows at a time.
#include "kernels/cpu/amx_templates.h"
#include "kernels/cpu/vec_avx512.h"

namespace qianyi::cpu {
namespace {

// Below this many tokens reading the weights is the bound, and VNNI needs no unpacking.
constexpr int64_t kFewestTokens = 8;

// Tiles 0..3 hold sums, 4 and 5 activations, 6 and 7 weights. The intrinsics want
// literal tile numbers.
struct HardwareTiles {
  // The compiler does not know that the tile instructions read memory: whatever was
  // stored must be stored before them.
  static void OperandsAreStored() { asm volatile("" ::: "memory"); }

  static void Configure() {
    struct alignas(64) {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    // Without this the stores to the configuration are dropped as dead.
    asm volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }
  static void Release() { _tile_release(); }

  template <int kTokenTile, int kPanel>
  static void Zero() {
    if constexpr (kTokenTile == 0 && kPanel == 0) _tile_zero(0);
    if constexpr (kTokenTile == 0 && kPanel == 1) _tile_zero(1);
    if constexpr (kTokenTile == 1 && kPanel == 0) _tile_zero(2);
    if constexpr (kTokenTile == 1 && kPanel == 1) _tile_zero(3);
  }
  template <int kTokenTile>
  static void LoadTokens(const int8_t* rows, int64_t stride) {
    if constexpr (kTokenTile == 0) _tile_loadd(4, rows, stride);
    if constexpr (kTokenTile == 1) _tile_loadd(5, rows, stride);
  }
  template <int kPanel>
  static void LoadWeights(const int8_t* tile) {
    if constexpr (kPanel == 0) _tile_loadd(6, tile, 64);
    if constexpr (kPanel == 1) _tile_loadd(7, tile, 64);
  }
  template <int kTokenTile, int kPanel>
  static void Multiply() {
    if constexpr (kTokenTile == 0 && kPanel == 0) _tile_dpbssd(0, 4, 6);
    if constexpr (kTokenTile == 0 && kPanel == 1) _tile_dpbssd(1, 4, 7);
    if constexpr (kTokenTile == 1 && kPanel == 0) _tile_dpbssd(2, 5, 6);
    if constexpr (kTokenTile == 1 && kPanel == 1) _tile_dpbssd(3, 5, 7);
  }
  template <int kTokenTile, int kPanel>
  static void Store(int32_t (*sums)[kPanelRows]) {
    if constexpr (kTokenTile == 0 && kPanel == 0) _tile_stored(0, sums, 64);
    if constexpr (kTokenTile == 0 && kPanel == 1) _tile_stored(1, sums, 64);
    if constexpr (kTokenTile == 1 && kPanel == 0) _tile_stored(2, sums, 64);
    if constexpr (kTokenTile == 1 && kPanel == 1) _tile_stored(3, sums, 64);
    asm volatile("" ::: "memory");
  }
};

}  // namespace

void LinearAmx(const LinearBlock& block) {
  const bool integer = block.dtype == DType::kI8 || block.dtype == DType::kI4;
  if (!integer || block.tokens < kFewestTokens) return LinearAvx512(block);
  MultiplyWithTiles<Vec, HardwareTiles>(block, UnpackInt4Avx512);
}

}  // namespace qianyi::cpu
