"""What comes from outside and should not: each is answered as it deserves, and then the next
request is served."""

import json
import struct
import socket
import time
import unittest

from serving import ENDLESS, Server, ServerTest

CHAT = "/v1/chat/completions"
COMPLETE = "/v1/completions"
POEM = "/v1/tasks/poem"


class Bodies(ServerTest):

    def refused(self, path, body, status=400, param=None):
        got, headers, answer = self.server.ask("POST", path, body)
        self.assertEqual(got, status, answer)
        self.assertEqual(headers["Content-Type"], "application/json")
        error = json.loads(answer)["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertTrue(error["message"])
        if param is not None:
            self.assertEqual(error["param"], param, error)
        self.assertEqual(self.server.post(POEM, {"form": "五绝"})[0], 200)
        return error

    def test_numbers_out_of_range(self):
        for name, value in (("n", 10**6), ("n", 0), ("n", -1), ("n", 1.5), ("n", 10**30),
                            ("max_tokens", -5), ("max_tokens", 0), ("max_tokens", 2**63),
                            ("max_tokens", "many"), ("temperature", -0.1), ("temperature", 2.5),
                            ("temperature", 1e400), ("top_p", 0), ("top_p", 1.01), ("top_k", -1),
                            ("min_p", 1), ("repetition_penalty", 0), ("presence_penalty", 3),
                            ("frequency_penalty", -3), ("seed", -1), ("seed", 2**64),
                            ("stop", [1]), ("stop", [""]), ("stop", ["a"] * 5),
                            ("logit_bias", {"x": 1}), ("logit_bias", {"5": 101}),
                            ("logit_bias", {"-1": 1}), ("logit_bias", [])):
            body = json.dumps({"prompt": "春", name: value})
            if value == 1e400:
                body = '{"prompt": "春", "temperature": 1e400}'
                self.refused(COMPLETE, body.encode())
                continue
            error = self.refused(COMPLETE, body.encode(), param=name)
            self.assertIn(name, error["message"])

    def test_rubbish(self):
        for body in (b"", b"{", b"[]", b"null", b'"text"', b"\x00\x01", b'{"prompt": "\xff\xfe"}',
                     b'{"prompt": "\xed\xa0\x80"}', b'{"prompt":' + b"[" * 100000,
                     b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"prompt": "\\ud800"}'):
            self.refused(COMPLETE, body)

    def test_wrong_shapes(self):
        user = [{"role": "user", "content": "x"}]
        for path, body, param in (
                (CHAT, {}, "messages"), (CHAT, {"messages": []}, "messages"),
                (CHAT, {"messages": "hi"}, "messages"),
                (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
                (CHAT, {"messages": [{"role": "god", "content": "x"}]}, "messages[0].role"),
                (CHAT, {"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
                (CHAT, {"messages": user, "stream": "yes"}, "stream"),
                (CHAT, {"messages": user, "tools": [{"type": "function"}]}, "tools[0].function"),
                (CHAT, {"messages": user, "tools": [{"type": "function",
                                                     "function": {"name": "f"}}]}, "tools"),
                (CHAT, {"messages": user, "unheard_of": 1}, "unheard_of"),
                (COMPLETE, {}, "prompt"), (COMPLETE, {"prompt": 5}, "prompt"),
                (COMPLETE, {"prompt": [1, -2]}, "prompt"),
                ("/v1/tasks/couplet", {"upper": ""}, None),
                ("/v1/tasks/couplet", {"upper": "hello"}, "upper"),
                ("/v1/tasks/couplet", {"upper": "春" * 40}, "upper"),
                ("/v1/tasks/qa", {}, None), (POEM, {"title": 3}, "title"),
                (POEM, {"form": "五绝", "rhyme": 1}, "rhyme"), (POEM, {"n": 2}, "n")):
            self.refused(path, body, param=param)

    def test_unknown_model(self):
        error = self.refused(CHAT, {"model": "gpt-9", "messages": [
            {"role": "user", "content": "x"}]}, status=404, param="model")
        self.assertEqual(error["code"], "model_not_found")

    def test_too_long(self):
        error = self.refused(COMPLETE, {"prompt": "春" * 5000})
        self.assertEqual(error["code"], "context_length_exceeded")
        error = self.refused(COMPLETE, {"prompt": "春", "max_tokens": 100000})
        self.assertEqual(error["code"], "context_length_exceeded")
        self.refused(COMPLETE, {"prompt": [10**9]})

    def test_too_large(self):
        self.refused(COMPLETE, b'{"prompt": "' + b"x" * (3 << 20) + b'"}', status=413)
        status, _, _ = self.server.ask("GET", "/v1/models", headers={"X-Long": "y" * 40000})
        self.assertEqual(status, 431)
        status, _, _ = self.server.ask("POST", COMPLETE, b"\x1f\x8b", {"Content-Encoding": "gzip"})
        self.assertEqual(status, 415)

    def test_not_http(self):
        for bytes_ in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                       b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                       b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):
            with self.server.socket() as connection:
                connection.sendall(bytes_)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(65536)
                self.assertTrue(answer == b"" or b" 400 " in answer.split(b"\r\n")[0], answer)
        self.assertEqual(self.server.ask("GET", "/health/live")[0], 200)

    def test_request_ids_are_echoed_if_they_are_fit(self):
        _, headers, _ = self.server.ask("GET", "/v1/models", headers={"X-Request-Id": "abc-1"})
        self.assertEqual(headers["X-Request-Id"], "abc-1")
        for unfit in ("x" * 500, "a b", "<script>"):
            _, headers, _ = self.server.ask("GET", "/v1/models", headers={"X-Request-Id": unfit})
            self.assertNotEqual(headers["X-Request-Id"], unfit)

    def test_two_requests_on_one_connection_and_pipelined(self):
        connection = self.server.connect()
        for _ in range(3):
            connection.request("GET", "/health/live")
            self.assertEqual(connection.getresponse().read(), b'{"status":"live"}\n')
        connection.close()
        with self.server.socket() as raw:
            raw.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2 +
                        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while part := raw.recv(65536):
                answer += part
            self.assertEqual(answer.count(b'{"status":"live"}'), 3)


class Leavers(ServerTest):
    """Clients that go away: the work stops, and all that it took comes back."""

    FLAGS = ("--batch", "4", "--queue", "200")

    def start_stream(self):
        connection = self.server.socket()
        body = json.dumps({**ENDLESS, "n": 4, "stream": True}).encode()
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
                           + str(len(body)).encode() + b"\r\n\r\n" + body)
        return connection

    def test_mid_stream_and_queued(self):
        connections = [self.start_stream() for _ in range(12)]
        connections[0].recv(1000)  # it streams
        for i, connection in enumerate(connections):
            if i % 2:  # a reset instead of an orderly end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                      struct.pack("ii", 1, 0))
            connection.close()
        begin = time.monotonic()
        self.server.wait_until_idle()
        self.assertLess(time.monotonic() - begin, 20)
        # 48 choices of 500 tokens would be 24,000.
        self.assertLess(self.server.metric("qianyi_generated_tokens_total"), 12000)
        self.assertEqual(self.server.post(POEM, {"form": "五绝"})[0], 200)

    def test_unary(self):
        body = json.dumps({**ENDLESS, "n": 16}).encode()
        before = self.server.metric("qianyi_generated_tokens_total")
        connection = self.server.socket()
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
                           + str(len(body)).encode() + b"\r\n\r\n" + body)
        while self.server.metric("qianyi_requests_running") == 0:
            time.sleep(0.005)
        connection.close()
        self.server.wait_until_idle()
        made = self.server.metric("qianyi_generated_tokens_total") - before
        self.assertLess(made, 16 * 500)

    def test_memory_comes_back(self):
        def round_of(count):
            for _ in range(count):
                connection = self.start_stream()
                connection.recv(200)
                connection.close()
            self.server.wait_until_idle()
            return self.server.resident_bytes()

        first = round_of(40)
        last = first
        for _ in range(4):
            last = round_of(40)
        self.assertLess(last - first, 24 << 20, "resident memory grows with every leaver")

    def test_full_queue_is_said_to_be_full(self):
        with Server("--batch", "1", "--queue", "1") as server:
            connections = []
            statuses = []
            for _ in range(8):
                connection = server.connect()
                connection.request("POST", COMPLETE, json.dumps(ENDLESS))
                connections.append(connection)
            for connection in connections:
                response = connection.getresponse()
                statuses.append(response.status)
                if response.status == 503:
                    self.assertGreater(int(response.headers["Retry-After"]), 0)
                    error = json.loads(response.read())["error"]
                    self.assertEqual(error["code"], "server_is_overloaded")
                connection.close()
            self.assertIn(503, statuses)
            self.assertIn(200, statuses)
            self.assertTrue(set(statuses) <= {200, 503}, statuses)


if __name__ == "__main__":
    unittest.main()
