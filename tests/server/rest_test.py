"""The REST API, request by request."""

import concurrent.futures
import json
import re
import unittest

from serving import ServerTest

POEM = "/v1/tasks/poem"
COUPLET = "/v1/tasks/couplet"
CHAT = "/v1/chat/completions"
COMPLETE = "/v1/completions"


def texts(answer):
    return [choice["text"] for choice in answer["choices"]]


class Shapes(ServerTest):
    """What a client reads."""

    def test_models(self):
        status, _, body = self.server.ask("GET", "/v1/models")
        self.assertEqual(status, 200)
        models = json.loads(body)
        self.assertEqual(models["object"], "list")
        self.assertEqual([model["id"] for model in models["data"]], ["poet"])
        status, _, body = self.server.ask("GET", "/v1/models/poet")
        self.assertEqual((status, json.loads(body)["object"]), (200, "model"))

    def test_health_and_unknown_paths(self):
        for path in ("/health/live", "/health/ready"):
            self.assertEqual(self.server.ask("GET", path)[0], 200)
        self.assertEqual(self.server.ask("GET", "/v1/nothing")[0], 404)
        status, headers, _ = self.server.ask("GET", CHAT)
        self.assertEqual((status, headers["Allow"]), (405, "POST"))

    def test_store_is_refused_as_answers_are_not_kept(self):
        message = {"messages": [{"role": "user", "content": "好"}], "max_tokens": 2}
        for path, body in ((CHAT, message), ("/v1/completions", {"prompt": "好", "max_tokens": 2}),
                           (POEM, {"title": "好"})):
            status, answer = self.server.post(path, {**body, "store": True})
            self.assertEqual((status, answer["error"]["param"]), (400, "store"), answer)
            for kept in (False, None):
                self.assertEqual(self.server.post(path, {**body, "store": kept})[0], 200)

    def test_pages_are_served_with_a_strict_policy(self):
        kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
        for page in ("/", "/dashboard"):
            status, headers, body = self.server.ask("GET", page)
            self.assertEqual((status, headers["Content-Type"]), (200, "text/html; charset=utf-8"))
            files = re.findall(r'(?:href|src)="(/web/[^"]+)"', body.decode())
            self.assertGreater(len(files), 4)
            for path in files:
                status, headers, file = self.server.ask("GET", path)
                self.assertEqual(status, 200, path)
                self.assertIn(kinds[path.rsplit(".", 1)[1]], headers["Content-Type"])
                self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
                self.assertGreater(len(file), 100)
            policy = headers["Content-Security-Policy"]
            self.assertIn("default-src 'self'", policy)
            self.assertNotIn("unsafe", policy)
        for path in ("/web/other.js", "/web/", "/web/../playground.html", "/app.js"):
            self.assertEqual(self.server.ask("GET", path)[0], 404, path)

    def test_poem(self):
        status, answer = self.server.post(POEM, {"title": "秋夜泊船", "form": "七绝", "seed": 1})
        self.assertEqual(status, 200, answer)
        self.assertEqual(answer["object"], "task.poem")
        self.assertEqual([len(line) for line in answer["lines"]], [7, 7, 7, 7])
        self.assertEqual(answer["text"], "{}，{}。{}，{}。".format(*answer["lines"]))
        usage = answer["usage"]
        self.assertEqual(usage["total_tokens"],
                         usage["prompt_tokens"] + usage["completion_tokens"])
        self.assertEqual(usage["completion_tokens"], 32)

    def test_streams_say_the_same_as_whole_answers(self):
        body = {"title": "秋夜泊船", "form": "五律", "seed": 7}
        _, whole = self.server.post(POEM, body)
        events = self.server.events(POEM, body)
        self.assertGreater(len(events), 10)
        self.assertEqual("".join(event.get("delta", "") for event in events), whole["text"])
        self.assertEqual(events[-1]["text"], whole["text"])
        self.assertEqual(events[-1]["usage"], whole["usage"])

        body = {"messages": [{"role": "user", "content": "李白是谁？"}], "seed": 5,
                "max_tokens": 20}
        _, whole = self.server.post(CHAT, body)
        events = self.server.events(CHAT, {**body, "stream_options": {"include_usage": True}})
        self.assertEqual(events[0]["choices"][0]["delta"], {"role": "assistant", "content": ""})
        text = "".join(event["choices"][0]["delta"].get("content", "") for event in events
                       if event["choices"])
        self.assertEqual(text, whole["choices"][0]["message"]["content"])
        self.assertEqual(events[-2]["choices"][0]["finish_reason"],
                         whole["choices"][0]["finish_reason"])
        self.assertTrue(all(event["usage"] is None for event in events[:-1]))
        self.assertEqual(events[-1]["choices"], [])
        self.assertEqual(events[-1]["usage"], whole["usage"])

    def test_blanks(self):
        status, answer = self.server.post(
            COMPLETE, {"prompt": "春眠不[MASK]晓，处处闻[MASK]鸟。", "seed": 3, "max_tokens": 4})
        self.assertEqual(status, 200, answer)
        choice = answer["choices"][0]
        self.assertEqual(len(choice["blanks"]), 2)
        self.assertEqual(choice["text"], choice["blanks"][0])
        status, answer = self.server.post(
            COMPLETE, {"prompt": "床前", "suffix": "光，疑是地上霜。", "seed": 3, "max_tokens": 4})
        self.assertEqual((status, len(answer["choices"][0]["blanks"])), (200, 1))
        status, answer = self.server.post(
            COMPLETE, {"prompt": "床前[MASK]", "suffix": "光", "max_tokens": 4})
        self.assertEqual((status, answer["error"]["param"]), (400, "suffix"))

    def test_choices_have_seeds_of_their_own(self):
        body = {"prompt": "春风", "n": 4, "seed": 11, "max_tokens": 12}
        _, answer = self.server.post(COMPLETE, body)
        self.assertEqual([choice["index"] for choice in answer["choices"]], [0, 1, 2, 3])
        self.assertGreater(len(set(texts(answer))), 1)
        _, alone = self.server.post(COMPLETE, {**body, "n": 1, "seed": 13})
        self.assertEqual(texts(alone)[0], texts(answer)[2])

    def test_an_unseeded_answer_can_be_asked_for_again(self):
        body = {"title": "春日", "form": "七绝"}
        _, first = self.server.post(POEM, body)
        _, again = self.server.post(POEM, {**body, "seed": first["seed"]})
        self.assertEqual(first["text"], again["text"])

    def test_stop_ends_before_the_word(self):
        body = {"prompt": "七绝《春》：", "seed": 2, "max_tokens": 60}
        _, free = self.server.post(COMPLETE, body)
        text = texts(free)[0]
        word = text[3:5]
        _, stopped = self.server.post(COMPLETE, {**body, "stop": [word]})
        self.assertEqual(texts(stopped)[0], text[:text.index(word)])
        self.assertEqual(stopped["choices"][0]["finish_reason"], "stop")

    def test_control_words_in_messages_are_text(self):
        """Were they control tokens, the prompt would have fewer tokens, or another blank."""
        for word in ("[gMASK]", "[MASK]", "<|startofpiece|>", "<|user|>", "<sop>"):
            counts = []
            for content in (word, "x" * len(word)):
                status, answer = self.server.post(
                    CHAT, {"messages": [{"role": "user", "content": content}], "max_tokens": 2})
                self.assertEqual(status, 200, answer)
                counts.append(answer["usage"]["prompt_tokens"])
            self.assertEqual(counts[0], counts[1], word)
            status, answer = self.server.post(POEM, {"title": word, "form": "五绝"})
            self.assertEqual(status, 200, answer)


