"""Training examples, made anew each time one is drawn: which fields a prompt names and which
characters are blanked differ between passes over the data."""

from collections import Counter

import numpy as np

import corpus
from table import Table
from tasks import prompt_ids

# How often each task is drawn. Whole poems carry most of the tokens.
MIXTURE = {"poem": 0.14, "couplet": 0.06, "infill": 0.02, "summary": 0.23, "title": 0.23, "qa": 0.32}
# How often a poem is taken when it is drawn: regulated, other 诗, 词, 曲.
KEEP = {"regulated": 1.0, "诗": 0.35, "词": 0.6, "曲": 0.25}
LONGEST = 256


class Deck:
    """Deals the rows of a table in random order, all of them before any comes again."""

    def __init__(self, table, rng):
        self.table, self.rng = table, rng
        self.left = []

    def deal(self):
        if not self.left:
            self.left = self.rng.permutation(self.table.rows).tolist()
        return self.left.pop()


class Example:
    """A context, and its blanks in order: (index of the mask, tokens of the answer)."""

    __slots__ = ("context", "blanks", "length")

    def __init__(self, context, blanks):
        self.context, self.blanks = context, blanks
        self.length = len(context) + sum(len(answer) + 1 for _, answer in blanks)


class Examples:
    """Draws examples of the mixture."""

    def __init__(self, folder, vocabulary, seed, mixture=None):
        self.rng = np.random.default_rng(seed)
        self.vocabulary = vocabulary
        self.commands = vocabulary.commands
        self.decks = {name: Deck(Table(folder / f"{name}.npz"), self.rng)
                      for name in ("poems", "couplets", "qa")}
        mixture = mixture or MIXTURE
        self.names = list(mixture)
        self.shares = np.array([mixture[name] for name in self.names])
        self.shares /= self.shares.sum()
        self.regulated = {tuple(vocabulary.encode(form)) for form in ("五绝", "七绝", "五律", "七律")}
        self.word = {text: vocabulary.encode(text)
                     for text in ("《", "》", "：", "上联：", "下联：", "题：《", "问：", "答：")}
        self.series_sizes = None  # by row of the poems; counted when it is first needed

    def draw(self):
        """One example of the mixture, not longer than LONGEST."""
        while True:
            name = self.names[self.rng.choice(len(self.names), p=self.shares)]
            example = getattr(self, name)()
            if example.length <= LONGEST:
                return example

    def _poem_row(self):
        """A row of the poems; long and irregular ones are passed over more often."""
        deck = self.decks["poems"]
        while True:
            row = deck.deal()
            regulated = tuple(deck.table.get("form", row)) in self.regulated
            kind = "诗词曲"[deck.table.arrays["kind"][row]]
            if self.rng.random() < KEEP["regulated" if regulated else kind]:
                return deck.table, row

    def _heading(self, table, row):
        """Form, title and author, now and then without one of them."""
        ids = []
        chance = self.rng.random(3) < (0.92, 0.9, 0.9)
        if chance[0]:
            ids += table.get("form", row)
        title = table.get("title", row)
        if chance[1] and 0 < len(title) <= 60:
            ids += self.word["《"] + title + self.word["》"]
        if chance[2]:
            ids += table.get("author", row)
        return ids + self.word["："]

    def poem(self):
        table, row = self._poem_row()
        context = self._heading(table, row) + [self.commands["gMASK"]]
        return Example(context, [(len(context) - 1, table.get("text", row))])

    def couplet(self):
        deck = self.decks["couplets"]
        row = deck.deal()
        context = self.word["上联："] + deck.table.get("up", row) + self.word["下联："]
        context.append(self.commands["gMASK"])
        return Example(context, [(len(context) - 1, deck.table.get("down", row))])

    def summary(self):
        """A poem's title, now and then of its first characters only."""
        while True:
            table, row = self._poem_row()
            title = table.get("title", row)
            if title:
                break
        text = table.get("text", row)
        return self._titled(text[:16] if self.rng.random() < 0.1 else text, title)

    def title(self):
        """A title without its poem, which teaches titles cheaply. One of a series of n poems comes up
        with a chance of 1 / sqrt(n): long series are soon known, and most have one poem or two."""
        if self.series_sizes is None:
            self.series_sizes = self._count_series()
        deck = self.decks["poems"]
        while True:
            row = deck.deal()
            size = self.series_sizes[row]
            if size and self.rng.random() < size**-0.5:
                return self._titled([], deck.table.get("title", row))

    def _titled(self, text, title):
        context = text + self.word["题：《"]
        mask = len(context)
        return Example(context + [self.commands["MASK"]] + self.word["》"], [(mask, title)])

    def _count_series(self):
        """Of every poem, how many have a title of the same series; 0 of those without a title."""
        table = self.decks["poems"].table
        titles = [self.vocabulary.decode(table.get("title", row)) for row in range(table.rows)]
        names = [corpus.series(title) for title in titles]
        counts = Counter(names)
        return [counts[name] if title else 0 for name, title in zip(names, titles)]

    def qa(self):
        deck = self.decks["qa"]
        row = deck.deal()
        context = deck.table.get("persona", row) + self.word["问："]
        context += deck.table.get("question", row) + self.word["答："] + [self.commands["gMASK"]]
        return Example(context, [(len(context) - 1, deck.table.get("answer", row))])

    def infill(self):
        table, row = self._poem_row()
        head = self._heading(table, row) if self.rng.random() < 0.4 else []
        return self._blank_out(head, table.get("text", row))

    def _blank_out(self, head, text):
        """Replaces one to five spans of the text by masks."""
        spans = []
        for _ in range(self.rng.integers(1, 6)):
            length = min(int(self.rng.integers(1, 8)), len(text) - 1)
            begin = int(self.rng.integers(0, len(text) - length + 1))
            if all(begin >= end + 1 or begin + length + 1 <= start for start, end in spans):
                spans.append((begin, begin + length))
        context, blanks, at = list(head), [], 0
        for begin, end in sorted(spans):
            context += text[at:begin]
            blanks.append((len(context), text[begin:end]))
            whole = end - begin >= 5 and self.rng.random() < 0.5
            context.append(self.commands["sMASK" if whole else "MASK"])
            at = end
        return Example(context + text[at:], blanks)


def scoring_example(task, fields, answer, vocabulary):
    """The example that scores an answer to a task's prompt (of one blank)."""
    context = prompt_ids(task, fields, vocabulary)
    masks = {vocabulary.commands[role] for role in ("MASK", "gMASK", "sMASK")}
    mask = next(i for i, token in enumerate(context) if token in masks)
    return Example(context, [(mask, vocabulary.encode(answer))])
