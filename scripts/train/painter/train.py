#!/usr/bin/env python3
"""Trains the Transformer on captions and codes; goes on from its checkpoint if killed."""

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from clock import Clock, Workers, add_arguments
from encode import load_codebook, load_codes
from model import CogView, Sequences, Shape
from parent import fast_products, make_optimizers, set_rate
from prepare import read_rows
from things import read_things
from vocabulary import CaptionVocabulary


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", required=True, type=Path, help="folder of captions.jsonl and img")
    add("--prepared", required=True, type=Path, help="folder that prepare.py wrote")
    add("--codes", required=True, type=Path, help="folder that encode.py wrote")
    add("--run", required=True, type=Path, help="folder for checkpoints and the log")
    add("--hidden", type=int, default=192, help="width, a multiple of 64")
    add("--layers", type=int, default=4)
    add("--image-codes", type=int, default=1024, help="size of the code book")
    add("--batch", type=int, default=48, help="pictures in a step")
    add("--captioning", type=float, default=0.2, help="share of sequences from picture to text")
    add("--spelling", type=float, default=0.3, help="share of captions spelled in characters")
    add("--matrix-lr", type=float, default=0.02, help="learning rate of Muon")
    add("--table-lr", type=float, default=0.003, help="learning rate of the embeddings")
    add("--vector-lr", type=float, default=0.003, help="learning rate of norms and biases")
    add("--weight-decay", type=float, default=0.02, help="weight decay of the matrices")
    add("--neighbours", type=float, default=0.5,
        help="share of a code's target that goes to codes like it, at the full learning rate")
    add("--average", type=float, default=0.995, help="decay of the running mean of the weights")
    add("--dropout", type=float, default=0.0)
    add_arguments(parser)
    return parser.parse_args()


def neighbours(codebook):
    """[codes, codes]: each code's likeness to every code, rows of sum 1: a bell over the distance
    that has fallen to exp(-3) at the eighth nearest."""
    distances = torch.cdist(codebook, codebook)**2
    eighth = distances.kthvalue(9, 1, keepdim=True).values
    return torch.softmax(-3 * distances / eighth, 1)


class Batch:
    """Padded tokens and, for codes and for text, (flat positions before targets, targets)."""

    def __init__(self, examples, grid, pad, device):
        longest = max(len(tokens) for tokens, _, _ in examples)
        self.tokens = torch.full((len(examples), longest), pad)
        at = {True: [], False: []}
        for i, (tokens, begin, painting) in enumerate(examples):
            self.tokens[i, :len(tokens)] = torch.tensor(tokens)
            end = begin + grid * grid if painting else len(tokens)
            at[painting].append(torch.arange(begin, end) + i * longest)
        flat = self.tokens.flatten()
        self.targets = {}
        for painting, rows in at.items():
            rows = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.long)
            self.targets[painting] = ((rows - 1).to(device), flat[rows].to(device))
        self.tokens = self.tokens.to(device)


