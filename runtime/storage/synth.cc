#include "runtime/storage/synth.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>
#include <vector>

#include "runtime/storage/synth_router.h"
#include "xxhash.h"

namespace qianyi {
namespace {

// A panel is worked through in chunks of 64 bytes: in every format 32-bit lane i of a chunk
// belongs to row i of the panel, and the bits of a lane are one to eight columns.
constexpr int kChunkBytes = 64;
constexpr int kChunkWords = kChunkBytes / 8;

// The finalizer of splitmix64 (Steele, Lea & Flood 2014, doi:10.1145/2714064.2660195).
inline uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

struct Chunk {
  uint64_t words[kChunkWords];
};

inline Chunk Random(uint64_t key, uint64_t counter) {
  Chunk chunk;
  for (int i = 0; i < kChunkWords; ++i) {
    chunk.words[i] = Mix(key + (counter * kChunkWords + i) * 0x9e3779b97f4a7c15u);
  }
  return chunk;
}

// -128 becomes 0: the others are symmetric around it, and the format has no -128.
inline uint64_t Int8Weights(uint64_t word) {
  constexpr uint64_t kLow = 0x7f7f7f7f7f7f7f7fu;
  const uint64_t difference = word ^ ~kLow;
  return word ^ ~(((difference & kLow) + kLow) | difference | kLow);
}
constexpr float kInt8Deviation = 73.47f;  // of -127..127, and 0 twice as often

// Nibble 0 (-8) becomes 8 (0), for the same reason.
inline uint64_t Int4Weights(uint64_t word) {
  const uint64_t set = word | (word >> 1) | (word >> 2) | (word >> 3);
  return word | ((~set & 0x1111111111111111u) << 3);
}
constexpr float kInt4Deviation = 4.183f;        // of -7..7, and 0 twice as often
constexpr float kGroupScaleDeviation = 11.73f;  // root mean square of 8..15
constexpr uint64_t kInt4Zeros = 0x8888888888888888u;

// A uniform number of the deviation asked for, from 16 random bits.
inline float Uniform(uint16_t bits, float deviation) {
  constexpr float kSqrt3 = 1.7320508f;
  return (static_cast<int16_t>(bits) + 0.5f) * (deviation * kSqrt3 / 32768.0f);
}

// Towards zero, which keeps the mean; numbers below the smallest normal half become zero.
inline uint16_t TruncatedHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t half = magnitude < 0x38800000u ? 0 : (magnitude >> 13) - (112u << 10);
  return static_cast<uint16_t>((bits >> 16 & 0x8000u) | half);
}

// The matrix that gives a token's scores of experts.
bool IsRouter(std::string_view name) { return name.ends_with(".gate.weight"); }

bool IsNormWeight(std::string_view name) {
  return name.ends_with("layernorm.weight") || name.ends_with("norm.weight");
}

class Maker {
 public:
  Maker(const TensorSpec& tensor, PackedFormat format, uint64_t seed)
      : format_(format),
        rows_(tensor.rows()),
        cols_(tensor.cols()),
        key_(XXH3_64bits_withSeed(tensor.name.data(), tensor.name.size(), seed)),
        constant_(tensor.use == TensorUse::kConstant) {
    if (constant_) {
      ones_ = IsNormWeight(tensor.name);
      deviation_ = IsRouter(tensor.name) ? 1.0f / std::sqrt(static_cast<float>(cols_)) : 0.02f;
      if (tensor.routed > 0 && tensor.router_skew > 0) {
        corrections_ = RouterCorrections(rows_, tensor.routed, tensor.router_skew, key_);
      }
      return;
    }
    const bool table = tensor.use == TensorUse::kEmbedding && !tensor.tied;
    deviation_ = table ? 1.0f : 1.0f / std::sqrt(static_cast<float>(cols_));
    panel_chunks_ = static_cast<int64_t>(PanelBytes(format, cols_)) / kChunkBytes;
    tile_chunk_ = static_cast<int64_t>(TileOffset(format, cols_)) / kChunkBytes;
    // Columns of a chunk, and where the last tile with padded columns begins.
    tail_chunk_ = format.integer() ? panel_chunks_ - TileChunks() : panel_chunks_ - 1;
    padded_cols_ = format.dtype == DType::kF32 ? 0
                   : format.integer()          ? cols_ % kTileCols
                                               : cols_ % 2;
  }

