"""Who is let in: bounds of the server, quotas of keys, and whose turn it is."""

import contextlib
import json
import tempfile
import threading
import time
import unittest

import grpc
import openai
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from credentials import make_key
from pictures import make_painter
from reflection import ByReflection
from serving import ENDLESS, Server, ServerTest

COMPLETE = "/v1/completions"


@contextlib.contextmanager
def running(server, count=1, key=None, **more):
    """Streams that go on until the end of the block; each has a place or waits for one."""
    before = server.metric("qianyi_admitted")
    connections = [server.connect() for _ in range(count)]
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key or server.key}"}
    try:
        for connection in connections:
            connection.request("POST", COMPLETE, json.dumps({**ENDLESS, "stream": True, **more}), headers)
        held = lambda: (server.metric("qianyi_requests_running") +
                        server.metric("qianyi_requests_waiting"))
        until(lambda: held() >= count, before)
        yield connections
    finally:
        for connection in connections:
            connection.close()
        server.wait_until_idle()


def until(true, what=None):
    end = time.monotonic() + 300  # for a server that hangs, not for a slow one
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def rejected(server, reason):
    _, _, text = server.ask("GET", "/metrics")
    for line in text.decode().splitlines():
        if line.startswith(f'qianyi_rejected_total{{reason="{reason}"}}'):
            return float(line.split()[-1])
    return 0


def short(**more):
    return {**ENDLESS, "max_tokens": 3, **more}


class Refusal(unittest.TestCase):

    def refused(self, server, status, reason, body=None, key=None, path=COMPLETE):
        """Asks, and looks at all that a refusal must have; returns its error."""
        before = rejected(server, reason)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        got, headers, answer = server.ask("POST", path, body or short(), headers)
        error = json.loads(answer)["error"]
        self.assertEqual(got, status, error)
        self.assertEqual(rejected(server, reason), before + 1, reason)
        if status == 400:
            self.assertIsNone(headers["Retry-After"])
        else:
            self.assertTrue(1 <= int(headers["Retry-After"]) <= 120, headers["Retry-After"])
            self.assertEqual(error["code"],
                             "rate_limit_exceeded" if status == 429 else "server_is_overloaded")
        return error


class Capacity(Refusal):

    def test_requests(self):
        with Server("--batch", "1", "--queue", "2") as server:
            with running(server, 3):
                error = self.refused(server, 503, "queue_full")
                self.assertIn("3 answers", error["message"])
                with self.assertRaises(openai.InternalServerError) as caught:
                    openai.OpenAI(base_url=f"http://{server.http}/v1", api_key="none", max_retries=0) \
                        .completions.create(model="poet", prompt="春")
                self.assertEqual(caught.exception.status_code, 503)
            # n counts n times, and more than there can be is no use trying again.
            with running(server, 1, n=2):
                self.refused(server, 503, "queue_full", short(n=2))
                self.assertEqual(server.post(COMPLETE, short())[0], 200)
            error = self.refused(server, 400, "invalid", short(n=4))
            self.assertEqual(error["param"], "n")
            self.assertEqual(server.post(COMPLETE, short(n=3))[0], 200)
            self.assertEqual(server.metric("qianyi_admitted"), 0)

    def test_tokens(self):
        with Server("--queue-tokens", "700") as server:
            with running(server):
                self.refused(server, 503, "queue_tokens", {**ENDLESS, "max_tokens": 300})
                self.assertEqual(server.post(COMPLETE, short())[0], 200)
            error = self.refused(server, 400, "invalid", {**ENDLESS, "n": 2})
            self.assertEqual(error["param"], "max_tokens")
            self.assertIn("--queue-tokens", error["message"])

    def test_memory(self):
        with Server("--queue-memory", "32KiB") as server:
            with running(server):
                self.refused(server, 503, "queue_memory", {**ENDLESS})
                self.assertEqual(server.post(COMPLETE, short())[0], 200)
            error = self.refused(server, 400, "invalid", {**ENDLESS, "n": 5})
            self.assertIn("--queue-memory", error["message"])


