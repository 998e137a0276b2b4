"""The Open Inference Protocol (KServe v2): text in tensors, text and pictures out, over REST and gRPC."""

import base64
import json
import struct
import tempfile
import time
import unittest

import grpc

from reflection import ByReflection
from pictures import make_painter, png_pixels
from serving import Server, ServerTest

INFER = "/v2/models/poet/infer"


def tensor(text, **more):
    return {"name": "text", "datatype": "BYTES", "shape": [1], "data": [text], **more}


class Rest(ServerTest):

    def get(self, path):
        status, _, body = self.server.ask("GET", path)
        return status, json.loads(body)

    def test_health_and_metadata(self):
        self.assertEqual(self.get("/v2/health/live"), (200, {"live": True}))
        self.assertEqual(self.get("/v2/health/ready"), (200, {"ready": True}))
        self.assertEqual(self.get("/v2/models/poet/ready"), (200, {"ready": True}))
        self.assertEqual(self.get("/v2"), (200, {"name": "qianyi", "version": "1", "extensions": []}))
        status, model = self.get("/v2/models/poet")
        self.assertEqual((status, model["name"], model["versions"]), (200, "poet", ["1"]))
        self.assertEqual([entry["name"] for entry in model["inputs"]], ["text"])
        self.assertEqual([entry["name"] for entry in model["outputs"]], ["text", "finish_reason"])
        for path in ("/v2/models/other", "/v2/models/other/ready"):
            status, answer = self.get(path)
            self.assertEqual((status, list(answer)), (404, ["error"]))
            self.assertIn("other", answer["error"])
        for path in ("/v2/models/poet/", "/v2/models/poet/other", "/v2/models//ready", "/v2/models/a/b/ready"):
            self.assertEqual(self.get(path)[0], 404, path)
        self.assertEqual(self.get(INFER)[0], 405)

    def test_infer_says_what_completions_say(self):
        parameters = {"max_tokens": 20, "seed": 3, "n": 2}
        status, answer = self.server.post(INFER, {"id": "42", "inputs": [tensor("春风")],
                                                  "parameters": parameters})
        self.assertEqual(status, 200, answer)
        completion = self.server.post("/v1/completions", {"prompt": "春风", **parameters})[1]
        outputs = {output["name"]: output for output in answer["outputs"]}
        self.assertEqual(outputs["text"]["data"], [choice["text"] for choice in completion["choices"]])
        self.assertEqual(outputs["finish_reason"]["data"],
                         [choice["finish_reason"] for choice in completion["choices"]])
        self.assertEqual((outputs["text"]["shape"], outputs["text"]["datatype"]), ([2], "BYTES"))
        self.assertEqual((answer["id"], answer["model_name"]), ("42", "poet"))
        self.assertEqual(answer["parameters"]["prompt_tokens"], completion["usage"]["prompt_tokens"])
        status, answer = self.server.post(INFER, {"inputs": [tensor("春风", shape=[1, 1], data=[["春风"]])],
                                                  "parameters": parameters, "outputs": [{"name": "text"}]})
        self.assertEqual((status, answer["outputs"]), (200, [outputs["text"]]))

    def test_refused_by_name(self):
        good = tensor("春")
        for word, body in (
                ("inputs", {}), ("inputs", {"inputs": []}), ("inputs", {"inputs": [good, good]}),
                ("inputs[0].name", {"inputs": [{**good, "name": "x"}]}),
                ("inputs[0].datatype", {"inputs": [{**good, "datatype": "FP32"}]}),
                ("inputs[0].shape", {"inputs": [{**good, "shape": [2]}]}),
                ("inputs[0].data", {"inputs": [{**good, "data": [1]}]}),
                ("outputs[0].name", {"inputs": [good], "outputs": [{"name": "logits"}]}),
                ("id", {"inputs": [good], "id": 5}), ("other", {"inputs": [good], "other": 1}),
                ("parameters.other", {"inputs": [good], "parameters": {"other": 1}}),
                ("temperature", {"inputs": [good], "parameters": {"temperature": 9}})):
            status, answer = self.server.post(INFER, body)
            self.assertEqual(status, 400, answer)
            self.assertIn(word, answer["error"])
        for body in (b"", b"[", b"5", b"\xff"):
            status, _, answer = self.server.ask("POST", INFER, body)
            self.assertEqual((status, list(json.loads(answer))), (400, ["error"]), body)


