#!/usr/bin/env python3
"""Turns the corpus into token arrays, a tokenizer and validation files."""

import argparse
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np

import corpus
import questions
from table import write_table
from vocab import Vocabulary

EXTRA = "问答上下联题：《》，。？！；、“”（）·・ \n0123456789"


def build_vocabulary(poems, rows, authors, min_count):
    """All characters that occur often enough, most frequent first."""
    counts = Counter()
    for poem in poems:
        for field in ("text", "title", "author", "form"):
            counts.update(poem[field])
    for row in rows:
        counts.update(row["question"] + row["answer"])
    for author in authors:
        counts.update(author["name"])
    counts.update({c: min_count for c in EXTRA})
    common = [(c, n) for c, n in counts.items() if n >= min_count and c != "\u2581"]
    return Vocabulary([c for c, _ in sorted(common, key=lambda item: (-item[1], item[0]))])


def write_lines(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def present(row):
    return {key: value for key, value in row.items() if value not in ("", None)}


def validation_files(poems, couplets, known, strangers, seen, seed=3):
    """The rows of each validation file, in the format of `qianyi score`.

    Titles of whose series (`seen`) there are others in training stand in "summary" but not in
    "new_series".
    """
    rng = random.Random(seed)
    regulated = [p for p in poems if p["kind"] == "诗" and p["form"] and p["title"]]
    titled = [p for p in poems if p["kind"] == "诗" and 2 <= len(p["title"]) <= 20
              and len(p["text"]) <= 96]
    titles = [{"text": p["text"], "summary": p["title"]} for p in titled]
    files = {
        "poem": [{k: p[k] for k in ("form", "title", "author", "text")} for p in regulated],
        "couplet": [{"upper": c["up"], "text": c["down"]} for c in couplets],
        "summary": titles,
        "verse": [present({k: p[k] for k in ("form", "author", "text")}) for p in poems
                  if p["kind"] == "词"],
        "qa": [present({**row, "text": row["answer"], "answer": ""}) for row in known + strangers],
    }
    for rows in files.values():  # `titles` among them
        rng.shuffle(rows)
    files["new_series"] = [row for row in titles if corpus.series(row["summary"]) not in seen]
    return files


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder of the corpus")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    parser.add_argument("--min-count", type=int, default=4,
                        help="a character that occurs more rarely is spelled in bytes")
    parser.add_argument("--vocabulary", type=Path,
                        help="prepared folder or converted model whose vocabulary to keep, to train on")
    return parser.parse_args()


def main():
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    poems = corpus.read_poems(args.data)
    train, valid, dropped = corpus.split_poems(poems)
    couplets, valid_couplets = corpus.split_couplets(
        corpus.read_rows(args.data, "couplets.jsonl.xz"), valid)
    authors = corpus.read_rows(args.data, "authors.jsonl.xz")
    poets = questions.collect_poets(authors, train)
    names = questions.NameMaker(poets, random.Random(7))
    strangers = sorted({names.make() for _ in range(2000)})
    rows = questions.training_rows(poets, strangers)
    known, unknown = questions.validation_rows(poets, strangers)
    if args.vocabulary:
        vocabulary = Vocabulary.load(args.vocabulary)
    else:
        vocabulary = build_vocabulary(train, rows, authors, args.min_count)
    vocabulary.save(args.out)
    kinds = np.array(["诗词曲".index(poem["kind"]) for poem in train], np.uint8)
    write_table(args.out / "poems.npz", train, ("form", "title", "author", "text"), vocabulary,
                kind=kinds)
    write_table(args.out / "couplets.npz", couplets, ("up", "down"), vocabulary)
    write_table(args.out / "qa.npz", rows, ("persona", "question", "answer"), vocabulary)
    seen = {corpus.series(poem["title"]) for poem in train}
    for name, lines in validation_files(valid, valid_couplets, known, unknown, seen).items():
        write_lines(args.out / f"valid_{name}.jsonl", lines)
        print(f"validation {name}: {len(lines)}")
    print(f"poems: {len(train)} for training, {len(valid)} held out, {dropped} dropped for sharing "
          f"lines with these; couplets: {len(couplets)}, {len(valid_couplets)} held out; "
          f"questions: {len(rows)} about {len(poets)} poets")
    print(f"vocabulary: {vocabulary.size} ids, {len(vocabulary.characters)} characters")


if __name__ == "__main__":
    main()
