"""64 clients of every kind at once, of which a third leave, run out of time or send rubbish. Whoever asks
well is answered well and always alike, everything that was taken comes back, and memory does not grow.

Takes QIANYI_LOAD_SECONDS [600]; says what it saw in the file QIANYI_LOAD_RESULT.
"""

import collections
import json
import os
import random
import socket
import statistics
import struct
import tempfile
import threading
import time
import unittest

import anthropic
import grpc
import openai

from pictures import make_painter
from reflection import ByReflection
from serving import ENDLESS, Server

SECONDS = float(os.environ.get("QIANYI_LOAD_SECONDS", "600"))
WARM_UP_SECONDS = min(20, SECONDS / 6)  # until every thread has its memory
# Every request fits: nobody who asks well may be refused.
PLACES = 16
FLAGS = ("--batch", str(PLACES), "--queue", "256")
COMPLETE = "/v1/completions"
CHAT = [{"role": "user", "content": "李白是哪个朝代的人？"}]
RESET = struct.pack("ii", 1, 0)


def post(body, path=COMPLETE):
    """A request as bytes."""
    body = json.dumps(body).encode()
    return (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body


class Clients(ByReflection):
    """What one client does once. `seed` is its own: the same seed must give the same answer each time."""

    def __init__(self, server):
        self.server = server
        self.setUp()
        # The pool of descriptors is not for many threads.
        self.rpc = {name: self.method(name) for name in ("Generate", "GenerateStream", "Embed")}
        limits = {"max_tokens": 24, "logit_bias": ENDLESS["logit_bias"]}
        self.seeded = [self.generate(completion={"prompt": "秋"}, parameters={**limits, "seed": seed})
                       for seed in range(64)]
        self.long = self.generate(completion={"prompt": "秋"}, parameters={**limits, "max_tokens": 400})
        self.bad = self.generate(completion={"prompt": "秋"}, parameters={"temperature": 99})
        self.texts = self.message("qianyi.v1.EmbedRequest", inputs=[{"text": "白日"}, {"text": "黄河"}])
        self.first_token_seconds = []
        self.answers = {}

    def same(self, kind, seed, answer):
        first = self.answers.setdefault((kind, seed), answer)
        assert answer == first, f"{kind}, seed {seed}: {answer!r}, and before {first!r}"

    # ---- Who asks well ----

    def openai_stream(self, seed):
        client = openai.OpenAI(base_url=f"http://{self.server.http}/v1", api_key="none", max_retries=0)
        begin, text, usage = time.monotonic(), None, None
        for chunk in client.chat.completions.create(
                model="poet", messages=CHAT, seed=seed, max_tokens=30, stream=True,
                stream_options={"include_usage": True}, logit_bias=ENDLESS["logit_bias"]):
            if chunk.choices and chunk.choices[0].delta.content:
                if not text:
                    self.first_token_seconds.append(time.monotonic() - begin)
                text = (text or "") + chunk.choices[0].delta.content
            usage = chunk.usage or usage
        assert usage.completion_tokens == 30, usage
        self.same("chat", seed, text)
        client.close()

    def raw_stream(self, seed):
        events = self.server.events(COMPLETE, {**ENDLESS, "max_tokens": 40, "seed": seed})
        assert events[-1]["choices"][0]["finish_reason"] == "length", events[-1]
        self.same("completion", seed, "".join(event["choices"][0]["text"] for event in events))

    def unary(self, seed):
        status, answer = self.server.post(COMPLETE, {**ENDLESS, "max_tokens": 40, "seed": seed})
        assert (status, answer["usage"]["completion_tokens"]) == (200, 40), answer
        self.same("completion", seed, answer["choices"][0]["text"])

    def several(self, seed):
        status, answer = self.server.post(COMPLETE, {**ENDLESS, "max_tokens": 12, "seed": seed, "n": 3})
        assert (status, answer["usage"]["completion_tokens"]) == (200, 36), answer
        self.same("several", seed, [choice["text"] for choice in answer["choices"]])

    def task(self, seed):
        path, body = (("poem", {"title": "春江", "form": "五绝"}), ("couplet", {"upper": "春风得意马蹄疾"}),
                      ("qa", {"question": "李白是谁？"}))[seed % 3]
        status, answer = self.server.post(f"/v1/tasks/{path}", {**body, "seed": seed})
        assert status == 200, answer
        self.same(path, seed, answer["text"])

    def schema(self, seed):
        shape = {"type": "json_schema", "json_schema": {"name": "s", "schema": {
            "type": "object", "properties": {"a": {"type": "string", "maxLength": 4}}, "required": ["a"],
            "additionalProperties": False}}}
        status, answer = self.server.post(COMPLETE, {"prompt": "秋", "max_tokens": 60, "seed": seed,
                                                     "response_format": shape})
        assert status == 200, answer
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "length" or "a" in json.loads(choice["text"]), answer
        self.same("schema", seed, choice["text"])

    def messages(self, seed):
        client = anthropic.Anthropic(base_url=f"http://{self.server.http}", api_key="none", max_retries=0)
        answer = client.messages.create(model="poet", max_tokens=16, messages=CHAT, extra_body={"temperature": 0})
        assert answer.usage.output_tokens <= 16, answer
        self.same("messages", 0, [block.text for block in answer.content])
        client.close()

    def kserve(self, seed):
        status, answer = self.server.post("/v2/models/poet/infer", {
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["秋"]}],
            "parameters": {"max_tokens": 16, "seed": seed}})
        assert status == 200, answer
        self.same("kserve", seed, answer["outputs"][0]["data"])

    def embed(self, seed):
        status, answer = self.server.post("/v1/embeddings", {"model": "poet", "input": ["白日", "黄河"] * 3})
        assert status == 200, answer
        self.same("embed", 0, [entry["embedding"] for entry in answer["data"]])

    def score(self, seed):
        status, answer = self.server.post("/v1/score", {"prompt": "白日依山尽，",
                                                        "continuations": ["黄河入海流", "天地一沙鸥"]})
        assert status == 200, answer
        self.same("score", 0, str(answer["data"]))

    def paint(self, seed):
        status, answer = self.server.post("/v1/images/generations",
                                          {"model": "painter", "prompt": "一只猫", "seed": seed})
        assert status == 200, answer
        self.same("paint", seed, answer["data"][0]["b64_json"])

    def grpc_unary(self, seed):
        answer = self.rpc["Generate"](self.seeded[seed])
        assert answer.usage.completion_tokens == 24, answer
        self.same("grpc", seed, answer.choices[0].text)

    def grpc_stream(self, seed):
        begin, text = time.monotonic(), ""
        for chunk in self.rpc["GenerateStream"](self.seeded[seed]):
            if chunk.text and not text:
                self.first_token_seconds.append(time.monotonic() - begin)
            text += chunk.text
        self.same("grpc", seed, text)

    def grpc_embed(self, seed):
        answer = self.rpc["Embed"](self.texts)
        self.same("grpc embed", 0, [list(entry.values) for entry in answer.embeddings])

    # ---- Who does not ----

    def leave(self, seed, body, reset):
        with self.server.socket() as connection:
            connection.sendall(post(body))
            if body.get("stream"):
                connection.recv(random.choice((1, 2000)))
            else:
                time.sleep(random.uniform(0, 0.3))
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def leave_stream(self, seed):
        self.leave(seed, {**ENDLESS, "max_tokens": 400, "n": 2, "stream": True}, seed % 2)

    def leave_unary(self, seed):
        self.leave(seed, {**ENDLESS, "max_tokens": 400}, seed % 2)

    def stall(self, seed):
        """Half of a request, then silence."""
        with self.server.socket() as connection:
            whole = post({**ENDLESS, "max_tokens": 400})
            connection.sendall(whole[:random.randrange(1, len(whole))])
            time.sleep(random.uniform(0.1, 2))

    def never_read(self, seed):
        """Asks for a stream and reads none of it."""
        with self.server.socket() as connection:
            connection.sendall(post({**ENDLESS, "max_tokens": 400, "n": 4, "stream": True}))
            time.sleep(2)

    def rubbish(self, seed):
        with self.server.socket() as connection:
            connection.sendall(random.choice((
                b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\n\r\n")))
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
        assert answer == b"" or answer.split(b" ")[1] in (b"400", b"403", b"431"), answer

    def bad_json(self, seed):
        body, wanted = random.choice(((b"{", 400), (b'{"prompt": "\xff"}', 400), (b'{"prompt":' + b"[" * 9000, 400),
                                      (b'{"prompt": "x", "n": 1000000}', 400), (b'{"model": "no"}', 400),
                                      (json.dumps({"prompt": "春" * 5000}).encode(), 400)))
        status, _, answer = self.server.ask("POST", COMPLETE, body)
        assert status == wanted and json.loads(answer)["error"]["message"], answer

    def grpc_cancel(self, seed):
        call = self.rpc["GenerateStream"](self.long)
        next(call)
        call.cancel()

    def grpc_deadline(self, seed):
        try:
            list(self.rpc["GenerateStream"](self.long, timeout=random.uniform(0.001, 0.2)))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error

    def grpc_bad(self, seed):
        try:
            self.rpc["Generate"](self.bad)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error


# 43 who ask well, 21 who do not.
WELL = (["openai_stream"] * 8 + ["raw_stream"] * 5 + ["unary"] * 6 + ["several"] * 2 + ["task"] * 4 +
        ["schema"] * 2 + ["messages"] * 2 + ["kserve"] * 2 + ["embed"] * 2 + ["score"] * 1 + ["paint"] * 2 +
        ["grpc_unary"] * 2 + ["grpc_stream"] * 4 + ["grpc_embed"] * 1)
BADLY = (["leave_stream"] * 4 + ["leave_unary"] * 3 + ["stall"] * 2 + ["never_read"] * 2 + ["rubbish"] * 2 +
         ["bad_json"] * 2 + ["grpc_cancel"] * 2 + ["grpc_deadline"] * 3 + ["grpc_bad"] * 1)
QUICK = {"paint", "rubbish", "bad_json", "grpc_bad", "embed", "grpc_embed", "leave_unary"}


class Load(unittest.TestCase):

    def setUp(self):
        self.assertEqual((len(WELL), len(BADLY)), (43, 21))
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.server = Server(*FLAGS, "--model", make_painter(self.folder.name))
        self.addCleanup(lambda: self.server.process.poll() is None and self.server.stop())
        self.clients = Clients(self.server)
        self.addCleanup(self.clients.tearDown)
        self.failures, self.counts = [], collections.Counter()
        self.running = True

    def drive(self, seed, kind):
        act = getattr(self.clients, kind)
        while self.running and len(self.failures) < 20:
            try:
                act(seed)
                self.counts[kind] += 1
                if kind in QUICK:  # else these would take most of the processor
                    time.sleep(random.uniform(0, 0.2))
            except Exception as error:
                # A server that is busy may drop who sends rubbish or nothing before they have said it.
                if kind in BADLY and isinstance(error, OSError):
                    continue
                self.failures.append(f"{kind}: {type(error).__name__}: {error}"[:500])

    def readings(self):
        """{'name{labels}': value} of all that is held now, without this connection and request."""
        _, _, page = self.server.ask("GET", "/metrics")
        values = {}
        for line in page.decode().splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith(("qianyi_admitted{", "qianyi_requests_", "qianyi_image_requests", "qianyi_open")) or (
                    name.startswith("qianyi_kv_pages") and 'kind="used"' in name):
                values[name] = float(value)
        for name in ('qianyi_open{kind="http_connection"}', 'qianyi_open{kind="http_request"}'):
            values[name] -= 1
        return values

    def wait_until_all_is_back(self):
        end = time.monotonic() + 90
        while any((held := self.readings()).values()):
            self.assertLess(time.monotonic(), end, {name: value for name, value in held.items() if value})
            time.sleep(0.2)
        return held

    def fill(self):
        """Once as much at the same time as there can ever be, so that memory which was planned from the
        beginning, and is only touched when it is first used, is none that grows."""
        threads = [threading.Thread(target=self.server.post, args=(COMPLETE, {**ENDLESS, "max_tokens": 500}))
                   for _ in range(2 * PLACES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def test_mixed_clients(self):
        self.fill()
        threads = [threading.Thread(target=self.drive, args=(seed, kind))
                   for seed, kind in enumerate(WELL + BADLY)]
        for thread in threads:
            thread.start()
        begin, resident = time.monotonic(), []
        while time.monotonic() < begin + SECONDS and len(self.failures) < 20:
            self.assertIsNone(self.server.process.poll(), self.server.errors())
            resident.append(self.server.resident_bytes())
            time.sleep(0.5)
        self.running = False
        for thread in threads:
            thread.join(120)
            self.assertFalse(thread.is_alive(), "a client waits for ever")
        back = self.wait_until_all_is_back()
        minute = max(2, int(len(resident) * min(60 / SECONDS, 0.25)))
        warm = int(len(resident) * WARM_UP_SECONDS / SECONDS)
        first, last = (statistics.mean(part) for part in (resident[warm:warm + minute], resident[-minute:]))
        times = sorted(self.clients.first_token_seconds)
        result = {"seconds": SECONDS, "clients": len(threads), "requests": dict(self.counts),
                  "failures": len(self.failures), "load_average": os.getloadavg(), "held_at_the_end": back,
                  "generated_tokens": self.server.metric("qianyi_generated_tokens_total"),
                  "resident_bytes": {"first_minute": first, "last_minute": last, "growth": last / first - 1},
                  "first_token_seconds": {"count": len(times), "median": statistics.median(times),
                                          "p99": times[int(len(times) * 0.99)]}}
        print(json.dumps(result, indent=1))
        if path := os.environ.get("QIANYI_LOAD_RESULT"):
            with open(path, "w") as file:
                json.dump(result, file, indent=1)
        self.assertEqual(self.failures, [], "\n".join(self.failures))
        self.assertEqual(set(self.counts), set(WELL + BADLY))
        self.assertLess(last / first, 1.02, "resident memory grows")
        self.assertEqual(self.server.stop(), 0, self.server.errors())


if __name__ == "__main__":
    unittest.main()
