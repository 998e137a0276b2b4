#!/usr/bin/env python3
"""Measures the painter: is the nearest picture the one that was asked for?

For each caption the pictures of the asked thing and of 49 others, all in the caption's style, are
ranked by the cosine of their VQ-VAE encoder features with those of the painted picture.
"""

import argparse
import json
import math
import random
from pathlib import Path

import numpy as np
import torch

import encode
from bank import Row
from layouts import place
from model import Sequences, load
from paint import paint_best
from parent import Vocabulary
from styles import STYLES, render
from things import read_pictures, read_things
from vqvae import normalise, to_pixels

OTHERS = 49


def choose_rows(things, held_out, count, rng):
    """`count` rows, half plain and half in a style, of distinct things where there are enough."""
    members = [i for i, thing in enumerate(things) if thing.held_out == held_out]
    rng.shuffle(members)
    half = count // 2
    plain = [Row(members[i % len(members)]) for i in range(half)]
    rest = members[half:] if len(members) >= count else members
    styles = list(STYLES)
    styled = [Row(rest[i % len(rest)], style=styles[i % len(styles)]) for i in range(count - half)]
    return plain + styled


class Judge:
    """Says whether a painted picture is nearest to the thing that was asked for."""

    def __init__(self, vqvae, pictures, seed):
        self.vqvae, self.pictures = vqvae, pictures
        self.rng = random.Random(seed)
        self.known = {}

    @torch.no_grad()
    def features(self, pixels):
        """Unit rows of uint8 pictures."""
        parts = [self.vqvae.features(normalise(pixels[i:i + 128])).flatten(1)
                 for i in range(0, len(pixels), 128)]
        return torch.nn.functional.normalize(torch.cat(parts), dim=1)

    def real(self, style):
        """Features of every thing in a style."""
        if style not in self.known:
            pixels = render(place("full", self.pictures), style, None)
            self.known[style] = self.features(torch.from_numpy(pixels))
        return self.known[style]

    @torch.no_grad()
    def painted(self, codes):
        """Features of the pictures of codes [n, grid * grid], by way of their pixels."""
        parts = [self.features(to_pixels(self.vqvae.decode(codes[i:i + 128])))
                 for i in range(0, len(codes), 128)]
        return torch.cat(parts)

    def judge(self, rows, codes):
        """(hits, cosines with the asked picture), each [rows, candidates]."""
        count, candidates, _ = codes.shape
        found = self.painted(codes.flatten(0, 1)).view(count, candidates, -1)
        hits, cosines = np.zeros((2, count, candidates))
        for i, row in enumerate(rows):
            pool = [j for j in range(len(self.pictures)) if j != row.first]
            chosen = [row.first, *self.rng.sample(pool, OTHERS)]
            near = (found[i] @ self.real(row.style)[chosen].T).numpy()
            hits[i] = near.argmax(1) == 0
            cosines[i] = near[:, 0]
        return hits, cosines


def sign_flip(differences, rounds=20000, seed=1):
    """Two-sided p of a mean difference of zero, by flipping signs at random."""
    rng = np.random.default_rng(seed)
    signs = rng.choice((-1.0, 1.0), (rounds, len(differences)))
    means = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12
    return float((means.sum() + 1) / (rounds + 1))


def mcnemar(better, worse):
    """Two-sided exact p of `better` against `worse` changed hits."""
    n = better + worse
    tail = sum(math.comb(n, k) for k in range(max(better, worse), n + 1)) / 2.0**n if n else 1.0
    return min(1.0, 2 * tail)


def figures(hits, cosines, scores):
    """Of one picture, of the best-scored of all, and how sure their difference is."""
    every = np.arange(len(hits))
    best = scores.argmax(1).numpy()
    one, chosen = hits[:, 0], hits[every, best]
    difference = cosines[every, best] - cosines[:, 0]
    return {
        "one": round(one.mean(), 4), "mean_of_all": round(hits.mean(), 4),
        "reranked": round(chosen.mean(), 4),
        "hits_p": round(mcnemar(int((chosen > one).sum()), int((chosen < one).sum())), 6),
        "cosine_one": round(cosines[:, 0].mean(), 4),
        "cosine_reranked": round(cosines[every, best].mean(), 4),
        "cosine_p": round(sign_flip(difference), 6),
    }


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", required=True, type=Path, help="folder of captions.jsonl and img")
    add("--prepared", required=True, type=Path, help="folder that prepare.py wrote")
    add("--vqvae", required=True, type=Path, help="checkpoint.pt of train_vqvae.py")
    add("--checkpoint", required=True, type=Path, help="checkpoint.pt of train.py")
    add("--out", type=Path, help="JSON file to write")
    add("--captions", type=int, default=200, help="of each split")
    add("--candidates", type=int, default=8)
    add("--seed", type=int, default=1)
    return parser.parse_args()


def main():
    args = parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    things = read_things(args.data)
    pictures = read_pictures(args.data, things)
    model, vqvae = load(args.checkpoint), encode.load(args.vqvae)
    sequences = Sequences(model.shape, Vocabulary.load(args.prepared))
    out = {"captions": args.captions, "candidates": args.candidates}
    for split, held_out in (("training", False), ("held_out", True)):
        rows = choose_rows(things, held_out, args.captions, random.Random(args.seed))
        captions = [row.plain_caption(things) for row in rows]
        codes, scores = paint_best(model, sequences, captions, args.candidates, args.seed)
        hits, cosines = Judge(vqvae, pictures, args.seed).judge(rows, codes)
        out[split] = figures(hits, cosines, scores)
        half = args.captions // 2
        out[split]["plain"] = round(hits[:half].mean(), 4)
        out[split]["in_a_style"] = round(hits[half:].mean(), 4)
        print(split, out[split], flush=True)
    if args.out:
        args.out.write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
