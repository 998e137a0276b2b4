"""The folder of a model: tensors to safetensors, and converted files to where they ship."""

import json
import shutil
import struct

import torch

TYPES = {torch.float32: "F32", torch.float16: "F16"}


def write_safetensors(path, tensors, dtype=torch.float32):
    """Writes tensors in the safetensors format, all as `dtype`."""
    header, at = {}, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * dtype.itemsize
        header[name] = {"dtype": TYPES[dtype], "shape": list(tensor.shape),
                        "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.detach().to(dtype).contiguous().cpu().numpy().tobytes())


def place_files(converted, destination):
    """Moves the converted files into the destination, which may hold other files; returns the
    bytes of those that came."""
    size = 0
    for path in sorted(p for p in converted.rglob("*") if p.is_file()):
        target = destination / path.relative_to(converted)
        target.parent.mkdir(parents=True, exist_ok=True)
        size += path.stat().st_size
        shutil.move(path, target)
    shutil.rmtree(converted)
    return size
