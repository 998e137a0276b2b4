"""The bank: rows that say what a picture shows, their pictures, and captions drawn for them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layouts import LAYOUTS, place
from styles import SCENES, SCENIC, SIDE, STYLES, render

STYLE_WEIGHTS = {"轮廓画": 4.5, "油画": 3.5}  # those that are remembered less well


@dataclass(frozen=True)
class Row:
    """One picture: thing `first` (and `second` in a pair), and how often it is drawn."""

    first: int
    second: int = -1
    layout: str = "full"
    scene: str | None = None
    style: str | None = None
    weight: float = 1.0

    def suffix(self):
        return LAYOUTS[self.layout] + (self.scene or "") + (STYLES[self.style] if self.style else "")

    def caption(self, things, rng):
        """A caption with names drawn for its things."""
        names = [things[self.first].name(rng)]
        if self.second >= 0:
            names.append(things[self.second].name(rng))
        return "和".join(names) + self.suffix()

    def plain_caption(self, things):
        """The caption with the labels as they are."""
        labels = [things[i].label for i in (self.first, self.second) if i >= 0]
        return "和".join(labels) + self.suffix()


def rows_of(first, others, rng):
    """The training rows of a thing; `others` are the indices it may be paired with."""
    styles, scenes = list(STYLES), list(SCENES)
    rows = [Row(first, weight=2.0)]
    rows += [Row(first, style=style, weight=STYLE_WEIGHTS.get(style, 2.8)) for style in styles]
    rows += [Row(first, scene=scene, weight=0.3) for scene in rng.sample(scenes, 4)]
    rows += [Row(first, scene=rng.choice(scenes), style=style, weight=0.25)
             for style in rng.sample(SCENIC, 2)]
    for layout in ("far", "near", "mirror"):
        rows += [Row(first, layout=layout, style=style, weight=0.2)
                 for style in (None, rng.choice(styles))]
    rows += [Row(first, rng.choice(others), "pair", style=style, weight=0.35)
             for style in (None, None, rng.choice(styles), rng.choice(styles))]
    return rows


def held_out_rows(first):
    """A held-out thing, plain and in every style."""
    return [Row(first, style=style) for style in (None, *STYLES)]


def paint(rows, pictures, path):
    """Writes the rows' pictures as a uint8 array [rows, 64, 64, 3], rows alike together."""
    out = np.lib.format.open_memmap(path, "w+", np.uint8, (len(rows), SIDE, SIDE, 3))
    kinds = {}
    for i, row in enumerate(rows):
        kinds.setdefault((row.layout, row.scene, row.style), []).append(i)
    for (layout, scene, style), members in kinds.items():
        for begin in range(0, len(members), 256):
            part = members[begin:begin + 256]
            first = pictures[[rows[i].first for i in part]]
            second = pictures[[rows[i].second for i in part]] if layout == "pair" else None
            out[part] = render(place(layout, first, second), style, scene)
    out.flush()


def load_pictures(prepared, split):
    return np.load(Path(prepared) / f"{split}.npy", mmap_mode="r")
