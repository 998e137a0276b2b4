"""The prompts of the model's tasks, written into config.json's "tasks"."""

import re

TASKS = {
    "poem": {"prompt": ["{form}", "《{title}》", "{author}", "：[gMASK]"], "blank_tokens": 256},
    "couplet": {"prompt": ["上联：{upper}下联：[gMASK]"], "blank_tokens": 32},
    "summary": {"prompt": ["{text}题：《[MASK]》"], "blank_tokens": 64},
    "qa": {"prompt": ["{persona}", "问：{question}答：[gMASK]"], "blank_tokens": 96},
}
# The field that holds the text which the blank stands for, in a row of a validation file.
ANSWERS = {"poem": "text", "couplet": "text", "summary": "summary", "qa": "text"}
_TOKEN = re.compile(r"(\{\w+\}|\[g?MASK\]|\[sMASK\])")


def prompt_ids(task, fields, vocabulary):
    """The ids of a task's prompt; a part whose field is absent or empty is left out."""
    ids = []
    for part in TASKS[task]["prompt"]:
        pieces = [piece for piece in _TOKEN.split(part) if piece]
        names = [piece[1:-1] for piece in pieces if piece[0] == "{"]
        if not all(fields.get(name) for name in names):
            continue
        for piece in pieces:
            if piece[0] == "{":
                ids += vocabulary.encode(fields[piece[1:-1]])
            elif piece in vocabulary.words:
                ids.append(vocabulary.words[piece])
            else:
                ids += vocabulary.encode(piece)
    return ids