class Forms(ServerTest):
    """Form is kept, whatever is asked for."""

    def test_a_hundred_poems(self):
        forms = {"五绝": (5, 4), "七绝": (7, 4), "五律": (5, 8), "七律": (7, 8)}
        for i in range(100):
            form = list(forms)[i % 4]
            length, lines = forms[form]
            status, answer = self.server.post(
                POEM, {"title": "秋夜泊船", "form": form, "seed": i, "tones": i % 3 == 0})
            self.assertEqual(status, 200, answer)
            self.assertEqual([len(line) for line in answer["lines"]], [length] * lines, answer)
            marks = [mark for mark in answer["text"] if mark in "，。"]
            self.assertEqual(marks, ["，", "。"] * (lines // 2), answer)
            self.assertEqual(len(answer["text"]), (length + 1) * lines)
            rhymes = [line[-1] for line in answer["lines"][1::2]]
            self.assertEqual(len(set(rhymes)), len(rhymes), answer)

    def test_a_hundred_couplets(self):
        uppers = ["白日依山尽", "两个黄鹂鸣翠柳", "春风得意马蹄疾", "明月松间照", "大漠孤烟直"]
        for i in range(100):
            upper = uppers[i % len(uppers)]
            status, answer = self.server.post(COUPLET, {"upper": upper, "seed": i})
            self.assertEqual(status, 200, answer)
            self.assertEqual(len(answer["text"]), len(upper), answer)
            self.assertFalse(set(answer["text"]) & set(upper), answer)
            self.assertEqual(answer["lines"], [answer["text"]])

    def test_tunes_keep_their_pattern(self):
        status, answer = self.server.post(POEM, {"form": "浣溪沙", "seed": 1})
        self.assertEqual(status, 200, answer)
        self.assertEqual([len(line) for line in answer["lines"]], [7] * 6)

    def test_forms_are_listed_and_unknown_ones_refused(self):
        _, _, body = self.server.ask("GET", "/v1/tasks")
        poem = next(task for task in json.loads(body)["data"] if task["task"] == "poem")
        self.assertEqual(poem["forms"][:4], ["五绝", "七绝", "五律", "七律"])
        self.assertIn("浣溪沙", poem["forms"])
        status, answer = self.server.post(POEM, {"form": "十四行诗"})
        self.assertEqual((status, answer["error"]["param"]), (400, "form"))


class Together(ServerTest):
    """Nobody's neighbours change what they get."""

    def test_sixteen_at_once_as_alone(self):
        bodies = [(POEM, {"title": f"秋夜{i}", "form": ["五绝", "七律"][i % 2], "seed": i})
                  for i in range(8)]
        bodies += [(CHAT, {"messages": [{"role": "user", "content": f"杜甫{'甚' * i}是谁？"}],
                           "seed": i, "max_tokens": 40}) for i in range(4)]
        bodies += [(COMPLETE, {"prompt": f"[MASK]山{'水' * i}，[MASK]月。", "seed": i,
                               "max_tokens": 9}) for i in range(4)]

        def content(answer):
            if "text" in answer:
                return answer["text"]
            return [choice.get("blanks") or choice["message"] for choice in answer["choices"]]

        alone = [content(self.server.post(path, body)[1]) for path, body in bodies]
        for _ in range(3):
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                answers = list(pool.map(lambda item: self.server.post(*item), bodies))
            self.assertEqual([status for status, _ in answers], [200] * 16)
            self.assertEqual([content(answer) for _, answer in answers], alone)


if __name__ == "__main__":
    unittest.main()
