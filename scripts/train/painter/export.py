#!/usr/bin/env python3
"""Writes both networks as the folder of a picture model and converts it for the runtime."""

import argparse
import json
import shutil
import subprocess
from pathlib import Path

import torch

from model import SIZE
from paint import TEMPERATURE, TOP_K
from parent import place_files, write_safetensors
from styles import STYLES
from vocabulary import CaptionVocabulary
from vqvae import MEAN, STD

TRAINING_ONLY = ("quantize_t.cluster_size", "quantize_t.embed_avg")


def config(model):
    """The config.json of a model of this shape."""
    return {
        "model_type": "cogview",
        "num_layers": model["layers"],
        "hidden_size": model["hidden"],
        "num_attention_heads": model["heads"],
        "max_position_embeddings": model["positions"],
        "layernorm_epsilon": 1e-5,
        "num_image_tokens": model["image_codes"],
        "num_text_tokens": model["text_pieces"],
        "grid": model["grid"],
        "size_token": SIZE,
        "styles": STYLES,
        "sampling": {"top_k": TOP_K, "temperature": TEMPERATURE},
        "caption_tokens": 24,
        "caption_end_ids": [model["image_codes"]],  # <unk>, which no caption has
        "roles": ["paint", "caption"],
    }


def write_json(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_source(args, folder):
    """A folder that `qianyi convert` reads; returns the Transformer's checkpoint."""
    (folder / "vqvae").mkdir(parents=True, exist_ok=True)
    state = torch.load(args.checkpoint, map_location="cpu")
    write_safetensors(folder / "model.safetensors", state[args.weights])
    write_json(folder / "config.json", config(state["shape"]))
    vocabulary = CaptionVocabulary.load(args.prepared)
    vocabulary.save(folder)
    (folder / "pieces.json").unlink()
    pictures = torch.load(args.vqvae, map_location="cpu")
    tensors = {name: tensor for name, tensor in pictures["model"].items()
               if name not in TRAINING_ONLY}
    write_safetensors(folder / "vqvae" / "model.safetensors", tensors, torch.float16)
    write_json(folder / "vqvae" / "config.json",
               pictures["shape"] | {"mean_rgb": MEAN, "std_rgb": STD})
    return state


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--prepared", required=True, type=Path, help="folder that prepare.py wrote")
    add("--vqvae", required=True, type=Path, help="checkpoint.pt of train_vqvae.py")
    add("--checkpoint", required=True, type=Path, help="checkpoint.pt of train.py")
    add("--work", required=True, type=Path, help="folder for the float model and scratch files")
    add("--out", required=True, type=Path, help="folder of the converted model")
    add("--qianyi", default="qianyi", help="the qianyi program")
    add("--dtype", default="int8", help="dtype of the converted matrices")
    add("--weights", choices=("average", "model"), default="average",
        help="the running mean of the weights, or the last ones")
    return parser.parse_args()


def main():
    args = parse_args()
    source, scratch = args.work / "float", args.work / "converted"
    shutil.rmtree(scratch, ignore_errors=True)
    state = write_source(args, source)
    subprocess.run([args.qianyi, "convert", source, scratch, "--dtype", args.dtype], check=True)
    size = place_files(scratch, args.out)
    print(f"step {state['step']}, {state['seen']} pictures, {size / 2**20:.2f} MiB in {args.out}")


if __name__ == "__main__":
    main()