class Quota(Refusal):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.admin = make_key(cls.folder.name, "boss", "--scopes", "admin")
        cls.one = make_key(cls.folder.name, "one", "--concurrency", "1")
        cls.thrifty = make_key(cls.folder.name, "thrifty", "--tokens-per-minute", "30")
        cls.server = Server("--keys", f"{cls.folder.name}/keys.json", key=cls.admin)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.errors()
        cls.folder.cleanup()

    def test_concurrency(self):
        with running(self.server, key=self.one):
            self.refused(self.server, 429, "key_concurrency", key=self.one)
            with self.assertRaises(openai.RateLimitError):
                openai.OpenAI(base_url=f"http://{self.server.http}/v1", api_key=self.one,
                              max_retries=0).completions.create(model="poet", prompt="春")
            self.assertEqual(self.server.post(COMPLETE, short())[0], 200)  # of another key
        # The next may come as soon as the answer is there.
        client = openai.OpenAI(base_url=f"http://{self.server.http}/v1", api_key=self.one, max_retries=0)
        for _ in range(20):
            client.completions.create(model="poet", prompt="春", max_tokens=2)
        error = self.refused(self.server, 400, "invalid", short(n=2), key=self.one)
        self.assertEqual(error["param"], "n")

    def test_tokens_a_minute(self):
        headers = {"Authorization": f"Bearer {self.thrifty}"}
        status, _, answer = self.server.ask("POST", COMPLETE, {**ENDLESS, "max_tokens": 60}, headers)
        self.assertEqual(status, 200)
        used = json.loads(answer)["usage"]["total_tokens"]
        error = self.refused(self.server, 429, "key_tokens", key=self.thrifty)
        self.assertIn("30 tokens a minute", error["message"])
        _, headers, _ = self.server.ask("POST", COMPLETE, short(), headers)
        # Half a token a second; what was used beyond the minute's is paid back first.
        self.assertAlmostEqual(int(headers["Retry-After"]), 2 * (used - 30) + 2, delta=15)
        self.assertEqual(self.server.post(COMPLETE, short())[0], 200)


class Pictures(Refusal):
    """Quotas are of keys, whatever they ask for."""

    def test_quotas(self):
        path, body = "/v1/images/generations", {"prompt": "一只猫"}
        with tempfile.TemporaryDirectory() as folder:
            boss = make_key(folder, "boss", "--scopes", "admin")
            one = make_key(folder, "one", "--concurrency", "1")
            thrifty = make_key(folder, "thrifty", "--tokens-per-minute", "10")
            with Server("--keys", f"{folder}/keys.json", model=make_painter(folder), key=boss) as server:
                for more in ({"n": 2}, {"candidates": 2}):
                    error = self.refused(server, 400, "invalid", {**body, **more}, one, path)
                    self.assertIn("the key one may have 1 answers at once", error["message"])
                for _ in range(3):
                    self.assertEqual(server.ask("POST", path, body, {"X-Api-Key": one, "Authorization": ""})[0],
                                     200)
                self.assertEqual(server.ask("POST", path, body, {"X-Api-Key": thrifty, "Authorization": ""})[0],
                                 200)
                self.refused(server, 429, "key_tokens", body, thrifty, path)
                self.assertEqual(server.metric("qianyi_admitted"), 0)


class Turns(unittest.TestCase):
    """Each answer is long, so that the server's log has them in the order in which they ended."""

    LONG = {**ENDLESS, "max_tokens": 300}

    def finished(self, server, asks):
        """Those who ask while the one place is taken, in the order in which they are served."""
        threads = []

        def ask(request_id, key, headers, body):
            key = {"Authorization": f"Bearer {key}"} if key else {}
            status, _, answer = server.ask("POST", COMPLETE, body,
                                           {**headers, **key, "X-Request-Id": request_id})
            self.assertEqual(status, 200, answer)
        with running(server, 1):
            for count, (name, key, headers, body) in enumerate(asks, 1):
                threads.append(threading.Thread(target=ask, args=(f"turn-{name}", key, headers, body)))
                threads[-1].start()
                until(lambda: server.metric("qianyi_requests_waiting") == count)
        for thread in threads:
            thread.join()
        def order():
            return "".join(line["request_id"][-1] for line in server.log_lines()
                           if line["event"] == "generation" and line["request_id"].startswith("turn-"))
        until(lambda: len(order()) == len(asks))  # the log is written a little later
        return order()

    def test_interactive_before_batch(self):
        body = self.LONG
        with Server("--batch", "1", "--log-format", "json") as server:
            order = self.finished(server, [
                ("b", None, {"X-Priority": "batch"}, body),
                ("f", None, {}, {**body, "service_tier": "flex"}),
                ("i", None, {"X-Priority": "interactive"}, body),
                ("d", None, {}, {**body, "service_tier": "auto"})])
            self.assertEqual(order, "idbf")
            for headers, more, param in (({"X-Priority": "first"}, {}, "x-priority"),
                                         ({}, {"service_tier": "first"}, "service_tier")):
                status, _, answer = server.ask("POST", COMPLETE, short(**more), headers)
                self.assertEqual((status, json.loads(answer)["error"]["param"]), (400, param))

    def test_keys_take_turns_by_weight(self):
        body = self.LONG
        with tempfile.TemporaryDirectory() as folder:
            keys = [make_key(folder, "boss", "--scopes", "admin"), make_key(folder, "a"),
                    make_key(folder, "b"), make_key(folder, "c", "--weight", "100")]
            with Server("--batch", "1", "--log-format", "json", "--keys", f"{folder}/keys.json",
                        key=keys[0]) as server:
                order = self.finished(server, [(name, keys["-abc".index(name)], {}, body)
                                               for name in "aaabbcc"])
                self.assertEqual(order, "abccaba")  # one of each, c's other, then as they came


    def test_pictures_take_turns_too(self):
        with tempfile.TemporaryDirectory() as folder:
            keys = [make_key(folder, "boss", "--scopes", "admin"), make_key(folder, "a"),
                    make_key(folder, "b"), make_key(folder, "c", "--weight", "100")]
            with Server("--batch", "1", "--log-format", "json", "--keys", f"{folder}/keys.json",
                        model=make_painter(folder, grid=32), key=keys[0]) as server:
                order = self.painted(server, [(name, keys["-abc".index(name.lower())])
                                              for name in "aaAaabbcc"])
                # The first has the one thread at once; the one in a capital letter is no hurry.
                self.assertEqual(order, "aabccabaA")

    def painted(self, server, asks):
        path, threads = "/v1/images/generations", []

        def ask(name, key):
            hurry = {"X-Priority": "batch"} if name.isupper() else {}
            status, _, answer = server.ask("POST", path, {"prompt": "一只猫"},
                                           {**hurry, "Authorization": f"Bearer {key}",
                                            "X-Request-Id": f"turn-{name}"})
            self.assertEqual(status, 200, answer)
        for count, (name, key) in enumerate(asks, 1):
            threads.append(threading.Thread(target=ask, args=(name, key)))
            threads[-1].start()
            until(lambda: server.metric("qianyi_image_requests") == count)
        for thread in threads:
            thread.join()
        def order():
            return "".join(line["request_id"][-1] for line in server.log_lines()
                           if line["event"] == "request" and line["route"] == path)
        until(lambda: len(order()) == len(asks))
        return order()


