"""The pieces of captions: characters, bytes for the rest, and words.

A word (the whole label of a thing, a measure word, a style) is one piece, so that what a thing looks
like has one row of the embeddings to be remembered in; characters are for what is in no word.
"""

import json
from pathlib import Path

from parent import FIRST_BYTE, FIRST_CHARACTER, sentencepiece_model, word_score


class CaptionVocabulary:
    """Maps captions to ids as the runtime's tokenizer does."""

    def __init__(self, characters, words):
        self.characters, self.words = list(characters), list(words)
        pieces = [*self.characters, *self.words]
        self.ids = {piece: FIRST_CHARACTER + i for i, piece in enumerate(pieces)}
        self.scores = {piece: word_score(i) for i, piece in enumerate(pieces)}
        self.longest = max(map(len, pieces))
        self.size = FIRST_CHARACTER + len(pieces)

    def split(self, text, words=True):
        """The pieces of a text of the highest score; without `words` all its characters."""
        if not words:
            return list(text)
        best = [(0.0, 0)]  # of each prefix: score, and where its last piece begins
        for end in range(1, len(text) + 1):
            found = []
            for begin in range(max(0, end - self.longest), end):
                # A character that is no piece: worse than any two pieces.
                score = self.scores.get(text[begin:end], -12.0 if end - begin == 1 else None)
                if score is not None:
                    found.append((best[begin][0] + score, begin))
            best.append(max(found))
        pieces, end = [], len(text)
        while end:
            begin = best[end][1]
            pieces.append(text[begin:end])
            end = begin
        return pieces[::-1]

    def encode(self, text, words=True):
        """Ids; a character that is no piece becomes its UTF-8 bytes."""
        ids = []
        for piece in self.split(text, words):
            if piece in self.ids:
                ids.append(self.ids[piece])
            else:
                ids.extend(FIRST_BYTE + byte for byte in piece.encode())
        return ids

    def save(self, folder):
        """Writes tokenizer.model for the runtime and pieces.json for these scripts."""
        model = sentencepiece_model(self.characters, self.words)
        Path(folder, "tokenizer.model").write_bytes(model)
        text = json.dumps({"characters": self.characters, "words": self.words})
        Path(folder, "pieces.json").write_text(text)

    @classmethod
    def load(cls, folder):
        return cls(**json.loads(Path(folder, "pieces.json").read_text()))
