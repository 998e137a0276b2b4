"""Backgrounds and styles as filters over batches of pictures, float arrays from 0 to 255.

A `canvas` is [n, 64, 64, 4] with straight alpha; a scene is the [64, 64, 3] picture behind it.
Textures repeat every 8 pixels, the width of a code, so that a bare background is few codes.
"""

import numpy as np

STYLES = {"国画": "，国画", "油画": "，油画", "卡通画": "，卡通画", "轮廓画": "，轮廓画",
          "photo": "，照片"}
SIDE = 64
_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / (SIDE - 1)


def _flat(*rgb):
    return np.broadcast_to(np.float32(rgb), (SIDE, SIDE, 3))


def _split(top, bottom, horizon):
    return np.where(_Y[..., None] < horizon, np.float32(top), np.float32(bottom))


def _night():
    scene = _flat(28, 34, 84).copy()
    for row, column in ((5, 9), (12, 40), (20, 22), (7, 57), (30, 52), (38, 6)):
        scene[row:row + 2, column:column + 2] = (250, 240, 170)
    return scene


SCENES = {
    "，蓝色背景": _flat(120, 180, 240), "，红色背景": _flat(225, 80, 70),
    "，绿色背景": _flat(130, 200, 120), "，黄色背景": _flat(250, 220, 110),
    "，粉色背景": _flat(250, 190, 205), "，黑色背景": _flat(30, 30, 34),
    "，草地上": _split((170, 215, 250), (110, 180, 80), 0.6),
    "，沙滩上": _split((130, 200, 240), (240, 220, 160), 0.6),
    "，雪地里": _split((150, 175, 210), (244, 248, 252), 0.55), "，夜空下": _night(),
}


def blur(x, radius):
    """Box blur over the two picture axes, edges repeated, three times: nearly a Gaussian."""
    for _ in range(3):
        for axis in (1, 2):
            x = box(x, radius, axis)
    return x


def box(x, radius, axis):
    """Mean of 2 radius + 1 neighbours along an axis."""
    width = [(0, 0)] * x.ndim
    width[axis] = (radius + 1, radius)
    sums = np.cumsum(np.pad(x, width, "edge"), axis, dtype=np.float32)
    n = x.shape[axis]
    high = np.take(sums, range(2 * radius + 1, 2 * radius + 1 + n), axis)
    low = np.take(sums, range(n), axis)
    return (high - low) / (2 * radius + 1)


def grey(x):
    return x @ np.float32([0.299, 0.587, 0.114])


def lines(picture, low, high):
    """0 to 1: how much an outline each pixel is."""
    x = np.pad(picture, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    smooth = (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
    across = smooth[:, :, 2:] - smooth[:, :, :-2]
    smooth = (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4
    down = smooth[:, 2:] - smooth[:, :-2]
    strength = np.sqrt(across**2 + down**2).max(-1)
    return np.clip((strength - low) / (high - low), 0, 1)[..., None]


def over(canvas, behind):
    """The canvas on what is behind it."""
    alpha = canvas[..., 3:] / 255
    return canvas[..., :3] * alpha + behind * (1 - alpha)


def saturate(picture, factor):
    middle = grey(picture)[..., None]
    return middle + (picture - middle) * factor


def kuwahara(picture, radius):
    """Each pixel takes the mean of the calmest of the four squares that touch it."""
    square = 2 * radius + 1
    mean, squares = picture, grey(picture)[..., None] ** 2
    for axis in (1, 2):
        mean, squares = box(mean, radius, axis), box(squares, radius, axis)
    spread = squares - grey(mean)[..., None] ** 2
    shift = square // 2
    best, least = None, None
    for rows in (-shift, shift):
        for columns in (-shift, shift):
            m = np.roll(mean, (rows, columns), (1, 2))
            s = np.roll(spread, (rows, columns), (1, 2))
            best = m if best is None else np.where(s < least, m, best)
            least = s if least is None else np.minimum(s, least)
    return best


def plain(canvas, scene):
    return over(canvas, 255.0 if scene is None else scene)


def outline(canvas, scene):
    """Black lines on white paper; a scene is left out."""
    del scene
    layers = np.concatenate([over(canvas, 255.0), canvas[..., 3:] * 0.7], -1)
    return np.repeat(255 - 235 * lines(layers, 70, 200), 3, -1)


def cartoon(canvas, scene):
    """Few strong colours, black contours, a yellow page."""
    behind = _flat(255, 236, 150) if scene is None else scene
    picture = over(canvas, behind)
    strong = np.round(np.clip(saturate(picture, 1.6), 0, 255) / 64) * 64
    edge = np.concatenate([canvas[..., 3:], grey(over(canvas, 255.0))[..., None] * 0.6], -1)
    return np.clip(strong, 0, 255) * (1 - lines(edge, 150, 330))


def ink(canvas, scene):
    """Grey ink with a trace of colour on rice paper, and a red seal; a scene is left out."""
    del scene
    paper = _flat(243, 234, 212)
    picture = over(canvas, 255.0)
    tone = grey(picture)[..., None]
    wash = np.clip(0.75 * tone + 0.25 * picture, 0, 255)
    wash = 40 + (wash - 40) * np.float32([0.92, 0.9, 0.86])
    wash = wash * (1 - 0.55 * lines(picture, 100, 400))
    alpha = blur(canvas[..., 3:], 1) / 255
    out = wash * alpha + paper * (1 - alpha)
    out[:, 54:61, 54:61] = (190, 50, 40)
    return out


def oil(canvas, scene):
    """Flat strokes with a relief, on dark canvas."""
    weave = 8 * np.sin((_X + _Y) * (SIDE - 1) * np.pi / 4)[..., None]
    behind = _flat(150, 112, 78) if scene is None else scene * 0.9
    picture = kuwahara(over(canvas, behind), 2)
    light = grey(picture)
    relief = (light - np.roll(light, (1, 1), (1, 2)))[..., None] * 0.5
    return np.clip(saturate(picture, 1.25) * 0.95 + relief + weave, 0, 255)


def photo(canvas, scene):
    """A studio: light from the upper left, a soft shadow, a grey sweep."""
    sweep = 205 - 85 * _Y[..., None]
    behind = np.repeat(sweep, 3, -1) if scene is None else blur(scene[None], 2)[0]
    shadow = np.roll(blur(canvas[..., 3:], 2), (4, 4), (1, 2))
    shadow[:, :4] = shadow[:, :, :4] = 0
    ground = behind * (1 - 0.45 * shadow / 255)
    light = (1.12 - 0.4 * (_X + _Y) / 2)[..., None]
    lit = canvas.copy()
    lit[..., :3] = np.clip(canvas[..., :3] * light, 0, 255)
    return over(lit, ground)


SCENIC = ("油画", "卡通画", "photo")  # the styles that keep a scene

FILTERS = {None: plain, "国画": ink, "油画": oil, "卡通画": cartoon, "轮廓画": outline,
           "photo": photo}


def render(canvas, style, scene):
    """uint8 [n, 64, 64, 3] of canvases in a style (None: none) before a scene's suffix or None."""
    behind = None if scene is None else SCENES[scene]
    out = FILTERS[style](canvas.astype(np.float32), behind)
    return np.clip(out + 0.5, 0, 255).astype(np.uint8)
