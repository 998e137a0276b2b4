"""Answers that are JSON, by a schema or any object: what ends by itself parses and validates."""

import json
import unittest

import openai

from reflection import ByReflection
from serving import ServerTest
from tools_test import TOOLS, SpellingTest

CHAT = "/v1/chat/completions"
COMPLETE = "/v1/completions"


def form(schema):
    return {"type": "json_schema", "json_schema": {"name": "form", "strict": True, "schema": schema}}


def valid(value, schema, root=None):
    """The keywords that the server knows, read as the standard says."""
    root = schema if root is None else root
    if schema is True:
        return True
    if "$ref" in schema:
        path = schema["$ref"]
        return valid(value, root if path == "#" else root["$defs"][path[len("#/$defs/"):]], root)
    if "anyOf" in schema:
        return any(valid(value, part, root) for part in schema["anyOf"])
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    types = schema.get("type", list(kinds) + ["number"])
    types = [types] if isinstance(types, str) else types
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not any(isinstance(value, kinds[kind]) if kind in kinds else
               number and (kind == "number" or isinstance(value, int)) for kind in types):
        return False
    if isinstance(value, str):
        return schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9)
    if isinstance(value, list):
        return (schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**9) and
                all(valid(item, schema.get("items", True), root) for item in value))
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        more = schema.get("additionalProperties", True)
        return (all(name in value for name in schema.get("required", [])) and
                all(valid(item, properties[name], root) if name in properties else
                    more is not False and valid(item, more, root)
                    for name, item in value.items()))
    return True


SHORT = {"type": "string", "maxLength": 8}
SCHEMAS = [
    {"type": "object", "properties": {"诗人": SHORT, "年": {"type": "integer"}},
     "required": ["诗人", "年"], "additionalProperties": False},
    {"type": "object", "properties": {"a": SHORT, "ab": {"type": "boolean"}, "b": {"type": "null"}},
     "required": ["ab"], "additionalProperties": False},
    {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 4},
    {"enum": ["春", "夏", "秋", "冬", 12, 1, None]},
    {"const": "白日依山尽"},
    {"anyOf": [{"type": "object", "properties": {"kind": {"const": "one"}, "n": {"type": "integer"}},
                "required": ["kind", "n"], "additionalProperties": False},
               {"type": "object", "properties": {"kind": {"const": "two"}, "s": SHORT},
                "required": ["kind", "s"], "additionalProperties": False}]},
    {"type": "string", "minLength": 5, "maxLength": 7},
    {"type": ["integer", "null"]},
    {"$ref": "#/$defs/tree",
     "$defs": {"tree": {"type": "object", "additionalProperties": False, "required": ["value"],
                        "properties": {"value": {"type": "integer"},
                                       "children": {"type": "array", "maxItems": 2,
                                                    "items": {"$ref": "#/$defs/tree"}}}}}},
    {"type": "object", "title": "Any", "description": "told", "properties": {"x": SHORT},
     "additionalProperties": {"type": "integer"}},
]


