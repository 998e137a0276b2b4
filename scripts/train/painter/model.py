"""CogView's Transformer, as the runtime serves it, and the two orders of its sequences."""

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F

from parent import UNKNOWN

COMMANDS = ("[PAD] [BOI1] [BOI2] [BOI3] [EOI1] [EOI2] [EOI3] [ROI1] [ROI2] [ROI3] [SEP] [MASK] "
            "[CLS] [ENC] [TINY] [SMALL] [BASE] [BIG] [POS0] [POS1] [POS2] [POS3] [POS4] [POS5] "
            "[POS6] [POS7] [POS8]").split()


WORD_STD = 0.15  # of the embeddings to begin with


@dataclass
class Shape:
    """The sizes of a model; `as_dict` is what a checkpoint keeps of it."""

    image_codes: int
    text_pieces: int
    grid: int = 8
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    positions: int = 128

    def as_dict(self):
        return asdict(self)

    @property
    def commands(self):
        first = self.image_codes + self.text_pieces
        return {word: first + i for i, word in enumerate(COMMANDS)}

    @property
    def vocab(self):
        return -(-(self.image_codes + self.text_pieces + len(COMMANDS)) // 128) * 128

    @property
    def end(self):
        """The text piece after which a caption ends; as text it cannot occur."""
        return self.image_codes + UNKNOWN


SIZE = "[ROI2]"  # the word before [BOI1]: positions restart at it, see Sequences


class Sequences:
    """Token ids of pictures and captions.

    In CogView's vocabulary a position is counted from the latest [ROI2], which keeps its own. With
    that word before [BOI1] every code of a picture has a position of its own, however long the
    caption before it.
    """

    def __init__(self, shape, vocabulary):
        self.shape, self.vocabulary = shape, vocabulary
        self.c = shape.commands
        self.longest = shape.positions - shape.grid**2 - 5

    def text(self, caption, words=True):
        ids = self.vocabulary.encode(caption, words)[:self.longest]
        return [self.shape.image_codes + i for i in ids]

    def prompt(self, caption, words=True):
        """What a picture's codes follow."""
        return [self.c["[ROI1]"], *self.text(caption, words), self.c[SIZE], self.c["[BOI1]"]]

    def picture(self, codes):
        """What a caption's pieces follow."""
        return [self.c[SIZE], self.c["[BOI1]"], *codes, self.c["[EOI1]"], self.c["[ROI1]"]]

    def painting(self, caption, codes, words=True):
        """(tokens, index of the first code)"""
        prompt = self.prompt(caption, words)
        return prompt + list(codes), len(prompt)

    def captioning(self, caption, codes, words=True):
        """(tokens, index of the first piece)"""
        head = self.picture(codes)
        return head + self.text(caption, words) + [self.shape.end], len(head)


class RowLayerNorm(nn.LayerNorm):
    """LayerNorm after division by an eighth of the row's largest magnitude; in training without
    the division, which only keeps eps small beside the row."""

    def forward(self, x):
        if self.training:
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, 1e-7)
        most = x.abs().amax(-1, keepdim=True).clamp(min=1e-30)
        return super().forward(x * (8 / most))


def attend(q, k, v):
    """Causal attention; on a CPU, over rows this short, faster than the fused one."""
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    later = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(1)
    scores = (q * q.shape[-1]**-0.5) @ k.mT
    return torch.softmax(scores.masked_fill(later, -torch.inf), -1) @ v


