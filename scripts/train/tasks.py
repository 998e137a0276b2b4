"""How the model is asked: config.json's "tasks" and "chat"."""

import re

TASKS = {
    "poem": {"prompt": ["{form}", "《{title}》", "{author}", "：[gMASK]"],
             "defaults": {"temperature": 0.8, "top_p": 0.95}},
    "couplet": {"prompt": ["上联：{upper}下联：[gMASK]"],
                "defaults": {"temperature": 0.8, "top_p": 0.95}},
    "summary": {"prompt": ["{text}题：《[MASK]》"],
                "defaults": {"temperature": 0.3, "max_tokens": 64}},
    "qa": {"prompt": ["{persona}", "问：{question}答：[gMASK]"],
           "defaults": {"temperature": 0.3, "max_tokens": 96}},
}
# The model knows one question at a time; what came before stands in front of it all the same.
CHAT = {
    "system": ["{content}"],
    "user": ["问：{content}"],
    "assistant": ["答：{content}"],
    "start": ["答：[gMASK]"],
    "defaults": {"temperature": 0.3},
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
