"""Starting, failing to start, and ending."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from reflection import ByReflection
from serving import BINARY, ENDLESS, POET, Server


def refuse(*flags):
    """(exit code, message) of a server that must not start."""
    done = subprocess.run([BINARY, "serve", *flags], capture_output=True, text=True, timeout=60)
    assert done.stdout == "", done.stdout
    return done.returncode, done.stderr.strip()


class Refusals(unittest.TestCase):
    """One sentence that says what to do."""

    def one_sentence(self, flags, *words):
        code, message = refuse(*flags)
        self.assertEqual(code, 1, message)
        lines = message.splitlines()
        self.assertEqual(len(lines), 1, message)
        for word in words:
            self.assertIn(word, lines[0])

    def test_no_model(self):
        self.one_sentence([], "--model")
        self.one_sentence(["--model", "/nowhere/at/all"], "/nowhere/at/all")

    def test_broken_model(self):
        with tempfile.TemporaryDirectory() as folder:
            broken = pathlib.Path(folder) / "broken"
            shutil.copytree(POET, broken)
            weights = broken / "model.safetensors"
            with open(weights, "r+b") as file:
                file.truncate(weights.stat().st_size // 2)
            self.one_sentence(["--model", str(broken)], "model.safetensors")
            shutil.copy(pathlib.Path(POET) / "model.safetensors", weights)
            tokenizer = (broken / "tokenizer.model").read_bytes()
            (broken / "tokenizer.model").write_bytes(tokenizer[:100])
            self.one_sentence(["--model", str(broken)], "tokenizer.model")

    def test_taken_ports(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            self.one_sentence(["--model", POET, "--http-port", port, "--grpc-port", "0"],
                              port, "--http-port")
            self.one_sentence(["--model", POET, "--http-port", "0", "--grpc-port", port],
                              port, "--grpc-port")

    def test_foreign_address(self):
        self.one_sentence(["--model", POET, "--host", "not-an-address"], "--host")

    def test_too_little_memory(self):
        self.one_sentence(["--model", POET, "--host-memory", "20MiB"], "memory")

    def test_two_models_of_one_name(self):
        self.one_sentence(["--model", POET, "--model", POET], "poet")


class Endings(unittest.TestCase):

    def test_drains_what_runs(self):
        server = Server()
        answers = []
        ask = threading.Thread(target=lambda: answers.append(server.post(
            "/v1/completions", {"prompt": "春", "n": 32, "max_tokens": 400})))
        ask.start()
        while server.metric("qianyi_requests_running") == 0:
            time.sleep(0.005)
        server.process.send_signal(signal.SIGTERM)
        ask.join(60)
        self.assertEqual(server.process.wait(60), 0, server.errors())
        self.assertEqual(answers[0][0], 200)
        self.assertEqual(len(answers[0][1]["choices"]), 32)
        server.stop()

    def test_drains_a_crowd(self):
        """Streams, whole answers and gRPC, running and queued: who was let in is answered to the end, who
        comes later is told to go elsewhere."""
        server = Server("--batch", "4", "--queue", "100", "--drain-seconds", "300")
        body = {**ENDLESS, "max_tokens": 200}
        tokens = []

        def stream():
            events = server.events("/v1/completions", {**body, "stream_options": {"include_usage": True}})
            tokens.append(events[-1]["usage"]["completion_tokens"])

        def whole():
            status, answer = server.post("/v1/completions", body)
            tokens.append(answer["usage"]["completion_tokens"] if status == 200 else answer)

        def call(method):
            with Grpc(server) as client:
                tokens.append(client.tokens(method))
        threads = [threading.Thread(target=act, args=given) for act, *given in (
            (stream,), (whole,), (call, "Generate"), (call, "GenerateStream")) for _ in range(4)]
        for thread in threads:
            thread.start()
        while server.metric("qianyi_requests_running") + server.metric("qianyi_requests_waiting") < len(threads):
            self.assertIsNone(server.process.poll(), server.errors())
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        while server.ask("GET", "/health/ready")[0] == 200:  # it has not heard yet
            time.sleep(0.01)
        late = []
        while server.process.poll() is None:
            try:
                late.append(server.post("/v1/completions", body)[0])
            except OSError:
                late.append(None)  # it does not listen any more
            time.sleep(0.05)
        for thread in threads:
            thread.join(60)
        self.assertEqual(tokens, [200] * len(threads))
        self.assertEqual(server.stop(), 0, server.errors())
        self.assertEqual(set(late) - {None}, {503})

    def test_second_signal_ends_at_once(self):
        server = Server("--batch", "1", "--queue", "500")
        connection = server.connect()
        connection.request("POST", "/v1/completions",
                           json.dumps({**ENDLESS, "n": 128}))
        while server.metric("qianyi_requests_running") == 0:
            time.sleep(0.005)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGINT)
        self.assertEqual(server.process.wait(5), 128 + signal.SIGINT)
        connection.close()
        server.stop()

    def test_idle_server_ends_cleanly(self):
        with Server() as server:
            self.assertEqual(server.stop(10), 0)


class Grpc(ByReflection):
    """A client for a thread of its own."""

    def __init__(self, server):
        self.server = server

    def __enter__(self):
        self.setUp()
        return self

    def __exit__(self, *_):
        self.tearDown()

    def tokens(self, method):
        answer = self.call(method, self.generate(completion={"prompt": "春"}, parameters={
            "max_tokens": 200, "logit_bias": ENDLESS["logit_bias"]}))
        return answer.usage.completion_tokens if method == "Generate" else list(answer)[-1].usage.completion_tokens


class Kills(unittest.TestCase):

    def test_kill_and_restart(self):
        """kill -9 in the middle of its work: the same folder and port serve the same answers again."""
        body = {"prompt": "秋", "seed": 5, "max_tokens": 40}
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder) / "poet"
            shutil.copytree(POET, model)
            before = {path: path.read_bytes() for path in sorted(model.rglob("*")) if path.is_file()}
            server = Server(model=str(model))
            text = server.post("/v1/completions", body)[1]["choices"][0]["text"]
            port = server.http.rsplit(":", 1)[1]
            connections = [server.connect() for _ in range(8)]
            for connection in connections:
                connection.request("POST", "/v1/completions", json.dumps({**ENDLESS, "stream": True}))
            self.assertEqual(connections[0].getresponse().status, 200)
            server.process.kill()
            self.assertEqual(server.process.wait(60), -signal.SIGKILL)
            server.stop()
            after = {path: path.read_bytes() for path in sorted(model.rglob("*")) if path.is_file()}
            self.assertEqual(after, before)
            with Server(model=str(model), http_port=port) as again:
                self.assertEqual(again.post("/v1/completions", body)[1]["choices"][0]["text"], text)
            for connection in connections:
                connection.close()


class Threads(unittest.TestCase):

    def test_those_that_carry_do_not_interrupt_those_that_compute(self):
        with Server() as server:
            self.assertEqual(server.post("/v1/completions", {"prompt": "春", "max_tokens": 8})[0], 200)
            policies = {}
            for thread in pathlib.Path(f"/proc/{server.process.pid}/task").iterdir():
                name = (thread / "comm").read_text().strip()
                policies.setdefault(name, set()).add(os.sched_getscheduler(int(thread.name)))
            self.assertEqual(policies["engine"], {os.SCHED_OTHER}, policies)
            for name in ("pump", "http"):
                self.assertEqual(policies[name], {os.SCHED_BATCH}, policies)
            # gRPC's threads have other names in other versions.
            self.assertEqual(policies.get("nexting_thread", {os.SCHED_BATCH}), {os.SCHED_BATCH}, policies)


class MeasuredPlaces(unittest.TestCase):

    def test_the_machine_says_how_many_run_at_once(self):
        with Server("--batch", "auto", "--context", "128") as server:
            places = int(re.search(r"; (\d+) places of 128 tokens", server.errors())[1])
            self.assertTrue(1 <= places <= 256, places)
            self.assertEqual(server.post("/v1/completions", {"prompt": "春", "max_tokens": 8})[0], 200)

    def test_too_little_memory_to_measure_is_said(self):
        done = subprocess.run([BINARY, "serve", "--model", POET, "--batch", "auto", "--host-memory", "150MiB"],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "--batch auto measures in .* of RAM, and --host-memory is 150.0 MiB; give a number")


class TwoModels(unittest.TestCase):

    def test_both_are_served_by_name(self):
        with tempfile.TemporaryDirectory() as folder:
            other = os.path.join(folder, "second")
            shutil.copytree(POET, other)
            with Server("--model", other) as server:
                body = {"title": "春", "form": "五绝", "seed": 1}
                texts = [server.post("/v1/tasks/poem", {**body, "model": name})[1]["text"]
                         for name in ("poet", "second")]
                self.assertEqual(texts[0], texts[1])
                self.assertEqual(server.post("/v1/tasks/poem", body)[0], 404)


if __name__ == "__main__":
    unittest.main()
