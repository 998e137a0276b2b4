"""What operators see: /metrics by promtool, a real Prometheus that scrapes it, and the dashboard and
manifests of deploy/ against what is really there."""

import json
import os
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
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from credentials import make_key
from serving import BINARY, END_TOKEN, ENDLESS, POET, ROOT, Server

DEPLOY = ROOT / "deploy"
COMPLETE = "/v1/completions"


PAINTS = {"qianyi_image_steps_total", "qianyi_image_codes_total", "qianyi_images_total"}


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


def sample(text, name, **labels):
    """The one sample of a name with these labels, 0 when there is none."""
    (value, *others) = [one.value for family in text_string_to_metric_families(text)
                        for one in family.samples
                        if one.name == name and labels.items() <= one.labels.items()] or [0]
    assert not others, name
    return value


class Metrics(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.admin = make_key(cls.folder.name, "boss", "--scopes", "admin")
        cls.watcher = make_key(cls.folder.name, "prometheus", "--scopes", "metrics")
        cls.cache = {"XDG_CACHE_HOME": f"{cls.folder.name}/cache"}
        cls.server = Server("--keys", f"{cls.folder.name}/keys.json", "--measure", key=cls.admin,
                            environment=cls.cache)
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

    def test_openmetrics_for_who_prefers_it(self):
        """Read by the strict parser of Prometheus' own client."""
        kind = "application/openmetrics-text"
        for accept in (kind, f"{kind}; version=1.0.0, text/plain;q=0.5", f"text/plain;q=0.2,{kind};q=0.3"):
            _, headers, text = self.server.ask("GET", "/metrics", headers={"Accept": accept})
            self.assertEqual(headers["Content-Type"], f"{kind}; version=1.0.0; charset=utf-8")
            self.assertTrue(text.endswith(b"\n# EOF\n"))
            families = {family.name: family for family in openmetrics(text.decode())}
            counter = families["qianyi_generated_tokens"]
            self.assertEqual((counter.type, counter.samples[0].name),
                             ("counter", "qianyi_generated_tokens_total"))
            self.assertEqual(families["qianyi_request_seconds"].type, "histogram")
            plain = {re.sub(r"_total$", "", name) for name in
                     re.findall(r"^# TYPE (\S+)", self.text(), re.MULTILINE)}
            self.assertEqual(set(families), plain)
        for accept in ("", "*/*", "text/plain", f"{kind};q=0, */*", f"text/plain, {kind};q=0.9"):
            _, headers, text = self.server.ask("GET", "/metrics", headers={"Accept": accept})
            self.assertEqual(headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
            self.assertNotIn(b"# EOF", text)

    def test_guesses_are_counted_by_what_came_of_them(self):
        of = lambda result: sample(self.text(), "qianyi_guesses_total", model="poet", result=result)
        accepted, refused = of("accepted"), of("refused")
        self.server.post(COMPLETE, {**ENDLESS, "temperature": 0, "max_tokens": 400})
        self.assertGreater(of("accepted"), accepted)
        self.assertLess(of("accepted") - accepted, 400)
        self.assertGreaterEqual(of("refused"), refused)

    def test_what_links_moved_beside_what_they_can(self):
        plan = json.loads(subprocess.run([BINARY, "plan", "--model", POET, "--json"], check=True, text=True,
                                         capture_output=True, env={**os.environ, **self.cache}).stdout)
        metric = lambda name, text=None, **labels: sample(text or self.text(), f"qianyi_{name}", model="poet", **labels)
        text = self.text()
        self.assertEqual(metric("link_bytes_total", text, link="host_memory"),
                         metric("steps_total", text) * (plan["host_weight_bytes"] + plan["disk_weight_bytes"]))
        self.assertGreater(metric("link_bytes_total", text, link="disk"), 0)
        # What was measured before it loaded is what others know afterwards.
        rates = {"host_memory": plan["rates"]["host_bandwidth"], "disk": plan["rates"]["disk"]}
        self.assertAlmostEqual(metric("link_limit_bytes_per_second", text, link="host_memory") / rates["host_memory"], 1)
        self.assertGreater(metric("step_bound_seconds", text, link="compute"), 0)
        bound = metric("step_bound_seconds", text, link="host_memory")
        self.assertGreater(bound, plan["host_weight_bytes"] / rates["host_memory"] * 0.999)
        of_all = lambda text: {one.labels["link"] for family in text_string_to_metric_families(text)
                               for one in family.samples if one.name == "qianyi_link_limit_bytes_per_second"}
        self.assertEqual(of_all(text), {"host_memory", "disk"})
        for cache, links in ((self.cache, of_all(text)), ({"XDG_CACHE_HOME": f"{self.folder.name}/none"}, set())):
            with Server(environment=cache) as other:  # measures nothing
                self.assertEqual(of_all(other.ask("GET", "/metrics")[2].decode()), links)

    def test_how_answers_ended_and_what_they_held(self):
        metric = lambda name, **labels: sample(self.text(), f"qianyi_{name}", model="poet", **labels)
        before = {why: metric("finished_total", reason=why) for why in ("stop", "length", "cancelled")}
        queued = metric("queue_seconds_count")
        steps, sequences = metric("steps_total"), metric("step_sequences_total")
        self.server.post(COMPLETE, {**ENDLESS, "max_tokens": 20, "n": 3})
        self.assertEqual(metric("finished_total", reason="length"), before["length"] + 3)
        self.assertEqual(metric("queue_seconds_count"), queued + 3)
        steps, sequences = metric("steps_total") - steps, metric("step_sequences_total") - sequences
        self.assertTrue(1 <= steps <= sequences <= 3 * steps, (steps, sequences))
        self.server.post(COMPLETE, {"prompt": "春", "max_tokens": 5, "logit_bias": {str(END_TOKEN): 100}})
        self.assertEqual(metric("finished_total", reason="stop"), before["stop"] + 1)
        with self.server.socket() as client:  # one that leaves
            body = json.dumps(ENDLESS).encode()
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
                           + self.admin.encode() + b"\r\nContent-Type: application/json\r\n"
                           b"Content-Length: %d\r\n\r\n" % len(body) + body)
            self.wait_for(lambda: metric("kv_cache_tokens", kind="held") > 0)
            self.assertLess(metric("kv_cache_tokens", kind="held"), metric("kv_cache_tokens", kind="limit"))
        self.wait_for(lambda: metric("finished_total", reason="cancelled") == before["cancelled"] + 1)
        self.wait_for(lambda: metric("kv_cache_tokens", kind="held") == 0)

    def wait_for(self, condition, seconds=30):
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)

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
        config["global"].update(scrape_interval="1s", evaluation_interval="1s")
        scrape["static_configs"][0]["targets"] = [self.server.http]
        key_file = pathlib.Path(self.folder.name) / "metrics.key"
        key_file.write_text(self.watcher + "\n")
        scrape["authorization"]["credentials_file"] = str(key_file)
        shutil.copy(DEPLOY / "alerts.yml", self.folder.name)
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
            rules = lambda: self.ask(port, "rules")["groups"][0]["rules"]
            self.wait_for(lambda: "unknown" not in {rule["health"] for rule in rules()})
            self.assertEqual({rule["name"]: rule["health"] for rule in rules()},
                             {rule["alert"]: "ok" for rule in alerts()})
        finally:
            process.terminate()
            process.wait(30)

    def query(self, port, expression):
        expression = expression.replace("$__rate_interval", "10s").replace("$model", ".*")
        return self.ask(port, "query?" + urllib.parse.urlencode({"query": expression}))["result"]

    def ask(self, port, path):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=30) as answer:
            value = json.load(answer)
        self.assertEqual(value["status"], "success")
        return value["data"]

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
        # Once there was a call over gRPC, and where a model paints.
        there = names_of(self.text()) | {"qianyi_grpc_requests_total", *PAINTS}
        asked = set().union(*(names_in(expression) for expression in dashboard_expressions()))
        self.assertGreater(len(asked), 15)
        self.assertEqual(asked - there, set())

    def test_the_guide_names_what_there_is(self):
        # Where a model paints, has experts, or shares the processors with another.
        elsewhere = re.compile("qianyi_(image|expert|compute)")
        there = {re.sub("_(bucket|sum|count)$", "", name) for name in names_of(self.text())}
        for folder in ("docs", "docs/zh"):
            named = names_in((ROOT / folder / "serving.md").read_text())
            self.assertGreater(len(named), 25)
            self.assertEqual({name for name in named - there if not elsewhere.match(name)}, set(), folder)

    def test_alerts_are_rules_about_what_there_is(self):
        check = subprocess.run(["promtool", "check", "rules", str(DEPLOY / "alerts.yml")],
                               capture_output=True, text=True)
        self.assertEqual(check.returncode, 0, check.stdout + check.stderr)
        there = names_of(self.text())
        guides = [(ROOT / folder / "operating.md").read_text() for folder in ("docs", "docs/zh")]
        for rule in alerts():
            self.assertEqual(names_in(rule["expr"]) - there, set(), rule["alert"])
            for guide in guides:
                self.assertIn(f"`{rule['alert']}`", guide)

    def test_alerts_fire(self):
        """Each by series that are as they would be then, and by none where all is well."""
        well = {"up": "1x90", "qianyi_requests_running": "1x90", "qianyi_steps_total": "0+300x90",
                "qianyi_step_seconds_total": "0+50x90", "qianyi_weight_stall_seconds_total": "0+1x90",
                'qianyi_finished_total{reason="failed"}': "0x90", "qianyi_start_time_seconds": "5x90",
                'qianyi_http_requests_total{handler="/v1",status="500"}': "0x90",
                'qianyi_memory_bytes{kind="resident"}': "5x90", 'qianyi_memory_bytes{kind="budget"}': "9x90",
                'qianyi_rejected_total{reason="queue_full"}': "0x90",
                'qianyi_rejected_total{reason="unauthenticated"}': "0x90",
                'qianyi_kv_cache_tokens{kind="held"}': "10x90", 'qianyi_kv_cache_tokens{kind="limit"}': "99x90"}
        for name in ("queue_seconds", "time_to_first_token_seconds"):
            for bound in ("1", "30", "+Inf"):
                well[f'qianyi_{name}_bucket{{le="{bound}"}}'] = "0+100x90"
        ill = {
            "QianyiDown": {"up": "0x90"},
            "QianyiStuck": {"qianyi_steps_total": "7x90"},
            "QianyiFailing": {'qianyi_finished_total{reason="failed"}': "0+1x90"},
            "QianyiErrors": {'qianyi_http_requests_total{handler="/v1",status="500"}': "0+1x90"},
            "QianyiRestarting": {"qianyi_start_time_seconds": "0+60x90"},
            "QianyiOverMemory": {'qianyi_memory_bytes{kind="resident"}': "10x90"},
            "QianyiRefusing": {'qianyi_rejected_total{reason="queue_full"}': "0+60x90"},
            "QianyiWaiting": {'qianyi_queue_seconds_bucket{le="1"}': "0x90"},
            "QianyiSlowFirstToken": {'qianyi_time_to_first_token_seconds_bucket{le="1"}': "0x90"},
            "QianyiCacheFull": {'qianyi_kv_cache_tokens{kind="held"}': "98x90"},
            "QianyiDiskBound": {"qianyi_weight_stall_seconds_total": "0+40x90"},
            "QianyiStrangers": {'qianyi_rejected_total{reason="unauthenticated"}': "0+120x90"}}
        self.assertEqual(set(ill), {rule["alert"] for rule in alerts()})
        tests = [self.alert_test(well, {name: 0 for name in ill})]
        tests += [self.alert_test({**well, **changed}, {name: 1}) for name, changed in ill.items()]
        file = pathlib.Path(self.folder.name) / "alerts_test.yml"
        file.write_text(json.dumps({"rule_files": [str(DEPLOY / "alerts.yml")], "tests": tests}))
        check = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
        self.assertEqual(check.returncode, 0, check.stdout + check.stderr)

    @staticmethod
    def alert_test(series, fires):
        """{alert: how many fire} after an hour and a quarter of these series."""
        def labelled(name):
            name = name if "{" in name else name + "{}"
            labels = 'job="qianyi",instance="a",model="m"' + ("" if name.endswith("{}") else ",")
            return name.replace("{", "{" + labels, 1)

        ask = 'count(ALERTS{{alertname="{}",alertstate="firing"}}) or vector(0)'
        return {"interval": "1m",
                "input_series": [{"series": labelled(name), "values": values} for name, values in series.items()],
                "promql_expr_test": [{"expr": ask.format(name), "eval_time": "75m",
                                      "exp_samples": [{"labels": "{}", "value": count}]}
                                     for name, count in fires.items()]}

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


def alerts():
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return group["rules"]


def dashboard_expressions():
    board = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


if __name__ == "__main__":
    assert shutil.which("promtool"), "needs prometheus; install it with scripts/setup test"
    unittest.main()
