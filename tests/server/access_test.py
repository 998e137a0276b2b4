"""Who may ask: keys and their scopes, TLS, hosts and origins, on every route and method."""

import http.client
import json
import pathlib
import re
import ssl
import subprocess
import tempfile
import time
import unittest

import grpc
import openai
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase)

from credentials import keys, make_certificates, make_key
from serving import BINARY, POET, Server

POEM = "/v1/tasks/poem"
# All that a stranger may see: whether the server lives, and the pages, which hold no secret.
PUBLIC = {"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/", "/dashboard", "/web/{name}"}
ROUTES = pathlib.Path(__file__).resolve().parents[2] / "server/http"


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


class WithKeys(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.file = pathlib.Path(cls.folder.name) / "keys.json"
        cls.user = make_key(cls.folder.name, "user")
        cls.watcher = make_key(cls.folder.name, "watcher", "--scopes", "metrics")
        cls.admin = make_key(cls.folder.name, "boss", "--scopes", "admin")
        cls.server = Server("--keys", str(cls.file), key=cls.admin)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.errors()
        cls.folder.cleanup()

    def status(self, method, path, key=None, body=None, headers=None):
        given = bearer(key) if key else {"Authorization": ""}
        status, answer_headers, answer = self.server.ask(method, path, body,
                                                         {**given, **(headers or {})})
        if status >= 400:
            self.assertEqual(set(json.loads(answer)["error"]), {"message", "type", "param", "code"})
        return status

    def test_the_file_holds_no_key(self):
        text = self.file.read_text()
        for key in (self.user, self.watcher, self.admin):
            self.assertNotIn(key, text)
            self.assertNotIn(key[3:], text)
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)
        self.assertGreaterEqual(len(self.user), 40)

    def test_every_route_denies_strangers(self):
        routes = set()
        for source in ROUTES.glob("*.cc"):
            routes |= set(re.findall(r'\{Scope::\w+,\s*"(\w+)",\s*"([^"]+)"', source.read_text()))
        self.assertGreater(len(routes), 7)
        for method, path in routes:
            expected = 200 if path in PUBLIC else 401
            if path == "/web/{name}":
                path = "/web/common.js"
            for form in (path, path + "x" if len(path) > 1 and path.endswith("/") else path):
                self.assertEqual(self.status(method, form), expected, (method, form))
        for method, path in (("GET", "/nothing"), ("POST", "/"), ("PUT", "/v1/models"),
                             ("GET", "/v1/models/../../health/live"), ("GET", "//health/live"),
                             ("GET", "/health/live/"), ("GET", "/%68ealth/live"),
                             ("GET", "/HEALTH/live"), ("OPTIONS", "/v1/models"),
                             ("TRACE", "/metrics"), ("GET", "/metrics?x=/health/live"),
                             ("HEAD", "/metrics"), ("GET", "/invocations")):
            if method == "HEAD":
                self.assertEqual(self.server.ask(method, path, headers=bearer(""))[0], 401, path)
            else:
                self.assertEqual(self.status(method, path), 401, (method, path))

    def test_every_method_denies_strangers(self):
        with grpc.insecure_channel(self.server.grpc) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = descriptor_pool.DescriptorPool(database)
            tried = 0
            for service in database.get_services():
                if service in ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"):
                    continue  # public, as /health is; the API's description is no secret
                for name, method in pool.FindServiceByName(service).methods_by_name.items():
                    if name in ("ServerLive", "ServerReady"):
                        continue  # KServe's, public as /v2/health is
                    for metadata in ((), (("authorization", "Bearer qy-wrong"),),
                                     (("x-api-key", "qy-wrong"),)):
                        path = f"/{service}/{name}"
                        call = channel.unary_stream if method.server_streaming else channel.unary_unary
                        with self.assertRaises(grpc.RpcError) as caught:
                            list(call(path)(b"", metadata=metadata)) if method.server_streaming else \
                                call(path)(b"", metadata=metadata)
                        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAUTHENTICATED, path)
                        tried += 1
            self.assertGreaterEqual(tried, 18)

    def test_methods_ask_for_their_scope(self):
        def code(method, key):
            with grpc.insecure_channel(self.server.grpc) as channel:
                try:
                    channel.unary_unary(f"/qianyi.v1.Inference/{method}")(
                        b"", metadata=(("authorization", f"Bearer {key}"), ("x-request-id", "me-1")))
                    return grpc.StatusCode.OK
                except grpc.RpcError as error:
                    self.assertIn(("x-request-id", "me-1"), error.trailing_metadata())
                    return error.code()
        self.assertEqual(code("ListModels", self.user), grpc.StatusCode.OK)
        self.assertEqual(code("ListModels", self.watcher), grpc.StatusCode.PERMISSION_DENIED)
        self.assertEqual(code("LoadAdapter", self.user), grpc.StatusCode.PERMISSION_DENIED)
        self.assertEqual(code("LoadAdapter", self.admin), grpc.StatusCode.UNIMPLEMENTED)

    def test_scopes(self):
        for key, expected in ((self.user, (200, 403, 403)), (self.watcher, (403, 200, 403)),
                              (self.admin, (200, 200, 501))):
            got = (self.status("GET", "/v1/models", key), self.status("GET", "/metrics", key),
                   self.status("DELETE", "/v1/adapters/x", key))
            self.assertEqual(got, expected)

    def test_wrong_keys(self):
        for wrong in (self.user[:-1], self.user + "x", self.user.upper(), self.user.lower(),
                      " ", "qy-", "x" * 8000):
            self.assertEqual(self.status("GET", "/v1/models", wrong), 401, wrong)
        self.assertEqual(self.status("GET", "/v1/models", headers={"Authorization": self.user}), 401)
        self.assertEqual(self.status("GET", "/v1/models",
                                     headers={"Authorization": f"Basic {self.user}"}), 401)
        _, headers, answer = self.server.ask("GET", "/v1/models", headers=bearer("no"))
        error = json.loads(answer)["error"]
        self.assertEqual((error["type"], error["code"]), ("authentication_error", "invalid_api_key"))
        self.assertEqual(headers["WWW-Authenticate"], "Bearer")

    def test_both_ways_to_show_a_key(self):
        self.assertEqual(self.status("GET", "/v1/models", headers={"X-Api-Key": self.user}), 200)
        self.assertEqual(self.status("GET", "/v1/models",
                                     headers={"Authorization": f"bearer  {self.user} "}), 200)

    def test_openai_client(self):
        def client(key):
            return openai.OpenAI(base_url=f"http://{self.server.http}/v1", api_key=key, max_retries=0)
        self.assertEqual([model.id for model in client(self.user).models.list()], ["poet"])
        with self.assertRaises(openai.AuthenticationError):
            client("nobody").models.list()
        with self.assertRaises(openai.PermissionDeniedError):
            client(self.watcher).models.list()

    def test_strangers_bodies_are_not_read(self):
        with self.server.socket(5) as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                               b"Content-Length: 2000000\r\n\r\n{")
            self.assertIn(b" 401 ", connection.recv(4096).split(b"\r\n")[0])

    def test_rejections_are_counted(self):
        self.status("GET", "/v1/models")
        self.status("GET", "/metrics", self.user)
        _, _, text = self.server.ask("GET", "/metrics", headers=bearer(self.watcher))
        self.assertRegex(text.decode(), r'qianyi_rejected_total\{reason="unauthenticated"\} [1-9]')
        self.assertRegex(text.decode(), r'qianyi_rejected_total\{reason="forbidden"\} [1-9]')


