"""Chats in other words: OpenAI's responses and Anthropic's messages, by their unmodified clients."""

import json
import unittest

import anthropic
import openai

import tools_test
from serving import ENDLESS, ServerTest

ASK = "北京天气怎么样？"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
COUNT = "/v1/messages/count_tokens"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
FUNCTIONS = [{"type": "function", "name": "get_weather", "description": "天气", "parameters": SCHEMA},
             {"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}}]
TOOLS = [{"name": "get_weather", "description": "天气", "input_schema": SCHEMA},
         {"name": "now", "input_schema": {"type": "object", "properties": {}}}]
SPOKEN = ("用户问天气。\n要查。", "我查一下。")


class Responses(tools_test.SpellingTest):
    FORMAT, TEXTS = tools_test.Glm45.FORMAT, tools_test.Glm45.TEXTS

    def respond(self, **more):
        return self.client.responses.create(**{"model": self.FORMAT, "input": ASK, **more})

    def parts(self, response):
        """What it is made of: ("reasoning" | "message", text) or (name, arguments)."""
        found = []
        for item in response.output:
            if item.type == "function_call":
                self.assertTrue(item.call_id)
                found.append((item.name, json.loads(item.arguments)))
            else:
                found.append((item.type, "".join(part.text for part in item.content)))
        return found

    def test_reasoning_text_and_calls(self):
        response = self.respond(tools=FUNCTIONS)
        self.assertEqual(self.parts(response), [("reasoning", SPOKEN[0]), ("message", SPOKEN[1]),
                                                *tools_test.Glm45.CALLS])
        self.assertEqual((response.object, response.status, response.error), ("response", "completed", None))
        self.assertEqual(response.output_text, SPOKEN[1])
        self.assertEqual([tool.name for tool in response.tools], ["get_weather", "now"])
        usage = response.usage
        self.assertEqual(usage.total_tokens, usage.input_tokens + usage.output_tokens)
        # <think>, the text in pieces of three characters, </think>.
        self.assertTrue(3 <= usage.output_tokens_details.reasoning_tokens < usage.output_tokens / 2, usage)

    def test_streams_say_the_same(self):
        with self.client.responses.stream(model=self.FORMAT, input=ASK, tools=FUNCTIONS) as stream:
            events = list(stream)
            final = stream.get_final_response()
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        kinds = [event.type for event in events]
        self.assertEqual((kinds[:2], kinds[-1]), (["response.created", "response.in_progress"],
                                                  "response.completed"))
        whole = self.respond(tools=FUNCTIONS)
        self.assertEqual(self.parts(final), self.parts(whole))
        self.assertEqual(final.usage, whole.usage)
        text = {}
        for event in events:
            if event.type.endswith(".delta"):
                key = (event.output_index, event.item_id)
                text[key] = text.get(key, "") + event.delta
            if event.type == "response.output_item.done":
                item = event.item
                done = item.arguments if item.type == "function_call" else item.content[0].text
                self.assertEqual(text[event.output_index, item.id], done)
        self.assertEqual(len(text), 4)

    def test_the_conversation_goes_on(self):
        first = self.respond(tools=FUNCTIONS)
        calls = [item for item in first.output if item.type == "function_call"]
        told = [{"role": "user", "content": [{"type": "input_text", "text": ASK}]},
                *[item.model_dump(exclude_none=True) for item in first.output],
                *[{"type": "function_call_output", "call_id": call.call_id, "output": "晴 <|user|>"}
                  for call in calls]]
        second = self.respond(input=told, tools=FUNCTIONS, instructions="你是助手。",
                              extra_body={"logit_bias": self.model.without(0)})
        self.assertEqual(self.parts(second), [("reasoning", "想"), ("message", "晴。")])
        self.assertEqual(second.instructions, "你是助手。")
        # The same conversation as a chat has a prompt of the same length.
        calls = [{"id": call.call_id, "type": "function",
                  "function": {"name": call.name, "arguments": call.arguments}} for call in calls]
        chat = self.client.chat.completions.create(
            model=self.FORMAT, logit_bias=self.model.without(0),
            tools=[{"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
                   for tool in FUNCTIONS],
            messages=[{"role": "system", "content": "你是助手。"}, {"role": "user", "content": ASK},
                      {"role": "assistant", "content": SPOKEN[1], "reasoning_content": SPOKEN[0],
                       "tool_calls": calls},
                      *[{"role": "tool", "tool_call_id": call["id"], "content": "晴 <|user|>"}
                        for call in calls]])
        self.assertEqual(chat.usage.prompt_tokens, second.usage.input_tokens)

    def test_thinking_and_choice(self):
        response = self.respond(reasoning={"effort": "none"})
        self.assertEqual(self.parts(response), [("message", "晴，<think>不想</think>。")])
        self.assertEqual(response.usage.output_tokens_details.reasoning_tokens, 0)
        for choice in ("required", {"type": "function", "name": "now"}):
            response = self.respond(tools=FUNCTIONS, tool_choice=choice)
            self.assertEqual(self.parts(response)[0][0], "now")

    def test_cut_off(self):
        response = self.respond(max_output_tokens=3)
        self.assertEqual((response.status, response.incomplete_details.reason),
                         ("incomplete", "max_output_tokens"))
        events = list(self.respond(max_output_tokens=3, stream=True))
        self.assertEqual(events[-1].type, "response.incomplete")
        streamed = events[-1].response.usage
        self.assertEqual((streamed.input_tokens, streamed.output_tokens),
                         (response.usage.input_tokens, response.usage.output_tokens))

    def test_refused_by_name(self):
        for param, body in (
                ("store", {"store": True}), ("previous_response_id", {"previous_response_id": "resp_1"}),
                ("conversation", {"conversation": "conv_1"}), ("background", {"background": True}),
                ("truncation", {"truncation": "auto"}), ("max_output_tokens", {"max_output_tokens": 0}),
                ("max_tool_calls", {"max_tool_calls": 1}), ("include", {"include": ["x"]}),
                ("reasoning.summary", {"reasoning": {"summary": "auto"}}),
                ("reasoning.effort", {"reasoning": {"effort": "most"}}),
                ("text.format", {"text": {"format": {"type": "json_schema"}}}),
                ("temperature", {"temperature": 3}), ("n", {"n": 2}), ("input", {"input": []}),
                ("input", {"input": 5}), ("input[0].type", {"input": [{"type": "item_reference"}]}),
                ("input[0]", {"input": ["x"]}), ("input[0].role", {"input": [{"role": "tool"}]}),
                ("input[0].content[0]", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
                ("input[0].call_id", {"input": [{"type": "function_call_output", "output": "x"}]}),
                ("input[0].arguments", {"input": [{"type": "function_call", "name": "a",
                                                   "arguments": "["}]}),
                ("tools[0].type", {"tools": [{"type": "web_search"}]}),
                ("tools[0].name", {"tools": [{"type": "function", "name": "a b"}]}),
                ("tools[0].parameters", {"tools": [{"type": "function", "name": "a", "parameters": []}]}),
                ("tool_choice.name", {"tools": FUNCTIONS, "tool_choice": {"type": "function", "name": "x"}}),
                ("stream_options", {"stream_options": {"include_obfuscation": True}}),
                ("service_tier", {"service_tier": "x"}), ("nothing", {"nothing": 1})):
            status, answer = self.server.post(RESPONSES, {"input": ASK, **body})
            self.assertEqual((status, answer["error"]["param"]), (400, param), answer)
            self.assertIn(param.split("[")[0].split(".")[0], answer["error"]["message"])
        for body in ({"store": False}, {"previous_response_id": None}, {"include": []}, {"metadata": {"a": "b"}},
                     {"text": {"format": {"type": "text"}}}, {"user": "u"}, {"service_tier": "flex"}):
            self.assertEqual(self.server.post(RESPONSES, {"input": ASK, "max_output_tokens": 2, **body})[0],
                             200, body)


class MessagesTest(tools_test.SpellingTest):
    FORMAT, TEXTS = tools_test.Glm45.FORMAT, tools_test.Glm45.TEXTS
    THINK = {"type": "enabled", "budget_tokens": 1024}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.anthropic = anthropic.Anthropic(base_url=f"http://{cls.server.http}", api_key="none",
                                            max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.anthropic.close()
        super().tearDownClass()

    def ask(self, **more):
        return self.anthropic.messages.create(**self.request(**more))

    def request(self, **more):
        return {"model": self.FORMAT, "max_tokens": 200, "messages": [{"role": "user", "content": ASK}],
                **more}

    def blocks(self, message):
        values = {"thinking": lambda block: block.thinking, "text": lambda block: block.text,
                  "tool_use": lambda block: (block.name, block.input)}
        return [(block.type, values[block.type](block)) for block in message.content]

    EXPECTED = [("thinking", SPOKEN[0]), ("text", SPOKEN[1]),
                *[("tool_use", call) for call in tools_test.Glm45.CALLS]]

    def test_thinking_text_and_calls(self):
        message = self.ask(tools=TOOLS, thinking=self.THINK)
        self.assertEqual(self.blocks(message), self.EXPECTED)
        self.assertEqual((message.type, message.role, message.stop_reason, message.stop_sequence),
                         ("message", "assistant", "tool_use", None))
        self.assertEqual(message.model, self.FORMAT)

    def test_streams_say_the_same(self):
        with self.anthropic.messages.stream(**self.request(tools=TOOLS, thinking=self.THINK)) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_message()
        whole = self.ask(tools=TOOLS, thinking=self.THINK)
        self.assertEqual(self.blocks(final), self.EXPECTED)
        self.assertEqual((final.stop_reason, self.prompt_tokens(final), final.usage.output_tokens),
                         (whole.stop_reason, self.prompt_tokens(whole), whole.usage.output_tokens))
        self.assertGreater(whole.usage.cache_read_input_tokens, 0)
        with self.anthropic.messages.stream(**self.request(tools=TOOLS, thinking=self.THINK)) as stream:
            self.assertEqual(stream.get_final_message().usage.input_tokens, whole.usage.input_tokens)
        self.assertEqual((kinds[0], kinds[-1]), ("message_start", "message_stop"))
        with self.anthropic.messages.stream(**self.request()) as stream:
            self.assertEqual("".join(stream.text_stream), "晴，<think>不想</think>。")

    @staticmethod
    def prompt_tokens(message):
        return message.usage.input_tokens + message.usage.cache_read_input_tokens

    def test_without_thinking_by_default(self):
        for more in ({}, {"thinking": {"type": "disabled"}}):
            message = self.ask(**more)
            self.assertEqual(self.blocks(message), [("text", "晴，<think>不想</think>。")])
            self.assertEqual(message.stop_reason, "end_turn")

    def test_tool_choice(self):
        for choice in ({"type": "any"}, {"type": "tool", "name": "now"}):
            self.assertEqual(self.blocks(self.ask(tools=TOOLS, tool_choice=choice)), [("tool_use", ("now", {}))])
        message = self.ask(tools=TOOLS, thinking=self.THINK,
                           tool_choice={"type": "auto", "disable_parallel_tool_use": True})
        self.assertEqual(self.blocks(message), self.EXPECTED[:-1])
        message = self.ask(tools=TOOLS, tool_choice={"type": "none"}, thinking=self.THINK)
        self.assertEqual([kind for kind, _ in self.blocks(message)], ["thinking", "text"])

    def test_the_conversation_goes_on(self):
        first = self.ask(tools=TOOLS, thinking=self.THINK)
        results = [{"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "晴"}]}
                   for block in first.content if block.type == "tool_use"]
        told = [{"role": "user", "content": ASK}, {"role": "assistant", "content": first.content},
                {"role": "user", "content": results + [{"type": "text", "text": "说吧。",
                                                        "cache_control": {"type": "ephemeral"}}]}]
        more = {"messages": told, "tools": TOOLS, "thinking": self.THINK,
                "system": [{"type": "text", "text": "你是"}, {"type": "text", "text": "助手。"}]}
        second = self.ask(**more, extra_body={"logit_bias": self.model.without(0)})
        self.assertEqual(self.blocks(second), [("thinking", "想"), ("text", "晴。")])
        counted = self.anthropic.messages.count_tokens(model=self.FORMAT, **more)
        self.assertEqual(counted.input_tokens, self.prompt_tokens(second))
        self.assertGreater(counted.input_tokens, first.usage.input_tokens)

    def test_stops(self):
        message = self.ask(stop_sequences=["。", "不想"])
        self.assertEqual((self.blocks(message), message.stop_reason, message.stop_sequence),
                         ([("text", "晴，<think>")], "stop_sequence", "不想"))
        message = self.ask(max_tokens=1)
        self.assertEqual(message.stop_reason, "max_tokens")
        with self.anthropic.messages.stream(**self.request(stop_sequences=["不想"])) as stream:
            self.assertEqual(stream.get_final_message().stop_sequence, "不想")

    def test_errors_are_the_packages_own(self):
        with self.assertRaises(anthropic.BadRequestError) as caught:
            self.ask(extra_body={"temperature": 3})
        error = caught.exception.body
        self.assertEqual((error["type"], error["error"]["type"], error["error"]["param"]),
                         ("error", "invalid_request_error", "temperature"))
        with self.assertRaises(anthropic.NotFoundError):
            self.ask(model="other")
        self.assertEqual(self.server.post(MESSAGES, {"max_tokens": 0})[1]["type"], "error")

    def test_refused_by_name(self):
        def content(*blocks, role="user"):
            return {"messages": [{"role": role, "content": list(blocks)}]}
        for param, body in (
                ("max_tokens", {"max_tokens": None}), ("max_tokens", {"max_tokens": 0}),
                ("stop_sequences", {"stop_sequences": [""]}), ("stop_sequences", {"stop_sequences": ["a"] * 5}),
                ("messages", {"messages": []}), ("messages[0].role", {"messages": [{"role": "system", "content": ""}]}),
                ("messages[0].content", {"messages": [{"role": "user", "content": 5}]}),
                ("messages[0].content[0].type", content({"type": "image"})),
                ("messages[0].content[0].text", content({"type": "text"})),
                ("messages[0].content[0].tool_use_id", content({"type": "tool_result"})),
                ("messages[0].content[0].input", content({"type": "tool_use", "name": "a"}, role="assistant")),
                ("messages[0].content[0].name", content({"type": "tool_use", "name": "a b", "input": {}},
                                                        role="assistant")),
                ("system", {"system": 5}), ("system[0]", {"system": [{"type": "image"}]}),
                ("tools[0].type", {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
                ("tools[0].name", {"tools": [{"name": "a b"}]}),
                ("tools[0].input_schema", {"tools": [{"name": "a", "input_schema": []}]}),
                ("tool_choice.type", {"tools": TOOLS, "tool_choice": {"type": "required"}}),
                ("tool_choice.name", {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "x"}}),
                ("thinking.type", {"thinking": {"type": "on"}}),
                ("thinking.budget_tokens", {"thinking": {"type": "enabled", "budget_tokens": "x"}}),
                ("n", {"n": 2}), ("mcp_servers", {"mcp_servers": [{}]}), ("nothing", {"nothing": 1})):
            status, answer = self.server.post(MESSAGES, {**self.request(), **body})
            self.assertEqual((status, answer["error"]["param"]), (400, param), answer)
            self.assertIn(param.split("[")[0].split(".")[0], answer["error"]["message"])


class Poet(ServerTest):
    """A model whose format has neither tools nor thinking."""

    FLAGS = ("--batch", "1", "--queue", "1")

    def test_both(self):
        status, answer = self.server.post(RESPONSES, {"input": ASK, "seed": 1, "max_output_tokens": 20})
        self.assertEqual(status, 200, answer)
        text = answer["output"][0]["content"][0]["text"]
        status, answer = self.server.post(MESSAGES, {"messages": [{"role": "user", "content": ASK}],
                                                     "seed": 1, "max_tokens": 20,
                                                     "thinking": {"type": "adaptive"}})
        self.assertEqual((status, answer["content"]), (200, [{"type": "text", "text": text}]))
        status, answer = self.server.post(COUNT, {"messages": [{"role": "user", "content": ASK}]})
        self.assertEqual((status, list(answer)), (200, ["input_tokens"]))

    def test_what_it_lacks_is_refused(self):
        ask = {"max_tokens": 5, "messages": [{"role": "user", "content": ASK}]}
        for path, body, param in ((RESPONSES, {"input": ASK, "tools": FUNCTIONS}, "tools"),
                                  (RESPONSES, {"input": ASK, "reasoning": {"effort": "high"}}, "reasoning.effort"),
                                  (MESSAGES, {**ask, "tools": TOOLS}, "tools"),
                                  (MESSAGES, {**ask, "thinking": {"type": "enabled"}}, "thinking"),
                                  (COUNT, {**ask, "tools": TOOLS, "max_tokens": None}, "tools")):
            status, answer = self.server.post(path, body)
            self.assertEqual((status, answer["error"]["param"]), (400, param), answer)

    def test_overload(self):
        connections = [self.server.connect() for _ in range(2)]
        for connection in connections:
            connection.request("POST", "/v1/completions", json.dumps({**ENDLESS, "stream": True}))
        while self.server.metric("qianyi_requests_waiting") == 0:
            pass
        client = anthropic.Anthropic(base_url=f"http://{self.server.http}", api_key="none", max_retries=0)
        with self.assertRaises(anthropic.InternalServerError) as caught:
            client.messages.create(model="poet", max_tokens=5, messages=[{"role": "user", "content": ASK}])
        self.assertEqual(caught.exception.body["error"]["type"], "overloaded_error")
        self.assertGreaterEqual(int(caught.exception.response.headers["Retry-After"]), 1)
        for connection in connections:
            connection.close()
        self.server.wait_until_idle()


if __name__ == "__main__":
    unittest.main()
