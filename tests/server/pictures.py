"""A tiny painter for the tests: CogView and VQ-VAE of the fixtures, with random weights."""

import json
import pathlib
import shutil
import struct
import subprocess
import zlib

from serving import BINARY, ROOT

FIXTURES = ROOT / "tests/fixtures"
STYLES = {"国画": "，国画", "轮廓画": "，轮廓画"}


def make_painter(folder, name="painter", **config):
    """The folder of a model that paints 4 x 4 codes of 8 x 8 pixels, or what `config` says."""
    source = pathlib.Path(folder) / f"{name}-source"
    (source / "vqvae").mkdir(parents=True)
    shutil.copy(FIXTURES / "cogview/weights.safetensors", source / "model.safetensors")
    shutil.copy(FIXTURES / "cogview/tokenizer.model", source / "tokenizer.model")
    shutil.copy(FIXTURES / "vqvae/weights.safetensors", source / "vqvae/model.safetensors")
    whole = json.loads((FIXTURES / "cogview/config.json").read_text())
    whole.update({"model_type": "cogview", "caption_tokens": 6, "styles": STYLES, **config})
    (source / "config.json").write_text(json.dumps(whole))
    shape = json.loads((FIXTURES / "vqvae/config.json").read_text())["variants"]["main"]
    (source / "vqvae/config.json").write_text(json.dumps(shape))
    model = pathlib.Path(folder) / name
    subprocess.run([BINARY, "convert", source, model, "--dtype", "int8"], check=True, capture_output=True)
    return str(model)


def png(width, height, pixel):
    """A PNG file whose pixels are what `pixel(x, y)` says: (r, g, b) or (r, g, b, a)."""
    rows = [[pixel(x, y) for x in range(width)] for y in range(height)]
    channels = len(rows[0][0])
    data = b"".join(b"\0" + bytes(value for one in row for value in one) for row in rows)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 6, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) +
            chunk(b"IEND", b""))


def png_size(file):
    assert file[:8] == b"\x89PNG\r\n\x1a\n", file[:20]
    return struct.unpack(">II", file[16:24])


def gradient(width, height=None):
    height = height or width
    return png(width, height, lambda x, y: (x * 255 // width, y * 255 // height, 90))


def hole(width, height=None, left=0, right=None):
    """A mask: columns left..right are transparent."""
    right = width if right is None else right
    return png(width, height or width, lambda x, y: (0, 0, 0, 0 if left <= x < right else 255))


def png_pixels(file):
    """The RGB bytes of an 8-bit PNG, row by row: filters undone as the standard says."""
    width, height = png_size(file)
    data, at = b"", 8
    while at < len(file):
        size = int.from_bytes(file[at:at + 4], "big")
        if file[at + 4:at + 8] == b"IDAT":
            data += file[at + 8:at + 8 + size]
        at += size + 12
    data, line, rows = zlib.decompress(data), 3 * width, []
    above = bytes(line)
    for y in range(height):
        kind, row = data[y * (line + 1)], bytearray(data[y * (line + 1) + 1:(y + 1) * (line + 1)])
        for x in range(line):
            left, up, corner = (row[x - 3], above[x], above[x - 3]) if x >= 3 else (0, above[x], 0)
            nearest = min((left, up, corner), key=lambda value: abs(left + up - corner - value))
            row[x] = (row[x] + (0, left, up, (left + up) // 2, nearest)[kind]) % 256
        rows.append(bytes(row))
        above = rows[-1]
    return b"".join(rows)