class Rotation(unittest.TestCase):

    def until(self, server, key, expected):
        end = time.monotonic() + 15
        while server.ask("GET", "/v1/models", headers=bearer(key))[0] != expected:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)

    def test_keys_come_and_go_while_the_server_runs(self):
        with tempfile.TemporaryDirectory() as folder:
            first = make_key(folder, "first")
            file = pathlib.Path(folder) / "keys.json"
            with Server("--keys", str(file), key=first) as server:
                second = make_key(folder, "second")
                self.until(server, second, 200)
                self.until(server, first, 200)
                self.assertEqual(keys(folder, "--remove", "first").returncode, 0)
                self.until(server, first, 401)
                file.write_text("{")  # damaged: what was known stays
                end = time.monotonic() + 15
                while "keys stay as they were" not in server.errors():
                    self.assertLess(time.monotonic(), end)
                    time.sleep(0.05)
                self.until(server, second, 200)
                file.unlink()
                time.sleep(1.5)
                self.until(server, second, 200)
                self.until(server, first, 401)
                third = make_key(folder, "third")
                self.until(server, third, 200)
                self.until(server, second, 401)

    def test_the_command(self):
        with tempfile.TemporaryDirectory() as folder:
            make_key(folder, "a", "--scopes", "inference,metrics", "--concurrency", "3",
                     "--tokens-per-minute", "500", "--weight", "2.5")
            self.assertEqual(keys(folder).stdout,
                             "a\tinference,metrics\tconcurrency 3\ttokens a minute 500\tweight 2.5\n")
            for flags in (("--add", "a"), ("--add", "b c"), ("--add", "b", "--scopes", "root"),
                          ("--add", "b", "--scopes", ""), ("--remove", "b"),
                          ("--add", "b", "--remove", "a")):
                done = keys(folder, *flags)
                self.assertEqual((done.returncode, done.stdout), (1, ""), flags)
                self.assertEqual(len(done.stderr.splitlines()), 1)
            self.assertEqual(keys(folder).stdout.count("\n"), 1)

    def test_damaged_files_end_the_start(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "keys.json"
            key = {"name": "a", "sha256": "0" * 64, "scopes": ["inference"]}
            for text, word in (("", "keys"), ("[]", "keys"), ('{"keys": {}}', "keys"),
                               (json.dumps({"keys": [{**key, "sha256": "00"}]}), "keys[0].sha256"),
                               (json.dumps({"keys": [{**key, "scopes": []}]}), "scopes"),
                               (json.dumps({"keys": [{**key, "scope": "x"}]}), "keys[0].scope"),
                               (json.dumps({"keys": [key, key]}), "keys[1].name"),
                               (json.dumps({"keys": [{**key, "weight": 0}]}), "weight"),
                               (json.dumps({"keys": [{**key, "concurrency": -1}]}), "concurrency")):
                file.write_text(text)
                with self.assertRaisesRegex(RuntimeError, re.escape(word)):
                    Server("--keys", str(file)).stop()
            with self.assertRaisesRegex(RuntimeError, "no such file"):
                Server("--keys", str(file) + "x").stop()


class Exposure(unittest.TestCase):

    def test_beyond_loopback_only_with_keys_or_outright(self):
        for host in ("0.0.0.0", "::", "127.0.0.1.example.org"):
            done = subprocess.run([BINARY, "serve", "--model", POET, "--host", host, "--http-port", "0",
                                   "--grpc-port", "0"], capture_output=True, text=True, timeout=60)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn("--keys", done.stderr)
            self.assertIn("--no-keys", done.stderr)
        with Server("--host", "0.0.0.0", "--no-keys") as server:
            self.assertIn("warning", server.errors())
            self.assertEqual(server.ask("GET", "/v1/models")[0], 200)
        with tempfile.TemporaryDirectory() as folder:
            key = make_key(folder, "a")
            with Server("--host", "0.0.0.0", "--keys", f"{folder}/keys.json", key=key) as server:
                self.assertEqual(server.ask("GET", "/v1/models")[0], 200)
                self.assertIn("unencrypted", server.errors())
            with self.assertRaisesRegex(RuntimeError, "contradict"):
                Server("--no-keys", "--keys", f"{folder}/keys.json").stop()


class Foreigners(unittest.TestCase):
    """Pages of others in the browser of somebody who runs a server."""

    def test_dns_rebinding(self):
        with Server("--allow-host", "qianyi.test") as server:
            port = server.http.rsplit(":", 1)[1]
            for host, expected in (("localhost", 200), (f"localhost:{port}", 200), ("127.0.0.1", 200),
                                   (f"[::1]:{port}", 200), ("qianyi.test", 200),
                                   (f"Qianyi.Test:{port}", 200), ("evil.example", 403),
                                   (f"evil.example:{port}", 403), ("127.0.0.1.evil.example", 403),
                                   ("localhost.evil.example", 403), ("x", 403),
                                   ("evil.example:127.0.0.1", 403)):
                for path in ("/v1/models", "/", "/metrics"):
                    status, _, _ = server.ask("GET", path, headers={"Host": host})
                    self.assertEqual(status, expected, (host, path))
            self.assertGreater(server.metric("qianyi_rejected_total"), 0)

    def test_other_origins(self):
        with Server("--allow-origin", "https://page.test") as server:
            for origin, expected in ((f"http://{server.http}", 200), ("https://page.test", 200),
                                     ("https://evil.example", 403), ("null", 403),
                                     (f"http://{server.http}.evil.example", 403)):
                status, headers, _ = server.ask("POST", POEM, {"form": "五绝"}, {"Origin": origin})
                self.assertEqual(status, expected, origin)
                allowed = headers["Access-Control-Allow-Origin"]
                self.assertEqual(allowed, origin if origin == "https://page.test" else None)
            status, headers, _ = server.ask("OPTIONS", POEM, headers={
                "Origin": "https://page.test", "Access-Control-Request-Method": "POST"})
            self.assertEqual((status, headers["Access-Control-Allow-Methods"]), (204, "POST"))
            status, headers, _ = server.ask("OPTIONS", POEM, headers={
                "Origin": "https://evil.example", "Access-Control-Request-Method": "POST"})
            self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (403, None))