class Grpc(ByReflection, ServerTest):

    def setUp(self):
        super().setUp()
        self.service = self.pool.FindServiceByName("inference.GRPCInferenceService")

    def infer(self, **fields):
        return self.call("ModelInfer", self.message("inference.ModelInferRequest",
                                                    **{"model_name": "poet", **fields}))

    def tensor(self, text, **more):
        contents = {} if text is None else {"contents": {"bytes_contents": [text]}}
        return {"name": "text", "datatype": "BYTES", "shape": [1], **contents, **more}

    def code(self, method, kind, /, **fields):
        with self.assertRaises(grpc.RpcError) as caught:
            self.call(method, self.message(kind, **fields))
        return caught.exception.code(), caught.exception.details()

    def test_health_and_metadata(self):
        self.assertTrue(self.call("ServerLive", self.message("inference.ServerLiveRequest")).live)
        self.assertTrue(self.call("ServerReady", self.message("inference.ServerReadyRequest")).ready)
        self.assertEqual(self.call("ServerMetadata", self.message("inference.ServerMetadataRequest")).name,
                         "qianyi")
        self.assertTrue(self.call("ModelReady", self.message("inference.ModelReadyRequest", name="poet",
                                                             version="1")).ready)
        model = self.call("ModelMetadata", self.message("inference.ModelMetadataRequest", name="poet"))
        self.assertEqual([tensor.name for tensor in model.outputs], ["text", "finish_reason"])
        for method in ("ModelReady", "ModelMetadata"):
            for fields in ({"name": "other"}, {"name": "poet", "version": "2"}):
                code, _ = self.code(method, f"inference.{method}Request", **fields)
                self.assertEqual(code, grpc.StatusCode.NOT_FOUND)
        method = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        name = b"inference.GRPCInferenceService"
        self.assertEqual(method(b"\x0a" + bytes([len(name)]) + name), b"\x08\x01")

    def test_infer_in_contents_and_raw(self):
        parameters = {"max_tokens": {"int64_param": 20}, "seed": {"uint64_param": 3},
                      "temperature": {"double_param": 0.5}, "n": {"int64_param": 2}}
        text = "春风".encode()
        plain = self.infer(id="7", parameters=parameters, inputs=[self.tensor(text)])
        raw = self.infer(parameters=parameters, inputs=[self.tensor(None)],
                         raw_input_contents=[struct.pack("<I", len(text)) + text])
        completion = self.server.post("/v1/completions", {"prompt": "春风", "max_tokens": 20, "seed": 3,
                                                          "temperature": 0.5, "n": 2})[1]
        expected = [choice["text"].encode() for choice in completion["choices"]]
        self.assertEqual(list(plain.outputs[0].contents.bytes_contents), expected)
        self.assertEqual(raw.raw_output_contents[0],
                         b"".join(struct.pack("<I", len(text)) + text for text in expected))
        self.assertEqual((plain.id, plain.model_name, list(plain.outputs[0].shape)), ("7", "poet", [2]))
        self.assertEqual(plain.parameters["completion_tokens"].int64_param,
                         completion["usage"]["completion_tokens"])

    def test_refused(self):
        for word, fields in (
                ("inputs", {}), ("inputs[0].data", {"inputs": [self.tensor(None)]}),
                ("inputs[0].data", {"inputs": [self.tensor(None)], "raw_input_contents": [b"\x05\0\0\0abc"]}),
                ("inputs[0].data", {"inputs": [self.tensor(None)], "raw_input_contents": [b"\xff\xff\xff\xffa"]}),
                ("UTF-8", {"inputs": [self.tensor(b"\xff\xfe")]}),
                ("seed", {"inputs": [self.tensor(b"x")], "parameters": {"seed": {"string_param": "x"}}})):
            code, details = self.code("ModelInfer", "inference.ModelInferRequest",
                                      **{"model_name": "poet", **fields})
            self.assertEqual(code, grpc.StatusCode.INVALID_ARGUMENT, details)
            self.assertIn(word, details)
        code, _ = self.code("ModelInfer", "inference.ModelInferRequest", model_name="other",
                            inputs=[self.tensor(b"x")])
        self.assertEqual(code, grpc.StatusCode.NOT_FOUND)

    def test_a_deadline_stops_the_work(self):
        request = self.message("inference.ModelInferRequest", model_name="poet",
                               inputs=[self.tensor("春".encode())],
                               parameters={"n": {"int64_param": 60}, "max_tokens": {"int64_param": 500}})
        with self.assertRaises(grpc.RpcError) as caught:
            self.call("ModelInfer", request, timeout=0.2)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.server.wait_until_idle()