  // Chunk `index` of the tensor, counted from its first panel.
  Chunk Make(int64_t index) const {
    if (constant_) return Constant(index);
    const int64_t panel = index / panel_chunks_;
    const int64_t chunk = index % panel_chunks_;
    Chunk result = chunk < tile_chunk_ ? Scales(chunk, index) : Weights(index);
    if (padded_cols_ != 0 && chunk >= tail_chunk_) ClearColumns(chunk - tail_chunk_, &result);
    const int64_t panel_rows = rows_ - panel * kPanelRows;
    if (panel_rows < kPanelRows) ClearRows(chunk, static_cast<int>(panel_rows), &result);
    return result;
  }

  // Many chunks; the common case has a loop of its own, which is what makes it fast.
  void Fill(int64_t index, int64_t count, std::byte* out) const {
    while (count > 0) {
      const int64_t plain = std::min(count, PlainChunks(index));
      for (int64_t i = 0; i < plain; ++i) Store(Weights(index + i), out + i * kChunkBytes);
      index += plain;
      count -= plain;
      out += plain * kChunkBytes;
      if (count == 0) return;
      Store(Make(index), out);
      ++index;
      --count;
      out += kChunkBytes;
    }
  }

 private:
  static void Store(const Chunk& chunk, std::byte* out) {
    std::memcpy(out, chunk.words, kChunkBytes);
  }

  int64_t TileChunks() const { return format_.dtype == DType::kI8 ? 16 : 8; }

  // How many chunks from `index` on are weights without padding.
  int64_t PlainChunks(int64_t index) const {
    if (constant_) return 0;
    const int64_t panel = index / panel_chunks_;
    const int64_t chunk = index % panel_chunks_;
    const int64_t end = padded_cols_ != 0 ? tail_chunk_ : panel_chunks_;
    if ((panel + 1) * kPanelRows > rows_ || chunk < tile_chunk_) return 0;
    return std::max<int64_t>(0, end - chunk);
  }

  Chunk Constant(int64_t index) const {
    const Chunk random = Random(key_, static_cast<uint64_t>(index));
    float values[16];
    for (int i = 0; i < 16; ++i) {
      const uint64_t lane = random.words[i / 2] >> (32 * (i % 2));
      const size_t at = index * 16 + i;
      if (at < corrections_.size()) {
        values[i] = corrections_[at];
        continue;
      }
      values[i] = ones_ ? 1.0f : Uniform(static_cast<uint16_t>(lane), deviation_);
    }
    return std::bit_cast<Chunk>(values);
  }

  // Row scales, the same for all rows, or group scales of four groups.
  Chunk Scales(int64_t chunk, int64_t index) const {
    const bool int8 = format_.dtype == DType::kI8;
    if (chunk == 0) {
      const float group = format_.group > 0 ? kGroupScaleDeviation : 1.0f;
      const float unit = int8 ? kInt8Deviation : kInt4Deviation * group;
      float scales[16];
      std::fill_n(scales, 16, deviation_ / unit);
      return std::bit_cast<Chunk>(scales);
    }
    Chunk result = Random(key_, static_cast<uint64_t>(index));
    for (uint64_t& word : result.words) {
      word = (word & 0x0707070707070707u) | 0x0808080808080808u;
    }
    const int64_t groups = (cols_ + format_.group - 1) / format_.group - (chunk - 1) * 4;
    for (int64_t group = groups; group < 4; ++group) {
      result.words[group * 2] = result.words[group * 2 + 1] = 0;
    }
    return result;
  }

  Chunk Weights(int64_t index) const {
    Chunk result = Random(key_, static_cast<uint64_t>(index));
    switch (format_.dtype) {
      case DType::kI8:
        for (uint64_t& word : result.words) word = Int8Weights(word);
        return result;
      case DType::kI4:
        for (uint64_t& word : result.words) word = Int4Weights(word);
        return result;
      case DType::kF32:
        return Floats(result);
      default:
        return Halves(result);
    }
  }

