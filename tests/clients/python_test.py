"""The Python package, installed from its wheel, against real servers: REST and gRPC, blocking and async."""

import asyncio
import importlib.metadata
import json
import math
import pathlib
import signal
import socket
import sys
import tempfile
import threading
import time
import unittest

import qianyi

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "server"))
from adapter_files import write_lora  # noqa: E402
from credentials import make_certificates, make_key  # noqa: E402
from pictures import gradient, hole, make_painter, png_size  # noqa: E402
from serving import ENDLESS, Server  # noqa: E402
from spelling import Spelling  # noqa: E402

LONG = {"max_tokens": ENDLESS["max_tokens"],
        "logit_bias": {int(token): bias for token, bias in ENDLESS["logit_bias"].items()}}
ONCE = qianyi.Retries(attempts=1)
TOOL = qianyi.Tool("get_weather", "天气", {"type": "object", "properties": {"city": {"type": "string"}}})


def free_ports():
    with socket.socket() as one, socket.socket() as other:
        for taken in (one, other):
            taken.bind(("127.0.0.1", 0))
        return {"http_port": one.getsockname()[1], "grpc_port": other.getsockname()[1]}


class Blocking:
    """Calls of a `Client`, each with a connection of its own."""

    def ask(self, url, method, *given, settings=None, **more):
        with qianyi.Client(url, **(settings or {})) as client:
            return getattr(client, method)(*given, **more)

    def pieces(self, url, method, *given, settings=None, **more):
        with qianyi.Client(url, **(settings or {})) as client:
            with getattr(client, "stream_" + method)(*given, **more) as stream:
                return list(stream)

    def first_piece(self, url, method, *given, **more):
        """Takes one, and leaves."""
        with qianyi.Client(url) as client:
            with getattr(client, "stream_" + method)(*given, **more) as stream:
                return next(stream)


class Async:

    def ask(self, url, method, *given, settings=None, **more):
        async def run():
            async with qianyi.AsyncClient(url, **(settings or {})) as client:
                return await getattr(client, method)(*given, **more)
        return asyncio.run(run())

    def pieces(self, url, method, *given, settings=None, **more):
        async def run():
            async with qianyi.AsyncClient(url, **(settings or {})) as client:
                async with getattr(client, "stream_" + method)(*given, **more) as stream:
                    return [piece async for piece in stream]
        return asyncio.run(run())

    def first_piece(self, url, method, *given, **more):
        async def run():
            async with qianyi.AsyncClient(url) as client:
                async with getattr(client, "stream_" + method)(*given, **more) as stream:
                    return await stream.__anext__()
        return asyncio.run(run())


class Rest:

    def url_of(self, server):
        return f"http://{server.http}"

    def url_at(self, ports):
        return f"http://127.0.0.1:{ports['http_port']}"


class Grpc:

    def url_of(self, server):
        return f"grpc://{server.grpc}"

    def url_at(self, ports):
        return f"grpc://127.0.0.1:{ports['grpc_port']}"


