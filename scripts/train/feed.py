"""Batches of rows, in which examples lie side by side; drawn in this process or in others."""

import multiprocessing

import numpy as np

from examples import Examples

# Examples are packed into rows of this length: little padding, and attention that costs little.
ROW_TOKENS = 144


def pack(examples, row_tokens):
    """Rows of examples that fill `row_tokens` together, or of one example that is longer."""
    rows = []
    for example in sorted(examples, key=lambda e: -e.length):
        room = (row for row in rows if row_length(row) + example.length <= row_tokens)
        row = next(room, None)
        if row is None:
            rows.append([example])
        else:
            row.append(example)
    return rows


def row_length(row):
    return sum(example.length for example in row)


def batches(rows, tokens_per_batch):
    """Rows in groups of like length, so that little is padding."""
    group, longest = [], 0
    for row in sorted(rows, key=row_length):
        longest = max(longest, row_length(row))
        if group and longest * (len(group) + 1) > tokens_per_batch:
            yield group
            group, longest = [], row_length(row)
        group.append(row)
    if group:
        yield group


def collate(rows, commands):
    """Arrays of one batch, padded to the longest row (see PoetModel.forward)."""
    shape = len(rows), max(map(row_length, rows))
    batch = {"tokens": np.full(shape, commands["pad"], np.int64)}
    for name, padding in (("positions", 0), ("blocks", 0), ("owners", -1), ("spans", -1)):
        batch[name] = np.full(shape, padding, np.int64)
    answers, targets = [], []
    for i, row in enumerate(rows):
        at = 0
        for owner, example in enumerate(row):
            part = {name: array[i, at:at + example.length] for name, array in batch.items()}
            part["owners"][:] = owner
            inner = _lay_out(example, part, commands)
            answers.append(inner + i * shape[1] + at)
            targets += [id for _, answer in example.blanks for id in (*answer, commands["eop"])]
            at += example.length
    return batch | {"rows": np.concatenate(answers), "targets": np.array(targets)}


def _lay_out(example, part, commands):
    """Writes an example into its part of the arrays; returns where its answers are scored."""
    context = at = len(example.context)
    part["tokens"][:at] = example.context
    part["positions"][:at] = np.arange(at)
    part["spans"][:at] = 0
    for number, (mask, answer) in enumerate(example.blanks):
        end = at + len(answer) + 1
        part["tokens"][at:end] = [commands["sop"], *answer]
        part["positions"][at:end] = mask
        part["blocks"][at:end] = np.arange(1, end - at + 1)
        part["spans"][at:end] = 1 + number if example.apart else 1
        at = end
    return np.arange(context, at)


def step_batches(examples, step_tokens, batch_tokens):
    """(batches of one optimizer step, largest first, and its tokens without padding)."""
    drawn, tokens = [], 0
    while tokens < step_tokens:
        drawn.append(examples.draw())
        tokens += drawn[-1].length
    rows = pack(drawn, ROW_TOKENS)
    arrays = [collate(group, examples.commands) for group in batches(rows, batch_tokens)]
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
