"""Painting and reranking with the PyTorch model, as the runtime does both."""

import torch
from torch.nn import functional as F

TEMPERATURE, TOP_K = 0.6, 64  # the defaults that config.json gives the runtime


def draw(logits, temperature, top_k, generator):
    """One code of each row of logits; values that tie with the k-th stay."""
    least = logits.topk(top_k).values[:, -1:]
    chances = torch.softmax((logits / temperature).masked_fill(logits < least, -torch.inf), -1)
    return torch.multinomial(chances, 1, generator=generator)[:, 0]


@torch.no_grad()
def paint(model, sequences, captions, seed=1, temperature=TEMPERATURE, top_k=TOP_K):
    """Codes [captions, grid * grid], one picture for each caption; captions of one length are
    painted together."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [sequences.prompt(caption) for caption in captions]
    groups = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(len(prompt), []).append(i)
    count = model.shape.grid**2
    out = torch.zeros(len(captions), count, dtype=torch.long)
    for members in groups.values():
        for begin in range(0, len(members), 256):
            part = members[begin:begin + 256]
            tokens = torch.tensor([prompts[i] for i in part])
            memory = [[] for _ in model.transformer["layers"]]
            positions = model.positions(tokens)
            for column in range(count):
                states = model.states(tokens, positions, memory)[:, -1]
                positions = positions[:, -1:] + 1
                chosen = draw(model.code_logits(states), temperature, top_k, generator)
                out[part, column] = chosen
                tokens = chosen[:, None]
    return out


@torch.no_grad()
def scores(model, sequences, captions, codes):
    """How likely each caption is after its picture: larger is better."""
    rows = []
    for caption, picture in zip(captions, codes.tolist()):
        tokens, begin = sequences.captioning(caption, picture)
        rows.append((tokens[:-1], begin))
    out = torch.zeros(len(rows))
    for at in range(0, len(rows), 128):
        part = rows[at:at + 128]
        longest = max(len(tokens) for tokens, _ in part)
        padded = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens, _ in part])
        begin = part[0][1]
        states = model.states(padded)[:, begin - 1:longest - 1]
        logs = F.log_softmax(model.text_logits(states), -1)
        wanted = (padded[:, begin:] - model.shape.image_codes).clamp(min=0)
        found = logs.gather(2, wanted[..., None])[..., 0]
        lengths = torch.tensor([len(tokens) - begin for tokens, _ in part])
        inside = torch.arange(longest - begin)[None] < lengths[:, None]
        out[at:at + len(part)] = (found * inside).sum(1)
    return out


def paint_best(model, sequences, captions, candidates, seed=1, **options):
    """(codes [captions, candidates, grid * grid], scores [captions, candidates])"""
    repeated = [caption for caption in captions for _ in range(candidates)]
    codes = paint(model, sequences, repeated, seed, **options)
    found = scores(model, sequences, repeated, codes)
    shape = (len(captions), candidates)
    return codes.view(*shape, -1), found.view(shape)
