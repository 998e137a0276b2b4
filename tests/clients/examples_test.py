"""The examples of the manuals, run as they stand against real servers.

An example is a fenced block of sh or python, or an indented block with a command of curl, qianyi or
scripts. A comment before it says what it needs, and what its answer must have:
    <!-- example on=SERVER has=TEXT exit=CODE -->      or      <!-- example not=WHY -->
`on` is one of SERVERS [poet], `has` a piece of what it prints. Without `has`, the lines shown after an
indented block's commands say it: their JSON keys, or the lines themselves. Starting a server, and building
the project, is never done: it is there. Files and folders of /tmp are those of a temporary folder."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests/server"))
from adapter_files import write_lora  # noqa: E402
from pictures import gradient, hole, make_painter  # noqa: E402
from serving import BINARY, POET, Server  # noqa: E402
from spelling import Spelling  # noqa: E402

REFERENCES = ["docs/api.md", "docs/zh/api.md"]
MANUALS = [*REFERENCES, "README.md", "docs/serving.md", "docs/operating.md"]
COMMAND = re.compile(r"(\$ )?(curl|qianyi|scripts/\w+|build/bin/qianyi|docker|cmake|python3) ?")
THERE_ALREADY = re.compile(r"(scripts/(serve|build)|(build/bin/)?qianyi serve|docker) ?")
EXAMPLE_SECONDS = 900  # one compiles


class Example:
    """A block of a manual, at a line of it."""

    def __init__(self, place, language, text, marks):
        self.place, self.language, self.marks = place, language, marks
        self.shown = []
        if language:
            self.commands = [text]
        else:
            self.commands = self.split(text.splitlines())

    def split(self, lines):
        """Commands of an indented block; a line belongs to the one before while that is not whole."""
        commands, whole = [], True
        for line in lines:
            if not whole:
                commands[-1] += "\n" + line
            elif COMMAND.match(line):
                commands.append(line.removeprefix("$ "))
            elif line.strip():
                self.shown.append(line)
                continue
            whole = self.is_whole(commands[-1]) if commands else True
        return [command for command in commands if not THERE_ALREADY.match(command)]

    @staticmethod
    def is_whole(command):
        try:
            shlex.split(command, comments=True)
        except ValueError:
            return False
        return not command.endswith("\\")

    def missing(self, printed):
        """What it should have printed and did not."""
        if "has" in self.marks:
            wanted = [self.marks["has"]]
        elif any(re.search(r'"\w+":', line) for line in self.shown):
            wanted = re.findall(r'"\w+":', " ".join(self.shown))
            printed = re.sub(r'": +', '":', printed)
        else:
            wanted = self.shown
        return [text for text in wanted if text not in printed]

    def says_what(self):
        return "has" in self.marks or any(line.strip(" .…") for line in self.shown)


def examples_of(manual):
    marks, lines, at, found = {}, (ROOT / manual).read_text().splitlines(), 0, []

    def add(begin, language, body):
        nonlocal marks
        text = "\n".join(body)
        if language in ("sh", "python") or (not language and any(COMMAND.match(line) for line in body)):
            found.append(Example(f"{manual}:{begin + 1}", language, text, marks))
        marks = {}

    while at < len(lines):
        line, begin = lines[at], at
        at += 1
        if mark := re.fullmatch(r"<!-- example (.*) -->", line):
            marks = dict(word.split("=", 1) for word in shlex.split(mark[1]))
        elif fence := re.fullmatch(r"```(\w*)", line):
            end = lines.index("```", at)
            add(begin, fence[1] or "text", lines[at:end])
            at = end + 1
        elif line.startswith("    ") and not lines[begin - 1].strip() or line.startswith("    $ "):
            while at < len(lines) and (lines[at].startswith("    ") or
                                       not lines[at].strip() and lines[at + 1:at + 2] and
                                       lines[at + 1].startswith("    ")):
                at += 1
            add(begin, "", [text[4:] for text in lines[begin:at]])
    return found


class Manuals(unittest.TestCase):
    """A folder that looks like the project's root, and servers that are started when they are needed."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.folder.name) / "root"
        cls.temporary = pathlib.Path(cls.folder.name) / "tmp"
        cls.temporary.mkdir()
        (cls.root / "build/bin").mkdir(parents=True)
        (cls.root / "build/bin/qianyi").symlink_to(BINARY)
        for name in ("clients", "models", "proto", "scripts", "tests"):
            (cls.root / name).symlink_to(ROOT / name)
        (cls.root / "cat.png").write_bytes(gradient(32))
        (cls.root / "hole.png").write_bytes(hole(32, right=16))
        (cls.root / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
        cls.servers = {}

    @classmethod
    def tearDownClass(cls):
        for server in cls.servers.values():
            assert server.stop() == 0, server.errors()
        cls.folder.cleanup()

    def server(self, name):
        if name not in self.servers:
            self.servers[name] = getattr(self, "start_" + name)(pathlib.Path(self.folder.name))
        return self.servers[name]

    def start_poet(self, _):
        return Server()

    def start_painter(self, folder):
        return Server("--model", make_painter(folder))

    def start_adapters(self, folder):
        """The poet, also as `glm-4-9b`, with the adapter law in its folder."""
        write_lora(folder / "adapters/law-2024", 1, 4)
        (folder / "glm-4-9b").symlink_to(POET)
        return Server("--model", str(folder / "glm-4-9b"), "--adapter-folder", str(folder / "adapters"),
                      "--adapter", f"glm-4-9b:law={folder}/adapters/law-2024")

    def start_tools(self, folder):
        """A `glm-4-9b` that calls a tool, whatever it is asked."""
        spelled = Spelling(folder / "spelling", "glm4", [
            ("<|assistant|>", 'get_weather\n{"city": "北京"}', "<|observation|>")])
        (folder / "tools").mkdir()
        return Server(model=str(spelled.folder.rename(folder / "tools/glm-4-9b")))

    def run_example(self, example):
        server = self.server(example.marks.get("on", "poet"))
        environment = {**os.environ, "CURL_HOME": str(self.root),
                       "PATH": f"{self.root}/build/bin:{os.environ['PATH']}",
                       # What was compiled before is not again, though its folder has another name.
                       "CMAKE_CXX_COMPILER_LAUNCHER": "ccache", "CCACHE_NOHASHDIR": "1",
                       "CCACHE_BASEDIR": self.folder.name}
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            environment.pop(name, None)
        printed, code = "", 0
        for command in example.commands:
            for old, new in (("127.0.0.1:8080", server.http), ("127.0.0.1:50051", server.grpc),
                             ("/tmp/", f"{self.temporary}/")):
                command = command.replace(old, new)
            program = [sys.executable, "-c"] if example.language == "python" else ["bash", "-ec"]
            done = subprocess.run([*program, command], cwd=self.root, env=environment,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=EXAMPLE_SECONDS)
            printed, code = printed + done.stdout, code or done.returncode
        return code, printed

    def check(self, manual):
        examples = examples_of(manual)
        for example in examples:
            with self.subTest(example.place):
                if "not" in example.marks:
                    self.assertGreater(len(example.marks["not"]), 5, "why is it not run?")
                    continue
                if not example.commands:
                    continue  # it starts what is there
                self.assertTrue(example.says_what(), f"{example.place}: say what the answer has")
                code, printed = self.run_example(example)
                self.assertEqual(code, int(example.marks.get("exit", 0)), printed[-2000:])
                self.assertEqual(example.missing(printed), [], printed[-2000:])
        return examples

    def test_readme(self):
        self.assertGreater(len(self.check("README.md")), 4)

    def test_serving(self):
        self.assertGreater(len(self.check("docs/serving.md")), 15)

    def test_operating(self):
        self.assertGreater(len(self.check("docs/operating.md")), 0)

    def test_references(self):
        for manual in REFERENCES:
            self.assertGreater(len(self.check(manual)), 30)

    def test_both_languages_have_the_same_examples(self):
        texts = [[example.commands for example in examples_of(manual)] for manual in REFERENCES]
        self.assertEqual(*texts)


class Cpp(unittest.TestCase):

    def test_the_example_streams_a_poem(self):
        """As the project builds it; the reference has it built by itself."""
        with Server() as server:
            command = [os.environ["QIANYI_POEM"], server.grpc, "秋夜泊船"]
            _, poem = server.post("/v1/tasks/poem", {"title": "秋夜泊船", "form": "七绝", "seed": 7})
            done = subprocess.run([*command, "七绝"], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stdout), (0, poem["text"] + "\n"))
            refused = subprocess.run([*command, "sonnet"], capture_output=True, text=True)
            self.assertEqual((refused.returncode, refused.stdout), (1, "\n"))
            self.assertIn("sonnet", refused.stderr)


