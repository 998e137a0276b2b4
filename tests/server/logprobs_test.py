"""Probabilities of tokens, and answers chosen by them."""

import math
import unittest

import openai

from reflection import ByReflection
from serving import ServerTest

CHAT = "/v1/chat/completions"
COMPLETE = "/v1/completions"
ASK = {"messages": [{"role": "user", "content": "李白是哪个朝代的人？"}], "seed": 4, "max_tokens": 24}
WRITE = {"prompt": "七绝《秋夜泊船》：", "seed": 4, "max_tokens": 24}


def text_of(entries):
    return b"".join(bytes(entry["bytes"] or []) for entry in entries).decode(errors="replace")


class Chat(ServerTest):

    def test_shape(self):
        status, answer = self.server.post(CHAT, {**ASK, "logprobs": True, "top_logprobs": 5})
        self.assertEqual(status, 200, answer)
        choice = answer["choices"][0]
        entries = choice["logprobs"]["content"]
        self.assertIsNone(choice["logprobs"]["refusal"])
        self.assertEqual(len(entries), answer["usage"]["completion_tokens"])
        self.assertEqual(text_of(entries).lstrip(), choice["message"]["content"])
        for entry in entries:
            self.assertLessEqual(entry["logprob"], 0)
            tops = [top["logprob"] for top in entry["top_logprobs"]]
            self.assertEqual(len(tops), 5)
            self.assertEqual(tops, sorted(tops, reverse=True))
            self.assertLessEqual(sum(math.exp(top) for top in tops), 1 + 1e-6)
            for top in entry["top_logprobs"]:
                if top["token"] == entry["token"]:
                    self.assertEqual(top["logprob"], entry["logprob"])
            self.assertLessEqual(entry["logprob"], tops[0])

    def test_without_alternatives_and_without_being_asked(self):
        _, answer = self.server.post(CHAT, {**ASK, "logprobs": True})
        self.assertTrue(all(entry["top_logprobs"] == []
                            for entry in answer["choices"][0]["logprobs"]["content"]))
        for asked in ({}, {"logprobs": False}, {"logprobs": None}):
            _, answer = self.server.post(CHAT, {**ASK, **asked})
            self.assertIsNone(answer["choices"][0]["logprobs"])

    def test_a_stream_reports_the_same(self):
        body = {**ASK, "logprobs": True, "top_logprobs": 2, "n": 2}
        _, whole = self.server.post(CHAT, body)
        entries = [[], []]
        for event in self.server.events(CHAT, body):
            for choice in event["choices"]:
                if choice["logprobs"]:
                    entries[choice["index"]] += choice["logprobs"]["content"]
        self.assertEqual(entries,
                         [choice["logprobs"]["content"] for choice in whole["choices"]])

    def test_refused_by_name(self):
        for fields, param in (({"top_logprobs": 2}, "top_logprobs"),
                              ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
                              ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
                              ({"logprobs": 3}, "logprobs")):
            status, answer = self.server.post(CHAT, {**ASK, **fields})
            self.assertEqual((status, answer["error"]["param"]), (400, param), answer)

    def test_the_clients_own_types(self):
        client = openai.OpenAI(base_url=f"http://{self.server.http}/v1", api_key="none",
                               max_retries=0)
        chat = client.chat.completions.create(model="poet", logprobs=True, top_logprobs=3, **ASK)
        entry = chat.choices[0].logprobs.content[0]
        self.assertEqual(len(entry.top_logprobs), 3)
        self.assertIsInstance(entry.logprob, float)
        legacy = client.completions.create(model="poet", logprobs=2, **WRITE)
        report = legacy.choices[0].logprobs
        self.assertEqual("".join(report.tokens), legacy.choices[0].text)


