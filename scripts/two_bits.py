"""The upper two bits of a model's int4 weights: what they are, and a draft model that has no more."""

import json
import pathlib
import struct
import sys
import tempfile

import numpy
from measuring import ROOT, output

sys.path.insert(0, str(ROOT / "scripts/train"))
from converted import write_checkpoint  # noqa: E402


def read_int4(path):
    """{matrix: (u, what u - 8 is multiplied by)}, both [rows, columns], as docs/model-format.md lays them out."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    found = {}
    for key, text in header["__metadata__"].items():
        about = json.loads(text) if key.startswith("tensor:") else {}
        if about.get("dtype") != "int4":
            continue
        name, (rows, columns), group = key.removeprefix("tensor:"), about["shape"], about["group"]
        groups = columns // group
        us, scales = [], []
        for first, count, _ in about["blocks"]:
            begin, end = header[f"{name}.rows.{first}"]["data_offsets"]
            panels = numpy.frombuffer(data[8 + size + begin : 8 + size + end], numpy.uint8).reshape(-(-count // 16), -1)
            row_scale = panels[:, :64].copy().view(numpy.float32)
            group_scale = panels[:, 64 : 64 + groups * 16].view(numpy.int8).reshape(-1, groups, 16).transpose(0, 2, 1)
            tiles = panels[:, 64 + -(-groups * 16 // 64) * 64 :].reshape(len(panels), -1, 8, 16, 4)
            both = numpy.concatenate([tiles & 15, tiles >> 4], axis=2)
            us.append(both.transpose(0, 3, 1, 2, 4).reshape(16 * len(panels), -1)[:count, :columns])
            scale = (group_scale * row_scale[:, :, None]).repeat(group, 2)
            scales.append(scale.reshape(16 * len(panels), -1)[:count, :columns])
        found[name] = numpy.concatenate(us), numpy.concatenate(scales)
    return found


def two_bits(u, scale, by_row):
    """The upper two bits; each of their four values stands for the mean of what is below it."""
    upper, value = u >> 2, u.astype(numpy.float64) - 8
    out = numpy.zeros(u.shape)
    for bits in range(4):
        here = upper == bits
        weight = here * scale.astype(numpy.float64) ** 2  # least squares of the weights, not of the numbers
        axis = {"axis": 1, "keepdims": True} if by_row else {}
        mean = (value * weight).sum(**axis) / numpy.maximum(weight.sum(**axis), 1e-30)
        out += here * mean
    return (out * scale).astype(numpy.float32)


def write_draft(program, folder, out):
    """A draft model of a converted int8 model: its two bits, a mean a row, stored in int4."""
    with tempfile.TemporaryDirectory() as temporary:
        source, cut = pathlib.Path(temporary) / "source", pathlib.Path(temporary) / "cut"
        int4 = pathlib.Path(temporary) / "int4"
        write_checkpoint(folder, source)
        output([program, "convert", source, int4, "--dtype", "int4"])
        write_checkpoint(folder, cut, {name: two_bits(u, scale, True)
                                       for name, (u, scale) in read_int4(int4 / "model.safetensors").items()})
        output([program, "convert", cut, out, "--dtype", "int4"])
