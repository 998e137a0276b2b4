"""Training examples, made anew each time one is drawn: which fields a prompt names and which
characters are blanked differ between passes over the data."""

from collections import Counter

import numpy as np

import corpus
from table import Table
from tasks import prompt_ids

# How often each task is drawn. Whole poems carry most of the tokens.
MIXTURE = {"poem": 0.14, "couplet": 0.06, "infill": 0.02, "summary": 0.26, "titles": 0.2, "qa": 0.32}
# How often a poem is taken when it is drawn: regulated, other 诗, 词, 曲.
KEEP = {"regulated": 1.0, "诗": 0.35, "词": 0.6, "曲": 0.25}
LONGEST = 256
# Titles in one example of titles alone, and how often one is taken that a single poem has.
TITLES_TOGETHER = 8
ONCE = 0.12


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
    """A context, and its blanks in order: (index of the mask, tokens of the answer).

    Blanks that stand `apart` do not see one another, as if each had the context to itself.
    """

    __slots__ = ("context", "blanks", "apart", "length")

    def __init__(self, context, blanks, apart=False):
        self.context, self.blanks, self.apart = context, blanks, apart
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
        self.title_chances = None  # by row of the poems; made when first needed

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
        return self._titled(text[:16] if self.rng.random() < 0.1 else text, [title])

    def titles(self):
        """Titles without their poems, apart from one another: with one context for all of them,
        nearly every token teaches."""
        if self.title_chances is None:
            self.title_chances = self._title_chances()
        deck = self.decks["poems"]
        found = []
        while len(found) < TITLES_TOGETHER:
            row = deck.deal()
            if self.rng.random() < self.title_chances[row]:
                found.append(deck.table.get("title", row))
        return self._titled([], found)

    def _titled(self, text, titles):
        context = text + self.word["题：《"]
        mask = len(context)
        context += [self.commands["MASK"]] + self.word["》"]
        return Example(context, [(mask, title) for title in titles], apart=True)

    def _title_chances(self):
        """Of every poem, how likely its title is taken when it is dealt. Series share alike, long or
        short: 1 / n for n poems. Titles without a number count less, least those of a single poem,
        which hardly come again: there are 28 times as many of these as of two poems. They are there
        for what titles are like."""
        table = self.decks["poems"].table
        titles = [self.vocabulary.decode(table.get("title", row)) for row in range(table.rows)]
        names = [corpus.series(title) for title in titles]
        poems = Counter(names)
        numbered = {name for name, title in zip(names, titles) if name != title}

        def chance(name, title):
            if not title:
                return 0.0
            if name not in numbered and poems[name] == 1:
                return ONCE
            return (1.0 if name in numbered else 0.3) / poems[name]

        return [chance(name, title) for name, title in zip(names, titles)]

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