class Completion(ServerTest):

    def report(self, **fields):
        status, answer = self.server.post(COMPLETE, {**WRITE, "logprobs": 3, **fields})
        self.assertEqual(status, 200, answer)
        return answer["choices"][0]

    def test_shape(self):
        choice = self.report()
        report = choice["logprobs"]
        self.assertEqual("".join(report["tokens"]), choice["text"])
        self.assertEqual(report["text_offset"],
                         [len("".join(report["tokens"][:i])) for i in range(len(report["tokens"]))])
        for token, logprob, top in zip(report["tokens"], report["token_logprobs"],
                                       report["top_logprobs"]):
            self.assertIn(len(top), (3, 4))
            self.assertEqual(top[token], logprob)
        self.assertIsNone(self.report(logprobs=0)["logprobs"]["top_logprobs"])

    def test_of_the_models_own_distribution(self):
        """Whatever was done to the logits, the reports are those of scoring the same text."""
        compared = 0
        changes = ({}, {"temperature": 2}, {"top_k": 1}, {"presence_penalty": 2},
                   {"logit_bias": {"40": 3, "41": -100}}, {"repetition_penalty": 3})
        for change in changes:
            choice = self.report(**change)
            report = choice["logprobs"]
            _, scored = self.server.post("/v1/score", {"prompt": WRITE["prompt"],
                                                       "continuations": [choice["text"]]})
            score = scored["data"][0]
            if score["tokens"] != report["tokens"]:
                continue  # the text can be cut in other ways
            compared += 1
            for reported, given in zip(report["token_logprobs"], score["token_logprobs"]):
                self.assertAlmostEqual(reported, given, delta=1e-4, msg=change)
        self.assertGreater(compared, 2)

    def test_tokens_end_with_the_text(self):
        free = self.report(max_tokens=40)
        word = free["text"][4:6]
        stopped = self.report(max_tokens=40, stop=[word])
        self.assertEqual(stopped["text"], free["text"][:free["text"].index(word)])
        self.assertTrue("".join(stopped["logprobs"]["tokens"]).startswith(stopped["text"]))
        before = "".join(stopped["logprobs"]["tokens"][:-1])
        self.assertLess(len(before), max(len(stopped["text"]), 1))

    def test_a_stream_reports_the_same(self):
        whole = self.report()
        tokens, logprobs, offsets, text = [], [], [], ""
        for event in self.server.events(COMPLETE, {**WRITE, "logprobs": 3}):
            choice = event["choices"][0]
            text += choice["text"]
            if choice["logprobs"]:
                tokens += choice["logprobs"]["tokens"]
                logprobs += choice["logprobs"]["token_logprobs"]
                offsets += choice["logprobs"]["text_offset"]
        self.assertEqual(text, whole["text"])
        self.assertEqual((tokens, logprobs, offsets),
                         tuple(whole["logprobs"][key]
                               for key in ("tokens", "token_logprobs", "text_offset")))

    def test_refused_by_name(self):
        for fields, param in (({"logprobs": 6}, "logprobs"), ({"logprobs": True}, "logprobs"),
                              ({"logprobs": -1}, "logprobs"), ({"top_logprobs": 1}, "top_logprobs"),
                              ({"echo": True}, "echo"), ({"best_of": 21}, "best_of"),
                              ({"best_of": 2, "n": 3}, "best_of"),
                              ({"best_of": 2, "stream": True}, "best_of"),
                              ({"stream": True, "stream_options": {"colour": 1}},
                               "stream_options.colour"),
                              ({"prompt": "[MASK]山[MASK]水", "logprobs": 1}, "logprobs")):
            status, answer = self.server.post(COMPLETE, {**WRITE, **fields})
            self.assertEqual((status, answer["error"]["param"]), (400, param), answer)
        status, answer = self.server.post("/v1/tasks/poem", {"title": "秋", "top_logprobs": 1})
        self.assertEqual((status, answer["error"]["param"]), (400, "top_logprobs"), answer)

    def test_best_of(self):
        body = {**WRITE, "max_tokens": 16, "temperature": 1.5}
        _, all_of = self.server.post(COMPLETE, {**body, "n": 6, "logprobs": 0})

        def mean(choice):
            logprobs = choice["logprobs"]["token_logprobs"]
            return sum(logprobs) / len(logprobs) if logprobs else -math.inf

        ranked = sorted(all_of["choices"], key=mean, reverse=True)
        _, best = self.server.post(COMPLETE, {**body, "n": 2, "best_of": 6})
        self.assertEqual([choice["text"] for choice in best["choices"]],
                         [choice["text"] for choice in ranked[:2]])
        self.assertEqual([choice["index"] for choice in best["choices"]], [0, 1])
        self.assertEqual(best["usage"], all_of["usage"])
        self.assertIsNone(best["choices"][0]["logprobs"])
        _, best = self.server.post(COMPLETE, {**body, "best_of": 6, "logprobs": 0})
        self.assertEqual(best["choices"][0]["logprobs"], ranked[0]["logprobs"])

    def test_both_names_of_the_most_tokens(self):
        for name in ("max_tokens", "max_completion_tokens"):
            _, answer = self.server.post(COMPLETE, {"prompt": "春", "seed": 1, name: 3})
            self.assertLessEqual(answer["usage"]["completion_tokens"], 3)


class Grpc(ByReflection, ServerTest):

    def test_the_same_as_rest(self):
        choice = self.server.post(COMPLETE, {**WRITE, "logprobs": 2})[1]["choices"][0]
        request = self.generate(completion={"prompt": WRITE["prompt"]},
                                parameters={"seed": 4, "max_tokens": 24, "top_logprobs": 2})
        whole = self.call("Generate", request).choices[0]
        self.assertEqual(whole.text, choice["text"])
        for token, logprob, offset in zip(whole.logprobs, choice["logprobs"]["token_logprobs"],
                                          choice["logprobs"]["text_offset"]):
            self.assertEqual((token.logprob, token.offset, len(token.top)), (logprob, offset, 2))
        self.assertEqual(b"".join(token.piece for token in whole.logprobs).decode(), whole.text)
        streamed = []
        for chunk in self.call("GenerateStream", request):
            streamed += chunk.logprobs
        self.assertEqual(streamed, list(whole.logprobs))

    def test_best_of(self):
        body = {**WRITE, "max_tokens": 16, "temperature": 1.5, "best_of": 6}
        best = self.server.post(COMPLETE, body)[1]["choices"][0]["text"]
        request = self.generate(completion={"prompt": WRITE["prompt"]},
                                parameters={"seed": 4, "max_tokens": 16, "temperature": 1.5,
                                            "best_of": 6})
        answer = self.call("Generate", request)
        self.assertEqual([choice.text for choice in answer.choices], [best])
        with self.assertRaisesRegex(Exception, "best_of is 6, and a stream"):
            list(self.call("GenerateStream", request))

    def test_of_a_form_too(self):
        """The form masks most tokens; what is reported is what the model would have written."""
        request = self.generate(poem={"title": "秋夜", "form": "五绝"},
                                parameters={"seed": 2, "top_logprobs": 20})
        choice = self.call("Generate", request).choices[0]
        self.assertEqual(len(choice.logprobs), 24)
        self.assertTrue(any(token.token not in [top.token for top in token.top] or
                            token.token != token.top[0].token for token in choice.logprobs))
        for token in choice.logprobs:
            self.assertLessEqual(sum(math.exp(top.logprob) for top in token.top), 1 + 1e-6)


if __name__ == "__main__":
    unittest.main()