class Block(nn.Module):
    """Sandwich-LN: a norm before and after each part; names follow CogView's checkpoints."""

    def __init__(self, shape, dropout):
        super().__init__()
        d = shape.hidden
        self.heads = shape.heads
        self.drop = nn.Dropout(dropout)
        self.input_layernorm = RowLayerNorm(d)
        self.attention = nn.ModuleDict({"query_key_value": nn.Linear(d, 3 * d),
                                        "dense": nn.Linear(d, d)})
        self.third_layernorm = RowLayerNorm(d)
        self.post_attention_layernorm = RowLayerNorm(d)
        self.mlp = nn.ModuleDict({"dense_h_to_4h": nn.Linear(d, 4 * d),
                                  "dense_4h_to_h": nn.Linear(4 * d, d)})
        self.fourth_layernorm = RowLayerNorm(d)

    def forward(self, x, memory=None):
        """`memory`, a list of at most one (k, v), is what came before and is added to."""
        batch, length, d = x.shape
        qkv = self.attention["query_key_value"](self.input_layernorm(x))
        q, k, v = qkv.view(batch, length, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        causal = length > 1
        if memory is not None:
            if memory:
                k, v = (torch.cat(pair, 2) for pair in zip(memory[0], (k, v)))
            memory[:] = [(k, v)]
        mixed = attend(q, k, v) if causal else F.scaled_dot_product_attention(q, k, v)
        mixed = mixed.transpose(1, 2).reshape(batch, length, d)
        x = x + self.third_layernorm(self.drop(self.attention["dense"](mixed)))
        up = self.mlp["dense_h_to_4h"](self.post_attention_layernorm(x))
        down = self.mlp["dense_4h_to_h"](F.gelu(up, approximate="tanh"))
        return x + self.fourth_layernorm(self.drop(down))


class CogView(nn.Module):
    def __init__(self, shape, dropout=0.0):
        super().__init__()
        self.shape = shape
        self.drop = nn.Dropout(dropout)
        self.word_embeddings = nn.Embedding(shape.vocab, shape.hidden)
        self.transformer = nn.ModuleDict({
            "position_embeddings": nn.Embedding(shape.positions, shape.hidden),
            "layers": nn.ModuleList(Block(shape, dropout) for _ in range(shape.layers)),
            "final_layernorm": RowLayerNorm(shape.hidden),
        })
        self.apply(self._initialise)
        self._initialise_positions()
        nn.init.constant_(self.transformer["final_layernorm"].weight, 0.3)

    @torch.no_grad()
    def begin_with_codebook(self, codebook):
        """Makes the words of codes alike where the codes are alike: [codes, width]."""
        codes, width = codebook.shape
        mix = torch.linalg.qr(torch.randn(max(width, self.shape.hidden), width))[0]
        vectors = (codebook - codebook.mean(0)) @ mix[:self.shape.hidden].T
        words = self.word_embeddings.weight[:codes]
        words.mul_(0.3).add_(vectors * (WORD_STD / vectors.std()))

    def _initialise(self, module):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.5 * module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=WORD_STD)
        elif isinstance(module, Block):
            for norm in (module.third_layernorm, module.fourth_layernorm):
                nn.init.constant_(norm.weight, 0.15)

    @torch.no_grad()
    def _initialise_positions(self):
        """Sines and cosines, of which a shift is a rotation: the code above is `grid` before."""
        table = self.transformer["position_embeddings"].weight
        half = table.shape[1] // 2
        rates = 2.0 ** -torch.linspace(0, 7, half) * torch.pi
        angles = torch.arange(len(table))[:, None] * rates
        table.copy_(WORD_STD * torch.cat([angles.sin(), angles.cos()], 1))

    def positions(self, tokens):
        """Of [rows, length]: from the row's first token, or from the [ROI2] before it."""
        at = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        restarts = torch.where(tokens == self.shape.commands[SIZE], at, 0)
        before = F.pad(restarts[:, :-1], (1, 0)).cummax(1).values
        return at - before

    def states(self, tokens, positions=None, memory=None):
        """After the last norm; `memory` is a list with a list for each layer, and `positions`
        are given where the tokens continue it."""
        if positions is None:
            positions = self.positions(tokens)
        parts = self.transformer
        x = self.drop(self.word_embeddings(tokens) + parts["position_embeddings"](positions))
        for i, layer in enumerate(parts["layers"]):
            x = layer(x, None if memory is None else memory[i])
        return parts["final_layernorm"](x)

    def code_logits(self, states):
        return F.linear(states, self.word_embeddings.weight[:self.shape.image_codes])

    def text_logits(self, states):
        """Of every token that is no image code."""
        return F.linear(states, self.word_embeddings.weight[self.shape.image_codes:])


def load(path, device="cpu", weights="average"):
    """The model of a checkpoint, for use."""
    state = torch.load(path, map_location=device)
    model = CogView(Shape(**state["shape"])).to(device)
    model.load_state_dict(state[weights])
    return model.eval()
