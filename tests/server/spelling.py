"""Models whose weights spell out fixed texts: tiny, in GLM-4's architecture, tokenizer and formats.

The next token depends on the last one alone: attention and feed-forward weights are zero, the
embedding gives every token that spells a place of its own, and the head leads from each place to
the token that follows. Where a text begins there may be several; the first has the largest logit,
and a logit_bias against its first token lets the next one speak.
"""

import array
import json
import pathlib
import struct
import subprocess

from serving import BINARY

CONTROLS = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>",
            "<|user|>", "<|assistant|>", "<|observation|>", "<think>", "</think>", "<tool_call>",
            "</tool_call>", "<tool_response>", "</tool_response>", "<arg_key>", "</arg_key>",
            "<arg_value>", "</arg_value>", "/nothink"]
PIECE = 3  # characters of a token that spells
HIDDEN, FEED_FORWARD, HEAD_DIM = 512, 16, 16


def byte_vocabulary():
    vocabulary, following = {}, 256
    for byte in range(256):
        prints = 0x21 <= byte <= 0x7e or 0xa1 <= byte <= 0xac or byte >= 0xae
        vocabulary[chr(byte) if prints else chr(following)] = byte
        following += not prints
    return vocabulary


class Spelling:
    """A model folder. `texts`: (the token it follows, the text, the token it ends with) each."""

    def __init__(self, folder, chat_format, texts):
        self.source = pathlib.Path(folder) / "source"
        self.folder = pathlib.Path(folder) / chat_format
        self.source.mkdir(parents=True)
        pieces = [[text[at:at + PIECE] for at in range(0, len(text), PIECE)] for _, text, _ in texts]
        # Control words come last: where a piece is the same word, they are the ones that count.
        words = [piece for spelled in pieces for piece in spelled] + CONTROLS
        self.words = {word: 256 + i for i, word in enumerate(words)}
        self.firsts, following, ranks = [], {}, {}
        next_id = 256
        for (start, _, end), spelled in zip(texts, pieces):
            ids = list(range(next_id, next_id + len(spelled)))
            next_id += len(spelled)
            self.firsts.append(ids[0])
            begin = self.token(start)
            ranks[begin] = ranks.get(begin, 0) + 1
            following.setdefault(begin, []).append((ids[0], 10 - ranks[begin]))
            for token, after in zip(ids, ids[1:] + [self.token(end)]):
                following.setdefault(token, []).append((after, 9))
        self.write(chat_format, words, following)

    def token(self, word):
        return ord(word) if word == "\n" else self.words[word]

    def write(self, chat_format, words, following):
        size = 256 + len(words)
        places = {token: place for place, token in enumerate(following, 1)}
        assert len(places) < HIDDEN, len(places)
        embedding = array.array("f", bytes(4 * size * HIDDEN))
        head = array.array("f", bytes(4 * size * HIDDEN))
        for token in range(size):
            embedding[token * HIDDEN + places.get(token, 0)] = 1
        head[self.token("<|user|>") * HIDDEN] = 1
        for token, successors in following.items():
            for after, logit in successors:
                head[after * HIDDEN + places[token]] = logit
        layer = "transformer.encoder.layers.0."
        rows = 4 * HEAD_DIM
        self.tensors = {
            "transformer.embedding.word_embeddings.weight": ([size, HIDDEN], embedding),
            "transformer.output_layer.weight": ([size, HIDDEN], head),
            "transformer.encoder.final_layernorm.weight": ([HIDDEN], [1] * HIDDEN),
            layer + "input_layernorm.weight": ([HIDDEN], [1] * HIDDEN),
            layer + "post_attention_layernorm.weight": ([HIDDEN], [1] * HIDDEN),
            layer + "self_attention.query_key_value.weight": ([rows, HIDDEN], [0] * rows * HIDDEN),
            layer + "self_attention.query_key_value.bias": ([rows], [0] * rows),
            layer + "self_attention.dense.weight": ([HIDDEN, 2 * HEAD_DIM], [0] * HIDDEN * 2 * HEAD_DIM),
            layer + "mlp.dense_h_to_4h.weight": ([2 * FEED_FORWARD, HIDDEN], [0] * 2 * FEED_FORWARD * HIDDEN),
            layer + "mlp.dense_4h_to_h.weight": ([HIDDEN, FEED_FORWARD], [0] * HIDDEN * FEED_FORWARD)}
        config = {"model_type": "chatglm", "num_layers": 1, "hidden_size": HIDDEN,
                  "ffn_hidden_size": FEED_FORWARD, "num_attention_heads": 2, "kv_channels": HEAD_DIM,
                  "multi_query_attention": True, "multi_query_group_num": 1, "padded_vocab_size": size,
                  "seq_length": 4096, "chat": {"format": chat_format, "defaults": {"temperature": 0}}}
        (self.source / "config.json").write_text(json.dumps(config))
        (self.source / "tokenizer.json").write_text(json.dumps({
            "added_tokens": [{"id": 256 + i, "content": word} for i, word in enumerate(words)],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
            "model": {"type": "BPE", "vocab": byte_vocabulary(), "merges": []}}))
        self.write_tensors(self.source / "model.safetensors")
        subprocess.run([BINARY, "convert", str(self.source), str(self.folder), "--dtype", "f32"],
                       check=True, capture_output=True)

    def write_tensors(self, path):
        header, at = {}, 0
        for name, (shape, values) in self.tensors.items():
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * len(values)]}
            at += 4 * len(values)
        text = json.dumps(header).encode()
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, values in self.tensors.values():
                file.write(array.array("f", values).tobytes())

    def without(self, text):
        """A logit_bias that lets the text after `text` speak."""
        return {str(self.firsts[i]): -100 for i in range(text + 1)}
