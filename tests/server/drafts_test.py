"""A draft model in the server: the same answers of every kind, and refusals of pairs that do not go together."""

import json
import pathlib
import re
import subprocess
import tempfile
import unittest

from pictures import make_painter
from serving import BINARY, ENDLESS, POET, Server

COMPLETE = "/v1/completions"
SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}}, "required": ["name"]}
ASKED = (
    (COMPLETE, {**ENDLESS, "temperature": 0, "max_tokens": 200}),
    (COMPLETE, {**ENDLESS, "seed": 4, "max_tokens": 150, "n": 3}),
    (COMPLETE, {"prompt": "床前[MASK]，疑是[MASK]霜。", "seed": 2}),
    ("/v1/tasks/poem", {"title": "秋夜泊船", "form": "七律", "seed": 3}),
    ("/v1/tasks/couplet", {"upper": "明月松间照", "seed": 5}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "李白"}], "seed": 1, "max_tokens": 30,
                              "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}),
)


def answers(server):
    """What was said, without ids and times."""
    found = []
    for path, body in ASKED:
        status, _, text = server.ask("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = json.loads(text)
        found.append((status, answer.get("text"), answer.get("choices"), answer.get("error")))
    return found


class Drafts(unittest.TestCase):

    def test_the_same_answers(self):
        with Server() as server:
            expected = answers(server)
        self.assertEqual({status for status, *_ in expected}, {200}, expected)
        with Server("--draft-model", POET) as server:
            for _ in range(2):
                self.assertEqual(answers(server), expected)
            metrics = server.ask("GET", "/metrics")[2].decode()
        accepted = re.search(r'^qianyi_guesses_total\{model="poet",result="accepted"\} (\S+)$', metrics, re.MULTILINE)
        self.assertGreater(float(accepted[1]), 20)

    def test_pairs_that_do_not_go_together(self):
        def refused(*flags):
            run = subprocess.run([BINARY, "serve", "--http-port", "0", "--grpc-port", "0", *flags],
                                 capture_output=True, text=True, timeout=60)
            self.assertEqual((run.returncode, run.stdout), (1, ""))
            return run.stderr
        with tempfile.TemporaryDirectory() as folder:
            painter = str(make_painter(folder, "painter"))
            both = ("--model", POET, "--model", painter)
            self.assertIn("MODEL=DIR; there is: poet, painter", refused(*both, "--draft-model", POET))
            self.assertIn("for models of text", refused(*both, "--draft-model", f"painter={POET}"))
            self.assertIn("vocabulary", refused(*both, "--draft-model", f"poet={painter}"))
            with Server("--model", painter, "--draft-model", f"poet={POET}") as server:
                self.assertEqual(server.ask("POST", COMPLETE, json.dumps({"prompt": "春", "model": "poet"}),
                                            {"Content-Type": "application/json"})[0], 200)
        nowhere = str(pathlib.Path(folder) / "nowhere")
        self.assertIn(f"--draft-model {nowhere}", refused("--model", POET, "--draft-model", nowhere))


if __name__ == "__main__":
    unittest.main()
