"""Reads a model that `qianyi convert --dtype int8` wrote back into float matrices.

    converted.py MODEL DIR      DIR: a checkpoint in f32 of what MODEL multiplies by, for `qianyi convert`

The format is described in docs/model-format.md.
"""

import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import torch

from model import PoetModel, Shape


def _unpack(panels, rows, columns):
    """int8 panels of 16 rows to a float matrix."""
    tiles = -(-columns // 64)
    panels = panels.reshape(-(-rows // 16), 64 + 1024 * tiles)
    scales = panels[:, :64].copy().view(np.float32)
    quads = panels[:, 64:].view(np.int8).reshape(len(panels), tiles, 16, 16, 4)
    weights = quads.transpose(0, 3, 1, 2, 4).reshape(len(panels), 16, tiles * 64)
    return (weights * scales[:, :, None]).reshape(-1, tiles * 64)[:rows, :columns]


def read_tensors(path):
    """{name: float array} of a converted int8 model.safetensors."""
    data = Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])

    def stored(name):
        begin, end = header[name]["data_offsets"]
        return np.frombuffer(data, np.uint8, end - begin, 8 + size + begin)

    tensors = {}
    for key, text in header["__metadata__"].items():
        if not key.startswith("tensor:"):
            continue
        name, about = key.removeprefix("tensor:"), json.loads(text)
        if about["layout"] == "plain":
            tensors[name] = stored(name).view(np.float32).reshape(about["shape"]).copy()
            continue
        if about["dtype"] != "int8":
            raise SystemExit(f"{path}: {name} is {about['dtype']}; only int8 is read")
        columns = about["shape"][1]
        tensors[name] = np.concatenate([
            _unpack(stored(f"{name}.rows.{first}"), rows, columns)
            for first, rows, _ in about["blocks"]])
    return tensors


def load_converted(folder, dropout=0.0):
    """The model of a converted folder, with the weights that the runtime multiplies by."""
    config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    model = PoetModel(Shape(config["vocab_size"], config["hidden_size"], config["num_layers"],
                            config["num_attention_heads"], config["max_sequence_length"]), dropout)
    tensors = read_tensors(Path(folder, "model.safetensors"))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    return model


def write_checkpoint(folder, out, instead=None):
    """A checkpoint in f32 with the folder's config and tokenizer; `instead`: {name: array} of other weights."""
    tensors = {**read_tensors(Path(folder, "model.safetensors")), **(instead or {})}
    header, at = {}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [at, at + 4 * value.size]}
        at += 4 * value.size
    text = json.dumps(header).encode()
    Path(out).mkdir(parents=True)
    for name in ("config.json", "tokenizer.model"):
        shutil.copy(Path(folder, name), out)
    with open(Path(out, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            file.write(np.ascontiguousarray(value, dtype=np.float32).tobytes())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    write_checkpoint(*sys.argv[1:])
