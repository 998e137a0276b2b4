"""Embeddings, scores, tokens, and what the server says of itself."""

import base64
import json
import math
import pathlib
import struct
import subprocess
import tempfile
import unittest

import grpc
import openai

from reflection import ByReflection
from serving import BINARY, POET, ServerTest

EMBED = "/v1/embeddings"
SCORE = "/v1/score"
TEXTS = ["白日依山尽", "黄河入海流", "春"]


def vectors(answer):
    return [entry["embedding"] for entry in answer["data"]]


class Embeddings(ServerTest):

    def ask(self, value, **fields):
        status, answer = self.server.post(EMBED, {"model": "poet", "input": value, **fields})
        self.assertEqual(status, 200, answer)
        return answer

    def test_shape(self):
        answer = self.ask(TEXTS)
        self.assertEqual((answer["object"], answer["model"]), ("list", "poet"))
        self.assertEqual([(entry["object"], entry["index"]) for entry in answer["data"]],
                         [("embedding", i) for i in range(3)])
        for vector in vectors(answer):
            self.assertEqual(len(vector), 320)
            self.assertAlmostEqual(sum(value * value for value in vector), 1, places=5)
        usage = answer["usage"]
        self.assertEqual(usage["prompt_tokens"], usage["total_tokens"])
        self.assertNotIn("completion_tokens", usage)
        self.assertEqual(len({tuple(vector) for vector in vectors(answer)}), 3)

    def test_every_kind_of_input_says_the_same(self):
        together = vectors(self.ask(TEXTS))
        ids = [self.server.post("/v1/tokenize", {"text": text})[1]["tokens"] for text in TEXTS]
        self.assertEqual(vectors(self.ask(ids)), together)
        for text, tokens, vector in zip(TEXTS, ids, together):
            self.assertEqual(vectors(self.ask(text)), [vector])
            self.assertEqual(vectors(self.ask(tokens)), [vector])

    def test_whoever_else_is_there(self):
        alone = vectors(self.ask(TEXTS[0]))[0]
        many = self.ask([TEXTS[i % 3] + "。" * (i // 3) for i in range(60)])
        self.assertEqual(vectors(many)[0], alone)
        self.assertEqual(len(many["data"]), 60)

    def test_base64(self):
        numbers = vectors(self.ask(TEXTS))
        for vector, text in zip(numbers, vectors(self.ask(TEXTS, encoding_format="base64"))):
            data = base64.b64decode(text)
            self.assertEqual(struct.unpack(f"<{len(data) // 4}f", data),
                             struct.unpack(f"<{len(vector)}f", struct.pack(f"<{len(vector)}f",
                                                                         *vector)))

    def test_openais_client(self):
        client = openai.OpenAI(base_url=f"http://{self.server.http}/v1", api_key="none",
                               max_retries=0)
        answer = client.embeddings.create(model="poet", input=TEXTS)
        for entry, vector in zip(answer.data, vectors(self.ask(TEXTS))):
            self.assertEqual(struct.pack("<320f", *entry.embedding), struct.pack("<320f", *vector))

    def test_refused_by_name(self):
        for fields, param in (({"input": []}, "input"), ({"input": ""}, "input[0]"),
                              ({"input": ["a", ""]}, "input[1]"), ({"input": 3}, "input"),
                              ({"input": [[1, 2], [99999999]]}, "input[1]"),
                              ({"input": [1, -2]}, "input"), ({"input": ["a"] * 2049}, "input"),
                              ({"input": "春" * 3000}, "input[0]"),
                              ({"input": "a", "dimensions": 100}, "dimensions"),
                              ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
                              ({"input": "a", "temperature": 1}, "temperature"),
                              ({"input": "a", "colour": "red"}, "colour")):
            status, answer = self.server.post(EMBED, fields)
            self.assertEqual((status, answer["error"]["param"]), (400, param), answer)
        self.assertEqual(len(vectors(self.ask("a", dimensions=320, user="u"))), 1)
        self.assertEqual(self.server.post(EMBED, {"model": "x", "input": "a"})[0], 404)

    def test_clients_that_leave_stop_the_work(self):
        body = json.dumps({"input": ["春" * 500] * 500}).encode()
        with self.server.socket() as connection:
            connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                               b"Content-Type: application/json\r\nContent-Length: "
                               + str(len(body)).encode() + b"\r\n\r\n" + body)
        self.server.wait_until_idle()
        self.assertEqual(len(vectors(self.ask(TEXTS))), 3)


class Scores(ServerTest):

    def test_the_same_as_the_command(self):
        lines = [("白日依山尽", "黄河入海流"), ("春风得意马蹄疾", "一日看尽长安花")]
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "lines.jsonl"
            path.write_text("\n".join(json.dumps({"upper": upper, "text": lower})
                                      for upper, lower in lines))
            printed = subprocess.run([BINARY, "score", "--model", POET, "--task", "couplet",
                                      "--quiet", str(path)], capture_output=True, text=True,
                                     check=True).stdout.split()
        for (upper, lower), expected in zip(lines, printed):
            status, answer = self.server.post(SCORE, {
                "prompt": f"上联：{upper}下联：[gMASK]", "continuations": [lower, "a" * len(lower)]})
            self.assertEqual(status, 200, answer)
            score = answer["data"][0]
            self.assertAlmostEqual(score["logprob"], float(expected), delta=2e-2)
            self.assertAlmostEqual(score["logprob"], sum(score["token_logprobs"]), places=6)
            self.assertEqual("".join(score["tokens"]), lower)
            self.assertGreater(score["logprob"], answer["data"][1]["logprob"])

    def test_refused_by_name(self):
        for fields, param in (({"continuations": []}, "continuations"), ({}, "continuations"),
                              ({"continuations": ["a", ""]}, "continuations[1]"),
                              ({"continuations": ["a"] * 129}, "continuations"),
                              ({"continuations": ["春" * 3000]}, "continuations[0]"),
                              ({"prompt": "[MASK]山[MASK]", "continuations": ["a"]}, "prompt"),
                              ({"continuations": ["a"], "n": 2}, "n")):
            status, answer = self.server.post(SCORE, {"prompt": "春", **fields})
            self.assertEqual((status, answer["error"]["param"]), (400, param), answer)


class Tokens(ServerTest):

    def test_there_and_back(self):
        for text in ("白日依山尽，黄河入海流。", "hello 世界 😀", "[MASK]"):
            status, answer = self.server.post("/v1/tokenize", {"text": text})
            self.assertEqual((status, answer["count"]), (200, len(answer["tokens"])), answer)
            status, back = self.server.post("/v1/detokenize", {"tokens": answer["tokens"]})
            self.assertEqual((status, back["text"]), (200, text))
        acting = self.server.post("/v1/tokenize", {"text": "[MASK]月", "commands": True})[1]
        self.assertEqual(acting["count"], 2)
        self.assertEqual(self.server.post("/v1/tokenize", {"text": ""})[1]["tokens"], [])

    def test_refused_by_name(self):
        for path, fields, param in (("/v1/tokenize", {}, "text"),
                                    ("/v1/tokenize", {"text": 3}, "text"),
                                    ("/v1/tokenize", {"text": "a", "n": 1}, "n"),
                                    ("/v1/detokenize", {}, "tokens"),
                                    ("/v1/detokenize", {"tokens": ["a"]}, "tokens"),
                                    ("/v1/detokenize", {"tokens": [10**8]}, "tokens")):
            status, answer = self.server.post(path, fields)
            self.assertEqual((status, answer["error"]["param"]), (400, param), answer)

    def test_the_server_itself(self):
        status, _, body = self.server.ask("GET", "/v1/server")
        info = json.loads(body)
        self.assertEqual(status, 200)
        version = subprocess.run([BINARY, "--version"], capture_output=True, text=True,
                                 check=True).stdout.split()[1]
        self.assertEqual(info["version"], version)
        self.assertGreater(info["uptime_seconds"], 0)
        self.assertEqual(info["models"][0]["id"], "poet")
        limits = info["limits"]
        self.assertEqual((limits["n"], limits["stop"], limits["best_of"], limits["top_logprobs"],
                          limits["embedding_inputs"]), (128, 4, 20, 20, 2048))


class Grpc(ByReflection, ServerTest):

    def test_vectors(self):
        ids = self.server.post("/v1/tokenize", {"text": TEXTS[0]})[1]["tokens"]
        request = self.message("qianyi.v1.EmbedRequest",
                               inputs=[{"text": TEXTS[0]}, {"tokens": {"ids": ids}}])
        answer = self.call("Embed", request)
        self.assertEqual(answer.embeddings[0], answer.embeddings[1])
        rest = vectors(self.server.post(EMBED, {"input": TEXTS[0]})[1])[0]
        self.assertEqual(struct.pack("<320f", *rest),
                         struct.pack("<320f", *answer.embeddings[0].values))
        self.assertEqual(answer.usage.total_tokens, 2 * (len(ids) + 1))
        for fields, word in (({}, "input has 0"), ({"inputs": [{}]}, "neither"),
                             ({"inputs": [{"tokens": {"ids": [-1]}}]}, "-1")):
            with self.assertRaisesRegex(grpc.RpcError, word):
                self.call("Embed", self.message("qianyi.v1.EmbedRequest", **fields))

    def test_scores(self):
        request = self.message("qianyi.v1.ScoreRequest", prompt="白日依山尽，",
                               continuations=["黄河入海流", "天地一沙鸥"])
        answer = self.call("Score", request)
        rest = self.server.post(SCORE, {"prompt": "白日依山尽，",
                                        "continuations": list(request.continuations)})[1]
        for score, entry, text in zip(answer.scores, rest["data"], request.continuations):
            self.assertEqual(score.logprob, entry["logprob"])
            self.assertEqual([token.token for token in score.tokens], entry["token_ids"])
            self.assertEqual(b"".join(token.piece for token in score.tokens).decode(), text)
            self.assertTrue(math.isclose(sum(token.logprob for token in score.tokens),
                                         score.logprob, abs_tol=1e-9))
        self.assertEqual(answer.usage.completion_tokens, rest["usage"]["completion_tokens"])

    def test_deadline_stops_the_work(self):
        request = self.message("qianyi.v1.EmbedRequest", inputs=[{"text": "春" * 500}] * 400)
        with self.assertRaises(grpc.RpcError) as caught:
            self.call("Embed", request, timeout=0.2)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.server.wait_until_idle()

    def test_tokens_and_the_server(self):
        tokens = self.call("Tokenize", self.message("qianyi.v1.TokenizeRequest",
                                                    text="春眠不觉晓")).tokens
        back = self.call("Detokenize", self.message("qianyi.v1.DetokenizeRequest", tokens=tokens))
        self.assertEqual(back.text, "春眠不觉晓")
        with self.assertRaises(grpc.RpcError) as caught:
            self.call("Detokenize", self.message("qianyi.v1.DetokenizeRequest", tokens=[-5]))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        info = self.call("GetServerInfo", self.message("qianyi.v1.GetServerInfoRequest"))
        self.assertEqual([model.name for model in info.models], ["poet"])
        self.assertEqual((info.limits["n"], info.limits["continuations"]), (128, 128))
        self.assertGreater(info.uptime_seconds, 0)


if __name__ == "__main__":
    unittest.main()
