#!/usr/bin/env python3
"""Paints the bank of training and held-out pictures and writes the vocabulary of captions."""

import argparse
import json
import random
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from bank import Row, held_out_rows, paint, rows_of
from layouts import LAYOUTS
from styles import SCENES, STYLES
from things import read_pictures, read_things
from vocabulary import CaptionVocabulary


def characters(things):
    """Every character that a caption of a training thing can have, most frequent first."""
    counts = Counter()
    for thing in things:
        if not thing.held_out:
            counts.update("".join([thing.label, thing.counted or "", *thing.others]))
    counts.update("和，。" + "".join([*STYLES.values(), *SCENES, *LAYOUTS.values()]))
    return [c for c, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def words(things):
    """The pieces of several characters: labels, "one" with a measure word, and suffixes."""
    found = dict.fromkeys([*STYLES.values(), *SCENES, *LAYOUTS.values()])
    for thing in things:
        if not thing.held_out:
            found |= dict.fromkeys([thing.label, (thing.counted or "")[:2]])
    return [word for word in found if len(word) > 1]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows),
                    encoding="utf-8")


def read_rows(prepared, split):
    lines = (Path(prepared) / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Row(**json.loads(line)) for line in lines]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder of captions.jsonl and img")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to, 0.5 GB")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    things = read_things(args.data)
    pictures = read_pictures(args.data, things)
    kept = [i for i, thing in enumerate(things) if not thing.held_out]
    rng = random.Random(1)
    splits = {
        "train": [row for i in kept for row in rows_of(i, kept, rng)],
        "valid": [row for i, thing in enumerate(things) if thing.held_out
                  for row in held_out_rows(i)],
    }
    CaptionVocabulary(characters(things), words(things)).save(args.out)
    for name, rows in splits.items():
        write_rows(args.out / f"{name}.jsonl", rows)
        paint(rows, pictures, args.out / f"{name}.npy")
        print(f"{name}: {len(rows)} pictures of {len({row.first for row in rows})} things")


if __name__ == "__main__":
    main()
