"""The known attacks on servers like this one, a test of each class; docs/security.md lists them by name.
What other suites test of a class, they are named there for."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import unittest
import zlib

import grpc

from credentials import make_key
from pictures import make_painter
from reflection import ByReflection
from serving import BINARY, ENDLESS, POET, START_SECONDS, Server, ServerTest

COMPLETE = "/v1/completions"
CHAT = "/v1/chat/completions"


class Files(unittest.TestCase):
    """Model files that lie about themselves."""

    def start(self, folder):
        """What a server says that was given the folder; it must not start, nor end by a signal."""
        done = subprocess.run([BINARY, "serve", "--model", str(folder), "--http-port", "0", "--grpc-port", "0"],
                              capture_output=True, text=True, timeout=START_SECONDS)
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        return done.stderr

    def test_model_files(self):
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch) / "poet"
            shutil.copytree(POET, folder)
            weights = folder / "model.safetensors"
            whole = weights.read_bytes()
            size = int.from_bytes(whole[:8], "little")
            head = json.loads(whole[8:8 + size])
            name = next(name for name in head if name != "__metadata__")

            def lie(change):
                lying = json.loads(json.dumps(head))
                change(lying[name])
                text = json.dumps(lying).encode()
                weights.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + size:])

            for change in (lambda entry: entry.update(data_offsets=[0, 1 << 62]),
                           lambda entry: entry.update(data_offsets=[(1 << 64) - 16, 16]),
                           lambda entry: entry.update(data_offsets=[-8, 8]),
                           lambda entry: entry.update(shape=[1 << 32, 1 << 32]),
                           lambda entry: entry.update(shape=[-1, -1]), lambda entry: entry.update(dtype="F9")):
                lie(change)
                self.assertIn("model.safetensors", self.start(folder))
            for length in (0, (1 << 64) - 1, len(whole)):
                weights.write_bytes(length.to_bytes(8, "little") + whole[8:])
                self.assertIn("model.safetensors", self.start(folder))

    def test_nothing_is_uploaded(self):
        """No route takes a model; adapters are loaded from a folder of the operator's, and only if there
        is one."""
        with Server() as server:
            _, _, text = server.ask("GET", "/openapi.json")
            routes = {(method, path) for path, item in json.loads(text)["paths"].items() for method in item}
            changing = {route for route in routes if route[0] not in ("get", "post")}
            self.assertEqual(changing, {("delete", "/v1/adapters/{name}")})
            self.assertEqual(server.post("/v1/adapters", {"name": "a", "path": "a"})[0], 501)


class Requests(ByReflection, ServerTest):

    def alive(self):
        self.assertEqual(self.server.post(COMPLETE, {**ENDLESS, "max_tokens": 2})[0], 200)

    def raw(self, data, end=True):
        """The first line of what is answered to these bytes; empty when the connection is closed."""
        with self.server.socket() as connection:
            try:
                connection.sendall(data)
                if end:
                    connection.shutdown(socket.SHUT_WR)
                return connection.recv(65536).split(b"\r\n")[0].decode()
            except OSError:
                return ""

    def test_numbers(self):
        """Over gRPC, too; REST is server.hostile's."""
        for field, value in (("n", 10**6), ("n", 2**62), ("n", 0), ("n", -1), ("best_of", 10**9), ("max_tokens", -5),
                             ("max_tokens", 2**62), ("temperature", float("nan")), ("temperature", float("inf")),
                             ("top_k", -1), ("top_p", -0.5), ("seed", -1), ("top_logprobs", 10**6)):
            with self.subTest(field=field, value=value), self.assertRaises(grpc.RpcError) as caught:
                self.call("Generate", self.generate(completion={"prompt": "春"}, parameters={field: value}))
            self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        for tokens in ([-1], [2**31 - 1], [-2**31]):
            with self.assertRaises(grpc.RpcError):
                self.call("Embed", self.message("qianyi.v1.EmbedRequest", inputs=[{"tokens": {"ids": tokens}}]))
        self.alive()

    def test_grammars(self):
        """Schemas that grow: deep, wide, and ones that name themselves. Each is refused or answered."""
        deep = {"type": "object"}
        for _ in range(40):
            deep = {"type": "array", "items": deep}
        branches = {"$ref": "#/$defs/d0"}
        doubling = {"$defs": {f"d{i}": {"type": "array", "items": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 16}}
                              for i in range(30)} | {"d30": {"type": "null"}}, **branches}
        for schema, statuses in (
                (deep, {400}), (doubling, {200, 400}), ({"$ref": "#"}, {200, 400}),
                ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, {400}),
                ({"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(5000)}}, {400}),
                ({"type": "string", "pattern": "(a+)+$"}, {400}), ({"type": "string", "maxLength": 10**18}, {400}),
                ({"enum": ["x" * 100] * 100000}, {400, 413}), ({"anyOf": [{"type": "null"}] * 1000}, {400})):
            status, answer = self.server.post(COMPLETE, {
                "prompt": "春", "max_tokens": 4, "response_format": {
                    "type": "json_schema", "json_schema": {"name": "s", "schema": schema}}})
            self.assertIn(status, statuses, (str(schema)[:200], answer))
        self.alive()

    def test_http_parsing(self):
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
        body = b'{"prompt": "x", "max_tokens": 1}'
        tiny = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        self.assertIn(" 200 ", self.raw(chunked + tiny + b"0\r\n\r\n", end=False))
        padding = b"1\r\n \r\n" * 2200000  # more bytes than a body may have, in pieces of one
        for data, statuses in (
                (chunked + padding + b"0\r\n\r\n", ("413", "")),
                (chunked + b"ffffffffffffffff\r\n", ("413",)),
                (chunked + b"7fffffffffffffff\r\nx", ("413",)),
                (head + b"Content-Length: 18446744073709551615\r\n\r\n", ("413",)),
                (head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", ("400",)),
                (head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ("400",)),
                (head + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", ("400",)),
                (head + b"X: " + b"y" * (1 << 20) + b"\r\n\r\n", ("431", "")),
                (head + b"X: y\r\n" * 100000 + b"\r\n", ("431", "")),
                (head + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % 20 + b"\x1f\x8b" + b"x" * 18, ("415",)),
                (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n\r\n", ("431", "400", "")),
                (b"GET / HTTP/1.1\nHost: a\n\n", ("400",))):
            line = self.raw(data)
            self.assertIn(line.split(" ")[1] if line else "", statuses, data[:120])
        # A bomb is not unpacked.
        bomb = zlib.compress(b" " * (64 << 20))
        before = self.server.resident_bytes()
        self.assertEqual(self.server.ask("POST", COMPLETE, bomb, {"Content-Encoding": "deflate"})[0], 415)
        self.assertLess(self.server.resident_bytes() - before, 32 << 20)
        self.alive()

    def test_slow_senders(self):
        """Who sends a byte now and then is left after the time that a request may take to arrive."""
        with self.server.socket(seconds=60) as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
            end = time.monotonic() + 55
            closed = False
            connection.settimeout(1)
            while not closed and time.monotonic() < end:
                try:
                    connection.sendall(b" ")
                    closed = connection.recv(1000) == b""
                except TimeoutError:
                    continue
                except OSError:
                    closed = True
            self.assertTrue(closed, "a request that never ends keeps its connection")
        self.alive()

    def test_abort_paths(self):
        """What was found to end other servers, and what could: none is answered by a 500, none ends us."""
        vocabulary = 9600
        everything = {str(token): -100 for token in range(0, vocabulary)}
        for body in ({"prompt": ""}, {"prompt": []}, {"prompt": [[1, 2], [3]]}, {"prompt": [0]},
                     {"prompt": [vocabulary - 1]}, {"prompt": [vocabulary]}, {"prompt": "[MASK]"},
                     {"prompt": "[MASK]" * 50}, {"prompt": "[gMASK][MASK][sMASK]"}, {"prompt": "\u0000"},
                     {"prompt": "\ufeff\u202e\U000e0001"}, {"prompt": "春", "logit_bias": everything},
                     {"prompt": "春", "stop": ["", "\u0000"]}, {"prompt": "春", "stop": ["春" * 10000]},
                     {"prompt": "春", "top_k": 2**31}, {"prompt": "春", "top_p": 1e-300, "temperature": 1e-300},
                     {"prompt": "春", "repetition_penalty": 1e-300}, {"prompt": "春", "repetition_penalty": 1e300},
                     {"prompt": "春", "n": 8, "best_of": 8, "logprobs": 5, "temperature": 0},
                     {"prompt": "春", "suffix": "秋"}, {"prompt": "[MASK]", "suffix": "[MASK]"}):
            status, answer = self.server.post(COMPLETE, {"max_tokens": 3, **body})
            self.assertIn(status, (200, 400), (str(body)[:100], answer))
        for body in ({"input": []}, {"input": ""}, {"input": [[]]}, {"input": [""] * 3000}, {"input": [[-1]]},
                     {"input": "春" * 5000}):
            self.assertEqual(self.server.post("/v1/embeddings", {"model": "poet", **body})[0], 400, str(body)[:100])
        for tokens in ([-1], [2**31], [vocabulary], [1.5], "x"):
            self.assertEqual(self.server.post("/v1/detokenize", {"tokens": tokens})[0], 400, tokens)
        self.alive()

    def test_templates(self):
        """A template of a client's is refused, and what looks like one is text."""
        user = [{"role": "user", "content": "x"}]
        for more in ({"chat_template": "{{ messages }}"}, {"chat_template_kwargs": {"template": "{{ x }}"}},
                     {"prompt_template": "x"}, {"tokenizer_config": {}}):
            status, answer = self.server.post(CHAT, {"messages": user, **more})
            self.assertEqual(status, 400, answer)
            self.assertIn(next(iter(more)), answer["error"]["param"])
        for text in ("{{ 7 * 7 }}", "{% for x in range(10**9) %}x{% endfor %}", "${jndi:ldap://127.0.0.1/a}", "%s%n%n"):
            self.assertEqual(self.prompt_tokens(text) - self.prompt_tokens(""), self.plain(text), text)

    def prompt_tokens(self, content):
        status, answer = self.server.post(CHAT, {"messages": [{"role": "user", "content": "春" + content + "春"}],
                                                 "max_tokens": 1})
        self.assertEqual(status, 200, answer)
        return answer["usage"]["prompt_tokens"]

    def plain(self, text):
        """Tokens that the text adds between two others, command words being text."""
        def count(text):
            return len(self.server.post("/v1/tokenize", {"text": text, "commands": False})[1]["tokens"])
        return count("春" + text + "春") - count("春春")

    def test_control_tokens_in_messages(self):
        """Command words act in prompts only: typed into a message, a task or an embedding they are text."""
        words = [command["token"] for command in
                 json.loads((pathlib.Path(POET) / "config.json").read_text())["tokenizer"]["commands"]]
        self.assertGreater(len(words), 5)
        for word in words + ["<|user|>", "<|assistant|>", "<|observation|>", "[gMASK]<sop>", "</s>"]:
            self.assertEqual(self.prompt_tokens(word) - self.prompt_tokens(""), self.plain(word), word)
            status, answer = self.server.post("/v1/embeddings", {"model": "poet", "input": word})
            self.assertEqual(status, 200, answer)
        acting = self.server.post("/v1/tokenize", {"text": "[MASK]", "commands": True})[1]["tokens"]
        self.assertEqual(len(acting), 1)  # they would act elsewhere
        self.assertGreater(self.plain("[MASK]"), 1)
        status, answer = self.server.post("/v1/tasks/summary", {"text": "[MASK]春[gMASK]", "seed": 1, "max_tokens": 4})
        self.assertEqual(status, 200, answer)

    def test_rubbish_writes_no_log(self):
        """Messages that are none are refused without a word in the operator's log."""
        call = self.channel.unary_unary("/qianyi.v1.Inference/Generate")
        for rubbish in (b"\x0a\x02\xff\xfe", b"\xff" * 100, b"\x0a\x7f"):
            with self.assertRaises(grpc.RpcError):
                call(rubbish)
        self.alive()
        self.assertNotIn("protobuf", self.server.errors())

    def test_errors_tell_nothing(self):
        """No path, address or inside of the server is in what a stranger reads."""
        secrets = (POET, os.path.dirname(BINARY), str(self.server.process.pid), ".cc:", "std::", "0x7f", "/home", "/root")
        for method, path, body in (("POST", COMPLETE, b"{"), ("POST", COMPLETE, b'{"model": "no"}'),
                                   ("POST", CHAT, b'{"messages": 5}'), ("GET", "/no/such/place", None),
                                   ("GET", "/v1/models/no", None), ("DELETE", "/v1/adapters/no", None),
                                   ("POST", "/v1/adapters", b'{"name": "a", "path": "/etc"}'),
                                   ("POST", "/v1/images/generations", b'{"prompt": "x"}'), ("PUT", "/v1/models", b"")):
            status, headers, answer = self.server.ask(method, path, body)
            self.assertGreaterEqual(status, 400)
            for secret in secrets:
                self.assertNotIn(secret, answer.decode() + str(headers), (path, secret))


class Addresses(unittest.TestCase):
    """Nothing that a request says makes the server open a connection or a file."""

    def test_no_address_is_fetched(self):
        with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as watched, \
                Server("--adapter-folder", folder, model=make_painter(folder)) as server, Server() as text:
            url = f"http://127.0.0.1:{watched.getsockname()[1]}/picture.png"
            parts = [{"type": "text", "text": url}, {"type": "image_url", "image_url": {"url": url}}]
            for to, path, body in (
                    (server, "/v1/images/edits", {"prompt": "x", "image": url}),
                    (server, "/v1/images/edits", {"prompt": "x", "images": [{"image_url": url}]}),
                    (server, "/v1/images/generations", {"prompt": "x", "response_format": "url"}),
                    (server, "/v1/adapters", {"name": "a", "path": url}),
                    (text, CHAT, {"messages": [{"role": "user", "content": parts}]}),
                    (text, "/v1/responses", {"model": "poet", "input": [{"role": "user", "content": [
                        {"type": "input_image", "image_url": url}]}]}),
                    (text, "/v1/messages", {"model": "poet", "max_tokens": 3, "messages": [{"role": "user", "content": [
                        {"type": "image", "source": {"type": "url", "url": url}}]}]}),
                    (text, COMPLETE, {"prompt": "x", "response_format": {"type": "json_schema", "json_schema": {
                        "name": "s", "schema": {"$ref": url}}}})):
                status, answer = to.post(path, body)
                self.assertIn(status, (400, 404, 501), (path, answer))
            for word in (url, "file:///etc/passwd"):
                text.post(COMPLETE, {"prompt": word, "max_tokens": 1})
            watched.settimeout(0.5)
            with self.assertRaises(TimeoutError):
                watched.accept()

    def test_paths_are_routes_only(self):
        with Server() as server:
            for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/app.js/../../../etc/passwd", "//etc/passwd",
                         "/v1/models/..%2f..%2fetc%2fpasswd", "/..\\..\\etc\\passwd", "/\u0000"):
                with server.socket() as connection:
                    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                    answer = connection.recv(65536)
                self.assertIn(answer.split(b" ")[1], (b"400", b"404"), path)
                self.assertNotIn(b"root:", answer)


class Keys(unittest.TestCase):

    def test_no_spelling_of_a_path_or_key_is_let_in(self):
        with tempfile.TemporaryDirectory() as folder:
            key = make_key(folder, "one")
            with Server("--keys", f"{folder}/keys.json", key=key) as server:
                for path in ("//v1/models", "/V1/MODELS", "/v1/models/", "/v1/models?x", "/v1/./models", "/health/live/../..",
                             "/health/live/../../v1/models", "/v1%2fmodels", "/metrics/", "/invocations", "/health/livex"):
                    status, _, _ = server.ask("GET", path, headers={"Authorization": ""})
                    self.assertEqual(status, 401, path)
                for wrong in (key[:-1], key + "x", key.upper(), key.swapcase(), " ", key + "\t" + key, "qy-", key[3:]):
                    for headers in ({"Authorization": f"Bearer {wrong}"}, {"Authorization": "", "X-Api-Key": wrong}):
                        self.assertEqual(server.ask("GET", "/v1/models", headers=headers)[0], 401, headers)
                self.assertEqual(server.ask("GET", "/v1/models")[0], 200)


if __name__ == "__main__":
    unittest.main()
