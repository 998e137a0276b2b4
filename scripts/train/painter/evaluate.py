#!/usr/bin/env python3
"""Measures the painter: is the nearest picture the one that was asked for?

For each caption the pictures of the asked thing and of 49 others, all in the caption's style, are
ranked by the cosine of their VQ-VAE encoder features with those of the painted picture. The pictures
are painted by a server of the converted model, or by PyTorch where a checkpoint is given.
"""

import argparse
import contextlib
import json
import math
import random
from pathlib import Path

import numpy as np
import torch

import encode
import served
from bank import Row
from layouts import place
from model import Sequences, load
from paint import paint_best
from styles import STYLES, render
from things import read_pictures, read_things
from vocabulary import CaptionVocabulary
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

    def __init__(self, vqvae, pictures, seed, cache=None):
        self.vqvae, self.pictures, self.cache = vqvae, pictures, cache
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
            self.known[style] = self.load_real(style)
        return self.known[style]

    def load_real(self, style):
        path = self.cache and self.cache / f"features_{style}.npy"
        if path and path.exists():
            return torch.from_numpy(np.load(path))
        features = self.features(torch.from_numpy(render(place("full", self.pictures), style, None)))
        if path:
            self.cache.mkdir(parents=True, exist_ok=True)
            np.save(path, features.numpy())
        return features

    @torch.no_grad()
    def pixels(self, codes):
        """The pictures of codes [rows, candidates, grid * grid]."""
        return torch.stack([to_pixels(self.vqvae.decode(row)) for row in codes])

    def judge(self, rows, pixels):
        """(hits, cosines with the asked picture), each [rows, candidates], of pictures
        [rows, candidates, side, side, 3]."""
        count, candidates = pixels.shape[:2]
        found = self.features(pixels.flatten(0, 1)).view(count, candidates, -1)
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
    """Of one picture, of the best-scored of all (its plain and its styled half too), and how
    sure the difference is."""
    every = np.arange(len(hits))
    best = scores.argmax(1).numpy()
    one, chosen = hits[:, 0], hits[every, best]
    difference = cosines[every, best] - cosines[:, 0]
    half = len(hits) // 2
    found = {
        "one": one.mean(), "mean_of_all": hits.mean(), "reranked": chosen.mean(),
        "plain": chosen[:half].mean(), "in_a_style": chosen[half:].mean(),
        "hits_p": mcnemar(int((chosen > one).sum()), int((chosen < one).sum())),
        "cosine_one": cosines[:, 0].mean(), "cosine_reranked": cosines[every, best].mean(),
        "cosine_p": sign_flip(difference),
    }
    return {name: round(float(value), 6) for name, value in found.items()}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", required=True, type=Path, help="folder of captions.jsonl and img")
    add("--prepared", type=Path, help="folder that prepare.py wrote, to paint with --checkpoint")
    add("--vqvae", required=True, type=Path, help="checkpoint.pt of train_vqvae.py, or a converted model's folder vqvae")
    add("--checkpoint", type=Path, help="checkpoint.pt of train.py")
    add("--qianyi", type=Path, help="the program, to paint with --model")
    add("--model", type=Path, help="the converted model's folder")
    add("--out", type=Path, help="JSON file to write")
    add("--cache", type=Path, help="folder to keep the VQ-VAE's features of real pictures in")
    add("--captions", type=int, default=200, help="of each split")
    add("--candidates", type=int, default=8)
    add("--seed", type=int, default=1)
    args = parser.parse_args()
    if (args.checkpoint is None) == (args.qianyi is None or args.model is None):
        parser.error("give --checkpoint, or --qianyi and --model")
    return args


@contextlib.contextmanager
def painter(args, judge):
    """captions -> (pixels, scores)."""
    if args.qianyi:
        with served.Server(args.qianyi, args.model) as server:
            yield lambda captions: served.paint_best(server, captions, args.candidates, args.seed)
        return
    model = load(args.checkpoint)
    sequences = Sequences(model.shape, CaptionVocabulary.load(args.prepared))

    def by_torch(captions):
        codes, scores = paint_best(model, sequences, captions, args.candidates, args.seed)
        return judge.pixels(codes), scores

    yield by_torch


def main():
    args = parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    things = read_things(args.data)
    pictures = read_pictures(args.data, things)
    judge = Judge(encode.load(args.vqvae), pictures, args.seed, args.cache)
    out = {"captions": args.captions, "candidates": args.candidates,
           "painted_by": "qianyi" if args.qianyi else "torch"}
    with painter(args, judge) as paint:
        for split, held_out in (("training", False), ("held_out", True)):
            rows = choose_rows(things, held_out, args.captions, random.Random(args.seed))
            painted, scores = paint([row.plain_caption(things) for row in rows])
            hits, cosines = judge.judge(rows, painted)
            out[split] = figures(hits, cosines, scores)
            print(split, out[split], flush=True)
    if args.out:
        args.out.write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
