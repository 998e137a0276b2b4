#!/usr/bin/env python3
"""Trains the VQ-VAE on the bank; goes on from its checkpoint if killed."""

import argparse
from pathlib import Path

import numpy as np
import torch

from bank import load_pictures
from clock import Clock, Workers, add_arguments
from prepare import read_rows
from vqvae import Shape, VqVae, normalise, to_pixels


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--prepared", required=True, type=Path, help="folder that prepare.py wrote")
    add("--run", required=True, type=Path, help="folder for checkpoints and the log")
    add("--channel", type=int, default=96, help="width of the network")
    add("--codes", type=int, default=1024, help="size of the code book")
    add("--batch", type=int, default=48, help="pictures in a step")
    add("--lr", type=float, default=1.5e-3)
    add("--open-steps", type=int, default=250,
        help="steps without codes, before k-means finds the first ones")
    add_arguments(parser)
    return parser.parse_args()


def picture_loss(made, wanted):
    """Absolute and squared difference, and that of the slopes, which keeps edges sharp."""
    difference = made - wanted
    across = (difference[..., 1:] - difference[..., :-1]).abs().mean()
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
    return difference.abs().mean() + 0.5 * (difference**2).mean() + 0.5 * (across + down)


class Trainer:
    def __init__(self, args):
        self.args = args
        torch.manual_seed(args.seed)
        self.clock = Clock(args)
        shape = Shape(channel=args.channel, n_res_channel=args.channel // 2, n_embed=args.codes)
        self.model = VqVae(shape).to(args.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=args.lr, betas=(0.9, 0.98),
                                           weight_decay=1e-4)
        state = self.clock.load()
        if state:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        self.workers = Workers(args, self.model.parameters())
        self.rng = np.random.default_rng(args.seed + self.clock.step)
        self.pictures = load_pictures(args.prepared, "train")
        weights = np.array([row.weight for row in read_rows(args.prepared, "train")])
        self.bounds = np.cumsum(weights / weights.sum())
        self.valid = load_pictures(args.prepared, "valid")

    def batch(self, size):
        chosen = np.searchsorted(self.bounds, self.rng.random(size))
        return normalise(torch.from_numpy(self.pictures[np.minimum(chosen, len(self.bounds) - 1)])
                         .to(self.args.device))

    @torch.no_grad()
    def find_codes(self):
        features = [self.model.features(self.batch(64)).flatten(0, 2) for _ in range(16)]
        self.model.quantize_t.cluster(torch.cat(features))

    def part(self, wanted):
        """Loss of a part of a step, and what the code book learns from it."""
        made, commitment, flat, codes = self.model(wanted, self.quantize)
        loss = picture_loss(made, wanted)
        return (loss + 0.25 * commitment) / self.workers.count, (loss.item(), flat, codes)

    @property
    def quantize(self):
        return self.clock.step >= self.args.open_steps

    def train_step(self):
        if self.clock.step == self.args.open_steps:
            self.find_codes()
        parts = self.batch(self.args.batch).chunk(self.workers.count)
        losses, flats, codes = zip(*self.workers.gradients(self.part, parts))
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * self.clock.rate()
        torch.nn.utils.clip_grad_norm_(self.workers.parameters, 1.0)
        self.optimizer.step()
        used = 0.0
        if self.quantize:
            flat, codes = torch.cat(flats), torch.cat(codes)
            self.model.quantize_t.update(flat, codes)
            used = len(codes.unique()) / self.model.shape.n_embed
        return np.mean(losses), used

    @torch.no_grad()
    def check(self):
        """Root of the mean squared error of held-out pictures, of 255."""
        self.model.eval()
        total = 0.0
        for begin in range(0, len(self.valid), 64):
            pixels = torch.from_numpy(self.valid[begin:begin + 64]).to(self.args.device)
            made = self.model.decode(self.model.encode(normalise(pixels)))
            total += ((to_pixels(made).float() - pixels.float())**2).mean((1, 2, 3)).sum().item()
        self.model.train()
        return round((total / len(self.valid))**0.5, 3)

    def save(self):
        self.clock.save({"shape": self.model.shape.as_dict(), "model": self.model.state_dict(),
                         "optimizer": self.optimizer.state_dict()})

    def run(self):
        clock, losses = self.clock, []
        while clock.running():
            clock.begin()
            losses.append(self.train_step())
            clock.end()
            if clock.step % 25 == 0:
                loss, used = np.mean(losses, 0)
                clock.write({"loss": round(loss, 4), "codes_in_batch": round(used, 3)})
                losses = []
            if clock.due("checked"):
                clock.write({"validation": self.check()})
            if clock.due("saved"):
                self.save()
        self.save()
        if not clock.stop:
            clock.write({"validation": self.check()})


if __name__ == "__main__":
    Trainer(parse_args()).run()