class Calls:
    """Of each client over each protocol: the answers are those of the plain REST API."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.server = Server("--model", make_painter(cls.folder.name))

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        cls.folder.cleanup()
        assert code == 0, cls.server.errors()

    @property
    def url(self):
        return self.url_of(self.server)

    def expect_text(self, path, body, method, *given, **more):
        status, plain = self.server.post(path, {**body, "seed": 3, "max_tokens": 40})
        self.assertEqual(status, 200, plain)
        answer = self.ask(self.url, method, *given, seed=3, max_tokens=40, **more)
        choice = plain["choices"][0] if "choices" in plain else plain
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        self.assertEqual((answer.text, answer.model, answer.seed), (text, "poet", 3))
        self.assertEqual(answer.choices[0].finish_reason, choice["finish_reason"])
        self.assertEqual(answer.usage.completion_tokens, plain["usage"]["completion_tokens"])
        pieces = self.pieces(self.url, method, *given, seed=3, max_tokens=40, **more)
        self.assertGreater(len(pieces), 1)
        self.assertEqual("".join(piece.text for piece in pieces if piece.blank == 0), text)
        self.assertEqual([piece.finish_reason for piece in pieces if piece.finish_reason],
                         [choice["finish_reason"]])
        self.assertEqual(pieces[-1].usage, answer.usage)
        return answer

    def test_tasks(self):
        poem = {"form": "七绝", "author": "李白", "tones": True, "rhyme": False}
        answer = self.expect_text("/v1/tasks/poem", {"title": "秋夜泊船", **poem}, "poem", "秋夜泊船", **poem)
        self.assertEqual([len(line) for line in answer.lines], [7] * 4)
        self.expect_text("/v1/tasks/couplet", {"upper": "两个黄鹂鸣翠柳"}, "couplet", "两个黄鹂鸣翠柳")
        self.expect_text("/v1/tasks/summary", {"text": "白日依山尽"}, "summary", "白日依山尽")
        self.expect_text("/v1/tasks/qa", {"question": "李白是谁？"}, "qa", "李白是谁？")

    def test_completions_and_chats(self):
        answer = self.expect_text("/v1/completions", {"prompt": "床前[MASK]，疑是[MASK]。"}, "complete",
                                  "床前[MASK]，疑是[MASK]。")
        self.assertEqual(len(answer.choices[0].blanks), 2)
        self.expect_text("/v1/completions", {"prompt": "床前", "suffix": "霜", "stop": ["，"], "top_k": 20,
                                             "temperature": 0.7, "logit_bias": {"17": -5}},
                         "complete", "床前", suffix="霜", stop="，", top_k=20, temperature=0.7,
                         logit_bias={17: -5})
        said = [{"role": "user", "content": "李白是谁？"}, {"role": "assistant", "content": "诗人。"},
                {"role": "user", "content": "杜甫呢？"}]
        self.expect_text("/v1/chat/completions", {"messages": said}, "chat",
                         [qianyi.Message(**message) for message in said])
        self.expect_text("/v1/chat/completions", {"messages": said[:1]}, "chat", "李白是谁？")
        several = self.ask(self.url, "chat", "春", n=2, seed=1, max_tokens=5)
        self.assertEqual(len(several.choices), 2)

    def test_tokens_and_what_they_might_have_been(self):
        for method, given in (("complete", "白日依山尽，"), ("chat", "李白是谁？")):
            ask = {"seed": 3, "max_tokens": 12, "top_logprobs": 3}
            answer = self.ask(self.url, method, given, **ask)
            told = answer.choices[0].logprobs
            self.assertEqual(len(told), answer.usage.completion_tokens)
            self.assertTrue("".join(one.text for one in told).startswith(answer.text))
            for one in told:
                self.assertLessEqual(one.logprob, 0)
                self.assertGreaterEqual(len(one.top), 3)
                likelihoods = [other.logprob for other in one.top]
                self.assertEqual(likelihoods, sorted(likelihoods, reverse=True))
            pieces = self.pieces(self.url, method, given, **ask)
            self.assertEqual([one for piece in pieces for one in piece.logprobs], list(told))
            self.assertEqual(self.ask(self.url, method, given, seed=3).choices[0].logprobs, ())

    def test_usage_tells_what_was_cached(self):
        prompt = "春江潮水连海平，海上明月共潮生。" * 2
        for _ in range(2):
            usage = self.ask(self.url, "complete", prompt, max_tokens=1).usage
        self.assertGreaterEqual(usage.cached_tokens, 16)
        self.assertLess(usage.cached_tokens, usage.prompt_tokens)

    def test_adapters_come_and_go(self):
        with tempfile.TemporaryDirectory() as folder:
            write_lora(pathlib.Path(folder) / "mine", 1, 4)
            with Server("--adapter-folder", folder) as server:
                url = self.url_of(server)
                with self.assertRaises(qianyi.NotFoundError):
                    self.ask(url, "complete", "春", model="poet:tang")
                loaded = self.ask(url, "load_adapter", "tang", "mine")
                self.assertEqual((loaded.name, loaded.parent), ("poet:tang", "poet"))
                self.assertIn(loaded, self.ask(url, "models"))
                self.assertTrue(self.ask(url, "complete", "春", model="poet:tang").text)
                with self.assertRaises(qianyi.ConflictError):
                    self.ask(url, "load_adapter", "tang", "mine", model="poet")
                self.assertIsNone(self.ask(url, "unload_adapter", "poet:tang"))
                with self.assertRaises(qianyi.NotFoundError):
                    self.ask(url, "unload_adapter", "poet:tang")
                self.assertEqual(len(self.ask(url, "models")), 1)

    def test_json_by_a_schema(self):
        schema = {"type": "object", "properties": {"a": {"enum": ["春", "秋"]}}, "required": ["a"],
                  "additionalProperties": False}
        self.assertIn(json.loads(self.ask(self.url, "chat", "春", json_schema=schema).text)["a"], "春秋")
        answer = self.ask(self.url, "complete", "春", json_schema=schema, seed=2)
        self.assertIn(json.loads(answer.text)["a"], "春秋")

    def test_vectors_scores_and_tokens(self):
        ids = self.ask(self.url, "tokenize", "白日依山尽")
        self.assertEqual(self.ask(self.url, "detokenize", ids), "白日依山尽")
        self.assertEqual(len(self.ask(self.url, "tokenize", "[MASK]", commands=True)), 1)
        vectors = self.ask(self.url, "embed", ["白日依山尽", ids, "黄河"]).vectors
        self.assertEqual(vectors[0], vectors[1])
        for vector in vectors:
            self.assertAlmostEqual(math.fsum(value * value for value in vector), 1, places=4)
        scores = self.ask(self.url, "score", "白日依山尽，", ["黄河入海流", "天"]).scores
        self.assertEqual([len(score.tokens) for score in scores],
                         [len(self.ask(self.url, "tokenize", text)) for text in ("黄河入海流", "天")])
        for score in scores:
            self.assertAlmostEqual(score.logprob, math.fsum(score.token_logprobs), places=4)

    def test_the_server_and_its_models(self):
        models = {model.name: model for model in self.ask(self.url, "models")}
        self.assertEqual(set(models), {"poet", "painter"})
        self.assertIsNone(models["poet"].pictures)
        self.assertEqual(models["painter"].pictures.sizes, ("32x32",))
        self.assertGreater(models["poet"].context_tokens, 100)
        info = self.ask(self.url, "server")
        self.assertEqual((info.limits["n"], info.limits["stop"]), (128, 4))
        self.assertEqual(info.version, importlib.metadata.version("qianyi"))

    def test_pictures(self):
        _, plain = self.server.post("/v1/images/generations", {"prompt": "一只猫", "style": "国画", "seed": 3})
        painted = self.ask(self.url, "generate_image", "一只猫", style="国画", seed=3)
        picture = painted.images[0].image
        self.assertEqual((png_size(picture), painted.size, painted.output_format),
                         ((32, 32), "32x32", "png"))
        self.assertEqual(painted.usage.output_tokens, plain["usage"]["output_tokens"])
        best = self.ask(self.url, "generate_image", "一只猫", n=2, candidates=3, return_scores=True,
                        output_format="webp", seed=1)
        self.assertGreaterEqual(best.images[0].score, best.images[1].score)
        self.assertTrue(best.images[1].image.startswith(b"RIFF"))
        events = self.pieces(self.url, "image", "一只猫", style="国画", seed=3, partial_images=2)
        self.assertEqual(events[-1], painted)
        partial = [event for event in events[:-1] if event.image]
        self.assertEqual(len(partial), 2)
        self.assertLess(partial[0].done, partial[0].total)
        edited = self.ask(self.url, "edit_image", "一只狗", gradient(32), hole(32, right=16), seed=1)
        self.assertEqual(png_size(edited.images[0].image), (32, 32))
        self.assertIsInstance(self.pieces(self.url, "edit", "一只狗", gradient(32), hole(32), seed=1)[-1],
                              qianyi.Pictures)
        caption = self.ask(self.url, "caption_image", picture)
        self.assertTrue(caption.text)
        self.assertLess(caption.log_probability, 0)

    def test_errors_have_kinds_fields_and_codes(self):
        for kind, field, method, given, more in (
                (qianyi.InvalidRequestError, "form", "poem", ["春"], {"form": "sonnet"}),
                (qianyi.InvalidRequestError, "n", "complete", ["春"], {"n": 1000}),
                (qianyi.InvalidRequestError, "style", "generate_image", ["猫"], {"style": "水彩"}),
                (qianyi.NotFoundError, "model", "poem", ["春"], {"model": "other"}),
                (qianyi.InvalidRequestError, "image", "caption_image", [b"no picture"], {})):
            with self.assertRaises(kind) as caught:
                self.ask(self.url, method, *given, **more)
            self.assertEqual(caught.exception.field, field)
            self.assertTrue(caught.exception.request_id)
            self.assertTrue(caught.exception.code)
        with self.assertRaises(qianyi.InvalidRequestError):
            self.pieces(self.url, "chat", "春", temperature=-1)
        with self.assertRaises(TypeError):
            self.ask(self.url, "poem", "春", forms="七绝")

    def test_a_timeout_ends_the_work(self):
        for use in (self.ask, self.pieces):
            with self.assertRaises(qianyi.TimedOutError):
                use(self.url, "complete", "春", n=8, settings={"timeout": 0.3}, **LONG)
            self.server.wait_until_idle()

    def test_leaving_a_stream_ends_the_work(self):
        before = self.server.metric("qianyi_generated_tokens_total")
        self.assertTrue(self.first_piece(self.url, "complete", "春", n=8, **LONG))
        self.server.wait_until_idle()
        self.assertLess(self.server.metric("qianyi_generated_tokens_total") - before, 8 * 500)

    def test_a_full_server_is_tried_again(self):
        with Server("--batch", "1", "--queue", "20") as server:
            url = self.url_of(server)
            # Full for some seconds: a request keeps all its places until it ends.
            busy = threading.Thread(target=server.post, args=("/v1/completions", {**ENDLESS, "n": 21}))
            busy.start()
            while server.metric("qianyi_requests_waiting") == 0:
                time.sleep(0.01)
            with self.assertRaises(qianyi.OverloadedError) as caught:
                self.ask(url, "complete", "春", max_tokens=1, settings={"retries": ONCE})
            self.assertGreaterEqual(caught.exception.retry_after, 1)
            begin = time.monotonic()
            answer = self.ask(url, "complete", "春", max_tokens=1,
                              settings={"retries": qianyi.Retries(attempts=1000)})
            self.assertEqual(answer.usage.completion_tokens, 1)
            self.assertGreaterEqual(time.monotonic() - begin, 1)  # what the server asked for
            busy.join()

    def test_a_server_that_starts_later(self):
        ports = free_ports()
        url = self.url_at(ports)
        with self.assertRaises(qianyi.UnreachableError):
            self.ask(url, "models", settings={"retries": ONCE})
        answers = []
        patient = {"retries": qianyi.Retries(attempts=10000, first_seconds=0.05, most_seconds=0.2)}
        asking = threading.Thread(daemon=True, target=lambda: answers.append(
            self.pieces(url, "poem", "春", form="五绝", settings=patient)))
        asking.start()
        with Server(**ports):
            asking.join()
        self.assertEqual(len(answers), 1)

    def test_a_stream_that_began_is_not_tried_again(self):
        ports = free_ports()
        first = Server(**ports)
        second = []

        def replace():
            while first.metric("qianyi_generated_tokens_total") < 20:
                time.sleep(0.01)
            first.process.send_signal(signal.SIGKILL)
            first.stop()
            second.append(Server(**ports))
        replacing = threading.Thread(target=replace, daemon=True)
        replacing.start()
        with self.assertRaises(qianyi.UnreachableError):
            # So many that they last longer than the other thread may take to kill.
            self.pieces(self.url_at(ports), "complete", "春", n=64, **LONG)
        replacing.join()
        with second[0]:
            self.assertEqual(second[0].metric("qianyi_generated_tokens_total"), 0)


class RestBlocking(Calls, Rest, Blocking, unittest.TestCase):
    pass


class RestAsync(Calls, Rest, Async, unittest.TestCase):
    pass


class GrpcBlocking(Calls, Grpc, Blocking, unittest.TestCase):
    pass


class GrpcAsync(Calls, Grpc, Async, unittest.TestCase):
    pass


class ToolsAndThoughts(Blocking, unittest.TestCase):
    """A model of GLM-4.5's format whose weights spell out what it thinks and calls."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.model = Spelling(cls.folder.name, "glm4.5", [
            ("<|assistant|>", "\n<think>用户问天气。</think>\n我查一下。<tool_call>get_weather\n"
             "<arg_key>city</arg_key>\n<arg_value>北京</arg_value>\n</tool_call>", "<|observation|>"),
            ("</think>", "\n晴。", "<|user|>"), ("<|observation|>", "x", "<|user|>")])
        cls.server = Server(model=str(cls.model.folder))

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.errors()
        cls.folder.cleanup()

    def test_thoughts_and_calls(self):
        question = [qianyi.Message("user", "北京天气怎么样？")]
        for url in (f"http://{self.server.http}", f"grpc://{self.server.grpc}"):
            choice = self.ask(url, "chat", question, tools=[TOOL]).choices[0]
            self.assertEqual((choice.finish_reason, choice.reasoning, choice.text),
                             ("tool_calls", "用户问天气。", "我查一下。"))
            call = choice.tool_calls[0]
            self.assertEqual((call.name, json.loads(call.arguments)), ("get_weather", {"city": "北京"}))
            pieces = self.pieces(url, "chat", question, tools=[TOOL])
            self.assertEqual("".join(piece.reasoning for piece in pieces), choice.reasoning)
            self.assertEqual("".join(piece.text for piece in pieces), choice.text)
            self.assertEqual([(piece.tool_call.name, piece.tool_call.arguments)
                              for piece in pieces if piece.tool_call], [(call.name, call.arguments)])
            self.assertEqual([piece.finish_reason for piece in pieces if piece.finish_reason],
                             ["tool_calls"])
            plain = self.ask(url, "chat", question, thinking=False)
            self.assertEqual((plain.text, plain.choices[0].reasoning), ("晴。", ""))
            told = question + [qianyi.Message("assistant", choice.text, choice.reasoning, (call,)),
                               qianyi.Message("tool", "晴", tool_call_id=call.id)]
            self.assertTrue(self.ask(url, "chat", told, tools=[TOOL]).choices)
            with self.assertRaises(qianyi.InvalidRequestError):
                self.ask(url, "chat", question, tools=[TOOL], tool_choice="other")


