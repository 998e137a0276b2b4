"""Painting by a real server of the converted model: what a user gets."""

import base64
import io
import json
import re
import subprocess
import urllib.request

import numpy as np
import torch
from PIL import Image


class Server:
    """`qianyi serve` with one model, for as long as the block lasts."""

    def __init__(self, qianyi, model):
        self.process = subprocess.Popen(
            [qianyi, "serve", "--model", model, "--http-port", "0", "--grpc-port", "0"],
            stdout=subprocess.PIPE, text=True)
        self.address = re.search(r"http://\S+", self.process.stdout.readline())[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate()

    def ask(self, **body):
        """[(pixels, score)] as the server orders them: best first."""
        request = urllib.request.Request(
            self.address + "/v1/images/generations", json.dumps(body).encode(),
            {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            found = json.load(response)["data"]
        return [(pixels(entry["b64_json"]), entry["score"]) for entry in found]


def pixels(text):
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        return np.asarray(picture.convert("RGB"))


def paint_best(server, captions, candidates, seed):
    """(pixels uint8 [captions, candidates, side, side, 3], scores [captions, candidates]); the first
    of each is what one picture with this seed would be."""
    painted, scores = [], []
    for i, caption in enumerate(captions):
        asked = {"prompt": caption, "seed": seed + i * candidates, "return_scores": True}
        found = server.ask(**asked, n=candidates)
        alone = server.ask(**asked, n=1)[0][0]
        first = next(k for k, (picture, _) in enumerate(found) if np.array_equal(picture, alone))
        found.insert(0, found.pop(first))
        painted.append(np.stack([picture for picture, _ in found]))
        scores.append([score for _, score in found])
    return torch.from_numpy(np.stack(painted)), torch.tensor(scores)
