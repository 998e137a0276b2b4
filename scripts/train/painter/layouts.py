"""Where a thing stands in its picture: canvases of pictures with an alpha channel."""

import numpy as np
from PIL import Image

LAYOUTS = {"full": "", "far": "，远景", "near": "，近景", "mirror": "，镜像", "pair": ""}


def half(pictures):
    """[n, 64, 64, 4] at half the size, colours weighted by their alpha."""
    n, side = pictures.shape[:2]
    x = pictures.astype(np.float32).reshape(n, side // 2, 2, side // 2, 2, 4)
    alpha = x[..., 3:]
    total = alpha.sum((2, 4))
    colours = (x[..., :3] * alpha).sum((2, 4)) / np.maximum(total, 1)
    return np.concatenate([colours, total / 4], -1)


def near(pictures, margin=11):
    """The middle of each picture, as large as the picture was."""
    side = pictures.shape[1]
    box = (margin, margin, side - margin, side - margin)
    return np.stack([np.asarray(Image.fromarray(p, "RGBA").resize((side, side), Image.BICUBIC, box))
                     for p in pictures])


def place(layout, first, second=None):
    """The canvas of a layout; `second` pictures stand to the right in "pair"."""
    if layout == "full":
        return first
    if layout == "near":
        return near(first)
    if layout == "mirror":
        return first[:, :, ::-1]
    canvas = np.zeros(first.shape, np.float32)
    if layout == "far":
        canvas[:, 24:56, 16:48] = half(first)
    else:
        canvas[:, 16:48, :32] = half(first)
        canvas[:, 16:48, 32:] = half(second)
    return canvas
