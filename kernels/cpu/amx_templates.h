// A linear layer with integer weights on tiles of 16 rows × 64 bytes, over a set of tile
// operations: the processor's in linear_amx.cc, and in the tests a plain twin of them.
//
//   panels in groups of 16     tokens in chunks
//     slices                   int4 is unpacked, scale included, to int8
//       blocks of 32 tokens    their activations stay in the first cache
//         pairs of panels      4 tiles of sums; then y += float(sum) * scale
#pragma once

#include "kernels/cpu/linear_slice.h"

namespace qianyi::cpu {
namespace {

// Group 16 panels × 8 KiB of weights + y + sums + activations of a partial block.
constexpr int kAmxPanels = 16;
constexpr int kAmxTokens = 512;
constexpr int kTileTokens = 16;
constexpr int64_t kUnpackedBytes = kPanelRows * kSliceCols;
constexpr int64_t kInt8TileBytes = kPanelRows * kTileCols;

struct AmxScratch {
  int8_t weights[kAmxPanels][kUnpackedBytes];
  float y[kAmxPanels][kAmxTokens][kPanelRows];
  int32_t sums[2][2][kTileTokens][kPanelRows];
  int8_t tokens[2][kTileTokens][kSliceCols];
};
static_assert(sizeof(AmxScratch) <= kScratchBytes);

// Up to 16 tokens of a slice, as rows of kSliceCols bytes.
struct TokenTile {
  const int8_t* rows;
  int64_t first;  // token of the chunk
  int64_t count;
};

// A copy, because rows a power of two apart share their places in the first cache, and
// because all 16 rows must be readable; what those after the last hold does not matter.
inline TokenTile CopyTokens(const SliceWork& work, int64_t first, int8_t (*copy)[kSliceCols]) {
  const LinearBlock& block = *work.block;
  const int64_t left = work.tokens - first;
  const int64_t count = left < kTileTokens ? left : kTileTokens;
  const int8_t* rows = block.values + (work.first_token + first) * block.padded_cols + work.begin;
  for (int64_t t = 0; t < count; ++t) {
    __builtin_memcpy(copy[t], rows + t * block.padded_cols, work.tiles * kTileCols);
  }
  return {copy[0], first, count};
}

template <typename V>
void AddTile(const SliceWork& work, const TokenTile& tokens, const int32_t (*sums)[kPanelRows],
             float (*y)[kPanelRows]) {
  const LinearBlock& block = *work.block;
  for (int64_t t = 0; t < tokens.count; ++t) {
    const int64_t token = work.first_token + tokens.first + t;
    const V scale = V::Set(block.scales[token * block.slices + work.index]);
    float* out = y[tokens.first + t];
    const V before = work.index == 0 ? V::Zero() : V::Load(out);
    V::Fma(V::LoadInt32(sums[t]), scale, before).Store(out);
  }
}

// kTokenTiles × kPanels tiles of sums over one slice.
template <typename V, typename Tiles, int kTokenTiles, int kPanels>
void MultiplyTiles(const SliceWork& work, const TokenTile* tokens, const int8_t* const* weights,
                   AmxScratch* scratch, int panel) {
  Tiles::template Zero<0, 0>();
  if constexpr (kPanels == 2) Tiles::template Zero<0, 1>();
  if constexpr (kTokenTiles == 2) Tiles::template Zero<1, 0>();
  if constexpr (kTokenTiles == 2 && kPanels == 2) Tiles::template Zero<1, 1>();
  for (int64_t tile = 0; tile < work.tiles; ++tile) {
    Tiles::template LoadTokens<0>(tokens[0].rows + tile * kTileCols, kSliceCols);
    Tiles::template LoadWeights<0>(weights[0] + tile * kInt8TileBytes);
    Tiles::template Multiply<0, 0>();
    if constexpr (kPanels == 2) {
      Tiles::template LoadWeights<1>(weights[1] + tile * kInt8TileBytes);
      Tiles::template Multiply<0, 1>();
    }
    if constexpr (kTokenTiles == 2) {
      Tiles::template LoadTokens<1>(tokens[1].rows + tile * kTileCols, kSliceCols);
      Tiles::template Multiply<1, 0>();
    }
    if constexpr (kTokenTiles == 2 && kPanels == 2) Tiles::template Multiply<1, 1>();
  }
  Tiles::template Store<0, 0>(scratch->sums[0][0]);
  if constexpr (kPanels == 2) Tiles::template Store<0, 1>(scratch->sums[0][1]);
  if constexpr (kTokenTiles == 2) Tiles::template Store<1, 0>(scratch->sums[1][0]);
  if constexpr (kTokenTiles == 2 && kPanels == 2) {
    Tiles::template Store<1, 1>(scratch->sums[1][1]);
  }
  for (int i = 0; i < kTokenTiles; ++i) {
    for (int j = 0; j < kPanels; ++j) {
      AddTile<V>(work, tokens[i], scratch->sums[i][j], scratch->y[panel + j]);
    }
  }
}

// All panels of the group for one block of up to 32 tokens.
template <typename V, typename Tiles, int kTokenTiles>
void MultiplyTokenBlock(const SliceWork& work, const TokenTile* tokens,
                        const int8_t* const* weights, int panels, AmxScratch* scratch) {
  int p = 0;
  for (; p + 2 <= panels; p += 2) {
    MultiplyTiles<V, Tiles, kTokenTiles, 2>(work, tokens, weights + p, scratch, p);
  }
  if (p < panels) MultiplyTiles<V, Tiles, kTokenTiles, 1>(work, tokens, weights + p, scratch, p);
}

// Unpack(block, panel, begin, tiles, out) writes a slice of an int4 panel as int8 tiles.
template <typename V, typename Tiles, typename Unpack>
void MultiplySlice(const SliceWork& work, int64_t first_panel, int panels, Unpack unpack,
                   AmxScratch* scratch) {
  const LinearBlock& block = *work.block;
  const int8_t* weights[kAmxPanels];
  for (int p = 0; p < panels; ++p) {
    const std::byte* panel = block.panels + (first_panel + p) * block.panel_bytes;
    if (block.dtype == DType::kI4) {
      unpack(block, panel, work.begin, work.tiles, scratch->weights[p]);
      weights[p] = scratch->weights[p];
    } else {
      weights[p] =
          reinterpret_cast<const int8_t*>(panel + block.tile_offset) + work.begin * kPanelRows;
    }
  }
  for (int64_t t = 0; t < work.tokens; t += 2 * kTileTokens) {
    TokenTile tokens[2] = {CopyTokens(work, t, scratch->tokens[0]), {}};
    if (t + kTileTokens < work.tokens) {
      tokens[1] = CopyTokens(work, t + kTileTokens, scratch->tokens[1]);
      Tiles::OperandsAreStored();
      MultiplyTokenBlock<V, Tiles, 2>(work, tokens, weights, panels, scratch);
    } else {
      Tiles::OperandsAreStored();
      MultiplyTokenBlock<V, Tiles, 1>(work, tokens, weights, panels, scratch);
    }
  }
}

template <typename V, typename Tiles, typename Unpack>
void MultiplyWithTiles(const LinearBlock& block, Unpack unpack) {
  AmxScratch* scratch = reinterpret_cast<AmxScratch*>(block.scratch);
  const int64_t panels = (block.rows + kPanelRows - 1) / kPanelRows;
  Tiles::Configure();
  for (int64_t first_panel = 0; first_panel < panels; first_panel += kAmxPanels) {
    const int64_t panels_left = panels - first_panel;
    const int group = panels_left < kAmxPanels ? static_cast<int>(panels_left) : kAmxPanels;
    for (int64_t first = 0; first < block.tokens; first += kAmxTokens) {
      const int64_t left = block.tokens - first;
      const int64_t tokens = left < kAmxTokens ? left : kAmxTokens;
      for (int64_t s = 0; s < block.slices; ++s) {
        const SliceWork work = SliceAt(block, nullptr, s, first, tokens, 0);
        MultiplySlice<V, Tiles>(work, first_panel, group, unpack, scratch);
      }
      for (int p = 0; p < group; ++p) {
        const std::byte* panel = block.panels + (first_panel + p) * block.panel_bytes;
        for (int64_t t = 0; t < tokens; ++t) {
          FinishRow<V, true>(block, reinterpret_cast<const float*>(panel),
                             (first_panel + p) * kPanelRows, first + t, scratch->y[p][t]);
        }
      }
    }
  }
  Tiles::Release();
}

}  // namespace
}  // namespace qianyi::cpu
