"""/openapi.json: that it is what the server does, by its own table, its routes, and schemathesis."""

import json
import pathlib
import re
import tempfile
import unittest

import hypothesis
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (content_type_conformance, response_headers_conformance,
                                               response_schema_conformance, status_code_conformance)

from access_test import ROUTES
from serving import Server, ServerTest

# A run of a bounded number of examples, the same ones each time.
EXAMPLES = 12


def routes():
    """(method, path) as the sources have them; a name stands for what follows a '/'."""
    found = set()
    for source in ROUTES.glob("*.cc"):
        found |= set(re.findall(r'\{Scope::\w+,\s*"(\w+)",\s*"([^"]+)"', source.read_text()))
    return {(method.lower(), path + "{name}" if len(path) > 1 and path.endswith("/") else path)
            for method, path in found}


class Document(ServerTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.document = json.loads(cls.server.ask("GET", "/openapi.json")[2])
        cls.schemas = cls.document["components"]["schemas"]

    def test_every_route_is_described(self):
        described = {(method, path): operation for path, operations in self.document["paths"].items()
                     for method, operation in operations.items()}
        # Those that are made in a loop.
        looped = {("post", f"/v1/tasks/{task}") for task in ("poem", "couplet", "summary", "qa")}
        plain = {route for route in routes() if route != ("post", "/v1/tasks/{name}")}
        self.assertEqual(set(described), plain | looped)
        for route, operation in described.items():
            self.assertIn("summary", operation, route)
            self.assertIn("200", operation["responses"], route)
        self.assertEqual(self.document["openapi"], "3.1.0")

    def test_every_reference_leads_somewhere(self):
        text = json.dumps(self.document)
        used = set(re.findall(r'"#/components/schemas/(\w+)"', text))
        self.assertEqual(used, set(self.schemas))

    def test_the_bounds_are_those_of_the_server(self):
        """At a bound a parameter is taken, beyond it refused by name."""
        properties = self.schemas["CompletionRequest"]["properties"]
        checked = 0
        for name, schema in properties.items():
            whole = "integer" in schema.get("type", ())
            step = 1 if whole else 1e-3
            for bound, beyond in (("minimum", -step), ("maximum", step)):
                for exclusive in (False, True):
                    key = "exclusive" + bound.capitalize() if exclusive else bound
                    if key not in schema or abs(schema[key]) > 2**62:
                        continue
                    value = schema[key]
                    if exclusive:
                        inside, outside = value - beyond, value
                    else:
                        inside, outside = value, value + beyond
                    checked += 1
                    body = {"prompt": "春", "max_tokens": 1}
                    status, answer = self.server.post("/v1/completions", {**body, name: outside})
                    self.assertEqual((status, answer["error"]["param"]), (400, name), (name, outside))
                    status, answer = self.server.post("/v1/completions", {**body, name: inside})
                    # What is in range may still not fit: into the context, or the queue.
                    if status != 200:
                        self.assertIn(answer["error"]["code"], ("context_length_exceeded", None), answer)
                        self.assertNotIn("must be", answer["error"]["message"], (name, inside))
        self.assertGreater(checked, 15)

    def test_forms_and_fields_of_tasks(self):
        listed = json.loads(self.server.ask("GET", "/v1/tasks")[2])["data"]
        for task in listed:
            name = {"qa": "Question"}.get(task["task"], task["task"].capitalize()) + "Request"
            fields = {field["name"] for field in task["fields"]}
            self.assertLessEqual(fields, set(self.schemas[name]["properties"]))
            self.assertEqual(set(self.schemas[name].get("required", [])),
                             {field["name"] for field in task["fields"] if field["required"]})


class Properties(unittest.TestCase):
    """Requests that a property-based tester makes of the document, and some that are against it."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.server = Server("--context", "64", "--batch", "4", "--adapter-folder", cls.folder.name)
        cls.schema = schemathesis.openapi.from_dict(
            json.loads(cls.server.ask("GET", "/openapi.json")[2]))
        cls.schema.config.update(base_url=f"http://{cls.server.http}")

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        cls.folder.cleanup()
        assert code == 0, cls.server.errors()

    def test_answers_are_as_the_document_says(self):
        checks = [not_a_server_error, status_code_conformance, content_type_conformance,
                  response_headers_conformance, response_schema_conformance]
        seen, statuses = set(), set()

        def try_one(operation, mode):
            @hypothesis.seed(1)
            @hypothesis.settings(max_examples=EXAMPLES, deadline=None, database=None,
                                 phases=[hypothesis.Phase.generate],
                                 suppress_health_check=list(hypothesis.HealthCheck))
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def run(case):
                response = case.call(timeout=60)
                statuses.add(response.status_code)
                case.validate_response(response, checks=checks)
            run()

        for result in self.schema.get_all_operations():
            operation = result.ok()
            seen.add((operation.method, operation.path))
            with self.subTest(operation=operation.label):
                try_one(operation, schemathesis.GenerationMode.POSITIVE)
                if operation.body:
                    try_one(operation, schemathesis.GenerationMode.NEGATIVE)
        self.assertGreater(len(seen), 15)
        self.assertIn(200, statuses)
        self.assertIn(400, statuses)
        self.server.wait_until_idle()
        self.assertEqual(self.server.metric("qianyi_admitted"), 0)


if __name__ == "__main__":
    unittest.main()
