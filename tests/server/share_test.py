"""Text and pictures in one server: one plan for their memory, turns on the processors by weight, and
the same answers as alone."""

import concurrent.futures
import json
import pathlib
import re
import subprocess
import tempfile
import time
import unittest

from pictures import make_painter
from serving import BINARY, ENDLESS, POET, Server

PICTURE = {"model": "slow", "prompt": "一只猫", "seed": 4}
POEM = {"title": "春", "form": "七绝", "seed": 1, "model": "poet"}


def of(text, name, model, label=""):
    """One value of /metrics."""
    return float(re.search(rf'^{name}{{model="{model}"{label}}} (\S+)$', text, re.MULTILINE)[1])


class Share(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.slow = make_painter(cls.folder.name, "slow", grid=32)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def metrics(self, server):
        return server.ask("GET", "/metrics")[2].decode()

    def open_stream(self, server, path, body):
        connection = server.connect()
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        return connection

    def both_go_on(self, server):
        """Neither waits for the other to be done: twice as much of each, with both still running."""
        def made(now, model):
            return of(now, "qianyi_generated_tokens_total", model)
        before = self.metrics(server)
        marks = {model: [made(before, model)] for model in ("poet", "slow")}
        text = self.open_stream(server, "/v1/completions", {**ENDLESS, "model": "poet", "n": 16})
        pictures = self.open_stream(server, "/v1/images/generations", {**PICTURE, "n": 16})
        end = time.monotonic() + 60
        while min(map(len, marks.values())) < 5:
            self.assertLess(time.monotonic(), end, marks)
            now = self.metrics(server)
            for model, seen in marks.items():
                if made(now, model) > seen[-1]:
                    seen.append(made(now, model))
            if any(of(now, "qianyi_requests_running", model) == 0 and len(seen) > 1
                   for model, seen in marks.items()):
                break  # one of them is done: the other must not have been kept waiting
        text.close()
        pictures.close()
        server.wait_until_idle()
        for model, seen in marks.items():
            self.assertGreaterEqual(len(seen), 2, marks)

    def test_both_go_on_by_weight(self):
        with Server("--model", self.slow, "--share", "slow=3", "--share", "poet=0.5") as server:
            self.both_go_on(server)
            now = self.metrics(server)
            self.assertEqual(of(now, "qianyi_compute_weight", "slow"), 3)
            self.assertEqual(of(now, "qianyi_compute_weight", "poet"), 0.5)
            for model in ("slow", "poet"):
                self.assertGreater(of(now, "qianyi_compute_seconds_total", model), 0)
                self.assertGreaterEqual(of(now, "qianyi_compute_wait_seconds_total", model), 0)

    def test_one_model_shares_with_nobody(self):
        with Server() as server:
            self.assertNotIn("qianyi_compute_", self.metrics(server))

    def test_the_same_answers_in_any_company_and_memory(self):
        with Server(model=self.slow) as alone:
            picture = alone.post("/v1/images/generations", PICTURE)[1]["data"]
        with Server() as alone:
            poem = alone.post("/v1/tasks/poem", POEM)[1]["text"]
        least = self.least_memory()
        for flags in ((), ("--host-memory", least)):
            with Server("--model", self.slow, *flags) as server:
                with concurrent.futures.ThreadPoolExecutor() as pool:
                    pictures = [pool.submit(server.post, "/v1/images/generations", PICTURE)
                                for _ in range(3)]
                    poems = [pool.submit(server.post, "/v1/tasks/poem", POEM) for _ in range(6)]
                    for answer in pictures:
                        self.assertEqual(answer.result()[1]["data"], picture)
                    for answer in poems:
                        self.assertEqual(answer.result()[1]["text"], poem)
                if flags:
                    now = self.metrics(server)
                    # By the plan it streams, and while few run it lies in the cache's room.
                    self.assertGreater(sum(of(now, "qianyi_weight_bytes", "poet", f',tier="{tier}"')
                                           for tier in ("disk", "lent")), 0)
                    self.both_go_on(server)
                    budget = float(re.search(r'qianyi_memory_bytes{kind="budget"} (\S+)', now)[1])
                    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
                    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
                    self.assertLess(peak, budget)

    def least_memory(self):
        """What the server says it needs for both, when it is given too little."""
        done = subprocess.run([BINARY, "serve", "--model", POET, "--model", self.slow,
                               "--host-memory", "1MiB"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1, done.stderr)
        needed = re.search(r"at least ([\d.]+) (MiB|GiB)", done.stderr)
        self.assertTrue(needed, done.stderr)
        return needed[1] + needed[2]

    def test_shares_are_checked(self):
        for share in ("slow", "slow=", "slow=0", "slow=101", "slow=-1", "slow=nan", "other=1", "=1"):
            done = subprocess.run([BINARY, "serve", "--model", self.slow, "--share", share],
                                  capture_output=True, text=True, timeout=60)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
            self.assertIn("MODEL=WEIGHT", done.stderr)


if __name__ == "__main__":
    unittest.main()
