"""`qianyi client` as a user runs it, against a server of the poet and of a small painter."""

import base64
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import unittest

from credentials import make_certificates, make_key
from pictures import gradient, hole, make_painter, png_size
from serving import BINARY, END_TOKEN, Server, ServerTest

KEYLESS = {name: value for name, value in os.environ.items() if name != "QIANYI_KEY"}


def client(command, *flags, server=None, text="", environment=None):
    """The finished process of `qianyi client COMMAND`."""
    where = ["--server", server.grpc] if server else []
    return subprocess.run([BINARY, "client", command, *where, *map(str, flags)], input=text,
                          capture_output=True, text=True, timeout=120,
                          env={**KEYLESS, **(environment or {})})


class ClientTest(unittest.TestCase):

    def succeeds(self, done):
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def fails(self, done, *words, code=1):
        """Nothing on standard output, and a last line that says it."""
        self.assertEqual((done.returncode, done.stdout), (code, ""), done.stderr)
        last = done.stderr.splitlines()[-1]
        self.assertTrue(last.startswith("qianyi: "), done.stderr)
        for word in words:
            self.assertIn(word, last)


class Words(ClientTest, ServerTest):

    def test_a_poem_is_that_of_the_rest_api(self):
        fields = {"title": "秋夜泊船", "form": "七绝", "author": "李白", "seed": 7, "tones": True}
        expected = self.server.post("/v1/tasks/poem", fields)[1]["text"]
        done = client("poem", "秋夜泊船", "--form", "七绝", "--author", "李白", "--tones", "--seed", 7,
                      "--quiet", server=self.server)
        self.assertEqual(self.succeeds(done), expected + "\n")
        self.assertEqual(done.stderr, "")
        self.assertIn("tokens/s", client("poem", "春", server=self.server).stderr)

    def test_a_chat_remembers_what_was_said(self):
        options = {"seed": 3, "max_tokens": 20}
        flags = ["--seed", 3, "--max-tokens", 20]
        messages, answers = [], []
        for question in ("李白是哪个朝代的人？", "他写过什么诗？"):
            messages.append({"role": "user", "content": question})
            _, answer = self.server.post("/v1/chat/completions", {"messages": messages, **options})
            answers.append(answer["choices"][0]["message"]["content"])
            messages.append({"role": "assistant", "content": answers[-1]})
        expected = "".join(answer + "\n" for answer in answers)
        questions = [message["content"] for message in messages[::2]]
        by_flags = client("chat", *flags, *(word for question in questions
                                            for word in ("--message", question)), server=self.server)
        self.assertEqual(self.succeeds(by_flags), expected)
        by_lines = client("chat", *flags, server=self.server, text="\n".join(questions))
        self.assertEqual(self.succeeds(by_lines), expected)

    def test_it_writes_as_the_server_does_and_leaving_cancels(self):
        before = self.server.metric("qianyi_generated_tokens_total")
        process = subprocess.Popen(
            [BINARY, "client", "bench", "--server", self.server.grpc, "--max-tokens", "400",
             "--requests", "4000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while self.server.metric("qianyi_requests_running") == 0:
            self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        process.communicate()
        self.server.wait_until_idle()
        self.assertLess(self.server.metric("qianyi_generated_tokens_total") - before, 4000 * 10)
        # A stream that is longer than what is read of it.
        process = subprocess.Popen([BINARY, "client", "chat", "--server", self.server.grpc],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        process.stdin.write("李白是谁？\n".encode())
        process.stdin.flush()
        self.assertTrue(process.stdout.read(1))  # though the conversation goes on
        self.assertIsNone(process.poll())
        process.communicate()
        self.assertEqual(process.returncode, 0)

    def test_what_is_wrong_is_said(self):
        self.fails(client("poem", "春", "--model", "other", server=self.server), "other", "poet")
        self.fails(client("poem", "春", "--form", "sonnet", server=self.server), "form", "sonnet")
        self.fails(client("poem", "春", "--top-p", 0, server=self.server), "top_p")
        self.fails(client("chat", "--timeout", 1e-6, "--message", "春", server=self.server),
                   "--timeout", "1e-06 s")
        self.fails(client("paint", "猫", server=self.server), "picture")
        self.fails(client("poem", "春", "--server", "127.0.0.1:1"), "127.0.0.1:1", "qianyi serve")
        self.fails(client("poem", "春", "--server", "127.0.0.1"), "HOST:PORT")
        self.fails(client("poem", "春", "--temperature", 3), "--temperature", code=2)
        self.fails(client("poem"), "TITLE", code=2)
        self.fails(client("bench", "--model", "other", server=self.server), "other")

    def test_bench_counts_what_was_written(self):
        flags = ["--streams", 3, "--requests", 6, "--max-tokens", 12, "--seed", 5, "--prompt", "秋"]
        report = json.loads(self.succeeds(client("bench", *flags, "--json", server=self.server)))
        tokens = 0
        for i in range(6):
            _, answer = self.server.post("/v1/completions", {"prompt": "秋", "max_tokens": 12,
                                                             "seed": 5 + i})
            tokens += answer["usage"]["completion_tokens"]
        self.assertEqual((report["answers"], report["tokens"]), (6, tokens))
        self.assertEqual((report["streams"], report["errors"]), (3, {}))
        self.assertLessEqual(report["first_token_seconds"]["count"], 6)
        for times in (report["first_token_seconds"], report["inter_token_seconds"]):
            self.assertGreater(times["count"], 0)
            self.assertLessEqual(times["p50"], times["p99"])
            self.assertLessEqual(times["p99"], times["max"])
        long = ["--requests", 4, "--max-tokens", 200, "--prompt", "春"]
        report = json.loads(self.succeeds(client("bench", *long, "--json", server=self.server)))
        self.assertLess(report["tokens"], 4 * 200)
        report = json.loads(self.succeeds(client("bench", *long, "--ban", END_TOKEN, "--json",
                                                 server=self.server)))
        self.assertEqual(report["tokens"], 4 * 200)
        shown = self.succeeds(client("bench", *flags, server=self.server))
        self.assertIn("tokens/s: ", shown)
        self.assertIn("time to first token", shown)


class Refused(ClientTest):

    def test_bench_counts_errors_by_kind(self):
        with Server("--batch", "1", "--queue", "1") as server:
            done = client("bench", "--streams", 16, "--requests", 48, "--json", server=server)
            report = json.loads(self.succeeds(done))
            self.assertEqual(set(report["errors"]), {"UNAVAILABLE"})
            self.assertEqual(report["answers"] + report["errors"]["UNAVAILABLE"], 48)
            self.assertIn("the first error: ", done.stderr)


class Keys(ClientTest):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(cls.folder.name)
        make_certificates(folder)
        cls.ca = folder / "ca.pem"
        cls.key = make_key(folder, "user")
        cls.key_file = folder / "key"
        cls.key_file.write_text(cls.key + "\n")
        cls.mutual = ["--tls-cert", folder / "client.pem", "--tls-key", folder / "client.key"]
        cls.server = Server("--keys", str(folder / "keys.json"), "--tls-cert",
                            str(folder / "server.pem"), "--tls-key", str(folder / "server.key"),
                            "--tls-client-ca", str(cls.ca))

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.errors()
        cls.folder.cleanup()

    def test_keys_and_certificates(self):
        poem = ["春", "--form", "五绝", "--tls-ca", self.ca, *self.mutual]
        self.succeeds(client("poem", *poem, "--key-file", self.key_file, server=self.server))
        self.succeeds(client("poem", *poem, server=self.server, environment={"QIANYI_KEY": self.key}))
        self.fails(client("poem", *poem, server=self.server), "key", "--key-file", "QIANYI_KEY")
        self.fails(client("poem", *poem, server=self.server, environment={"QIANYI_KEY": "qy-other"}),
                   "key")
        key = ["--key-file", self.key_file]
        self.fails(client("poem", "春", *key, "--tls-ca", self.ca, server=self.server), "TLS")
        self.fails(client("poem", "春", *key, *self.mutual, "--tls", server=self.server), "TLS")
        self.fails(client("poem", "春", *key, *self.mutual, server=self.server), "--tls-ca")
        self.fails(client("poem", *poem, "--key-file", pathlib.Path(self.folder.name) / "none", server=self.server),
                   "none")

    def test_no_key_goes_to_others_unencrypted(self):
        key = ["--key-file", self.key_file]
        for host in ("192.0.2.1:50051", "127.example.org:50051", "localhost.example.org:50051"):
            self.fails(client("poem", "春", "--server", host, *key), "unencrypted", "--plaintext")


class Pictures(ClientTest):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.server = Server(model=make_painter(cls.folder.name))

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.errors()
        cls.folder.cleanup()

    def file(self, name):
        return pathlib.Path(self.folder.name) / name

    def test_a_picture_is_that_of_the_rest_api(self):
        _, answer = self.server.post("/v1/images/generations",
                                     {"prompt": "一只猫", "style": "国画", "seed": 3})
        done = client("paint", "一只猫", "--style", "国画", "--seed", 3, "--output",
                      self.file("cat.png"), server=self.server)
        self.assertEqual(self.succeeds(done), f"{self.file('cat.png')}\n")
        picture = self.file("cat.png").read_bytes()
        self.assertEqual(picture, base64.b64decode(answer["data"][0]["b64_json"]))
        self.assertEqual(png_size(picture), (32, 32))
        self.assertIn("painting: 100%", done.stderr)

    def test_several_with_scores(self):
        done = client("paint", "一只猫", "--n", 2, "--candidates", 3, "--scores", "--quiet",
                      "--output", self.file("cats.webp"), server=self.server)
        lines = [line.split("\t") for line in self.succeeds(done).splitlines()]
        self.assertEqual([path for path, _ in lines],
                         [str(self.file("cats-1.webp")), str(self.file("cats-2.webp"))])
        self.assertGreaterEqual(float(lines[0][1]), float(lines[1][1]))
        self.assertTrue(self.file("cats-2.webp").read_bytes().startswith(b"RIFF"))
        self.assertEqual(done.stderr, "")

    def test_a_part_is_painted_anew(self):
        self.file("old.png").write_bytes(gradient(32))
        self.file("mask.png").write_bytes(hole(32, right=16))
        self.succeeds(client("paint", "一只狗", "--image", self.file("old.png"), "--mask",
                             self.file("mask.png"), "--output", self.file("new.png"),
                             server=self.server))
        self.assertEqual(png_size(self.file("new.png").read_bytes()), (32, 32))

    def test_what_is_wrong_is_said(self):
        for flags, words in ((["--style", "水彩"], ["国画"]), (["--output", "a.bmp"], [".png"]),
                             (["--mask", "m.png"], ["--image"]),
                             (["--image", self.file("none.png")], ["none.png"]),
                             (["--size", "7x7"], ["size", "32x32"])):
            self.fails(client("paint", "猫", *flags, server=self.server), *words)


if __name__ == "__main__":
    unittest.main()