class Examples:
    """Draws examples: (tokens, index of the first target, whether it paints)."""

    def __init__(self, args, split, sequences, seed):
        self.things = read_things(args.data)
        self.rows = read_rows(args.prepared, split)
        self.codes = load_codes(args.codes, split)
        self.sequences = sequences
        self.captioning, self.spelling = args.captioning, args.spelling
        self.rng = random.Random(seed)
        self.bounds = np.cumsum([row.weight for row in self.rows]).tolist()

    def make(self, i, caption, painting, words=True):
        make = self.sequences.painting if painting else self.sequences.captioning
        return *make(caption, self.codes[i].tolist(), words), painting

    def draw(self, count):
        chosen = self.rng.choices(range(len(self.rows)), cum_weights=self.bounds, k=count)
        return [self.make(i, self.rows[i].caption(self.things, self.rng),
                          self.rng.random() >= self.captioning,
                          self.rng.random() >= self.spelling) for i in chosen]

    def fixed(self, count):
        """Both directions of evenly spaced rows with the labels as they are."""
        rows = range(0, len(self.rows), max(1, len(self.rows) // count))
        return [self.make(i, self.rows[i].plain_caption(self.things), painting)
                for i in rows for painting in (True, False)]


class Trainer:
    def __init__(self, args):
        self.args = args
        torch.manual_seed(args.seed)
        self.clock = Clock(args)
        vocabulary = CaptionVocabulary.load(args.prepared)
        shape = Shape(args.image_codes, vocabulary.size, hidden=args.hidden, layers=args.layers,
                      heads=args.hidden // 64)
        self.model = CogView(shape, args.dropout).to(args.device)
        codebook = load_codebook(args.codes)
        self.model.begin_with_codebook(codebook.to(args.device))
        self.neighbours = neighbours(codebook).to(args.device)
        self.optimizers = make_optimizers(self.model, args)
        self.workers = Workers(args, self.model.parameters())
        self.average = [p.detach().clone() for p in self.model.parameters()]
        self.seen = 0
        self.resume()
        self.sequences = Sequences(shape, vocabulary)
        self.examples = Examples(args, "train", self.sequences, args.seed + self.clock.step)
        self.checks = {split: Examples(args, split, self.sequences, 0).fixed(160)
                       for split in ("train", "valid")}

    def logarithms(self, examples):
        """(log-probabilities, targets) of the codes and of the text of some examples."""
        shape = self.model.shape
        batch = Batch(examples, shape.grid, self.sequences.c["[PAD]"], self.args.device)
        code_rows, codes = batch.targets[True]
        text_rows, text = batch.targets[False]
        with fast_products(self.args.device):
            states = self.model.states(batch.tokens).flatten(0, 1)
            code_logits = self.model.code_logits(states[code_rows])
            text_logits = self.model.text_logits(states[text_rows])
        code_logs = F.log_softmax(code_logits.float(), -1)
        text_logs = F.log_softmax(text_logits.float(), -1)
        return (code_logs, codes), (text_logs, text - shape.image_codes)

    def part(self, examples):
        (code_logs, codes), (text_logs, text) = self.logarithms(examples)
        code_loss = F.nll_loss(code_logs, codes, reduction="sum")
        text_loss = F.nll_loss(text_logs, text, reduction="sum")
        # As the learning rate falls the targets become the codes themselves.
        share = self.args.neighbours * self.clock.rate()
        alike = -(self.neighbours[codes] * code_logs).sum()
        loss = (1 - share) * code_loss + share * alike + text_loss
        return (loss / (self.args.batch * self.model.shape.grid**2),
                (code_loss.item(), len(codes), text_loss.item(), len(text)))

    def train_step(self):
        """One optimizer step; returns sums and counts of the losses of codes and text."""
        examples = sorted(self.examples.draw(self.args.batch), key=lambda e: len(e[0]))
        size = -(-len(examples) // (2 * self.workers.count))
        parts = [examples[i:i + size] for i in range(0, len(examples), size)]
        sums = self.workers.gradients(self.part, parts)
        torch.nn.utils.clip_grad_norm_(self.workers.parameters, 1.0)
        set_rate(self.optimizers, self.clock.rate())
        muon, adam = self.optimizers
        muon.step(lambda work, items: list(self.workers.pool.map(work, items)))
        adam.step()
        self.seen += len(examples)
        keep = min(self.args.average, 1 - 1 / (self.clock.step + 1))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.model.parameters()], 1 - keep)
        return sums

    @torch.no_grad()
    def check(self):
        """Mean losses of fixed rows."""
        figures = {}
        self.model.eval()
        for split, examples in self.checks.items():
            parts = [self.logarithms(examples[i:i + 64]) for i in range(0, len(examples), 64)]
            for name, pairs in zip(("codes", "text"), zip(*parts)):
                losses = [F.nll_loss(logs, wanted, reduction="none") for logs, wanted in pairs]
                figures[f"{split}_{name}"] = round(torch.cat(losses).mean().item(), 4)
        self.model.train()
        return figures

    def save(self):
        names = [name for name, _ in self.model.named_parameters()]
        self.clock.save({"shape": self.model.shape.as_dict(), "model": self.model.state_dict(),
                         "average": dict(zip(names, self.average)), "seen": self.seen,
                         "optimizers": [o.state_dict() for o in self.optimizers]})

    def resume(self):
        state = self.clock.load()
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.average = [state["average"][name] for name, _ in self.model.named_parameters()]
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            full = [group["full_lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, rate in zip(optimizer.param_groups, full):
                group["full_lr"] = rate
        self.seen = state["seen"]

    def run(self):
        clock, sums = self.clock, []
        while clock.running():
            clock.begin()
            sums += self.train_step()
            clock.end()
            if clock.step % 20 == 0:
                codes, code_count, text, text_count = np.sum(sums, 0)
                clock.write({"pictures": self.seen, "codes": round(codes / code_count, 4),
                             "text": round(text / max(1, text_count), 4)})
                sums = []
            if clock.due("checked"):
                clock.write({"pictures": self.seen, "validation": self.check()})
            if clock.due("saved"):
                self.save()
        self.save()
        if not clock.stop:
            clock.write({"pictures": self.seen, "validation": self.check()})


if __name__ == "__main__":
    Trainer(parse_args()).run()
