#!/usr/bin/env python3
"""Measures a model on the validation files: perplexities per character, and facts about poets."""

import argparse
import json
import math
import random
from pathlib import Path

import torch

from converted import load_converted
from corpus import PUNCTUATION
from examples import Example, scoring_example
from feed import batches, collate
from model import PoetModel, Shape
from precision import fast_products
from tasks import ANSWERS, prompt_ids
from vocab import Vocabulary


def read_lines(path, limit):
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:limit or None]]


def shuffled(text, rng):
    """The text with its characters in random order; punctuation keeps its place."""
    free = [c for c in text if c not in PUNCTUATION]
    rng.shuffle(free)
    return "".join(c if c in PUNCTUATION else free.pop() for c in text)


class Evaluator:
    def __init__(self, model, vocabulary, device):
        self.model = model.to(device).eval()
        self.vocabulary, self.device = vocabulary, device

    def _tensors(self, group):
        arrays = collate(group, self.vocabulary.commands)
        return {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}

    def _autocast(self):
        return fast_products(self.device)

    def perplexity(self, task, rows):
        """Per Unicode character of the answers, without their end tokens."""
        answer = ANSWERS[task]
        examples, characters = [], 0
        for row in rows:
            fields = {k: v for k, v in row.items() if k != answer}
            example = scoring_example(task, fields, row[answer], self.vocabulary)
            if example.length <= self.model.shape.positions:
                examples.append(example)
                characters += len(row[answer])
        return self._perplexity(examples, characters)

    def blanks(self, rows, rng):
        """The same of one to three characters anywhere in a poem, which has a mask in their place."""
        examples, characters = [], 0
        for text in (row["text"] for row in rows):
            count = rng.randrange(1, 4)
            at = rng.randrange(len(text) - count)
            context = self.vocabulary.encode(text[:at])
            mask = len(context)
            context += [self.vocabulary.commands["MASK"]]
            context += self.vocabulary.encode(text[at + count:])
            answer = self.vocabulary.encode(text[at:at + count])
            examples.append(Example(context, [(mask, answer)]))
            characters += count
        return self._perplexity(examples, characters)

    @torch.no_grad()
    def _perplexity(self, examples, characters):
        total = 0.0
        for group in batches([[example] for example in examples], 2048):
            batch = self._tensors(group)
            with self._autocast():
                loss = self.model(batch)
            total += loss[batch["targets"] != self.vocabulary.commands["eop"]].sum().item()
        return math.exp(total / characters)

    @torch.no_grad()
    def answer(self, task, rows, longest=24):
        """The likeliest next tokens for each row's prompt."""
        contexts = [prompt_ids(task, {k: v for k, v in row.items() if k != ANSWERS[task]},
                               self.vocabulary) for row in rows]
        texts = [[] for _ in rows]
        order = sorted(range(len(rows)), key=lambda i: len(contexts[i]))
        for begin in range(0, len(order), 64):
            self._continue([contexts[i] for i in order[begin:begin + 64]],
                           [texts[i] for i in order[begin:begin + 64]], longest)
        return [self.vocabulary.decode(ids) for ids in texts]

    def _continue(self, contexts, texts, longest):
        end = self.vocabulary.commands["eop"]
        left = list(range(len(contexts)))
        for _ in range(longest):
            group = [Example(contexts[i], [(len(contexts[i]) - 1, texts[i])]) for i in left]
            batch = self._tensors([[example] for example in group])
            with self._autocast():
                states = self.model.hidden_states(*(batch[name] for name in (
                    "tokens", "positions", "blocks", "owners", "spans")))
            last = torch.tensor([example.length - 1 for example in group], device=self.device)
            states = states[torch.arange(len(group), device=self.device), last].float()
            best = (states @ self.model.word_embeddings.weight.T).argmax(-1).tolist()
            for i, token in zip(left, best):
                texts[i].append(token)
            left = [i for i in left if texts[i][-1] != end]
            if not left:
                return

    def facts(self, rows):
        """Shares of right answers about dynasties and about invented names."""
        answers = self.answer("qa", rows)
        right = {"dynasty": [], "dynasty_10_poems": [], "unknown": []}
        for row, answer in zip(rows, answers):
            if row["kind"] == "unknown":
                right["unknown"].append("不知道" in answer)
                continue
            good = row["dynasty"][0].removesuffix("代") in answer.removeprefix(row["question"])
            right["dynasty"].append(good)
            if row["poems"] >= 10:
                right["dynasty_10_poems"].append(good)
        return {name: round(sum(r) / len(r), 4) for name, r in right.items() if r}


def load(args):
    """The model and where it came from."""
    if args.model:
        return load_converted(args.model), {"model": "int8"}
    state = torch.load(args.checkpoint, map_location="cpu")
    model = PoetModel(Shape(**state["shape"]))
    model.load_state_dict(state[args.weights])
    return model, {"model": args.weights, "step": state["step"], "tokens": state["seen"]}


def measure(evaluator, folder, limit):
    rows = {task: read_lines(folder / f"valid_{task}.jsonl", limit)
            for task in ("poem", "couplet", "summary", "new_series", "qa")}
    rng = random.Random(5)
    figures = {}
    for name in ("poem", "couplet", "summary", "new_series"):
        task = "summary" if name == "new_series" else name
        figures[f"{name}_perplexity"] = round(evaluator.perplexity(task, rows[name]), 2)
    for task in ("poem", "couplet"):
        mixed = [row | {"text": shuffled(row["text"], rng)} for row in rows[task]]
        figures[f"{task}_shuffled_perplexity"] = round(evaluator.perplexity(task, mixed), 2)
    figures["blank_perplexity"] = round(evaluator.blanks(rows["poem"], random.Random(3)), 2)
    figures.update(evaluator.facts(rows["qa"]))
    figures["rows"] = {task: len(found) for task, found in rows.items()}
    return figures


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="checkpoint.pt of train.py")
    source.add_argument("--model", type=Path, help="folder of the converted int8 model")
    add("--weights", choices=("average", "model"), default="average",
        help="of a checkpoint: the running mean of the weights, or the last ones")
    add("--prepared", required=True, type=Path, help="folder that prepare.py wrote")
    add("--rows", type=int, default=0, help="use the first rows of each file only; 0: all")
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, default=2, help="threads on a CPU")
    add("--out", type=Path, help="JSON file to write")
    return parser.parse_args()


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    model, origin = load(args)
    evaluator = Evaluator(model, Vocabulary.load(args.prepared), args.device)
    text = json.dumps(origin | measure(evaluator, args.prepared, args.rows), indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