class Schemas(ServerTest):

    def test_what_ends_by_itself_validates(self):
        ended = [0] * len(SCHEMAS)
        for at, schema in enumerate(SCHEMAS):
            for seed in range(6):
                path, ask = ((CHAT, {"messages": [{"role": "user", "content": "写一首诗"}]}) if seed % 2
                             else (COMPLETE, {"prompt": "春风"}))
                status, answer = self.server.post(path, {
                    **ask, "seed": seed, "max_tokens": 200, "temperature": [0, 1, 1.5][seed % 3],
                    "response_format": form(schema)})
                self.assertEqual(status, 200, answer)
                choice = answer["choices"][0]
                text = choice.get("text") or choice.get("message", {}).get("content")
                if choice["finish_reason"] == "length":
                    continue
                ended[at] += 1
                self.assertTrue(valid(json.loads(text), schema), (schema, text))
        self.assertGreater(min(ended), 0, ended)
        self.assertGreater(sum(ended), 5 * len(SCHEMAS), ended)

    def test_any_object(self):
        quote = self.server.post("/v1/tokenize", {"text": '"'})[1]["tokens"][-1]
        close = self.server.post("/v1/tokenize", {"text": "}"})[1]["tokens"][-1]
        ended = 0
        for seed in range(10):
            status, answer = self.server.post(COMPLETE, {
                "prompt": "春风", "seed": seed, "max_tokens": 200,
                "logit_bias": {str(quote): 12, str(close): 12},
                "response_format": {"type": "json_object"}})
            self.assertEqual(status, 200, answer)
            choice = answer["choices"][0]
            if choice["finish_reason"] == "stop":
                ended += 1
                self.assertIsInstance(json.loads(choice["text"]), dict)
        self.assertGreater(ended, 5)

    def test_streams_and_several_choices(self):
        body = {"messages": [{"role": "user", "content": "你好"}], "seed": 3, "n": 3,
                "max_tokens": 200, "response_format": form(SCHEMAS[0])}
        status, whole = self.server.post(CHAT, body)
        self.assertEqual(status, 200, whole)
        texts = ["", "", ""]
        for event in self.server.events(CHAT, body):
            for choice in event["choices"]:
                texts[choice["index"]] += choice["delta"].get("content") or ""
        self.assertEqual(texts, [choice["message"]["content"] for choice in whole["choices"]])
        for text in texts:
            self.assertTrue(valid(json.loads(text), SCHEMAS[0]), text)

    def test_text_is_text(self):
        body = {"prompt": "春风", "seed": 3, "max_tokens": 9}
        plain = self.server.post(COMPLETE, body)[1]["choices"]
        for asked in (None, {"type": "text"}):
            self.assertEqual(self.server.post(COMPLETE, {**body, "response_format": asked})[1]
                             ["choices"], plain)

    def test_logprobs_are_the_models_own(self):
        _, answer = self.server.post(COMPLETE, {
            "prompt": "春风", "seed": 3, "max_tokens": 40, "logprobs": 1,
            "response_format": form(SCHEMAS[0])})
        report = answer["choices"][0]["logprobs"]
        self.assertLess(min(report["token_logprobs"]), -3)  # a poet would not begin with {
        self.assertEqual("".join(report["tokens"]).strip(), answer["choices"][0]["text"].strip())

    def test_openais_client(self):
        client = openai.OpenAI(base_url=f"http://{self.server.http}/v1", api_key="none",
                               max_retries=0)
        chat = client.chat.completions.create(
            model="poet", messages=[{"role": "user", "content": "你好"}], seed=1, max_tokens=200,
            response_format=form(SCHEMAS[0]))
        self.assertTrue(valid(json.loads(chat.choices[0].message.content), SCHEMAS[0]))

    def test_refused_by_name(self):
        deep = {"type": "integer"}
        for _ in range(40):
            deep = {"type": "array", "items": deep}
        endless = {"$ref": "#/$defs/a", "$defs": {"a": {
            "type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}}}
        for schema, words in (
                ({"type": "string", "pattern": "a+"}, "schema has pattern"),
                ({"type": "object", "properties": {"x": {"type": "number", "minimum": 1}}},
                 "schema.properties.x has minimum"),
                ({"type": "thing"}, "type"), ({"enum": []}, "enum"), (deep, "nested"), (False, "object"),
                (endless, "never be satisfied"), ({"$ref": "#/$defs/none"}, "$ref"),
                ({"$ref": "http://127.0.0.1/x"}, "$ref"),
                ({"type": "string", "minLength": 3, "maxLength": 2}, "least"),
                ({"type": "array", "minItems": 10**9}, "minItems"),
                ({"anyOf": [{"const": i} for i in range(17)]}, "anyOf"),
                ({"enum": ["x" * 70000]}, "bytes"),
                ({"type": "object", "required": ["x"]}, "requires")):
            status, answer = self.server.post(CHAT, {
                "messages": [{"role": "user", "content": "x"}], "response_format": form(schema)})
            self.assertEqual((status, answer["error"]["param"]), (400, "response_format"), answer)
            self.assertIn(words, answer["error"]["message"])
        for fields, param in (({"response_format": {"type": "grammar"}}, "response_format"),
                              ({"response_format": "json"}, "response_format"),
                              ({"response_format": {"type": "json_schema"}}, "response_format"),
                              ({"response_format": {"type": "json_object", "x": 1}},
                               "response_format"),
                              ({"response_format": {"type": "json_object"}, "stop": ["a"]}, "stop"),
                              ({"response_format": {"type": "json_object"},
                                "prompt": "[MASK]山[MASK]"}, "response_format")):
            status, answer = self.server.post(COMPLETE, {"prompt": "春", **fields})
            self.assertEqual((status, answer["error"]["param"]), (400, param), answer)
        status, answer = self.server.post("/v1/tasks/poem", {
            "title": "春", "response_format": {"type": "json_object"}})
        self.assertEqual((status, answer["error"]["param"]), (400, "response_format"), answer)


class Grpc(ByReflection, ServerTest):

    def test_the_same_as_rest(self):
        _, rest = self.server.post(COMPLETE, {"prompt": "春风", "seed": 3, "max_tokens": 100,
                                              "response_format": form(SCHEMAS[0])})
        request = self.generate(completion={"prompt": "春风"},
                                parameters={"seed": 3, "max_tokens": 100},
                                response_format={"json_schema": json.dumps(SCHEMAS[0])})
        answer = self.call("Generate", request)
        self.assertEqual(answer.choices[0].text, rest["choices"][0]["text"])
        self.assertTrue(valid(json.loads(answer.choices[0].text), SCHEMAS[0]))
        request.response_format.json_object = True
        self.assertTrue(self.call("Generate", request).choices[0].text.startswith("{"))

    def test_refused_by_name(self):
        for fields, words in (({"json_schema": "{"}, "no JSON"),
                              ({"json_schema": '{"type": "string", "format": "date"}'}, "format")):
            request = self.generate(completion={"prompt": "春"}, response_format=fields)
            with self.assertRaisesRegex(Exception, words):
                self.call("Generate", request)
        request = self.generate(poem={"title": "春"}, response_format={"json_object": True})
        with self.assertRaisesRegex(Exception, "tasks"):
            self.call("Generate", request)


class WithTools(SpellingTest):
    """A model that thinks and calls tools: in an answer of a form it does neither."""

    FORMAT = "glm4.5"
    TEXTS = (("<|assistant|>", "天晴", "<|user|>"),)

    def test_what_looks_like_a_thought_or_a_call_is_text(self):
        for text in ("<think>x</think>", "<tool_call>now\n</tool_call>", "<|user|>", "<|endoftext|>"):
            answer = self.ask(response_format=form({"const": text}))
            self.assertEqual(json.loads(answer.choices[0].message.content), text)
            self.assertIsNone(answer.choices[0].message.tool_calls)
            self.assertEqual(answer.choices[0].finish_reason, "stop")
            self.assertFalse(getattr(answer.choices[0].message, "reasoning_content", None))

    def test_control_tokens_are_in_no_string(self):
        for word in ("<|user|>", "<|assistant|>", "<think>"):
            wanted = {str(self.model.token(word)): 100}
            answer = self.ask(response_format=form({"type": "string", "maxLength": 40}),
                              logit_bias=wanted, max_tokens=60)
            text = answer.choices[0].message.content
            self.assertNotIn(word, text)
            if answer.choices[0].finish_reason == "stop":
                self.assertIsInstance(json.loads(text), str)

    def test_what_it_cannot_be_joined_with(self):
        form_of = form({"type": "integer"})
        for fields, param in (({"tools": TOOLS}, "response_format"),
                              ({"reasoning_effort": "low"}, "reasoning_effort"),
                              ({"extra_body": {"thinking": {"type": "enabled"}}}, "thinking")):
            with self.assertRaises(openai.BadRequestError) as caught:
                self.ask(response_format=form_of, **fields)
            self.assertEqual(caught.exception.param, param)
        answer = self.ask(response_format=form_of, tools=TOOLS, tool_choice="none", max_tokens=40)
        self.assertIsInstance(json.loads(answer.choices[0].message.content), int)


if __name__ == "__main__":
    unittest.main()