class Pictures(ByReflection, unittest.TestCase):
    """A model that paints: a text in, pictures out as a tensor of pixels."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.server = Server(model=make_painter(cls.folder.name))

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.errors()
        cls.folder.cleanup()

    def setUp(self):
        super().setUp()
        self.service = self.pool.FindServiceByName("inference.GRPCInferenceService")

    def files(self, **fields):
        status, answer = self.server.post("/v1/images/generations", fields)
        self.assertEqual(status, 200, answer)
        return [base64.b64decode(one["b64_json"]) for one in answer["data"]], [one["seed"] for one in answer["data"]]

    def test_metadata(self):
        _, _, body = self.server.ask("GET", "/v2/models/painter")
        model = json.loads(body)
        self.assertEqual([one["name"] for one in model["inputs"]], ["text"])
        self.assertEqual([(one["name"], one["datatype"], one["shape"]) for one in model["outputs"]],
                         [("image", "UINT8", [-1, -1, -1, 3]), ("seed", "INT64", [-1])])

    def test_rest_gives_the_pixels_of_the_files(self):
        parameters = {"n": 2, "seed": 5, "style": "国画", "temperature": 0.9}
        status, answer = self.server.post("/v2/models/painter/infer", {
            "id": "8", "inputs": [tensor("一只猫")], "parameters": parameters})
        self.assertEqual(status, 200, answer)
        image, seed = answer["outputs"]
        files, seeds = self.files(prompt="一只猫", **parameters)
        self.assertEqual((image["datatype"], image["shape"], answer["id"]), ("UINT8", [2, 32, 32, 3], "8"))
        self.assertEqual(bytes(image["data"]), b"".join(png_pixels(file) for file in files))
        self.assertEqual((seed["datatype"], seed["data"]), ("INT64", seeds))
        self.assertGreater(answer["parameters"]["completion_tokens"], 0)
        status, answer = self.server.post("/v2/models/painter/infer", {
            "inputs": [tensor("一只猫")], "parameters": {"seed": 5}, "outputs": [{"name": "seed"}]})
        self.assertEqual((status, [one["name"] for one in answer["outputs"]]), (200, ["seed"]))

    def test_grpc_gives_the_same_in_contents_and_raw(self):
        text = "狗".encode()
        given = {"name": "text", "datatype": "BYTES", "shape": [1]}
        message = lambda **fields: self.message(
            "inference.ModelInferRequest", model_name="painter",
            parameters={"seed": {"int64_param": 9}, "candidates": {"int64_param": 2}}, **fields)
        plain = self.call("ModelInfer", message(inputs=[{**given, "contents": {"bytes_contents": [text]}}]))
        raw = self.call("ModelInfer", message(inputs=[given],
                                              raw_input_contents=[struct.pack("<I", len(text)) + text]))
        (file,), (seed,) = self.files(prompt="狗", seed=9, candidates=2)
        self.assertEqual(bytes(plain.outputs[0].contents.uint_contents), png_pixels(file))
        self.assertEqual(raw.raw_output_contents[0], png_pixels(file))
        self.assertEqual(list(plain.outputs[0].shape), [1, 32, 32, 3])
        self.assertEqual(list(plain.outputs[1].contents.int64_contents), [seed])
        self.assertEqual(raw.raw_output_contents[1], struct.pack("<q", seed))

    def test_refused_by_name(self):
        good = {"inputs": [tensor("猫")]}
        for word, body in (
                ("outputs[0].name", {**good, "outputs": [{"name": "text"}]}),
                ("n is 100", {**good, "parameters": {"n": 100}}),
                ("parameters.max_tokens", {**good, "parameters": {"max_tokens": 5}}),
                ("parameters.stream", {**good, "parameters": {"stream": True}}),
                ("size", {**good, "parameters": {"size": "5x5"}}),
                ("style", {**good, "parameters": {"style": "油画"}}),
                ("inputs[0].data", {"inputs": [tensor("猫", data=[])]})):
            status, answer = self.server.post("/v2/models/painter/infer", body)
            self.assertEqual(status, 400, answer)
            self.assertIn(word, answer["error"])

    def test_a_deadline_stops_the_work(self):
        request = self.message("inference.ModelInferRequest", model_name="painter",
                               inputs=[{"name": "text", "datatype": "BYTES", "shape": [1],
                                        "contents": {"bytes_contents": ["猫".encode()]}}],
                               parameters={"n": {"int64_param": 16}})
        try:  # a machine may be fast
            self.call("ModelInfer", request, timeout=0.02)
        except grpc.RpcError as error:
            self.assertEqual(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        end = time.monotonic() + 30
        while self.server.metric("qianyi_image_requests") > 0:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)


if __name__ == "__main__":
    unittest.main()
