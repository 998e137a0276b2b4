"""Reads the poems, couplets and authors, and decides what is held out for validation."""

import hashlib
import json
import lzma
import re
from pathlib import Path

PUNCTUATION = "，。？！；、："
_SPLIT = re.compile(f"[{PUNCTUATION}]+")
_DAMAGED = re.compile("[□○〔〕�A-Za-z0-9]")
_NUMBER = re.compile("([ 　·・]*其?[一二三四五六七八九十百廿卅]+首?)+$")
_FORMS = {(4, 5): "五绝", (4, 7): "七绝", (8, 5): "五律", (8, 7): "七律"}


def read_rows(folder, name):
    """The rows of one of the data set's files."""
    with lzma.open(Path(folder, name), "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def clauses(text):
    """The text's clauses, without punctuation."""
    return [clause for clause in _SPLIT.split(text) if clause]


def regulated_form(text):
    """五绝, 七绝, 五律 or 七律 for four or eight clauses of five or seven characters, else ''."""
    parts = clauses(text)
    lengths = {len(part) for part in parts}
    if len(lengths) != 1:
        return ""
    return _FORMS.get((len(parts), lengths.pop()), "")


def _as_poem(row):
    text = "".join(row["lines"])
    poem = {"kind": row["kind"], "dynasty": row["dynasty"], "author": row["author"],
            "title": row["title"], "form": "", "text": text}
    if row["kind"] == "诗":
        poem["form"] = regulated_form(text)
    else:
        tune = re.split("[・/]", row["title"])
        poem["form"] = tune[0] if row["kind"] == "词" else tune[-1]
        poem["title"] = ""
    return poem


def read_poems(folder):
    """All undamaged poems, with their form (the tune, for 词 and 曲) found."""
    poems = (_as_poem(row) for row in read_rows(folder, "poems.jsonl.xz"))
    return [poem for poem in poems if not _DAMAGED.search(poem["text"]) and len(poem["text"]) > 7]


def series(title):
    """A title without the number at its end: 读山海经十三首 其一 and its like have one series."""
    return _NUMBER.sub("", title) or title


def held_out(key, percent=2.0):
    """Whether a hash of the key falls into the held-out part."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:4], "big") < percent / 100 * 2**32


def _pairs(text):
    parts = clauses(text)
    return {a + "|" + b for a, b in zip(parts, parts[1:])}


def split_poems(poems):
    """(training, validation, dropped).

    A poem's first clause and length decide, so that versions of one poem stay together. A
    training poem that shares two neighbouring clauses with a validation poem is dropped.
    """
    train, valid = [], []
    for poem in poems:
        parts = clauses(poem["text"])
        key = f"{parts[0] if parts else ''} {sum(map(len, parts))}"
        (valid if held_out(key) else train).append(poem)
    forbidden = set().union(*(_pairs(poem["text"]) for poem in valid))
    kept = [poem for poem in train if not _pairs(poem["text"]) & forbidden]
    return kept, valid, len(train) - len(kept)


def split_couplets(couplets, valid_poems):
    """(training, validation): couplets of which a line stands in a validation poem are held out.

    Only those of which both lines do are used for validation; the others are used for nothing.
    """
    lines = set()
    pairs = set()
    for poem in valid_poems:
        lines.update(part for part in clauses(poem["text"]) if len(part) >= 5)
        pairs |= _pairs(poem["text"])
    train, valid = [], []
    for row in couplets:
        if row["up"] + "|" + row["down"] in pairs:
            valid.append(row)
        elif row["up"] not in lines and row["down"] not in lines:
            train.append(row)
    return train, valid
