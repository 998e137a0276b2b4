"""Rows of token ids in a compressed file: for each field, all ids and every row's number of ids."""

import numpy as np


def write_table(path, rows, fields, vocabulary, **more):
    """Writes the fields' texts of all rows as ids, and further arrays as they are."""
    arrays = dict(more)
    for field in fields:
        encoded = [vocabulary.encode(row[field]) for row in rows]
        arrays[field] = np.array([i for ids in encoded for i in ids], np.uint16)
        arrays[field + "_lengths"] = np.array([len(ids) for ids in encoded], np.uint16)
    np.savez_compressed(path, **arrays)


class Table:
    """The rows of one prepared file."""

    def __init__(self, path):
        with np.load(path) as file:
            self.arrays = {name: file[name] for name in file.files}
        self.offsets = {}
        for name in list(self.arrays):
            if name.endswith("_lengths"):
                lengths = self.arrays.pop(name)
                self.rows = len(lengths)
                self.offsets[name.removesuffix("_lengths")] = np.concatenate(
                    ([0], np.cumsum(lengths, dtype=np.int64)))

    def get(self, field, row):
        """The ids of one row's field."""
        at = self.offsets[field]
        return self.arrays[field][at[row]:at[row + 1]].tolist()
