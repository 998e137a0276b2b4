"""What /metrics says of a mixture of experts that does not fit: hits, misses and bytes by tier, counted
against what the shape says."""

import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from serving import BINARY, POET, Server

LAYERS, DENSE, EXPERTS, PER_TOKEN = 4, 1, 24, 2
HIDDEN, FFN = 512, 512
EXPERT_BYTES = 3 * HIDDEN * FFN  # int8, without scales
TOKENS = 40


def make_model(folder):
    """Random experts under the poet's tokenizer, which ends no text by itself."""
    poet = json.loads((pathlib.Path(POET) / "config.json").read_text())
    config = {"model_type": "glm4_moe", "num_hidden_layers": LAYERS, "hidden_size": HIDDEN,
              "intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2,
              "head_dim": 64, "vocab_size": poet["vocab_size"], "max_position_embeddings": 512,
              "first_k_dense_replace": DENSE, "n_routed_experts": EXPERTS,
              "num_experts_per_tok": PER_TOKEN, "moe_intermediate_size": FFN, "use_qk_norm": True,
              "tokenizer": poet["tokenizer"]}
    source = pathlib.Path(folder) / "config.json"
    source.write_text(json.dumps(config))
    model = pathlib.Path(folder) / "experts"
    subprocess.run([BINARY, "synth", "--config", source, "--dtype", "int8", model], check=True,
                   capture_output=True)
    shutil.copy(pathlib.Path(POET) / "tokenizer.model", model)
    return str(model)


class Experts(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        model = make_model(cls.folder.name)
        # The least that it runs in, and a third of the experts more.
        refusal = subprocess.run([BINARY, "serve", "--model", model, "--http-port", "0",
                                  "--grpc-port", "0", "--host-memory", "8MiB", "--context", "256"],
                                 capture_output=True, text=True).stderr
        least = float(re.search(r"needs at least ([0-9.]+) MiB", refusal)[1])
        room = least + LAYERS * EXPERTS * EXPERT_BYTES / 3 / 2**20
        cls.server = Server("--host-memory", f"{room:.0f}MiB", "--context", "256", model=model)

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        cls.folder.cleanup()
        assert code == 0, cls.server.errors()

    def value(self, name, **labels):
        text = self.server.ask("GET", "/metrics")[2].decode()
        total = 0.0
        for found, number in re.findall(rf"^{name}{{([^}}]*)}} ([0-9.e+-]+)$", text, re.MULTILINE):
            if all(f'{key}="{value}"' in found for key, value in labels.items()):
                total += float(number)
        return total

    def uses(self):
        return {result: self.value("qianyi_expert_uses_total", result=result)
                for result in ("hit", "miss")}

    def test_uses_and_bytes_are_those_of_the_shape(self):
        before = self.uses()
        bytes_before = {tier: self.value("qianyi_expert_used_bytes_total", tier=tier)
                        for tier in ("host", "disk")}
        status, answer = self.server.post("/v1/completions", {
            "prompt": "春江花月", "max_tokens": TOKENS, "seed": 3})
        self.assertEqual(status, 200, answer)
        usage = answer["usage"]
        self.assertEqual(usage["completion_tokens"], TOKENS)
        after = self.uses()
        hits, misses = (after[result] - before[result] for result in ("hit", "miss"))
        self.assertGreater(hits, 0)
        self.assertGreater(misses, 0)
        # One step takes all of the prompt, whose tokens may share experts; each other step is of
        # one token. The last token is never run.
        layers = LAYERS - DENSE
        steps = TOKENS - 1
        self.assertGreaterEqual(hits + misses, layers * PER_TOKEN * (steps + 1))
        self.assertLessEqual(hits + misses, layers * PER_TOKEN * (steps + usage["prompt_tokens"]))
        used = {tier: self.value("qianyi_expert_used_bytes_total", tier=tier) - bytes_before[tier]
                for tier in ("host", "disk")}
        for tier, count in (("host", hits), ("disk", misses)):
            self.assertGreaterEqual(used[tier], count * EXPERT_BYTES)
            self.assertLess(used[tier], count * EXPERT_BYTES * 1.1)

    def test_what_was_missing_was_read(self):
        self.server.post("/v1/completions", {"prompt": "山", "max_tokens": 8, "seed": 1})
        self.assertGreaterEqual(self.value("qianyi_expert_read_bytes_total"),
                                self.value("qianyi_expert_used_bytes_total", tier="disk"))

    def test_the_cache_is_smaller_than_the_experts(self):
        cached = self.value("qianyi_weight_bytes", tier="expert_cache")
        all_of_them = self.value("qianyi_weight_bytes", tier="experts")
        self.assertGreaterEqual(all_of_them, (LAYERS - DENSE) * EXPERTS * EXPERT_BYTES)
        self.assertGreater(cached, 0)
        self.assertLess(cached, 0.8 * all_of_them)


if __name__ == "__main__":
    unittest.main()
