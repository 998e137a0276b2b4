"""Batches: examples of like length side by side, drawn in this process or in others."""

import multiprocessing

import numpy as np

from examples import Examples


def batches(examples, tokens_per_batch):
    """Examples in groups of like length, so that little is padding."""
    group, longest = [], 0
    for example in sorted(examples, key=lambda e: e.length):
        longest = max(longest, example.length)
        if group and longest * (len(group) + 1) > tokens_per_batch:
            yield group
            group, longest = [], example.length
        group.append(example)
    if group:
        yield group


def collate(examples, commands):
    """Arrays of one batch, padded to the longest example (see PoetModel.forward)."""
    length = max(example.length for example in examples)
    tokens = np.full((len(examples), length), commands["pad"], np.int64)
    positions = np.zeros((len(examples), length), np.int64)
    blocks = np.zeros((len(examples), length), np.int64)
    rows, targets = [], []
    for i, example in enumerate(examples):
        at = len(example.context)
        tokens[i, :at] = example.context
        positions[i, :at] = np.arange(at)
        for mask, answer in example.blanks:
            end = at + len(answer) + 1
            tokens[i, at:end] = [commands["sop"], *answer]
            positions[i, at:end] = mask
            blocks[i, at:end] = np.arange(1, end - at + 1)
            rows.append(np.arange(at, end) + i * length)
            targets += [*answer, commands["eop"]]
            at = end
    return {"tokens": tokens, "positions": positions, "blocks": blocks,
            "visible": np.array([len(example.context) for example in examples]),
            "rows": np.concatenate(rows), "targets": np.array(targets)}


def step_batches(examples, step_tokens, batch_tokens):
    """(batches of one optimizer step, largest first, and its tokens without padding)."""
    drawn, tokens = [], 0
    while tokens < step_tokens:
        drawn.append(examples.draw())
        tokens += drawn[-1].length
    arrays = [collate(group, examples.commands) for group in batches(drawn, batch_tokens)]
    return sorted(arrays, key=lambda a: -a["tokens"].size), tokens


def _serve(queue, folder, vocabulary, seed, sizes, mixture):
    examples = Examples(folder, vocabulary, seed, mixture)
    while True:
        queue.put(step_batches(examples, *sizes))


class Feed:
    """Gives the batches of one step after the other."""

    def __init__(self, folder, vocabulary, seed, sizes, processes=0, mixture=None):
        """`sizes`: tokens of a step and of a batch. Without processes, the caller draws."""
        self.sizes = sizes
        if processes == 0:
            self.examples = Examples(folder, vocabulary, seed, mixture)
            return
        self.examples = None
        context = multiprocessing.get_context("spawn")
        self.queue = context.Queue(maxsize=4 * processes)
        for i in range(processes):
            given = (self.queue, folder, vocabulary, seed * 1000 + i, sizes, mixture)
            context.Process(target=_serve, args=given, daemon=True).start()

    def next(self):
        if self.examples:
            return step_batches(self.examples, *self.sizes)
        return self.queue.get()