class KeysAndTls(Blocking, unittest.TestCase):

    def test_keys_and_certificates(self):
        with tempfile.TemporaryDirectory() as folder:
            at = pathlib.Path(folder)
            make_certificates(at)
            key = make_key(at, "user")
            poor = make_key(at, "watcher", "--scopes", "metrics")
            with Server("--keys", str(at / "keys.json"), "--tls-cert", str(at / "server.pem"),
                        "--tls-key", str(at / "server.key"), "--tls-client-ca", str(at / "ca.pem")) as server:
                for url in (f"https://{server.http}", f"grpcs://{server.grpc}"):
                    good = {"key": key, "ca_file": at / "ca.pem", "retries": ONCE,
                            "certificate": (at / "client.pem", at / "client.key")}
                    self.assertTrue(self.ask(url, "poem", "春", form="五绝", settings=good).text)
                    for changed, kind in (({"key": None}, qianyi.AuthenticationError),
                                          ({"key": "qy-other"}, qianyi.AuthenticationError),
                                          ({"key": poor}, qianyi.PermissionDeniedError),
                                          ({"certificate": None}, qianyi.UnreachableError),
                                          ({"ca_file": None}, qianyi.UnreachableError)):
                        with self.assertRaises(kind):
                            self.ask(url, "models", settings={**good, **changed})

    def test_quota(self):
        with tempfile.TemporaryDirectory() as folder:
            key = make_key(folder, "user", "--tokens-per-minute", "10")
            with Server("--keys", f"{folder}/keys.json") as server:
                for url in (f"http://{server.http}", f"grpc://{server.grpc}"):
                    with self.assertRaises(qianyi.QuotaError) as caught:
                        for _ in range(3):
                            self.ask(url, "poem", "春", settings={"key": key, "retries": ONCE})
                    self.assertEqual(caught.exception.code, "rate_limit_exceeded")
                    self.assertGreater(caught.exception.retry_after, 1)


