"""Adapters through the real server: many in one batch, and their coming and going."""

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time
import unittest

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase)

from adapter_files import write_lora, write_prefix
from serving import BINARY, ENDLESS, POET, Server

COMPLETE = "/v1/completions"


class WithAdapters(unittest.TestCase):
    """A folder of adapters, and servers started with some of them."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.folder.name) / "adapters"
        write_lora(cls.path / "wide", 1, 8)
        write_lora(cls.path / "thin", 2, 3)
        write_prefix(cls.path / "short", 3, 6)
        write_prefix(cls.path / "long", 4, 37)
        write_lora(cls.path / "broken", 5, 3, r=4)
        (cls.path / "deep").mkdir()
        write_lora(cls.path / "deep" / "down", 6, 2)
        write_lora(pathlib.Path(cls.folder.name) / "outside", 7, 2)
        os.symlink("../outside", cls.path / "link")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def start(self, *flags, names=("wide", "thin", "short", "long")):
        given = [part for name in names for part in ("--adapter", f"{name}={self.path / name}")]
        return Server(*given, *flags)

    def least_memory(self, *flags):
        """The least --host-memory, as the refusal of less names it: the whole model streams then."""
        with self.assertRaises(RuntimeError) as refusal:
            self.start(*flags, "8MiB").stop()
        return re.search(r"needs at least ([0-9.]+) MiB", str(refusal.exception))[1] + "MiB"

    def requests(self):
        """Eight, over four adapters and the plain model."""
        models = ["poet", "poet:wide", "poet:thin", "poet:short", "poet:long"] * 2
        return [{**ENDLESS, "model": model, "prompt": "春江潮水连海平" * (1 + index // 5),
                 "max_tokens": 40, "seed": index} for index, model in enumerate(models)][:8]

    def text(self, server, body):
        status, answer = server.post(COMPLETE, body)
        self.assertEqual(status, 200, answer)
        self.assertEqual(answer["model"], body["model"])
        return answer["choices"][0]["text"]


class Adapters(WithAdapters):

    def test_eight_requests_over_four_adapters_equal_their_solo_answers(self):
        with self.start("--batch", "1") as server:
            solo = [self.text(server, body) for body in self.requests()]
        self.assertEqual(len(set(solo)), len(solo))
        streamed = ("--batch", "8", "--context", "160", "--step-tokens", "160", "--host-memory")
        for flags in (("--batch", "8"), ("--batch", "8", "--step-tokens", "9"),
                      (*streamed, self.least_memory(*streamed))):
            with self.start(*flags) as server:
                if "--host-memory" in flags:
                    self.assertIn("MiB streamed", server.errors())
                with concurrent.futures.ThreadPoolExecutor(8) as pool:
                    together = list(pool.map(lambda body: self.text(server, body),
                                             self.requests()))
                self.assertEqual(together, solo, flags)
                self.assertEqual(server.stop(), 0)

    def test_models_and_metrics_show_them(self):
        with self.start(names=("wide", "short")) as server:
            _, _, body = server.ask("GET", "/v1/models")
            models = json.loads(body)["data"]
            self.assertEqual([(model["id"], model["root"], model["parent"]) for model in models],
                             [("poet", "poet", None), ("poet:short", "poet", "poet"),
                              ("poet:wide", "poet", "poet")])
            status, _, body = server.ask("GET", "/v1/models/poet:wide")
            self.assertEqual((status, json.loads(body)["id"]), (200, "poet:wide"))
            self.assertEqual(server.metric("qianyi_adapters"), 2)
            self.assertGreater(server.metric("qianyi_adapter_bytes"), 100000)

    def test_unknown_adapters_are_404_with_the_names_there_are(self):
        with self.start(names=("wide",)) as server:
            for model in ("poet:other", "poet:", "other:wide", "poet:wide:wide"):
                status, answer = server.post(COMPLETE, {"model": model, "prompt": "春"})
                self.assertEqual(status, 404, model)
                self.assertEqual(answer["error"]["code"], "model_not_found")
                self.assertIn("poet, poet:wide", answer["error"]["message"])

    def test_a_damaged_adapter_ends_the_start(self):
        with self.assertRaisesRegex(RuntimeError, "adapter broken: .*r 4 of adapter_config.json"):
            self.start(names=("broken",))
        with self.assertRaisesRegex(RuntimeError, "--adapter-memory"):
            self.start("--adapter-memory", "1KiB", names=("wide",))

    def test_loading_is_off_unless_the_operator_names_a_folder(self):
        with self.start(names=("wide",)) as server:
            status, answer = server.post("/v1/adapters", {"name": "x", "path": "wide"})
            self.assertEqual(status, 501)
            self.assertIn("--adapter-folder", answer["error"]["message"])
            self.assertEqual(server.ask("DELETE", "/v1/adapters/poet:wide")[0], 501)

    def test_loading_and_unloading_at_run_time(self):
        with self.start("--adapter-folder", str(self.path), names=("thin",)) as server:
            before = server.metric("qianyi_adapter_bytes")
            body = {**ENDLESS, "model": "poet:down", "max_tokens": 30, "seed": 3}
            self.assertEqual(server.post(COMPLETE, body)[0], 404)
            status, answer = server.post("/v1/adapters", {"name": "down", "path": "deep/down"})
            self.assertEqual((status, answer.get("id")), (200, "poet:down"), answer)
            self.assertEqual(answer["parent"], "poet")
            first = self.text(server, body)
            status, answer = server.post("/v1/adapters", {"name": "down", "path": "wide"})
            self.assertEqual(status, 409, answer)
            for index in range(3):
                status, _, answer = server.ask("DELETE", "/v1/adapters/poet:down")
                self.assertEqual((status, json.loads(answer)["deleted"]), (200, True))
                self.assertEqual(server.post(COMPLETE, body)[0], 404)
                self.assertEqual(server.ask("DELETE", "/v1/adapters/poet:down")[0], 404)
                self.assertEqual(server.metric("qianyi_adapter_bytes"), before)
                server.post("/v1/adapters", {"model": "poet", "name": "down",
                                             "path": "deep/down"})
                self.assertEqual(self.text(server, body), first, index)

    def test_memory_is_back_after_unloading(self):
        with self.start("--adapter-folder", str(self.path), names=()) as server:
            def load_and_unload():
                for name in ("wide", "long"):
                    self.assertEqual(server.post("/v1/adapters", {"name": name, "path": name})[0],
                                     200)
                    self.text(server, {**ENDLESS, "model": f"poet:{name}", "max_tokens": 3})
                    self.assertEqual(server.ask("DELETE", f"/v1/adapters/{name}")[0], 200)
            load_and_unload()
            load_and_unload()
            before = server.resident_bytes()
            for _ in range(25):
                load_and_unload()
            # 25 times both would be 45 MB.
            self.assertLess(server.resident_bytes(), before + (8 << 20))

    def test_unloading_while_requests_run(self):
        with self.start("--adapter-folder", str(self.path), names=("long", "wide")) as server:
            for name in ("long", "wide"):
                before = server.metric("qianyi_adapter_bytes")
                body = {**ENDLESS, "model": f"poet:{name}", "max_tokens": 400, "seed": 3}
                expected = self.text(server, body)
                with concurrent.futures.ThreadPoolExecutor(3) as pool:
                    running = [pool.submit(self.text, server, body) for _ in range(3)]
                    while server.metric("qianyi_requests_running") < 3:
                        time.sleep(0.01)
                    self.assertEqual(server.ask("DELETE", f"/v1/adapters/poet:{name}")[0], 200)
                    for one in running:
                        self.assertEqual(one.result(), expected)
                # The engine gives it back as it lets go of the last request.
                end = time.monotonic() + 30
                while server.metric("qianyi_adapter_bytes") >= before:
                    self.assertLess(time.monotonic(), end)
                    time.sleep(0.01)
            self.assertEqual(server.metric("qianyi_adapters"), 0)
            status, answer = server.post("/v1/adapters", {"name": "long", "path": "long"})
            self.assertEqual(status, 200, answer)

    def test_paths_stay_below_the_folder(self):
        with self.start("--adapter-folder", str(self.path), names=()) as server:
            for path, code in (("../outside", 400), ("deep/../../outside", 400),
                               (str(self.path / "wide"), 400), ("/", 400), ("a\0b", 400),
                               ("x" * 2000, 400), ("link", 404), ("nothing", 404), (".", 404),
                               ("wide/adapter_config.json", 404)):
                status, answer = server.post("/v1/adapters", {"name": "x", "path": path})
                self.assertEqual((status, answer["error"]["param"]), (code, "path"), path)
            for body, param in (({"path": "wide"}, "name"), ({"name": "x"}, "path"),
                                ({"name": "x", "path": 5}, "path"),
                                ({"name": "x", "path": "wide", "seed": 5}, "seed"),
                                ({"name": "x", "path": "wide", "model": "other"}, "model")):
                status, answer = server.post("/v1/adapters", body)
                self.assertEqual(answer["error"]["param"], param, answer)
            status, answer = server.post("/v1/adapters", {"name": "a:b", "path": "wide"})
            self.assertEqual(status, 400)
            status, answer = server.post("/v1/adapters", {"name": "x", "path": "broken"})
            self.assertEqual(status, 400)
            self.assertIn("broken/adapter_model.safetensors", answer["error"]["message"])
            self.assertNotIn(self.folder.name, answer["error"]["message"])
            self.assertEqual(server.metric("qianyi_adapters"), 0)


class Scores(WithAdapters):

    def score(self, *flags):
        lines = pathlib.Path(self.folder.name) / "lines.jsonl"
        lines.write_text(json.dumps({"upper": "春风得意马蹄疾", "text": "秋水无心雁影长"}) + "\n")
        run = subprocess.run([BINARY, "score", "--model", POET, "--task", "couplet", "--quiet",
                              *flags, str(lines)], capture_output=True, text=True)
        return run.returncode, run.stdout, run.stderr

    def test_scores_are_those_of_the_adapter(self):
        both = [part for name in ("thin", "short")
                for part in ("--adapter", f"{name}={self.path / name}")]
        plain = self.score()[1]
        outputs = [self.score(*both, "--use", name)[1] for name in ("thin", "short")]
        self.assertEqual(len({plain, *outputs}), 3)
        self.assertEqual(self.score(*both, "--use", "-")[1], plain)
        self.assertEqual(self.score("--adapter", f"x={self.path / 'thin'}")[1], outputs[0])
        code, out, error = self.score(*both)
        self.assertEqual((code, out), (1, ""))
        self.assertIn("--use", error)


class AdaptersOverGrpc(WithAdapters):

    def call(self, server, rpc, **fields):
        with grpc.insecure_channel(server.grpc) as channel:
            pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
            method = pool.FindServiceByName("qianyi.v1.Inference").methods_by_name[rpc]
            ask = message_factory.GetMessageClass(method.input_type)
            answer = message_factory.GetMessageClass(method.output_type)
            return channel.unary_unary(f"/qianyi.v1.Inference/{rpc}",
                                       request_serializer=ask.SerializeToString,
                                       response_deserializer=answer.FromString)(ask(**fields))

    def generate(self, server, body):
        return self.call(server, "Generate", model=body["model"],
                         completion={"prompt": body["prompt"]},
                         parameters={"max_tokens": body["max_tokens"], "seed": body["seed"],
                                     "logit_bias": body["logit_bias"]})

    def refused(self, code, word, *call, **fields):
        with self.assertRaises(grpc.RpcError) as caught:
            self.call(*call, **fields)
        self.assertEqual(caught.exception.code(), code)
        self.assertIn(word, caught.exception.details())

    def test_eight_requests_over_four_adapters_equal_their_solo_answers(self):
        with self.start("--batch", "8") as server:
            solo = [self.text(server, body) for body in self.requests()]
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda body: self.generate(server, body),
                                        self.requests()))
            self.assertEqual([answer.choices[0].text for answer in answers], solo)
            self.assertEqual([answer.model for answer in answers],
                             [body["model"] for body in self.requests()])
            models = self.call(server, "ListModels").models
            self.assertEqual([(model.name, model.parent) for model in models][:2],
                             [("poet", ""), ("poet:long", "poet")])

    def test_loading_and_unloading_at_run_time(self):
        with self.start("--adapter-folder", str(self.path), names=("thin",)) as server:
            loaded = self.call(server, "LoadAdapter", name="down", path="deep/down")
            self.assertEqual((loaded.name, loaded.parent), ("poet:down", "poet"))
            body = {**ENDLESS, "model": "poet:down", "max_tokens": 20, "seed": 1}
            self.assertEqual(self.generate(server, body).choices[0].text,
                             self.text(server, body))
            code = grpc.StatusCode
            self.refused(code.ALREADY_EXISTS, "down", server, "LoadAdapter", name="down",
                         path="wide")
            self.refused(code.INVALID_ARGUMENT, "path", server, "LoadAdapter", name="x",
                         path="../outside")
            self.refused(code.INVALID_ARGUMENT, "path", server, "LoadAdapter", name="x")
            self.call(server, "UnloadAdapter", name="down")
            self.refused(code.NOT_FOUND, "poet:thin", server, "UnloadAdapter", name="poet:down")
        with self.start(names=("thin",)) as server:
            self.refused(code.UNIMPLEMENTED, "--adapter-folder", server, "LoadAdapter", name="x",
                         path="wide")


if __name__ == "__main__":
    unittest.main()
