#include <algorithm>

#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {
namespace {

// Query rows are blocked where they share keys: heads of one group, and neighbouring
// tokens that name the same page table. What shares a block changes no result.
struct Shape {
  int64_t group;         // query heads per kv head
  int64_t head_blocks;   // blocks that the heads of one group are cut into
  int64_t block_heads;   // query heads in a block
  int64_t block_tokens;  // most tokens in a block
};

Shape ShapeOf(const Attention& args, int workers) {
  Shape shape;
  shape.group = args.heads / args.layer.kv_heads;
  const int64_t wanted = workers == 1 ? 1 : 2 * workers;
  // With few tokens the heads of a group are spread over more workers.
  const int64_t tasks = args.q.rows * args.layer.kv_heads;
  int64_t blocks = (shape.group + kAttentionRows - 1) / kAttentionRows;
  while (tasks * blocks < wanted && blocks * 4 <= shape.group) blocks *= 2;
  shape.block_heads = (shape.group + blocks - 1) / blocks;
  shape.head_blocks = (shape.group + shape.block_heads - 1) / shape.block_heads;
  shape.block_tokens = std::max<int64_t>(1, kAttentionRows / shape.block_heads);
  return shape;
}

// Tokens [first, last) of one sequence with the query heads [head, head + heads).
void AttendTokens(const Attention& args, int64_t first, int64_t last, int64_t kv_head, int64_t head,
                  int64_t heads, const RowKernels& kernels) {
  const KvLayer& layer = args.layer;
  const int64_t element = static_cast<int64_t>(layer.element_bytes());
  AttentionBlock block;
  block.rows = 0;
  for (int64_t t = first; t < last; ++t) {
    for (int64_t h = head; h < head + heads; ++h) {
      block.q[block.rows] = args.q.f32(t) + h * layer.key_dim;
      block.out[block.rows] = args.out.f32(t) + h * layer.value_dim;
      block.visible[block.rows] = args.visible[t];
      ++block.rows;
    }
  }
  block.page_table = args.pages[first];
  block.key_stride = layer.kv_heads * layer.key_dim * element;
  block.value_stride = layer.kv_heads * layer.value_dim * element;
  block.keys = layer.pages + kv_head * layer.key_dim * element;
  block.values = layer.pages + kPageTokens * block.key_stride + kv_head * layer.value_dim * element;
  block.page_bytes = layer.page_bytes;
  block.half = layer.dtype != DType::kF32;
  block.key_dim = layer.key_dim;
  block.value_dim = layer.value_dim;
  block.scale = args.scale;
  kernels.attention(block);
}

}  // namespace

void RunAttention(const Attention& args, ThreadPool& pool, const RowKernels& kernels) {
  const Shape shape = ShapeOf(args, pool.threads());
  const int64_t kv_heads = args.layer.kv_heads;
  const int64_t token_blocks = (args.q.rows + shape.block_tokens - 1) / shape.block_tokens;
  const int64_t per_token_block = kv_heads * shape.head_blocks;
  pool.Run(token_blocks * per_token_block, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      // Later tokens see more slots: start with the longest tasks.
      const int64_t token_block = token_blocks - 1 - task / per_token_block;
      const int64_t kv_head = task % per_token_block / shape.head_blocks;
      const int64_t head_in_group = task % shape.head_blocks * shape.block_heads;
      const int64_t heads = std::min(shape.block_heads, shape.group - head_in_group);
      int64_t first = token_block * shape.block_tokens;
      const int64_t end_token = std::min(first + shape.block_tokens, args.q.rows);
      while (first < end_token) {
        int64_t last = first + 1;
        while (last < end_token && args.pages[last] == args.pages[first]) ++last;
        AttendTokens(args, first, last, kv_head, kv_head * shape.group + head_in_group, heads,
                     kernels);
        first = last;
      }
    }
  });
}

}  // namespace qianyi::cpu
