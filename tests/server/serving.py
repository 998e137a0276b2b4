"""A real `qianyi serve` for the tests: started, asked over HTTP, and stopped."""

import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BINARY = os.environ.get("QIANYI_BINARY", str(ROOT / "build/bin/qianyi"))
POET = os.environ.get("QIANYI_POET", str(ROOT / "models/poet"))
START_SECONDS = 60
END_TOKEN = json.loads((pathlib.Path(POET) / "config.json").read_text())["end_token_ids"][0]
# A completion that goes on until max_tokens.
ENDLESS = {"prompt": "春", "max_tokens": 500, "logit_bias": {str(END_TOKEN): -100}}


# Under the address sanitizer freed memory would be kept for a while: not for long, as some tests
# look at what the process holds.
ENVIRONMENT = {**os.environ, "ASAN_OPTIONS": "quarantine_size_mb=1:thread_local_quarantine_size_kb=16"}


class Server:
    """One server process, on free ports unless some are named."""

    def __init__(self, *flags, model=POET, key=None, http_port=0, grpc_port=0, environment=()):
        self.key = key  # what requests show, unless they say otherwise
        self.log = tempfile.TemporaryFile("w+")
        command = [BINARY, "serve", "--model", model, "--http-port", str(http_port),
                   "--grpc-port", str(grpc_port)]
        self.process = subprocess.Popen(command + list(flags), stdout=subprocess.PIPE,
                                        stderr=self.log, text=True, env={**ENVIRONMENT, **dict(environment)})
        line = self.process.stdout.readline()
        match = re.search(r"https?://([^ ]+) .*and ([^ ]+) \(gRPC\)", line)
        if not match:
            self.process.wait(START_SECONDS)
            raise RuntimeError(f"the server did not start: {line!r} {self.errors()}")
        self.http, self.grpc = match[1], match[2]

    def errors(self):
        # Without moving the file's position, which is also the server's.
        return os.pread(self.log.fileno(), 1 << 26, 0).decode()

    def log_lines(self):
        """The complete lines of a log in JSON."""
        text = self.errors()
        return [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self, seconds=60):
        """Ends it as an operator would; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        self.process.stdout.close()
        return self.process.returncode

    def connect(self, seconds=60):
        host, port = self.http.rsplit(":", 1)
        return http.client.HTTPConnection(host, int(port), timeout=seconds)

    def socket(self, seconds=60):
        host, port = self.http.rsplit(":", 1)
        return socket.create_connection((host, int(port)), timeout=seconds)

    def ask(self, method, path, body=None, headers=None):
        """(status, headers, bytes) of one request on a connection of its own."""
        connection = self.connect()
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body).encode()
            key = {"Authorization": f"Bearer {self.key}"} if self.key else {}
            connection.request(method, path, body, {"Content-Type": "application/json", **key,
                                                    **(headers or {})})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def post(self, path, body):
        """(status, value) of a JSON request."""
        status, _, answer = self.ask("POST", path, body)
        return status, json.loads(answer)

    def events(self, path, body):
        """The events of a stream, parsed; the last must be [DONE]."""
        status, headers, answer = self.ask("POST", path, {**body, "stream": True})
        assert status == 200, (status, answer)
        assert headers["Content-Type"] == "text/event-stream", headers
        events = [part for part in answer.decode().split("\n\n") if part]
        assert all(event.startswith("data: ") for event in events), events
        assert events[-1] == "data: [DONE]", events[-1]
        return [json.loads(event[len("data: "):]) for event in events[:-1]]

    def metric(self, name):
        """Sum of a metric over its labels."""
        _, _, text = self.ask("GET", "/metrics")
        values = re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", text.decode(), re.MULTILINE)
        return sum(float(value) for value in values)

    def wait_until_idle(self, seconds=300):
        """Until nothing runs or waits. The limit is for a server that hangs, not for a slow one."""
        end = time.monotonic() + seconds
        while self.metric("qianyi_requests_running") + self.metric("qianyi_requests_waiting") > 0:
            if time.monotonic() > end:
                raise AssertionError("requests are still running")
            time.sleep(0.02)

    def resident_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


class ServerTest(unittest.TestCase):
    """Tests that share one server."""

    FLAGS = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.FLAGS)

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        assert code == 0, f"the server ended with {code}: {cls.server.errors()}"
