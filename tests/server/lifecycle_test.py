"""Starting, failing to start, and ending."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

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
