"""Adapters of the poet with random weights, as files."""

import json
import pathlib
import random
import struct

from serving import POET

CONFIG = json.loads((pathlib.Path(POET) / "config.json").read_text())
LAYERS, HIDDEN = CONFIG["num_layers"], CONFIG["hidden_size"]


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        part = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape,
                        "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_lora(folder, seed, rank, **config):
    """On query_key_value and mlp.dense_4h_to_h of every layer."""
    draw = random.Random(seed)
    folder.mkdir(parents=True)
    targets = {"attention.query_key_value": (3 * HIDDEN, HIDDEN),
               "mlp.dense_4h_to_h": (HIDDEN, 4 * HIDDEN)}
    tensors = {}
    for layer in range(LAYERS):
        for target, (rows, cols) in targets.items():
            name = f"base_model.model.transformer.layers.{layer}.{target}."
            for side, shape in (("A", (rank, cols)), ("B", (rows, rank))):
                values = [draw.uniform(-0.05, 0.05) for _ in range(shape[0] * shape[1])]
                tensors[f"{name}lora_{side}.weight"] = (shape, values)
    (folder / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": rank, "lora_alpha": 4 * rank, "bias": "none",
         "target_modules": ["query_key_value", "dense_4h_to_h"], **config}))
    write_safetensors(folder / "adapter_model.safetensors", tensors)


def write_prefix(folder, seed, slots):
    draw = random.Random(seed)
    folder.mkdir(parents=True)
    cols = 2 * LAYERS * HIDDEN
    write_safetensors(folder / "prefix_encoder.safetensors", {
        "transformer.prefix_encoder.embedding.weight":
            ((slots, cols), [draw.uniform(-2, 2) for _ in range(slots * cols)])})
