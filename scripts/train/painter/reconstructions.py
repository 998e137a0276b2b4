#!/usr/bin/env python3
"""Held-out pictures in every style, and below each what the VQ-VAE makes of it."""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bank import load_pictures
from encode import load
from vqvae import normalise, to_pixels


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--prepared", required=True, type=Path, help="folder that prepare.py wrote")
    add("--vqvae", required=True, type=Path, help="checkpoint.pt of train_vqvae.py")
    add("--out", required=True, type=Path, help="PNG file to write")
    add("--split", choices=("train", "valid"), default="valid")
    add("--rows", type=int, default=6)
    args = parser.parse_args()
    pictures = load_pictures(args.prepared, args.split)
    across = 12
    stride = len(pictures) // (across * args.rows)
    pixels = torch.from_numpy(pictures[::stride][:across * args.rows])
    model = load(args.vqvae)
    with torch.no_grad():
        made = to_pixels(model.decode(model.encode(normalise(pixels))))
    lines = []
    for begin in range(0, len(pixels), across):
        for part in (pixels, made):
            lines.append(np.concatenate(list(part[begin:begin + across].numpy()), 1))
    Image.fromarray(np.concatenate(lines)).save(args.out)


if __name__ == "__main__":
    main()
