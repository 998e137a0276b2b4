#!/usr/bin/env python3
"""Trains the poet, on CPU or one GPU, for a given time; goes on from its checkpoint if killed.

The learning rate rises, stays, and falls to zero over the last --decay-minutes before the end.
A file STOP in the run's folder brings the decay on at once; SIGTERM saves and ends.
"""

import argparse
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from converted import load_converted
from examples import scoring_example
from feed import ROW_TOKENS, Feed, batches, collate, pack
from model import PoetModel, Shape
from optimizer import make_optimizers, set_rate
from precision import fast_products
from vocab import Vocabulary

SHAPES = {
    "small": {"hidden": 320, "layers": 6, "heads": 5},
    "large": {"hidden": 448, "layers": 7, "heads": 7},
}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--prepared", required=True, type=Path, help="folder that prepare.py wrote")
    add("--run", required=True, type=Path, help="folder for checkpoints and the log")
    add("--start-from", type=Path,
        help="converted int8 model to begin with, where the run has no checkpoint yet")
    add("--shape", choices=SHAPES, default="small", help="size of the model")
    add("--device", default="cpu", help="cpu or cuda")
    add("--workers", type=int, default=2, help="batches in work at once on a CPU, a thread each")
    add("--minutes", type=float, required=True, help="time to train, past runs included")
    add("--decay-minutes", type=float, default=20, help="length of the final decay")
    add("--step-tokens", type=int, default=3200, help="tokens per optimizer step")
    add("--batch-tokens", type=int, default=1100, help="tokens per forward pass")
    add("--matrix-lr", type=float, default=0.02, help="learning rate of Muon")
    add("--table-lr", type=float, default=0.003, help="learning rate of the embeddings")
    add("--vector-lr", type=float, default=0.003, help="learning rate of norms and biases")
    add("--weight-decay", type=float, default=0.05, help="weight decay of the matrices")
    add("--average", type=float, default=0.99, help="decay of the running mean of the weights")
    add("--warmup-steps", type=int, default=60, help="steps until the full learning rate")
    add("--save-minutes", type=float, default=4, help="time between checkpoints")
    add("--check-minutes", type=float, default=10, help="time between looks at validation")
    add("--mixture", type=json.loads,
        help='shares of the tasks as JSON, as {"poem": 0.3, "qa": 0.7}; default: see examples.py')
    add("--dropout", type=float, default=0.0, help="for many passes over the data")
    add("--loaders", type=int, default=0, help="processes that draw examples, for a GPU")
    add("--compile", action="store_true", help="use torch.compile")
    add("--seed", type=int, default=1)
    return parser.parse_args()


