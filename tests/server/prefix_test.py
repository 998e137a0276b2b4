"""Beginnings of prompts that are not computed again: the same answers, told of in the usage."""

import pathlib
import re
import tempfile
import unittest

from credentials import make_key
from reflection import ByReflection
from serving import Server
from spelling import Spelling

PAGE = 16  # tokens that are kept or not together
LONG = "春江潮水连海平，海上明月共潮生。滟滟随波千万里，何处春江无月明。"
BODY = {"prompt": LONG + "[gMASK]", "seed": 3, "max_tokens": 20}


def complete(server, **fields):
    """(text, prompt's tokens, those of them that were cached)"""
    status, answer = server.post("/v1/completions", {**BODY, **fields})
    assert status == 200, answer
    usage = answer["usage"]
    return (answer["choices"][0]["text"], usage["prompt_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"])


class Kept(ByReflection, unittest.TestCase):

    def setUp(self):
        self.server = Server()
        super().setUp()

    def tearDown(self):
        super().tearDown()
        self.assertEqual(self.server.stop(), 0, self.server.errors())

    def test_the_same_text_with_and_without(self):
        first = complete(self.server)
        self.assertEqual(first[2], 0)
        again = complete(self.server)
        self.assertEqual(again, (first[0], first[1], (first[1] - 1) // PAGE * PAGE))
        self.assertEqual(complete(self.server, prompt="秋" + LONG + "[gMASK]")[2], 0)
        self.assertNotEqual(complete(self.server, seed=4)[0], first[0])
        with Server("--prefix-cache", "off") as other:
            for _ in range(2):
                self.assertEqual(complete(other), (first[0], first[1], 0))
            self.assertEqual(other.metric("qianyi_cached_prompt_tokens_total"), 0)

    def test_every_shape_tells(self):
        tokens, cached = complete(self.server)[1], complete(self.server)[2]
        self.assertGreater(cached, 0)
        self.assertEqual(self.server.metric("qianyi_cached_prompt_tokens_total"), cached)
        request = self.generate(completion={"prompt": BODY["prompt"]},
                                parameters={"seed": 3, "max_tokens": 5})
        usage = self.call("Generate", request).usage
        self.assertEqual((usage.prompt_tokens, usage.cached_tokens), (tokens, cached))
        self.assertEqual(list(self.call("GenerateStream", request))[-1].usage, usage)
        stream = self.server.events("/v1/completions",
                                    {**BODY, "stream_options": {"include_usage": True}})
        self.assertEqual(stream[-1]["usage"]["prompt_tokens_details"], {"cached_tokens": cached})
        said = [{"role": "user", "content": LONG}]
        for path, total, old in (
                ("/v1/chat/completions", lambda usage: usage["prompt_tokens"],
                 lambda usage: usage["prompt_tokens_details"]["cached_tokens"]),
                ("/v1/responses", lambda usage: usage["input_tokens"],
                 lambda usage: usage["input_tokens_details"]["cached_tokens"]),
                ("/v1/messages",
                 lambda usage: usage["input_tokens"] + usage["cache_read_input_tokens"],
                 lambda usage: usage["cache_read_input_tokens"])):
            body = {"model": "poet", "seed": 1, "messages": said, "max_tokens": 4}
            if path == "/v1/responses":
                body = {"model": "poet", "seed": 1, "input": said, "max_output_tokens": 4}
            told = [self.server.post(path, body)[1]["usage"] for _ in range(2)]
            self.assertEqual(total(told[0]), total(told[1]), path)
            self.assertGreater(old(told[1]), 0, path)
        self.server.wait_until_idle()
        self.assertEqual(self.pages("used"), 0)
        self.assertGreater(self.pages("kept"), 0)
        self.assertLess(self.pages("kept"), self.pages("all"))

    def pages(self, kind):
        text = self.server.ask("GET", "/metrics")[2].decode()
        line = next(line for line in text.splitlines()
                    if line.startswith("qianyi_kv_pages{") and f'kind="{kind}"' in line)
        return float(line.split()[-1])

    def test_embeddings_and_scores(self):
        ask = {"model": "poet", "input": LONG}
        first = self.server.post("/v1/embeddings", ask)[1]["data"]
        self.assertEqual(self.server.post("/v1/embeddings", ask)[1]["data"], first)
        score = {"prompt": LONG + "[gMASK]", "continuations": ["空里流霜不觉飞，汀上白沙看不见。"]}
        told = [self.server.post("/v1/score", score)[1]["data"] for _ in range(2)]
        self.assertEqual(told[0], told[1])


class Disk(unittest.TestCase):

    def test_what_memory_has_no_room_for_comes_back(self):
        prompts = [f"{at}" + LONG * 4 + "[gMASK]" for at in range(6)]
        flags = ("--batch", "1", "--context", "256")
        with tempfile.TemporaryDirectory() as folder:
            with Server(*flags) as server:
                first = [complete(server, prompt=prompt) for prompt in prompts]
                self.assertEqual(complete(server, prompt=prompts[0])[2], 0, "memory has no room for so many")
            with Server(*flags, "--prefix-cache-disk", "64MiB", "--prefix-cache-folder", folder) as server:
                for round_ in range(3):
                    for prompt, (text, tokens, _) in zip(prompts, first):
                        cached = 0 if round_ == 0 else (tokens - 1) // PAGE * PAGE
                        self.assertEqual(complete(server, prompt=prompt), (text, tokens, cached))
                metrics = server.ask("GET", "/metrics")[2].decode()
                on_disk = re.search(r'^qianyi_kv_pages\{.*kind="disk"\} (\S+)$', metrics, re.MULTILINE)
                self.assertGreater(float(on_disk[1]), 20)
                self.assertEqual(list(pathlib.Path(folder).iterdir()), [], "the file has no name")

    def test_refusals(self):
        for flags, said in ((("--prefix-cache-folder", "/nowhere"), "--prefix-cache-folder /nowhere"),
                            (("--prefix-cache", "off"), "--prefix-cache on")):
            with self.assertRaisesRegex(RuntimeError, said):
                Server("--prefix-cache-disk", "64MiB", *flags)
        with self.assertRaisesRegex(RuntimeError, "give at least"):
            Server("--prefix-cache-disk", "1KiB")


class Conversation(unittest.TestCase):

    def test_each_turn_computes_what_is_new(self):
        with tempfile.TemporaryDirectory() as folder:
            model = Spelling(folder, "glm4", [("<|assistant|>", "\n今天北京是晴天，最高三十度。", "<|user|>")])
            with Server(model=str(model.folder)) as server:
                said = [{"role": "system", "content": "你是一个乐于助人的助手，说话很短。"}]
                before = 0
                for question in ("今天天气怎么样？", "那么明天呢，会下雨吗？", "后天呢？"):
                    said.append({"role": "user", "content": question})
                    status, answer = server.post("/v1/chat/completions", {"messages": said})
                    self.assertEqual(status, 200, answer)
                    usage = answer["usage"]
                    cached = usage["prompt_tokens_details"]["cached_tokens"]
                    self.assertGreaterEqual(cached, (before - PAGE) // PAGE * PAGE)
                    self.assertEqual(cached == 0, before == 0)
                    before = usage["prompt_tokens"]
                    said.append(answer["choices"][0]["message"])


class Keys(unittest.TestCase):

    def test_what_one_key_asked_helps_no_other(self):
        with tempfile.TemporaryDirectory() as folder:
            one, other = make_key(folder, "one"), make_key(folder, "other")
            with Server("--keys", str(pathlib.Path(folder) / "keys.json"), key=one) as server:
                self.assertEqual(complete(server)[2], 0)
                self.assertGreater(complete(server)[2], 0)
                server.key = other
                self.assertEqual(complete(server)[2], 0)
                self.assertGreater(complete(server)[2], 0)


if __name__ == "__main__":
    unittest.main()