class Tls(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        make_certificates(cls.folder.name)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def path(self, name):
        return f"{self.folder.name}/{name}"

    def flags(self, *more):
        return ("--tls-cert", self.path("server.pem"), "--tls-key", self.path("server.key"), *more)

    def connect(self, server, client=None):
        context = ssl.create_default_context(cafile=self.path("ca.pem"))
        if client:
            context.load_cert_chain(self.path(f"{client}.pem"), self.path(f"{client}.key"))
        host, port = server.http.rsplit(":", 1)
        return http.client.HTTPSConnection(host, int(port), timeout=30, context=context)

    def models(self, server, client=None):
        connection = self.connect(server, client)
        try:
            connection.request("GET", "/v1/models")
            return connection.getresponse().status
        finally:
            connection.close()

    def grpc_models(self, server, client=None):
        def read(name):
            return pathlib.Path(self.path(name)).read_bytes()
        pair = {"private_key": read(f"{client}.key"), "certificate_chain": read(f"{client}.pem")} \
            if client else {}
        credentials = grpc.ssl_channel_credentials(read("ca.pem"), **pair)
        with grpc.secure_channel(server.grpc, credentials) as channel:
            return channel.unary_unary("/qianyi.v1.Inference/ListModels")(b"", timeout=20)

    def test_both_ports(self):
        with Server(*self.flags()) as server:
            self.assertEqual(self.models(server), 200)
            self.assertIn(b"poet", self.grpc_models(server))
            with self.assertRaises(ssl.SSLCertVerificationError):
                other = http.client.HTTPSConnection(*server.http.split(":"), timeout=30)
                other.request("GET", "/v1/models")
            with server.socket() as plain:  # no TLS at all
                plain.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
                self.assertNotIn(b"200", plain.recv(4096))
            with grpc.insecure_channel(server.grpc) as channel:
                with self.assertRaises(grpc.RpcError):
                    channel.unary_unary("/qianyi.v1.Inference/ListModels")(b"", timeout=5)

    def test_a_client_that_leaves_is_noticed(self):
        with Server(*self.flags(), "--batch", "4", "--queue", "100") as server:
            def metric(name):
                connection = self.connect(server)
                connection.request("GET", "/metrics")
                text = connection.getresponse().read().decode()
                connection.close()
                return sum(float(value) for value in
                           re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", text, re.MULTILINE))
            body = json.dumps({"prompt": "春", "max_tokens": 500, "n": 48})
            connection = self.connect(server)
            connection.request("POST", "/v1/completions", body)
            while metric("qianyi_requests_running") == 0:
                time.sleep(0.005)
            connection.close()
            end = time.monotonic() + 20
            while metric("qianyi_requests_running") + metric("qianyi_requests_waiting") > 0:
                self.assertLess(time.monotonic(), end)
                time.sleep(0.02)
            self.assertLess(metric("qianyi_generated_tokens_total"), 48 * 500)

    def test_streams_and_connections_kept_open(self):
        with Server(*self.flags()) as server:
            connection = self.connect(server)
            for _ in range(3):
                connection.request("POST", POEM, json.dumps({"form": "五绝", "stream": True}))
                text = connection.getresponse().read().decode()
                self.assertTrue(text.endswith("data: [DONE]\n\n"), text)
            connection.close()

    def test_mutual(self):
        with Server(*self.flags("--tls-client-ca", self.path("ca.pem"))) as server:
            self.assertEqual(self.models(server, "client"), 200)
            self.assertIn(b"poet", self.grpc_models(server, "client"))
            for client in (None, "other"):
                with self.assertRaises(OSError):
                    self.models(server, client)
                with self.assertRaises(grpc.RpcError):
                    self.grpc_models(server, client)

    def test_wrong_files_end_the_start(self):
        for flags, word in ((("--tls-cert", self.path("server.pem")), "--tls-key"),
                            (("--tls-client-ca", self.path("ca.pem")), "--tls-cert"),
                            (("--tls-cert", self.path("server.key"), "--tls-key",
                              self.path("server.key")), "--tls-cert"),
                            (("--tls-cert", self.path("server.pem"), "--tls-key",
                              self.path("client.key")), "--tls-key"),
                            (("--tls-cert", self.path("none"), "--tls-key", self.path("none")),
                             "none")):
            with self.assertRaisesRegex(RuntimeError, word):
                Server(*flags).stop()


if __name__ == "__main__":
    unittest.main()
