"""The vocabulary: one piece per character, bytes for the rest, and GLM's command tokens.

Characters are written as a sentencepiece model of the BPE kind in which no piece has more than
one character, so that nothing is ever merged. The normalizer changes nothing.
"""

import json
import struct
from pathlib import Path

UNKNOWN = 0
FIRST_BYTE = 1
FIRST_CHARACTER = FIRST_BYTE + 256

# (role, word, strips white space on its left), in the order of their ids.
COMMANDS = [
    ("pad", "<|endoftext|>", False),
    ("ENC", "[CLS]", False),
    ("MASK", "[MASK]", True),
    ("gMASK", "[gMASK]", True),
    ("sMASK", "[sMASK]", True),
    ("sop", "<|startofpiece|>", False),
    ("eop", "<|endofpiece|>", False),
]


class Vocabulary:
    """Maps text to ids and back, exactly as the runtime's tokenizer does."""

    def __init__(self, characters):
        self.characters = list(characters)
        self.ids = {c: FIRST_CHARACTER + i for i, c in enumerate(self.characters)}
        first = FIRST_CHARACTER + len(self.characters)
        self.commands = {role: first + i for i, (role, _, _) in enumerate(COMMANDS)}
        self.words = {word: first + i for i, (_, word, _) in enumerate(COMMANDS)}
        self.size = -(-(first + len(COMMANDS)) // 64) * 64

    def encode(self, text):
        """Ids of plain text; a character that is no piece becomes its UTF-8 bytes."""
        ids = []
        for character in text:
            found = self.ids.get(character)
            if found is not None:
                ids.append(found)
            else:
                ids.extend(FIRST_BYTE + byte for byte in character.encode())
        return ids

    def decode(self, ids):
        """Text of ids; command tokens and the unknown token have none."""
        raw = bytearray()
        for i in ids:
            if FIRST_BYTE <= i < FIRST_CHARACTER:
                raw.append(i - FIRST_BYTE)
            elif FIRST_CHARACTER <= i < FIRST_CHARACTER + len(self.characters):
                raw.extend(self.characters[i - FIRST_CHARACTER].encode())
        return raw.decode(errors="replace")

    def command_table(self):
        """The list that config.json's "tokenizer" names as "commands"."""
        return [
            {"name": role, "token": word, "id": self.commands[role], "lstrip": strips}
            for role, word, strips in COMMANDS
        ]

    def save(self, folder):
        """Writes tokenizer.model for the runtime and vocab.txt for these scripts."""
        Path(folder, "tokenizer.model").write_bytes(sentencepiece_model(self.characters))
        Path(folder, "vocab.txt").write_text(json.dumps("".join(self.characters)))

    @classmethod
    def load(cls, folder):
        """Of a folder that prepare.py wrote, or of a converted model."""
        text = Path(folder, "vocab.txt")
        if text.exists():
            return cls(json.loads(text.read_text()))
        return cls(_characters(Path(folder, "tokenizer.model").read_bytes()))


def _varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field, value):
    return _varint(field << 3) + _varint(value & (1 << 64) - 1)


def _bytes(field, value):
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _characters(model):
    """The characters of a file that `sentencepiece_model` made."""
    characters, at = [], 0
    while at < len(model) and model[at] == 1 << 3 | 2:  # a piece
        size, begin = model[at + 1], at + 2
        text = begin + 2
        characters.append(model[text:text + model[begin + 1]].decode())
        at = begin + size
    return characters[FIRST_CHARACTER:]


def _piece(text, score, kind):
    body = _bytes(1, text.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", score)
    return _bytes(1, body + _number(3, kind))


def sentencepiece_model(characters, words=()):
    """The bytes of a sentencepiece model (a protocol buffer) of these characters; with words, of
    the unigram kind, in which the fewest pieces win, and of as many the earlier ones."""
    normal, unknown, byte = 1, 2, 6
    score = word_score if words else lambda i: -float(i)
    pieces = [_piece("<unk>", 0.0, unknown)]
    pieces += [_piece(f"<0x{b:02X}>", 0.0, byte) for b in range(256)]
    pieces += [_piece(c, score(i), normal) for i, c in enumerate([*characters, *words])]
    unigram, bpe = 1, 2
    trainer = _number(3, unigram if words else bpe) + _number(4, len(pieces)) + _number(35, 1)
    for field, value in ((40, UNKNOWN), (41, -1), (42, -1), (43, -1)):
        trainer += _number(field, value)
    no_prefix_no_collapsing_no_escaping = _number(3, 0) + _number(4, 0) + _number(5, 0)
    normalizer = _bytes(1, b"identity") + no_prefix_no_collapsing_no_escaping
    return b"".join(pieces) + _bytes(2, trainer) + _bytes(3, normalizer)


def word_score(i):
    """Of the i-th piece of a vocabulary with words."""
    return -1 - i / 2**16
