"""What operators see: /metrics by promtool, a real Prometheus that scrapes it, and the dashboard and
manifests of deploy/ against what is really there."""

import json
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

import yaml

from credentials import make_key
from serving import BINARY, ENDLESS, ROOT, Server

DEPLOY = ROOT / "deploy"
COMPLETE = "/v1/completions"


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def names_in(expression):
    return set(re.findall(r"\bqianyi_[a-z_]+", expression))


def names_of(metrics):
    """All that can be asked for, the parts of histograms included."""
    return set(re.findall(r"^(qianyi_[a-z_]+)", metrics, re.MULTILINE)) | \
        set(re.findall(r"^# TYPE (qianyi_[a-z_]+)", metrics, re.MULTILINE))


class Metrics(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.admin = make_key(cls.folder.name, "boss", "--scopes", "admin")
        cls.watcher = make_key(cls.folder.name, "prometheus", "--scopes", "metrics")
        cls.server = Server("--keys", f"{cls.folder.name}/keys.json", key=cls.admin)
        # Something of each kind: text, a refusal, a stranger, a call over gRPC is left to others.
        cls.server.post(COMPLETE, {**ENDLESS, "max_tokens": 30})
        cls.server.post(COMPLETE, {"prompt": 5})
        cls.server.ask("GET", "/v1/models", headers={"Authorization": "Bearer no"})

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.errors()
        cls.folder.cleanup()

    def text(self):
        status, headers, text = self.server.ask("GET", "/metrics")
        self.assertEqual(status, 200)
        return text.decode()

    def test_promtool_has_no_complaint(self):
        done = subprocess.run(["promtool", "check", "metrics"], input=self.text(), text=True,
                              capture_output=True)
        self.assertEqual((done.returncode, done.stderr.strip()), (0, ""), done.stdout)

    def test_labels_hold_nothing_that_a_client_sent(self):
        for path in ("/nothing/abcdefghij", "/v1/models/abcdefghij"):
            self.server.ask("GET", path, headers={"X-Request-Id": "abcdefghij"})
        self.server.ask("ABCDEFGHIJ", "/v1/models")
        self.server.post(COMPLETE, {"prompt": "abcdefghij", "model": "abcdefghij", "user": "abcdefghij"})
        self.assertNotIn("abcdefghij", self.text().lower())

    def test_prometheus_scrapes_it(self):
        port = free_port()
        config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
        (scrape,) = config["scrape_configs"]
        config["global"]["scrape_interval"] = "1s"
        scrape["static_configs"][0]["targets"] = [self.server.http]
        key_file = pathlib.Path(self.folder.name) / "metrics.key"
        key_file.write_text(self.watcher + "\n")
        scrape["authorization"]["credentials_file"] = str(key_file)
        file = pathlib.Path(self.folder.name) / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        check = subprocess.run(["promtool", "check", "config", str(file)], capture_output=True, text=True)
        self.assertEqual(check.returncode, 0, check.stdout + check.stderr)
        with open(f"{self.folder.name}/log", "w") as log:
            process = subprocess.Popen(
                ["prometheus", f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}",
                 f"--storage.tsdb.path={self.folder.name}/data"], stdout=log, stderr=log)
        try:
            written = self.value(port, "qianyi_generated_tokens_total")
            self.assertGreaterEqual(written, 30)
            self.assertEqual(self.value(port, 'up{job="qianyi"}'), 1)
            # Each panel's question is one that Prometheus understands and has the names for.
            for expression in dashboard_expressions():
                self.query(port, expression)
        finally:
            process.terminate()
            process.wait(30)

    def query(self, port, expression):
        expression = expression.replace("$__rate_interval", "10s").replace("$model", ".*")
        query = urllib.parse.urlencode({"query": expression})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/api/v1/query?{query}", timeout=30) as answer:
            value = json.load(answer)
        self.assertEqual(value["status"], "success")
        return value["data"]["result"]

    def value(self, port, expression):
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                if result := self.query(port, expression):
                    return float(result[0]["value"][1])
            except urllib.error.URLError:
                pass  # it is still starting
            time.sleep(0.5)
        self.fail(f"{expression} never had a value")

    def test_the_dashboard_asks_for_what_there_is(self):
        there = names_of(self.text()) | {"qianyi_grpc_requests_total"}  # once there was a call
        asked = set().union(*(names_in(expression) for expression in dashboard_expressions()))
        self.assertGreater(len(asked), 15)
        self.assertEqual(asked - there, set())

    def test_manifests_name_flags_metrics_and_routes_that_exist(self):
        flags = subprocess.run([BINARY, "serve", "--help"], capture_output=True, text=True).stdout
        metrics = names_of(self.text())
        for name in ("compose.yaml", "kubernetes.yaml", "kserve.yaml"):
            text = (DEPLOY / name).read_text()
            self.assertGreater(len(list(yaml.safe_load_all(text))), 0)
            for flag in re.findall(r"(?<=[\[ ])--[a-z-]+(?=[,\]])", text):
                self.assertIn(flag + " ", flags, name)
            for path in re.findall(r"path: (/[a-z/]+)", text):
                if not path.startswith("/mnt"):
                    self.assertEqual(self.server.ask("GET", path, headers={"Authorization": ""})[0], 200,
                                     path)
            self.assertEqual(names_in(text) - metrics, set(), name)


def dashboard_expressions():
    board = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


if __name__ == "__main__":
    assert shutil.which("promtool"), "needs prometheus; install it with scripts/setup test"
    unittest.main()
