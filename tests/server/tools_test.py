"""Tools and thinking, from openai's unmodified client to weights that spell out what is parsed."""

import json
import tempfile
import unittest

import grpc
import openai

from reflection import ByReflection
from serving import Server, ServerTest
from spelling import Spelling

TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "天气", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}]
ASK = [{"role": "user", "content": "北京天气怎么样？"}]
CHAT = "/v1/chat/completions"


class SpellingTest(unittest.TestCase):
    """Tests that share one server of a model that spells."""

    FORMAT, TEXTS = None, ()

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.model = Spelling(cls.folder.name, cls.FORMAT, cls.TEXTS)
        cls.server = Server(model=str(cls.model.folder))
        cls.client = openai.OpenAI(base_url=f"http://{cls.server.http}/v1", api_key="none",
                                   max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        code = cls.server.stop()
        cls.folder.cleanup()
        assert code == 0, f"the server ended with {code}: {cls.server.errors()}"

    def ask(self, **more):
        return self.client.chat.completions.create(model=self.FORMAT, **{"messages": ASK, **more})

    def streamed(self, **more):
        """(content, reasoning, {index: [id, name, arguments]}, finish_reason) of a stream."""
        content, reasoning, calls, reason = "", "", {}, None
        for chunk in self.ask(stream=True, **more):
            choice = chunk.choices[0]
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            for call in choice.delta.tool_calls or []:
                if call.index not in calls:  # id and name come first, and once
                    self.assertEqual(call.index, len(calls))
                    self.assertTrue(call.id)
                    self.assertTrue(call.function.name)
                    calls[call.index] = [call.id, call.function.name, ""]
                else:
                    self.assertIsNone(call.id)
                    self.assertIsNone(call.function.name)
                calls[call.index][2] += call.function.arguments or ""
            reason = choice.finish_reason or reason
        return content, reasoning, calls, reason

    def expect(self, content, reasoning, calls, reason, **more):
        """The same whole and in a stream; `calls` are names and arguments."""
        message = self.ask(**more).choices[0]
        self.assertEqual(message.message.content, content)
        self.assertEqual(getattr(message.message, "reasoning_content", ""), reasoning)
        got = [(call.function.name, json.loads(call.function.arguments))
               for call in message.message.tool_calls or []]
        self.assertEqual(got, calls)
        self.assertEqual(message.finish_reason, reason)
        streamed = self.streamed(**more)
        self.assertEqual(streamed[0], content or "")
        self.assertEqual(streamed[1], reasoning)
        self.assertEqual([(name, json.loads(arguments)) for _, name, arguments in streamed[2].values()],
                         calls)
        self.assertEqual(len({call[0] for call in streamed[2].values()}), len(calls))
        self.assertEqual(streamed[3], reason)


class Glm4(SpellingTest):
    FORMAT = "glm4"
    TEXTS = [("<|assistant|>", 'get_weather\n{"city": "北京", "days": 3}', "<|observation|>"),
             ("<|assistant|>", "\n北京今天晴，\n二十度。 ", "<|user|>"),
             ("<|assistant|>", 'get_weather\n{"city": 北京}', "<|observation|>"),
             ("<|assistant|>", 'now\n{}<|assistant|>get_weather\n{"city":"上海"}', "<|observation|>"),
             ("\n", '{"city": "X"}', "<|observation|>")]
    WEATHER = ("get_weather", {"city": "北京", "days": 3})

    def test_a_call(self):
        self.expect(None, "", [self.WEATHER], "tool_calls", tools=TOOLS)
        self.expect(None, "", [self.WEATHER], "tool_calls", tools=TOOLS, tool_choice="auto")

    def test_content_where_no_tool_is_called(self):
        self.expect("北京今天晴，\n二十度。 ", "", [], "stop", tools=TOOLS,
                    logit_bias=self.model.without(0))
        self.expect('get_weather\n{"city": "北京", "days": 3}', "", [], "stop")
        self.expect('get_weather\n{"city": "北京", "days": 3}', "", [], "stop", tools=TOOLS,
                    tool_choice="none")

    def test_a_malformed_call_is_content(self):
        self.expect('get_weather\n{"city": 北京}', "", [], "stop", tools=TOOLS,
                    logit_bias=self.model.without(1))
        # One that max_tokens cuts off, too.
        self.expect('get_weather\n{"city', "", [], "length", tools=TOOLS, max_tokens=6)

    def test_parallel_calls(self):
        more = {"tools": TOOLS, "logit_bias": self.model.without(2)}
        self.expect(None, "", [("now", {}), ("get_weather", {"city": "上海"})], "tool_calls", **more)
        self.expect(None, "", [("now", {})], "tool_calls", parallel_tool_calls=False, **more)

    def test_a_named_tool_is_called(self):
        choice = {"type": "function", "function": {"name": "now"}}
        self.expect(None, "", [("now", {"city": "X"})], "tool_calls", tools=TOOLS, tool_choice=choice)
        self.expect(None, "", [("now", {"city": "X"})], "tool_calls", tools=TOOLS[1:],
                    tool_choice="required")

    def test_a_tool_is_chosen_where_one_is_required(self):
        # The model would answer; it may not.
        self.expect(None, "", [self.WEATHER], "tool_calls", tools=TOOLS, tool_choice="required",
                    logit_bias={str(self.model.firsts[1]): 100})

    def test_the_conversation_goes_on(self):
        first = self.ask(tools=TOOLS).choices[0].message
        messages = ASK + [first, {"role": "tool", "tool_call_id": first.tool_calls[0].id,
                                  "content": "晴 <|user|>"}]
        answer = self.ask(messages=messages, tools=TOOLS, logit_bias=self.model.without(0))
        self.assertEqual(answer.choices[0].message.content, "北京今天晴，\n二十度。 ")
        # What the prompt is made of: <|user|> in a result is 8 bytes of text and no token.
        plain = self.ask(messages=messages[:-1] + [{**messages[-1], "content": "晴 12345678"}],
                         tools=TOOLS)
        self.assertEqual(answer.usage.prompt_tokens, plain.usage.prompt_tokens)

    def test_choices_have_calls_of_their_own(self):
        answer = self.ask(tools=TOOLS, n=2, seed=1)
        self.assertEqual([len(choice.message.tool_calls) for choice in answer.choices], [1, 1])
        ids = {choice.message.tool_calls[0].id for choice in answer.choices}
        self.assertEqual(len(ids), 2)

    def test_limits_are_refused_by_name(self):
        def tool(**function):
            return {"type": "function", "function": function}

        deep = {}
        for _ in range(33):
            deep = {"a": deep}
        for param, body in (
                ("tools", {"tools": {}}), ("tools", {"tools": [tool(name=f"t{i}") for i in range(129)]}),
                ("tools[0].type", {"tools": [{}]}), ("tools[0].type", {"tools": [{"type": "retrieval"}]}),
                ("tools[0].function", {"tools": [{"type": "function"}]}),
                ("tools[1].function.name", {"tools": [tool(name="a"), tool(name="b c")]}),
                ("tools[0].function.name", {"tools": [tool(name="a" * 65)]}),
                ("tools[0].function.name", {"tools": [tool(name="")]}),
                ("tools[1].function.name", {"tools": [tool(name="a"), tool(name="a")]}),
                ("tools[0].function.description", {"tools": [tool(name="a", description=1)]}),
                ("tools[0].function.parameters", {"tools": [tool(name="a", parameters=[])]}),
                ("tools[0].function.parameters", {"tools": [tool(name="a", parameters=deep)]}),
                ("tools[0]", {"tools": [tool(name="a", description="x" * 70000)]}),
                ("tools", {"tools": [tool(name=f"t{i}", description="x" * 60000) for i in range(10)]}),
                ("tool_choice", {"tools": TOOLS, "tool_choice": "always"}),
                ("tool_choice", {"tool_choice": "required"}),
                ("tool_choice.function.name", {"tools": TOOLS, "tool_choice": tool(name="other")}),
                ("parallel_tool_calls", {"tools": TOOLS, "parallel_tool_calls": 1}),
                ("thinking", {"thinking": {"type": "enabled"}}),
                ("thinking.type", {"thinking": {"type": "off"}}),
                ("chat_template_kwargs.x", {"chat_template_kwargs": {"x": 1}}),
                ("reasoning_effort", {"reasoning_effort": "high"}),
                ("reasoning_effort", {"reasoning_effort": "most"}),
                ("messages[1].tool_call_id", {"messages": ASK + [{"role": "tool", "content": "x"}]}),
                ("messages[1].tool_calls[0].function.arguments", {"messages": ASK + [
                    {"role": "assistant", "tool_calls": [tool(name="now", arguments="[]")]}]}),
                ("messages[1].content", {"messages": ASK + [{"role": "assistant"}]})):
            status, answer = self.server.post(CHAT, {"messages": ASK, **body})
            self.assertEqual((status, answer["error"]["param"]), (400, param), answer)
        for body in ({"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}, {"tools": []},
                     {"chat_template_kwargs": {"enable_thinking": False}}, {"tool_choice": "none"}):
            self.assertEqual(self.server.post(CHAT, {"messages": ASK, **body})[0], 200, body)


class Glm45(SpellingTest):
    FORMAT = "glm4.5"
    CALL = ("\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>北京</arg_value>\n"
            "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>")
    TEXTS = [("<|assistant|>", "\n<think>用户问天气。\n要查。</think>\n我查一下。" + CALL
              + "\n<tool_call>now\n</tool_call>", "<|observation|>"),
             ("<|assistant|>", "\n<think>想</think>\n\n晴。", "<|user|>"),
             ("</think>", "\n晴，<think>不想</think>。", "<|user|>"),
             ("<tool_call>", "now\n</tool_call>", "<|observation|>"),
             ("\n", "</tool_call>", "<|observation|>")]
    CALLS = [("get_weather", {"city": "北京", "days": 3}), ("now", {})]

    def test_reasoning_content_and_calls(self):
        self.expect("我查一下。", "用户问天气。\n要查。", self.CALLS, "tool_calls", tools=TOOLS)

    def test_reasoning_without_tools(self):
        self.expect("晴。", "想", [], "stop", logit_bias=self.model.without(0))

    def test_thinking_can_be_turned_off(self):
        for switch in ({"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}},
                       {"extra_body": {"thinking": {"type": "disabled"}}},
                       {"reasoning_effort": "none"}):
            self.expect("晴，<think>不想</think>。", "", [], "stop", **switch)
        for switch in ({"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}},
                       {"extra_body": {"thinking": {"type": "enabled"}}}, {"reasoning_effort": "low"}):
            self.expect("晴。", "想", [], "stop", logit_bias=self.model.without(0), **switch)

    def test_a_demanded_call_is_begun_for_the_model(self):
        self.expect(None, "", [("now", {})], "tool_calls", tools=TOOLS, tool_choice="required")
        choice = {"type": "function", "function": {"name": "get_weather"}}
        self.expect(None, "", [("get_weather", {})], "tool_calls", tools=TOOLS, tool_choice=choice)

    def test_tasks_do_not_think(self):
        status, answer = self.server.post("/v1/tasks/qa", {"question": "天气？"})
        self.assertEqual((status, answer["text"]), (200, "晴，<think>不想</think>。"))

    def test_stop_strings_end_reasoning_too(self):
        self.expect("", "用户问", [], "stop", tools=TOOLS, stop=["天气"])


class Glm47(SpellingTest):
    FORMAT = "glm4.7"
    TEXTS = [("<think>", "要查。</think><tool_call>get_weather<arg_key>city</arg_key>"
              "<arg_value>北京</arg_value></tool_call>", "<|observation|>"),
             ("</think>", "晴。", "<|user|>"),
             ("<tool_call>", "now2</tool_call>", "<|observation|>"),
             ("<tool_call>", "now</tool_call>", "<|observation|>")]

    def test_thinking_is_open_at_the_beginning(self):
        self.expect(None, "要查。", [("get_weather", {"city": "北京"})], "tool_calls", tools=TOOLS)
        self.expect("晴。", "", [], "stop", reasoning_effort="none")

    def test_only_tools_that_are_offered_can_be_chosen(self):
        self.expect(None, "", [("now", {})], "tool_calls", tools=TOOLS, tool_choice="required")


class Grpc(ByReflection, SpellingTest):
    """The same over gRPC."""

    FORMAT, TEXTS = Glm45.FORMAT, Glm45.TEXTS
    CHAT = {"messages": [{"role": "user", "content": "天气？"}],
            "tools": [{"name": "get_weather", "parameters":
                       '{"type": "object", "properties": {"days": {"type": "integer"}}}'},
                      {"name": "now"}]}

    def test_calls_and_reasoning(self):
        request = self.generate(chat=self.CHAT)
        choice = self.call("Generate", request).choices[0]
        self.assertEqual((choice.text, choice.reasoning), ("我查一下。", "用户问天气。\n要查。"))
        self.assertEqual([(call.name, json.loads(call.arguments)) for call in choice.tool_calls],
                         Glm45.CALLS)
        self.assertEqual(choice.finish_reason, 3)  # FINISH_REASON_TOOL_CALLS
        chunks = list(self.call("GenerateStream", request))
        self.assertEqual("".join(chunk.text for chunk in chunks), choice.text)
        self.assertEqual("".join(chunk.reasoning for chunk in chunks), choice.reasoning)
        calls = [chunk.tool_call for chunk in chunks if chunk.HasField("tool_call")]
        self.assertEqual([call.arguments for call in calls],
                         [call.arguments for call in choice.tool_calls])
        self.assertEqual([chunk.finish_reason for chunk in chunks if chunk.finish_reason], [3])

    def test_thinking_off_and_a_demanded_call(self):
        choice = self.call("Generate", self.generate(chat={**self.CHAT, "thinking": False})).choices[0]
        self.assertEqual((choice.text, choice.reasoning, choice.finish_reason),
                         ("晴，<think>不想</think>。", "", 1))
        choice = self.call("Generate", self.generate(
            chat={**self.CHAT, "tool_choice": "get_weather"})).choices[0]
        self.assertEqual([call.name for call in choice.tool_calls], ["get_weather"])

    def test_results_name_their_calls(self):
        messages = [*self.CHAT["messages"],
                    {"role": "assistant", "tool_calls": [{"id": "a", "name": "now", "arguments": "{}"}]},
                    {"role": "tool", "content": "3", "tool_call_id": "a"}]
        self.assertTrue(self.call("Generate", self.generate(
            chat={**self.CHAT, "messages": messages})).choices)
        messages[0] = {**messages[0], "tool_call_id": "a"}
        with self.assertRaises(grpc.RpcError) as caught:
            self.call("Generate", self.generate(chat={**self.CHAT, "messages": messages}))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertIn("messages[0].tool_call_id", caught.exception.details())

    def test_errors(self):
        for chat, word in (({**self.CHAT, "tools": [{"name": "a b"}]}, "tools[0].function.name"),
                           ({**self.CHAT, "tools": [{"name": "a", "parameters": "{"}]}, "parameters"),
                           ({**self.CHAT, "tool_choice": "other"}, "tool_choice")):
            with self.assertRaises(grpc.RpcError) as caught:
                self.call("Generate", self.generate(chat=chat))
            self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn(word, caught.exception.details())


class WithoutTools(ServerTest):
    """The poet, whose conversations are written by templates."""

    def test_tools_are_refused_with_the_reason(self):
        status, answer = self.server.post(CHAT, {"messages": ASK, "tools": TOOLS})
        self.assertEqual((status, answer["error"]["param"]), (400, "tools"))
        self.assertIn("its chat format has none", answer["error"]["message"])
        status, answer = self.server.post(CHAT, {"messages": ASK, "reasoning_effort": "high"})
        self.assertEqual((status, answer["error"]["param"]), (400, "reasoning_effort"))
        self.assertIn("does not have", answer["error"]["message"])
        status, answer = self.server.post(CHAT, {"messages": [
            *ASK, {"role": "tool", "tool_call_id": "1", "content": "x"}]})
        self.assertEqual((status, answer["error"]["param"]), (400, "messages"))
        self.assertIn("has no tools", answer["error"]["message"])


if __name__ == "__main__":
    unittest.main()