class Reference(unittest.TestCase):
    """That the reference is whole."""

    @classmethod
    def setUpClass(cls):
        with Server() as server:
            cls.document = json.loads(server.ask("GET", "/openapi.json")[2])
        cls.texts = {manual: (ROOT / manual).read_text() for manual in REFERENCES}

    def test_every_route_is_there(self):
        for manual, text in self.texts.items():
            told = set(re.findall(r"\b(GET|POST|DELETE) (/[\w/{}.]*)", text))
            for path, operations in self.document["paths"].items():
                for method in operations:
                    self.assertIn((method.upper(), path), told, manual)
            for method, path in told:
                self.assertIn(method.lower(), self.document["paths"].get(path, ()), f"{manual}: {path}")

    def test_every_method_is_there(self):
        for proto in ("qianyi/v1/inference.proto", "inference/kserve.proto"):
            for method in re.findall(r"^  rpc (\w+)", (ROOT / "proto" / proto).read_text(), re.MULTILINE):
                for manual, text in self.texts.items():
                    self.assertIn(f"`{method}`", text, manual)

    def test_parameters_and_their_limits_are_those_of_the_server(self):
        schemas = self.document["components"]["schemas"]
        parameters = {**schemas["ChatRequest"]["properties"], **schemas["CompletionRequest"]["properties"]}
        for manual, text in self.texts.items():
            rows = {}
            for names, limits in re.findall(r"^\| (`\w+`(?:[,、] ?`\w+`)*) \| ([^|]*) \|", text, re.MULTILINE):
                rows.update({name: limits for name in re.findall(r"`(\w+)`", names)})
            for name, schema in parameters.items():
                for bound in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
                    if bound in schema and name != "best_of":
                        self.assertIn(f"{schema[bound]:.0f}" if isinstance(schema[bound], float)
                                      else str(schema[bound]), rows.get(name, ""), (manual, name))


if __name__ == "__main__":
    unittest.main()
