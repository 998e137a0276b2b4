#!/usr/bin/env python3
"""Writes a checkpoint as a safetensors folder and converts it for the runtime."""

import argparse
import json
import shutil
import subprocess
from pathlib import Path

import torch

from model_folder import place_files, write_safetensors
from tasks import CHAT, TASKS
from vocab import Vocabulary


def config(shape, vocabulary):
    """The config.json of a model of this shape."""
    roles = ("sop", "eop", "MASK", "gMASK", "sMASK")
    return {
        "model_type": "glm",
        "num_layers": shape["layers"],
        "hidden_size": shape["hidden"],
        "num_attention_heads": shape["heads"],
        "vocab_size": shape["vocab"],
        "max_sequence_length": shape["positions"],
        "layernorm_epsilon": 1e-5,
        "block_position_encoding": True,
        "tie_word_embeddings": True,
        "special_token_ids": {role: vocabulary.commands[role] for role in roles},
        "end_token_ids": [vocabulary.commands["eop"]],
        "tokenizer": {"kind": "sentencepiece", "model_file": "tokenizer.model",
                      "commands": vocabulary.command_table()},
        "tasks": TASKS,
        "chat": CHAT,
    }


def write_source(checkpoint, prepared, folder, weights):
    """A folder that `qianyi convert` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    state = torch.load(checkpoint, map_location="cpu")
    vocabulary = Vocabulary.load(prepared)
    write_safetensors(folder / "model.safetensors", state[weights])
    text = json.dumps(config(state["shape"], vocabulary), ensure_ascii=False, indent=1)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    shutil.copy(prepared / "tokenizer.model", folder / "tokenizer.model")
    return state


def write_extracts(prepared, folder, limit=60_000):
    """The first rows of every validation file, a little under `limit` bytes each."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        taken = size = 0
        lines = (prepared / f"valid_{task}.jsonl").read_bytes().splitlines(keepends=True)
        while taken < min(300, len(lines)) and size + len(lines[taken]) < limit:
            size += len(lines[taken])
            taken += 1
        (folder / f"{task}.jsonl").write_bytes(b"".join(lines[:taken]))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, type=Path, help="checkpoint.pt of train.py")
    add("--prepared", required=True, type=Path, help="folder that prepare.py wrote")
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
    state = write_source(args.checkpoint, args.prepared, source, args.weights)
    shutil.rmtree(scratch, ignore_errors=True)
    subprocess.run([args.qianyi, "convert", source, scratch, "--dtype", args.dtype], check=True)
    size = place_files(scratch, args.out)
    write_extracts(args.prepared, args.out / "validation")
    print(f"step {state['step']}, {state['seen']} tokens, {size / 2**20:.2f} MiB in {args.out}")


if __name__ == "__main__":
    main()
