#include <algorithm>

#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {
namespace {

// How the rows (tokens × query heads) are cut into blocks. What shares a block shares
// reads of memory; it changes no result.
struct Shape {
  int64_t group;         // query heads per kv head
  int64_t block_tokens;  // most tokens in a block; they name the same page table
  int64_t block_heads;   // query heads of one kv head in a block
  int64_t head_blocks;   // blocks that the heads of one kv head are cut into
  int64_t kv_heads;      // kv heads in a block
  int64_t kv_blocks;
};

int64_t Ceil(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// Neighbouring tokens of one sequence.
int64_t CountRuns(const Attention& args) {
  int64_t runs = 1;
  for (int64_t t = 1; t < args.q.rows; ++t) runs += args.pages[t] != args.pages[t - 1];
  return runs;
}

Shape ShapeOf(const Attention& args, int workers) {
  const int64_t tokens = args.q.rows;
  Shape shape;
  shape.group = args.heads / args.layer.kv_heads;
  shape.block_heads = std::min<int64_t>(shape.group, kAttentionRows);
  shape.kv_heads = 1;
  const int64_t sharing = tokens / CountRuns(args) * shape.group;
  const size_t sums = sizeof(float) * static_cast<size_t>(args.layer.value_dim * kAttentionRows);
  if (sharing < 8 && sums <= kScratchBytes) {
    // Few rows share a key, so reading the cache is the bound: several kv heads at once
    // make long runs of it.
    shape.block_tokens = 1;
    const int64_t fair = Ceil(args.layer.kv_heads * tokens, workers);
    shape.kv_heads = std::min({args.layer.kv_heads, fair, kAttentionRows / shape.group});
  } else {
    // With few tokens the heads of a group are spread over more workers.
    const int64_t tasks = tokens * args.layer.kv_heads;
    while (workers > 1 && tasks * Ceil(shape.group, shape.block_heads) < 2 * workers &&
           shape.block_heads >= 8) {
      shape.block_heads /= 2;
    }
    shape.block_tokens = kAttentionRows / shape.block_heads;
  }
  shape.head_blocks = Ceil(shape.group, shape.block_heads);
  shape.kv_blocks = Ceil(args.layer.kv_heads, shape.kv_heads);
  return shape;
}

// Tokens [first, last) of one sequence, kv heads [kv_head, kv_head + kv_heads), and of each
// the query heads [head, head + heads).
struct Range {
  int64_t first, last, kv_head, kv_heads, head, heads;
};

void AttendRange(const Attention& args, const Shape& shape, const Range& range, float* scratch,
                 const RowKernels& kernels) {
  const KvLayer& layer = args.layer;
  const int64_t element = static_cast<int64_t>(layer.element_bytes());
  AttentionBlock block;
  block.rows = 0;
  for (int64_t k = range.kv_head; k < range.kv_head + range.kv_heads; ++k) {
    for (int64_t t = range.first; t < range.last; ++t) {
      for (int64_t i = range.head; i < range.head + range.heads; ++i) {
        const int64_t h = k * shape.group + i;
        block.q[block.rows] = args.q.f32(t) + h * layer.key_dim;
        block.out[block.rows] = args.out.f32(t) + h * layer.value_dim;
        block.visible[block.rows] = args.visible[t];
        ++block.rows;
      }
    }
  }
  block.kv_heads = static_cast<int>(range.kv_heads);
  block.page_table = args.pages[range.first];
  block.key_stride = layer.key_cols() * element;
  block.value_stride = layer.value_cols() * element;
  block.keys = layer.pages + range.kv_head * layer.key_dim * element;
  block.values =
      layer.pages + kPageTokens * block.key_stride + range.kv_head * layer.value_dim * element;
  if (layer.values_in_keys) {
    block.value_stride = block.key_stride;
    block.values = block.keys;
  }
  block.page_bytes = layer.page_bytes;
  block.dtype = layer.dtype;
  block.element_bytes = element;
  block.key_scales = block.value_scales = nullptr;
  if (layer.dtype == DType::kI8) {
    block.key_scales = layer.key_scales() + range.kv_head;
    block.value_scales = layer.value_scales() + range.kv_head;
  }
  block.scale_stride = layer.kv_heads;
  block.key_dim = layer.key_dim;
  block.value_dim = layer.value_dim;
  block.scale = args.scale;
  block.scratch = scratch;
  kernels.attention(block);
}

}  // namespace

void RunAttention(const Attention& args, ThreadPool& pool, const RowKernels& kernels) {
  if (args.q.rows == 0) return;
  const Shape shape = ShapeOf(args, pool.threads());
  const int64_t token_blocks = Ceil(args.q.rows, shape.block_tokens);
  const int64_t per_token_block = shape.kv_blocks * shape.head_blocks;
  pool.Run(token_blocks * per_token_block, 1, [&](int64_t begin, int64_t end, int worker) {
    float* scratch = reinterpret_cast<float*>(pool.scratch(worker));
    for (int64_t task = begin; task < end; ++task) {
      // Later tokens see more slots: start with the longest tasks.
      const int64_t token_block = token_blocks - 1 - task / per_token_block;
      const int64_t heads_block = task % per_token_block;
      Range range;
      range.kv_head = heads_block / shape.head_blocks * shape.kv_heads;
      range.kv_heads = std::min(shape.kv_heads, args.layer.kv_heads - range.kv_head);
      range.head = heads_block % shape.head_blocks * shape.block_heads;
      range.heads = std::min(shape.block_heads, shape.group - range.head);
      range.first = token_block * shape.block_tokens;
      const int64_t last = std::min(range.first + shape.block_tokens, args.q.rows);
      for (; range.first < last; range.first = range.last) {
        range.last = range.first + 1;
        while (range.last < last && args.pages[range.last] == args.pages[range.first]) {
          ++range.last;
        }
        AttendRange(args, shape, range, scratch, kernels);
      }
    }
  });
}

}  // namespace qianyi::cpu
