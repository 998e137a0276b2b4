"""The captioned pictures: reading, what is held out, and how a thing is named in Chinese."""

import json
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64  # pixels
HELD_OUT_IN_1000 = 60

# Measure words by the last character of a label, then by the data's sub-group.
MEASURES = {
    "鱼": "条", "蛇": "条", "龙": "条", "裙": "条", "裤": "条", "巾": "条", "马": "匹", "驼": "匹",
    "牛": "头", "象": "头", "猪": "头", "驴": "头", "车": "辆", "船": "艘", "艇": "艘", "机": "架",
    "树": "棵", "花": "朵", "云": "朵", "瑰": "朵", "葵": "朵", "书": "本", "本": "本", "伞": "把",
    "刀": "把", "剪": "把", "椅": "把", "锁": "把", "床": "张", "月": "轮", "鞋": "双", "袜": "双",
    "笔": "支", "箭": "支", "山": "座", "房": "座", "屋": "座", "堂": "座", "堡": "座", "厂": "座",
}
SUB_MEASURES = {
    "只": ("animal-bird", "animal-bug", "animal-mammal", "animal-marine", "animal-reptile",
          "animal-amphibian", "cat-face", "monkey-face"),
    "辆": ("transport-ground",),
    "件": ("clothing",),
    "杯": ("drink",),
    "个": ("food-fruit", "food-vegetable", "food-asian", "food-prepared", "food-sweet", "household",
          "tool", "sport", "game", "music", "musical-instrument", "office", "light & video",
          "dishware", "computer", "person", "person-role", "person-fantasy", "event", "medical",
          "science", "award-medal", "phone", "body-parts", "face-costume", "lock", "mail",
          "place-building", "book-paper", "writing", "hotel"),
}
SUB_MEASURE = {sub: word for word, subs in SUB_MEASURES.items() for sub in subs}


class Thing:
    """One picture of the data and its names."""

    def __init__(self, row, frequency):
        self.file, self.label, self.sub = row["file"], row["label"], row["sub"]
        measure = SUB_MEASURE.get(self.sub)
        if measure and not self.label.startswith("一"):
            measure = MEASURES.get(self.label[-1], measure)
            self.counted = f"一{measure}{self.label}"
        else:
            self.counted = None
        self.others = [tag for tag in row["tags"] if tag != self.label and frequency[tag] <= 6]
        if self.label.startswith("旗: "):
            self.others = [self.label[3:] + "国旗"]
        self.held_out = zlib.crc32(self.file.encode()) % 1000 < HELD_OUT_IN_1000

    def name(self, rng):
        """One of its names: mostly the label, with or without "a", else a rarer tag."""
        draw = rng.random()
        if draw < 0.2 and self.others:
            return rng.choice(self.others)
        if draw < 0.55 and self.counted:
            return self.counted
        return self.label


def read_things(folder):
    """All things, in the order of the file."""
    lines = (Path(folder) / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    frequency = Counter(tag for row in rows for tag in row["tags"])
    return [Thing(row, frequency) for row in rows]


def read_pictures(folder, things):
    """Their pictures, [things, 64, 64, 4] in uint8."""
    out = np.zeros((len(things), SIDE, SIDE, 4), np.uint8)
    for i, thing in enumerate(things):
        with Image.open(Path(folder) / "img" / thing.file) as picture:
            out[i] = np.asarray(picture.convert("RGBA"))
    return out
