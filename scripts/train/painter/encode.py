#!/usr/bin/env python3
"""Encodes the bank's pictures into codes, and keeps the code book beside them."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from bank import load_pictures
from vqvae import Shape, VqVae, normalise


def read_folder(folder):
    """The same of the vqvae folder of a converted model, which holds f16."""
    data = Path(folder, "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, about in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = about["data_offsets"]
        values = np.frombuffer(data[8 + size + begin:8 + size + end], np.float16).astype(np.float32)
        tensors[name] = torch.from_numpy(values.reshape(about["shape"]))
    tensors["quantize_t.embed_avg"] = tensors["quantize_t.embed"].clone()  # of training only
    tensors["quantize_t.cluster_size"] = torch.ones(tensors["quantize_t.embed"].shape[1])
    config = json.loads(Path(folder, "config.json").read_text())
    return {"shape": {name: config[name] for name in Shape().as_dict()}, "model": tensors}


def load(path, device="cpu"):
    """The VQ-VAE of a checkpoint, or of a converted model's folder, for use."""
    state = read_folder(path) if Path(path).is_dir() else torch.load(path, map_location=device)
    model = VqVae(Shape(**state["shape"])).to(device, memory_format=torch.channels_last)
    model.load_state_dict(state["model"])
    return model.eval()


def load_codes(folder, split):
    return np.load(Path(folder) / f"{split}_codes.npy")


def load_codebook(folder):
    """The vectors of the codes, [codes, width]."""
    return torch.from_numpy(np.load(Path(folder) / "codebook.npy"))


@torch.no_grad()
def encode(model, pictures):
    """Codes [n, grid * grid] of uint8 pictures."""
    out = [model.encode(normalise(torch.from_numpy(pictures[i:i + 128]))) for i in
           range(0, len(pictures), 128)]
    return torch.cat(out).numpy().astype(np.int16)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--prepared", required=True, type=Path, help="folder that prepare.py wrote")
    add("--vqvae", required=True, type=Path, help="checkpoint.pt of train_vqvae.py")
    add("--out", required=True, type=Path, help="folder to write to")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    model = load(args.vqvae)
    np.save(args.out / "codebook.npy", model.quantize_t.embed.T.numpy())
    for split in ("train", "valid"):
        codes = encode(model, load_pictures(args.prepared, split))
        np.save(args.out / f"{split}_codes.npy", codes)
        share = np.bincount(codes.ravel(), minlength=model.shape.n_embed) / codes.size
        entropy = -(share * np.log2(np.maximum(share, 1e-12))).sum()
        print(f"{split}: {len(codes)} pictures, {entropy:.2f} bits a code, "
              f"{(share > 0).sum()} codes in use")


if __name__ == "__main__":
    main()
