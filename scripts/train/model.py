"""GLM with blank infilling, as runtime/models/glm_blocklm.cc runs it."""

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F

from precision import HAS_BFLOAT16


@dataclass
class Shape:
    """The sizes of a model; `asdict(shape)` is what a checkpoint keeps of it."""

    vocab: int
    hidden: int = 320
    layers: int = 6
    heads: int = 5
    positions: int = 511

    def as_dict(self):
        return asdict(self)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Cross entropy of `x @ table.T`, a few rows at a time so that logits stay in the cache.

    Its gradient supposes that every row's loss has the same weight, as in a sum or a mean.
    """

    ROWS = 128

    @staticmethod
    def forward(ctx, x, table, targets):
        kind = torch.bfloat16 if HAS_BFLOAT16 else torch.float32
        x, table = x.to(kind), table.to(kind)
        slopes = torch.empty(len(targets), len(table), dtype=kind)
        losses = torch.empty(len(targets))
        for begin in range(0, len(targets), ChunkedCrossEntropy.ROWS):
            part = slice(begin, begin + ChunkedCrossEntropy.ROWS)
            wanted = targets[part, None]
            logs = torch.log_softmax((x[part] @ table.T).float(), -1)
            losses[part] = -logs.gather(1, wanted)[:, 0]
            chances = logs.exp_()
            chances.scatter_add_(1, wanted, torch.full(wanted.shape, -1.0))
            slopes[part] = chances
        ctx.save_for_backward(slopes, x, table)
        return losses

    @staticmethod
    def backward(ctx, weight):
        slopes, x, table = ctx.saved_tensors
        return (slopes @ table).float() * weight[0], (slopes.T @ x).float() * weight[0], None


def attend(q, k, v, mask):
    """Attention; on a CPU by plain products, which for short rows are the faster way."""
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    scores = scores.float().masked_fill(~mask, -1e9)
    return torch.softmax(scores, -1).to(v.dtype) @ v


class Block(nn.Module):
    """Pre-norm attention and MLP; names follow the checkpoints of GLM."""

    def __init__(self, shape, dropout):
        super().__init__()
        d = shape.hidden
        self.heads = shape.heads
        self.drop = nn.Dropout(dropout)
        self.input_layernorm = nn.LayerNorm(d)
        self.attention = nn.ModuleDict({"query_key_value": nn.Linear(d, 3 * d),
                                        "dense": nn.Linear(d, d)})
        self.post_attention_layernorm = nn.LayerNorm(d)
        self.mlp = nn.ModuleDict({"dense_h_to_4h": nn.Linear(d, 4 * d),
                                  "dense_4h_to_h": nn.Linear(4 * d, d)})

    def forward(self, x, mask):
        batch, length, d = x.shape
        qkv = self.attention["query_key_value"](self.input_layernorm(x))
        q, k, v = qkv.view(batch, length, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = attend(q, k, v, mask)
        mixed = mixed.transpose(1, 2).reshape(batch, length, d)
        x = x + self.drop(self.attention["dense"](mixed))
        up = self.mlp["dense_h_to_4h"](self.post_attention_layernorm(x))
        return x + self.drop(self.mlp["dense_4h_to_h"](F.gelu(up, approximate="tanh")))


class PoetModel(nn.Module):
    """Scores the tokens of blanks; see `forward`."""

    def __init__(self, shape, dropout=0.0):
        super().__init__()
        self.shape = shape
        self.drop = nn.Dropout(dropout)
        self.word_embeddings = nn.Embedding(shape.vocab, shape.hidden)
        self.transformer = nn.ModuleDict({
            "position_embeddings": nn.Embedding(shape.positions + 1, shape.hidden),
            "block_position_embeddings": nn.Embedding(shape.positions + 1, shape.hidden),
            "layers": nn.ModuleList(Block(shape, dropout) for _ in range(shape.layers)),
            "final_layernorm": nn.LayerNorm(shape.hidden),
        })
        self.apply(self._initialise)

    def _initialise(self, module):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.5 * module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, Block):
            for last in (module.attention["dense"], module.mlp["dense_4h_to_h"]):
                nn.init.zeros_(last.weight)

    def hidden_states(self, tokens, positions, blocks, owners, spans):
        """States after the last norm. A token sees those of its own owner (example): of span 0,
        the context, all, and of its own span those up to itself."""
        parts = self.transformer
        x = (self.word_embeddings(tokens) + parts["position_embeddings"](positions)
             + parts["block_position_embeddings"](blocks))
        at = torch.arange(tokens.shape[1], device=tokens.device)
        past = (at[None, :] <= at[:, None])[None]
        mask = (past & (spans[:, :, None] == spans[:, None, :])) | (spans[:, None, :] == 0)
        mask = mask & (owners[:, :, None] == owners[:, None, :])
        x = self.drop(x)
        for layer in parts["layers"]:
            x = layer(x, mask[:, None])
        return parts["final_layernorm"](x)

    def forward(self, batch):
        """Negative log-likelihood of each target: `batch["rows"]` are their flat positions."""
        x = self.hidden_states(batch["tokens"], batch["positions"], batch["blocks"],
                               batch["owners"], batch["spans"])
        x = x.flatten(0, 1)[batch["rows"]]
        table = self.word_embeddings.weight
        if x.is_cuda or not torch.is_grad_enabled():
            logits = F.linear(x, table)
            return F.cross_entropy(logits.float(), batch["targets"], reduction="none")
        return ChunkedCrossEntropy.apply(x, table, batch["targets"])