class Rules(unittest.TestCase):
    """What needs no server."""

    def test_delays(self):
        retries = qianyi.Retries(attempts=4, first_seconds=1, most_seconds=10)
        full = qianyi.OverloadedError("full", retry_after=3)
        self.assertGreaterEqual(retries.delay(full, 1), 3)
        self.assertIsNone(retries.delay(full, 4))
        self.assertIsNone(retries.delay(qianyi.QuotaError("quota", retry_after=11), 1))
        self.assertIsNone(retries.delay(qianyi.InvalidRequestError("no"), 1))
        delays = [retries.delay(qianyi.UnreachableError("gone"), attempt) for attempt in (1, 2, 3)]
        for attempt, delay in enumerate(delays):
            self.assertLessEqual(2 ** attempt / 2, delay)
            self.assertLessEqual(delay, 2 ** attempt)
        self.assertLessEqual(qianyi.Retries(attempts=99).delay(qianyi.UnreachableError("gone"), 90), 60)

    def test_no_key_goes_to_others_unencrypted(self):
        for kind in (qianyi.Client, qianyi.AsyncClient):
            for url in ("http://192.0.2.1:8080", "grpc://example.org:50051", "http://127.example.org"):
                with self.assertRaisesRegex(ValueError, "unencrypted"):
                    kind(url, key="qy-x")
            kind("http://localhost:8080", key="qy-x")
            for url in ("127.0.0.1:8080", "ftp://127.0.0.1", "http://"):
                with self.assertRaisesRegex(ValueError, "url is"):
                    kind(url)

    def test_methods_describe_themselves(self):
        self.assertIn("keeps its form", qianyi.Client.poem.__doc__)
        self.assertEqual({name for name in vars(qianyi.Client) if name[0] != "_"},
                         {name for name in vars(qianyi.AsyncClient) if name[0] != "_"})


if __name__ == "__main__":
    unittest.main()
