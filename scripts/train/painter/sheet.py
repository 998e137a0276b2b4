#!/usr/bin/env python3
"""The contact sheet: four things in every style, the best of eight each, painted by `qianyi`, or
by PyTorch where a checkpoint is given."""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import encode
from model import Sequences, load
from paint import paint_best
from styles import STYLES
from vocabulary import CaptionVocabulary
from vqvae import to_pixels

THINGS = ("一只猫", "一个红苹果", "一个蘑菇", "一辆汽车")
SUFFIXES = ("", *STYLES.values())
ENLARGED = 2


def prompts():
    """Row by row."""
    return [thing + suffix for thing in THINGS for suffix in SUFFIXES]


def by_torch(args, captions):
    torch.set_num_threads(1)
    model, vqvae = load(args.checkpoint), encode.load(args.vqvae)
    sequences = Sequences(model.shape, CaptionVocabulary.load(args.prepared))
    codes, scores = paint_best(model, sequences, captions, args.candidates, args.seed)
    best = codes[torch.arange(len(captions)), scores.argmax(1)]
    with torch.no_grad():
        return list(to_pixels(vqvae.decode(best)).numpy())


def by_qianyi(args, captions):
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        for caption in captions:
            path = Path(folder) / "picture.png"
            subprocess.run([args.qianyi, "paint", "--model", args.model, "--text", caption,
                            "--candidates", str(args.candidates), "--seed", str(args.seed),
                            "--quiet", "--output", path], check=True)
            with Image.open(path) as picture:
                pictures.append(np.asarray(picture.convert("RGB")))
    return pictures


def sheet(pictures, across):
    """One picture of all, white lines between them."""
    side = pictures[0].shape[0] * ENLARGED
    gap = 4
    rows = -(-len(pictures) // across)
    whole = Image.new("RGB", (across * (side + gap) + gap, rows * (side + gap) + gap), "#cccccc")
    for i, pixels in enumerate(pictures):
        large = Image.fromarray(pixels).resize((side, side), Image.LANCZOS)
        whole.paste(large, (gap + i % across * (side + gap), gap + i // across * (side + gap)))
    return whole


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--out", required=True, type=Path, help="PNG file to write")
    add("--qianyi", default="qianyi", help="the qianyi program")
    add("--model", type=Path, help="folder of the converted model")
    add("--checkpoint", type=Path, help="checkpoint.pt of train.py, to paint with PyTorch")
    add("--vqvae", type=Path, help="checkpoint.pt of train_vqvae.py, with --checkpoint")
    add("--prepared", type=Path, help="folder that prepare.py wrote, with --checkpoint")
    add("--candidates", type=int, default=8)
    add("--seed", type=int, default=1)
    add("--prompts", type=json.loads, help="JSON list of captions instead of things and styles")
    return parser.parse_args()


def main():
    args = parse_args()
    captions = args.prompts or prompts()
    pictures = (by_torch if args.checkpoint else by_qianyi)(args, captions)
    sheet(pictures, len(SUFFIXES)).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
