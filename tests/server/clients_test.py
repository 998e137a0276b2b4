"""Clients that nobody here wrote: openai's Python package, and grpcio by reflection alone."""

import unittest

import grpc
import openai

from reflection import ByReflection
from serving import ENDLESS, ServerTest


class OpenAi(ServerTest):

    def client(self):
        return openai.OpenAI(base_url=f"http://{self.server.http}/v1", api_key="none",
                             max_retries=0)

    def test_models(self):
        self.assertEqual([model.id for model in self.client().models.list()], ["poet"])

    def test_chat_whole_and_streamed(self):
        ask = {"model": "poet", "messages": [{"role": "user", "content": "李白是哪个朝代的人？"}],
               "seed": 1, "max_tokens": 30}
        whole = self.client().chat.completions.create(**ask)
        self.assertIn(whole.choices[0].finish_reason, ("stop", "length"))
        text, usage, reasons = "", None, []
        for chunk in self.client().chat.completions.create(
                stream=True, stream_options={"include_usage": True}, **ask):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reasons += [choice.finish_reason] if choice.finish_reason else []
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(reasons, [whole.choices[0].finish_reason])
        self.assertEqual(usage.total_tokens, whole.usage.total_tokens)

    def test_completion_whole_and_streamed(self):
        ask = {"model": "poet", "prompt": "七绝《秋夜泊船》：", "seed": 2, "max_tokens": 40}
        whole = self.client().completions.create(**ask)
        text = "".join(chunk.choices[0].text
                       for chunk in self.client().completions.create(stream=True, **ask))
        self.assertEqual(text, whole.choices[0].text)
        self.assertTrue(text)

    def test_errors_are_the_packages_own(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client().completions.create(model="poet", prompt="春", n=1000)
        self.assertEqual(caught.exception.param, "n")
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client().completions.create(model="other", prompt="春")
        self.assertEqual(caught.exception.code, "model_not_found")


class Grpc(ByReflection, ServerTest):

    def test_models_and_tokens(self):
        models = self.call("ListModels", self.message("qianyi.v1.ListModelsRequest")).models
        self.assertEqual([model.name for model in models], ["poet"])
        plain = self.call("Tokenize", self.message("qianyi.v1.TokenizeRequest", text="[MASK]月"))
        acting = self.call("Tokenize", self.message("qianyi.v1.TokenizeRequest", text="[MASK]月",
                                                    commands=True))
        self.assertEqual(len(acting.tokens), 2)
        self.assertGreater(len(plain.tokens), 2)

    def test_streams_say_the_same_as_whole_answers(self):
        inputs = [{"completion": {"prompt": "七绝《秋夜泊船》："}},
                  {"completion": {"prompt": "[MASK]山[MASK]水"}},
                  {"chat": {"messages": [{"role": "user", "content": "杜甫是谁？"}]}},
                  {"poem": {"title": "秋夜泊船", "form": "五律"}},
                  {"couplet": {"upper": "两个黄鹂鸣翠柳"}},
                  {"summary": {"text": "白日依山尽，黄河入海流。"}},
                  {"question": {"question": "李白是哪个朝代的人？"}}]
        for fields in inputs:
            # max_tokens bounds each blank; forms end by themselves before it.
            request = self.generate(parameters={"seed": 3, "max_tokens": 60}, **fields)
            whole = self.call("Generate", request, timeout=60)
            blanks, usage, reasons = {}, None, []
            for chunk in self.call("GenerateStream", request, timeout=60):
                blanks[chunk.blank] = blanks.get(chunk.blank, "") + chunk.text
                usage = chunk.usage if chunk.HasField("usage") else usage
                reasons += [chunk.finish_reason] if chunk.finish_reason else []
            choice = whole.choices[0]
            self.assertEqual([blanks.get(i, "") for i in range(len(choice.blanks))],
                             list(choice.blanks), fields)
            self.assertEqual(choice.text, choice.blanks[0])
            self.assertEqual(reasons, [choice.finish_reason])
            self.assertGreaterEqual(usage.cached_tokens, whole.usage.cached_tokens)
            usage.ClearField("cached_tokens")
            whole.usage.ClearField("cached_tokens")
            self.assertEqual(usage, whole.usage)
        self.assertEqual(self.server.post("/v1/tasks/poem", {
            "title": "秋夜泊船", "form": "五律", "seed": 3})[1]["text"],
            self.call("Generate", self.generate(
                poem={"title": "秋夜泊船", "form": "五律"}, parameters={"seed": 3})).choices[0].text)

    def test_errors(self):
        for fields, code, word in (
                ({}, grpc.StatusCode.INVALID_ARGUMENT, "input"),
                ({"model": "other", "completion": {"prompt": "春"}},
                 grpc.StatusCode.NOT_FOUND, "other"),
                ({"completion": {"prompt": "春"}, "parameters": {"n": 10**6}},
                 grpc.StatusCode.INVALID_ARGUMENT, "n is 1000000"),
                ({"completion": {"prompt": "春"}, "parameters": {"temperature": -1.0}},
                 grpc.StatusCode.INVALID_ARGUMENT, "temperature"),
                ({"completion": {"prompt": "春"}, "parameters": {"max_tokens": -1}},
                 grpc.StatusCode.INVALID_ARGUMENT, "max_tokens"),
                ({"couplet": {"upper": "hello"}}, grpc.StatusCode.INVALID_ARGUMENT, "hel")):
            for method in ("Generate", "GenerateStream"):
                with self.assertRaises(grpc.RpcError) as caught:
                    list(self.call(method, self.generate(**fields))
                         if method == "GenerateStream" else
                         [self.call(method, self.generate(**fields))])
                self.assertEqual(caught.exception.code(), code, fields)
                self.assertIn(word, caught.exception.details())

    def test_cancel_and_deadline_stop_the_work(self):
        request = self.generate(
            completion={"prompt": ENDLESS["prompt"]},
            parameters={"n": 128, "max_tokens": 500, "logit_bias": ENDLESS["logit_bias"]})
        before = self.server.metric("qianyi_generated_tokens_total")
        # More than may ever run and wait: refused whole, and trying again is no use.
        with self.assertRaises(grpc.RpcError) as caught:
            self.call("Generate", request)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.server.wait_until_idle()
        request.parameters.n = 48
        with self.assertRaises(grpc.RpcError) as caught:
            self.call("Generate", request, timeout=0.3)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.server.wait_until_idle()
        stream = self.call("GenerateStream", request)
        next(stream)
        stream.cancel()
        self.server.wait_until_idle()
        made = self.server.metric("qianyi_generated_tokens_total") - before
        self.assertLess(made, 48 * 500)

    def test_health(self):
        # The messages are two bytes long, and nothing else here needs their Python package.
        method = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        self.assertEqual(method(b""), b"\x08\x01")  # SERVING
        name = b"qianyi.v1.Inference"
        self.assertEqual(method(b"\x0a" + bytes([len(name)]) + name), b"\x08\x01")
        with self.assertRaises(grpc.RpcError) as caught:
            method(b"\x0a\x03abc")
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)


if __name__ == "__main__":
    unittest.main()