  Chunk Floats(const Chunk& random) const {
    const auto lanes = std::bit_cast<std::array<uint32_t, 16>>(random);
    std::array<float, 16> values;
    for (int i = 0; i < 16; ++i) values[i] = Uniform(static_cast<uint16_t>(lanes[i]), deviation_);
    return std::bit_cast<Chunk>(values);
  }

  Chunk Halves(const Chunk& random) const {
    const auto lanes = std::bit_cast<std::array<uint16_t, 32>>(random);
    std::array<uint16_t, 32> values;
    for (int i = 0; i < 32; ++i) {
      const float value = Uniform(lanes[i], deviation_);
      values[i] = format_.dtype == DType::kF16
                      ? TruncatedHalf(value)
                      : static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
    }
    return std::bit_cast<Chunk>(values);
  }

  // Columns past the last, in the tile (or pair) that holds it.
  void ClearColumns(int64_t quad, Chunk* chunk) const {
    auto bytes = std::bit_cast<std::array<uint8_t, kChunkBytes>>(*chunk);
    for (int i = 0; i < kChunkBytes; ++i) {
      if (format_.dtype == DType::kI8) {
        if (quad * 4 + i % 4 >= padded_cols_) bytes[i] = 0;
      } else if (format_.dtype == DType::kI4) {
        const int64_t low = quad * 4 + i % 4;
        if (low >= padded_cols_) bytes[i] = (bytes[i] & 0xf0) | 0x08;
        if (low + 32 >= padded_cols_) bytes[i] = (bytes[i] & 0x0f) | 0x80;
      } else if (i % 4 >= 2) {
        bytes[i] = 0;
      }
    }
    *chunk = std::bit_cast<Chunk>(bytes);
  }

  // Rows past the last have scale 0 and weight 0.
  void ClearRows(int64_t chunk, int rows, Chunk* result) const {
    auto bytes = std::bit_cast<std::array<uint8_t, kChunkBytes>>(*result);
    const bool group_scales = chunk > 0 && chunk < tile_chunk_;
    const bool nibbles = format_.dtype == DType::kI4 && chunk >= tile_chunk_;
    for (int i = 0; i < kChunkBytes; ++i) {
      const int row = group_scales ? i % kPanelRows : i / 4;
      if (row >= rows) bytes[i] = nibbles ? static_cast<uint8_t>(kInt4Zeros) : 0;
    }
    *result = std::bit_cast<Chunk>(bytes);
  }

  const PackedFormat format_;
  const int64_t rows_;
  const int64_t cols_;
  const uint64_t key_;
  const bool constant_;
  bool ones_ = false;
  std::vector<float> corrections_;  // of a router, when they are to be skewed
  float deviation_ = 0;
  int64_t panel_chunks_ = 1;
  int64_t tile_chunk_ = 0;   // first chunk of weights in a panel
  int64_t tail_chunk_ = 0;   // first chunk of the tile (or pair) that holds the last column
  int64_t padded_cols_ = 0;  // columns in use there, 0 when there is no padding
};

}  // namespace

void SynthBytes(const TensorSpec& tensor, PackedFormat format, uint64_t seed, const Block& block,
                uint64_t begin, uint64_t bytes, std::byte* out) {
  const Maker maker(tensor, format, seed);
  const uint64_t block_begin =
      tensor.use == TensorUse::kConstant
          ? 0
          : block.row_begin / kPanelRows * PanelBytes(format, tensor.cols());
  const int64_t chunk = static_cast<int64_t>((block_begin + begin) / kChunkBytes);
  const int64_t count = static_cast<int64_t>(bytes / kChunkBytes);
  maker.Fill(chunk, count, out);
  const uint64_t rest = bytes % kChunkBytes;  // a constant's end
  if (rest == 0) return;
  const Chunk last = maker.Make(chunk + count);
  std::memcpy(out + count * kChunkBytes, last.words, rest);
}

void SynthBlock(const TensorSpec& tensor, PackedFormat format, uint64_t seed, const Block& block,
                std::byte* out) {
  SynthBytes(tensor, format, seed, block, 0, block.bytes, out);
}

}  // namespace qianyi
