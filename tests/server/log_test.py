"""What the log says of requests, over REST and gRPC, and what it keeps to itself."""

import json
import re
import tempfile
import unittest

import grpc

from credentials import make_key
from reflection import ByReflection
from serving import ENDLESS, Server, ServerTest

COMPLETE = "/v1/completions"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
SECRET = "床前明月光"
GOES_ON = {"logit_bias": ENDLESS["logit_bias"]}


class Json(ByReflection, ServerTest):
    FLAGS = ("--log-format", "json")

    def line(self, event, request_id):
        """The line of a request; it is written after the answer."""
        for _ in range(1000):
            found = [line for line in self.server.log_lines()
                     if (line["event"], line.get("request_id")) == (event, request_id)]
            if found:
                self.assertEqual(len(found), 1, found)
                return found[0]
            self.server.ask("GET", "/health/live")
        self.fail(f"no {event} of {request_id}: {self.server.errors()}")

    def test_rest(self):
        for path, stream in ((COMPLETE, False), (COMPLETE, True)):
            request_id = f"rest-{stream}"
            self.server.ask("POST", path, {"prompt": SECRET, "max_tokens": 3, "n": 2, "stream": stream, **GOES_ON},
                            {"X-Request-Id": request_id, "traceparent": TRACEPARENT})
            line = self.line("request", request_id)
            self.assertEqual({name: line[name] for name in ("level", "protocol", "method", "route", "status",
                                                            "trace_id", "parent_id")},
                             {"level": "info", "protocol": "http", "method": "POST", "route": path,
                              "status": 200, "trace_id": TRACE, "parent_id": PARENT})
            self.assertRegex(line["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertGreater(line["seconds"], 0)
            line = self.line("generation", request_id)
            self.assertEqual((line["model"], line["choices"], line["completion_tokens"], line["status"],
                              line["trace_id"]), ("poet", 2, 6, "OK", TRACE))
        self.assertNotIn(SECRET, self.server.errors())

    def test_refusals(self):
        for number, (method, path, body, status) in enumerate((
                ("POST", COMPLETE, {"prompt": 5}, 400), ("GET", "/nothing/" + "abcdefgh", None, 404),
                ("GET", COMPLETE, None, 405), ("POST", COMPLETE, {"prompt": "x", "model": "abcdefgh"}, 404))):
            self.server.ask(method, path, body, {"X-Request-Id": f"refused-{number}"})
            self.assertEqual(self.line("request", f"refused-{number}")["status"], status)
        self.assertNotIn("abcdefgh", self.server.errors())

    def test_every_answer_has_an_id(self):
        for method, path, headers in (("GET", "/health/live", {}), ("GET", "/nothing", {}),
                                      ("GET", "/", {}), ("POST", COMPLETE, {}), ("PUT", COMPLETE, {}),
                                      ("GET", "/", {"Host": "evil.example"})):
            _, answered, _ = self.server.ask(method, path, None, headers)
            self.assertRegex(answered["X-Request-Id"], r"^req-[0-9a-f]{16}$", path)
        for bad in ("a b", "x" * 129, "ü", ""):
            _, answered, _ = self.server.ask("GET", "/health/live", None,
                                             {"X-Request-Id": bad.encode("latin-1")})
            self.assertRegex(answered["X-Request-Id"], r"^req-", bad)
        with self.server.socket() as raw:
            raw.sendall(b"rubbish\r\n\r\n")
            answer = raw.recv(4096).decode()
        request_id = re.search(r"X-Request-Id: (\S+)", answer)[1]
        self.assertEqual(self.line("request", request_id)["status"], 400)

    def test_traces_that_are_none_are_ignored(self):
        for number, bad in enumerate(("", "x", TRACEPARENT[:-1], TRACEPARENT + "-00", TRACEPARENT.upper(),
                                      f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01",
                                      f"00-{TRACE}-{'0' * 16}-01", f"00_{TRACE}-{PARENT}-01")):
            self.server.ask("GET", "/v1/models", None, {"X-Request-Id": f"trace-{number}", "traceparent": bad})
            self.assertNotIn("trace_id", self.line("request", f"trace-{number}"), bad)
        self.server.ask("GET", "/v1/models", None,
                        {"X-Request-Id": "trace-later", "traceparent": f"01-{TRACE}-{PARENT}-01-more"})
        self.assertEqual(self.line("request", "trace-later")["trace_id"], TRACE)

    def test_grpc(self):
        metadata = (("x-request-id", "grpc-1"), ("traceparent", TRACEPARENT))
        self.call("Generate", self.generate(completion={"prompt": SECRET}, parameters={"max_tokens": 3, **GOES_ON}),
                  metadata=metadata)
        line = self.line("request", "grpc-1")
        self.assertEqual((line["protocol"], line["route"], line["status"], line["trace_id"]),
                         ("grpc", "/qianyi.v1.Inference/Generate", 0, TRACE))
        self.assertEqual(self.line("generation", "grpc-1")["completion_tokens"], 3)
        with self.assertRaises(grpc.RpcError):
            list(self.call("GenerateStream", self.generate(model="other", completion={"prompt": "x"}),
                           metadata=(("x-request-id", "grpc-2"),)))
        self.assertEqual(self.line("request", "grpc-2")["status"], grpc.StatusCode.NOT_FOUND.value[0])
        self.assertNotIn(SECRET, self.server.errors())


class Others(unittest.TestCase):

    def test_off_says_nothing_of_requests(self):
        with Server() as server:
            server.post(COMPLETE, {"prompt": SECRET, "max_tokens": 3})
            server.stop()
            lines = server.errors().splitlines()
            self.assertTrue(all(line.startswith("qianyi: ") for line in lines), lines)

    def test_text(self):
        with Server("--log-format", "text", "--log-prompts") as server:
            server.ask("POST", COMPLETE, {"prompt": SECRET + ' "\n', "max_tokens": 3}, {"X-Request-Id": "a"})
            server.stop()
            text = server.errors()
        self.assertRegex(text, r"\n\S+Z request request_id=a protocol=http method=POST route=/v1/completions "
                               r"status=200 seconds=[0-9.e-]+\n")
        self.assertIn(r'prompt="' + SECRET + r' \"\n"', text)

    def test_prompts_when_asked_for(self):
        with tempfile.TemporaryDirectory() as folder:
            key = make_key(folder, "alice")
            with Server("--log-format", "json", "--log-prompts", "--keys", f"{folder}/keys.json",
                        key=key) as server:
                server.post(COMPLETE, {"prompt": SECRET, "max_tokens": 3})
                server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": SECRET}],
                                                     "max_tokens": 3})
                server.post("/v1/tasks/qa", {"question": SECRET, "max_tokens": 3})
                server.ask("GET", "/v1/models", headers={"Authorization": "Bearer qy-secret"})
                server.stop()
                lines = server.log_lines()
        made = [line for line in lines if line["event"] == "generation"]
        self.assertEqual([line["prompt"] for line in made],
                         [SECRET, [{"role": "user", "content": SECRET}], {"persona": "", "question": SECRET}])
        self.assertEqual({line["key"] for line in made}, {"alice"})
        requests = [line for line in lines if line["event"] == "request"]
        # A line is written when its answer is over, which the next request may overtake.
        self.assertEqual(sorted((line["status"], line.get("key")) for line in requests if line["status"] == 200),
                         [(200, "alice")] * 3)
        self.assertEqual([line.get("key") for line in requests if line["status"] == 401], [None])
        text = json.dumps(lines)
        self.assertNotIn("qy-secret", text)
        self.assertNotIn(key, text)

    def test_a_format_that_is_none(self):
        with self.assertRaisesRegex(RuntimeError, "--log-format xml: it must be off, text or json"):
            Server("--log-format", "xml")


if __name__ == "__main__":
    unittest.main()