class Trainer:
    def __init__(self, args):
        self.args = args
        args.run.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(args.seed)
        torch.set_num_threads(1)
        workers = args.workers if args.device == "cpu" else 1
        self.pool = ThreadPoolExecutor(workers, initializer=lambda: torch.set_num_threads(1))
        self.adding = threading.Lock()
        self.vocabulary = Vocabulary.load(args.prepared)
        self.model = self.new_model().to(args.device)
        self.forward = torch.compile(self.model, dynamic=True) if args.compile else self.model
        self.optimizers = make_optimizers(self.model, args)
        self.parameters = list(self.model.parameters())
        self.average = [p.detach().clone() for p in self.model.parameters()]
        self.step = 0
        self.spent = 0.0  # seconds of training, past runs included
        self.decay_from = None
        self.seen = 0
        self.resume()
        self.feed = Feed(args.prepared, self.vocabulary, args.seed + self.step,
                         (args.step_tokens, args.batch_tokens), args.loaders, args.mixture)
        self.checks = {task: self.validation(task) for task in ("poem", "couplet", "summary")}
        self.log = open(args.run / "log.jsonl", "a", encoding="utf-8")

    def new_model(self):
        """Random weights, or those of --start-from, whose ids must be the prepared folder's."""
        args = self.args
        if not args.start_from:
            shape = Shape(self.vocabulary.size, **SHAPES[args.shape])
            return PoetModel(shape, args.dropout)
        if Vocabulary.load(args.start_from).characters != self.vocabulary.characters:
            raise SystemExit(f"{args.start_from} has another vocabulary than {args.prepared}; "
                             f"prepare with --vocabulary {args.start_from}")
        return load_converted(args.start_from, args.dropout)

    def validation(self, task, rows=160):
        with open(self.args.prepared / f"valid_{task}.jsonl", encoding="utf-8") as file:
            lines = [json.loads(line) for line, _ in zip(file, range(rows))]
        answer = "summary" if task == "summary" else "text"
        return [scoring_example(task, row if answer == "summary" else row | {"text": ""},
                                row[answer], self.vocabulary) for row in lines]

    def losses(self, arrays):
        """(negative log-likelihoods, targets) of one forward pass."""
        batch = {k: torch.from_numpy(v).to(self.args.device) for k, v in arrays.items()}
        with fast_products(self.args.device):
            return self.forward(batch), batch["targets"]

    def add_gradients(self, arrays, count):
        """Adds the gradients of one forward pass's part of a step; returns its loss."""
        loss = self.losses(arrays)[0].sum() / count
        slopes = torch.autograd.grad(loss, self.parameters)
        with self.adding:
            for p, slope in zip(self.parameters, slopes):
                p.grad = slope if p.grad is None else p.grad.add_(slope)
        return loss.detach()

    @torch.no_grad()
    def check(self):
        """Mean loss per token of held-out answers, without their end tokens."""
        figures = {}
        self.model.eval()
        for task, examples in self.checks.items():
            total = count = 0
            for group in batches(pack(examples, ROW_TOKENS), self.args.batch_tokens):
                loss, targets = self.losses(collate(group, self.vocabulary.commands))
                inner = targets != self.vocabulary.commands["eop"]
                total += loss[inner].sum().item()
                count += inner.sum().item()
            figures[task] = round(total / count, 4)
        self.model.train()
        return figures

    def rate(self):
        """The part of the full learning rate to use now."""
        args = self.args
        if self.decay_from is None and (args.run / "STOP").exists():
            self.decay_from = self.spent
        begin = args.minutes * 60 - args.decay_minutes * 60
        if self.decay_from is not None:
            begin = min(begin, self.decay_from)
        fall = 1 - (self.spent - begin) / (args.decay_minutes * 60)
        return max(0.0, min(1.0, fall, (self.step + 1) / args.warmup_steps))

    def train_step(self):
        """One optimizer step over about --step-tokens tokens; returns the mean loss."""
        parts, tokens = self.feed.next()
        count = sum(len(arrays["targets"]) for arrays in parts)
        for p in self.parameters:
            p.grad = None
        losses = list(self.pool.map(lambda part: self.add_gradients(part, count), parts))
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        set_rate(self.optimizers, self.rate())
        muon, adam = self.optimizers
        rest = self.pool.submit(adam.step)
        muon.step(lambda work, items: list(self.pool.map(work, items)))
        rest.result()
        self.step += 1
        self.seen += tokens
        keep = min(self.args.average, 1 - 1 / self.step)
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - keep)
        return sum(losses)

    def run(self):
        """Trains until the learning rate is zero."""
        stop = []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
        saved = checked = self.spent
        losses, first_seen, first_time = [], self.seen, self.spent
        while self.rate() > 0 and not stop:
            start = time.monotonic()
            losses.append(self.train_step())
            if self.step % 20 == 0:
                mean = float(sum(losses)) / len(losses)
            self.spent += time.monotonic() - start
            if self.step % 20 == 0:
                speed = (self.seen - first_seen) / max(1e-9, self.spent - first_time)
                self.write({"loss": round(mean, 4), "tokens_per_second": round(speed)})
                losses, first_seen, first_time = [], self.seen, self.spent
            if self.spent - checked > self.args.check_minutes * 60:
                checked = self.spent
                self.write({"validation": self.check()})
            if self.spent - saved > self.args.save_minutes * 60:
                saved = self.spent
                self.save()
        self.save()
        if not stop:
            self.write({"validation": self.check()})

    def write(self, entry):
        head = {"step": self.step, "minutes": round(self.spent / 60, 2), "tokens": self.seen,
                "rate": round(self.rate(), 4)}
        line = json.dumps(head | entry)
        print(line, flush=True)
        self.log.write(line + "\n")
        self.log.flush()

    def save(self):
        """Writes the checkpoint in one stroke."""
        path = self.args.run / "checkpoint.pt"
        names = [name for name, _ in self.model.named_parameters()]
        state = {"shape": self.model.shape.as_dict(), "model": self.model.state_dict(),
                 "average": dict(zip(names, self.average)),
                 "optimizers": [o.state_dict() for o in self.optimizers], "step": self.step,
                 "spent": self.spent, "seen": self.seen, "decay_from": self.decay_from}
        torch.save(state, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)

    def resume(self):
        path = self.args.run / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.args.device)
        self.model.load_state_dict(state["model"])
        self.average = [state["average"][name] for name, _ in self.model.named_parameters()]
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            full = [group["full_lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, rate in zip(optimizer.param_groups, full):
                group["full_lr"] = rate
        for name in ("step", "spent", "seen", "decay_from"):
            setattr(self, name, state[name])


if __name__ == "__main__":
    Trainer(parse_args()).run()