class GrpcRefusals(ByReflection, ServerTest):
    FLAGS = ("--batch", "1", "--queue", "1")

    def details(self, error):
        """{kind: message} of what a failed call says in google.rpc's words."""
        status = rpc_status.from_call(error)
        self.assertEqual(status.message, error.details())
        found = {}
        for detail in status.details:
            kind = detail.type_url.rsplit(".", 1)[1]
            found[kind] = getattr(error_details_pb2, kind)()
            self.assertTrue(detail.Unpack(found[kind]), kind)
        return found

    def failure(self, method="Generate", metadata=(), **parameters):
        with self.assertRaises(grpc.RpcError) as caught:
            answer = self.call(method, self.generate(completion={"prompt": "春"}, parameters=parameters),
                               metadata=metadata)
            list(answer) if method == "GenerateStream" else None
        return caught.exception

    def test_capacity(self):
        with running(self.server, 2):
            for method in ("Generate", "GenerateStream"):
                error = self.failure(method, max_tokens=3)
                self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
                details = self.details(error)
                self.assertTrue(1 <= details["RetryInfo"].retry_delay.seconds <= 120)
                self.assertEqual((details["ErrorInfo"].reason, details["ErrorInfo"].domain),
                                 ("server_is_overloaded", "qianyi"))

    def test_bad_requests(self):
        error = self.failure(temperature=9.0)
        details = self.details(error)
        self.assertEqual(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(details["BadRequest"].field_violations[0].field, "temperature")
        self.assertNotIn("RetryInfo", details)
        error = self.failure(metadata=(("x-priority", "first"),))
        self.assertEqual(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
        answer = self.call("Generate", self.generate(
            completion={"prompt": "春"},
            parameters={"max_tokens": 3, "logit_bias": ENDLESS["logit_bias"]}),
                           metadata=(("x-priority", "batch"),))
        self.assertEqual(answer.usage.completion_tokens, 3)

    def test_quota(self):
        with tempfile.TemporaryDirectory() as folder:
            boss = make_key(folder, "boss", "--scopes", "admin")
            one = make_key(folder, "one", "--concurrency", "1")
            with Server("--keys", f"{folder}/keys.json", key=boss) as server, \
                    grpc.insecure_channel(server.grpc) as self.channel, running(server, key=one):
                error = self.failure(metadata=(("authorization", f"Bearer {one}"),))
                self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
                details = self.details(error)
                self.assertGreaterEqual(details["RetryInfo"].retry_delay.seconds, 1)
                self.assertEqual(details["ErrorInfo"].reason, "rate_limit_exceeded")


if __name__ == "__main__":
    unittest.main()
