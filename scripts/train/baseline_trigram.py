#!/usr/bin/env python3
"""Perplexities of an interpolated Kneser-Ney trigram over characters, for comparison.

It sees texts (poems, lower lines, titles) and nothing of what a prompt says.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np

from table import Table
from vocab import Vocabulary

BITS = 16  # of one token id
START = (1 << BITS) - 1


def with_starts(flat, offsets):
    """Two start marks before every text, all in one array."""
    lengths = np.diff(offsets)
    out = np.full(len(flat) + 2 * len(lengths), START, np.uint64)
    shift = np.repeat(2 * np.arange(1, len(lengths) + 1), lengths)
    out[np.arange(len(flat)) + shift] = flat
    return out


class Counts:
    """How often each key occurs; keys that were never seen occur 0 times."""

    def __init__(self, keys, weights=None):
        self.keys, inverse = np.unique(keys, return_inverse=True)
        self.values = np.bincount(inverse, weights).astype(np.float64)

    def __getitem__(self, keys):
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.values[at], 0.0)


class Trigram:
    """Interpolated Kneser-Ney with one discount an order."""

    def __init__(self, tokens, vocabulary_size):
        u, v, w = tokens[:-2], tokens[1:-1], tokens[2:]
        real = w != START
        u, v, w = u[real], v[real], w[real]
        bits = np.uint64(BITS)
        self.size = vocabulary_size
        self.three = Counts((u << bits | v) << bits | w)
        self.context = Counts(u << bits | v)
        types = self.three.keys
        self.context_types = Counts(types >> bits)
        pairs = types & np.uint64((1 << 2 * BITS) - 1)
        self.two = Counts(pairs)  # in how many contexts a pair was seen
        self.middle = Counts(pairs >> bits)
        self.middle_types = Counts(self.two.keys >> bits)
        self.one = Counts(self.two.keys & np.uint64(START))
        self.discounts = [self._discount(c) for c in (self.one, self.two, self.three)]

    @staticmethod
    def _discount(counts):
        once, twice = (counts.values == 1).sum(), (counts.values == 2).sum()
        return once / max(1, once + 2 * twice)

    def chances(self, u, v, w):
        """P(w | u v), of arrays."""
        bits = np.uint64(BITS)
        d1, d2, d3 = self.discounts
        total = self.one.values.sum()
        p1 = np.maximum(self.one[w] - d1, 0) / total + d1 * len(self.one.keys) / total / self.size
        seen, kinds = self.middle[v], self.middle_types[v]
        p2 = np.maximum(self.two[v << bits | w] - d2, 0) + d2 * kinds * p1
        p2 = np.where(seen > 0, p2 / np.maximum(seen, 1), p1)
        pair = u << bits | v
        seen, kinds = self.context[pair], self.context_types[pair]
        p3 = np.maximum(self.three[pair << bits | w] - d3, 0) + d3 * kinds * p2
        return np.where(seen > 0, p3 / np.maximum(seen, 1), p2)

    def perplexity(self, texts, vocabulary):
        """Per Unicode character of the texts, ends left out."""
        ids = [vocabulary.encode(text) for text in texts]
        offsets = np.cumsum([0] + [len(i) for i in ids])
        tokens = with_starts(np.array(sum(ids, []), np.uint64), offsets)
        u, v, w = tokens[:-2], tokens[1:-1], tokens[2:]
        real = w != START
        loss = -np.log(self.chances(u[real], v[real], w[real])).sum()
        return math.exp(loss / sum(map(len, texts)))


def of_field(path, field, vocabulary):
    table = Table(path)
    return Trigram(with_starts(table.arrays[field], table.offsets[field]), vocabulary.size)


def measure(prepared):
    """{task: perplexity per character} on the whole validation files."""
    vocabulary = Vocabulary.load(prepared)
    figures = {}
    for task, name, field, answer in (("poem", "poems", "text", "text"),
                                      ("couplet", "couplets", "down", "text"),
                                      ("summary", "poems", "title", "summary"),
                                      ("new_series", "poems", "title", "summary")):
        lines = (prepared / f"valid_{task}.jsonl").read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)[answer] for line in lines]
        model = of_field(prepared / f"{name}.npz", field, vocabulary)
        figures[task] = round(model.perplexity(texts, vocabulary), 1)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", required=True, type=Path, help="folder that prepare.py wrote")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    text = json.dumps(measure(args.prepared), indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
