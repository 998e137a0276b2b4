"""Times llama.cpp on a GGUF file, and prints JSON. Run by scripts/measure_peers in its environment.

Everything that its own llama-bench leaves at its defaults is left so: weights mapped and repacked for
this processor, flash attention where it wants it, keys and values in f16. What is timed is
llama_decode and reading one row of logits, after a run to warm up.
"""

import argparse
import ctypes
import json
import os
import time

import llama_cpp


class Runs:
    def __init__(self, path, context, sequences, threads):
        llama_cpp.llama_backend_init()
        quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
        self.quiet = quiet  # must outlive the library's use of it
        begin = time.monotonic()
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params())
        assert self.model, f"llama.cpp does not load {path}"
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = context * sequences, 512, 512
        options.n_seq_max = sequences
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        assert self.context, "llama.cpp makes no context"
        self.load_seconds = time.monotonic() - begin
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def decode(self, entries):
        """entries: (token, position, sequence, wants logits). Seconds."""
        batch = self.batch
        batch.n_tokens = len(entries)
        for i, (token, position, sequence, wants) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wants
        begin = time.monotonic()
        assert llama_cpp.llama_decode(self.context, batch) == 0
        last = llama_cpp.llama_get_logits_ith(self.context, -1)[0]
        seconds = time.monotonic() - begin
        assert last == last, "a logit is not a number"
        return seconds

    def prompt(self, tokens):
        """Tokens a second of one prompt."""
        self.clear()
        return tokens / self.decode([(5 + i * 7 % 1000, i, 0, i == tokens - 1) for i in range(tokens)])

    def generate(self, sequences, steps):
        """Tokens a second of so many sequences, each after a prompt of four tokens."""
        self.clear()
        for sequence in range(sequences):
            self.decode([(5 + i, i, sequence, i == 3) for i in range(4)])
        times = [self.decode([(100 + step, 4 + step, sequence, True) for sequence in range(sequences)])
                 for step in range(steps)]
        return sequences * (steps - 1) / sum(times[1:])


    def logprobs(self, tokens):
        """Of each token but the first, after those before it."""
        import numpy
        self.clear()
        self.decode([(token, i, 0, True) for i, token in enumerate(tokens)])
        found = []
        for i, token in enumerate(tokens[1:]):
            row = numpy.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, i), (self.vocabulary,))
            row = row.astype(numpy.float64)
            found.append(float(row[token] - row.max() - numpy.log(numpy.exp(row - row.max()).sum())))
        return found


def quantize(path, to, pure):
    """As llama.cpp's own program does with Q4_0. Without `pure` the output is finer, Q6_K."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.pure = pure
    options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    assert llama_cpp.llama_model_quantize(path.encode(), to.encode(), ctypes.byref(options)) == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--stream-steps", type=int, default=12)
    parser.add_argument("--quantize", metavar="OUT", help="only write the file as Q4_0")
    parser.add_argument("--pure", action="store_true", help="all of it, the output as well")
    parser.add_argument("--logprobs", type=json.loads, metavar="TOKENS", help="only print those of a JSON list of tokens")
    options = parser.parse_args()
    if options.quantize:
        return quantize(options.file, options.quantize, options.pure)
    if options.logprobs:
        runs = Runs(options.file, 512, 1, os.cpu_count())
        return print(json.dumps(runs.logprobs(options.logprobs)))
    runs = Runs(options.file, max(options.prompt_tokens, 256), options.streams, os.cpu_count())
    runs.prompt(32)
    rates = [runs.prompt(options.prompt_tokens) for _ in range(options.prompts)]
    print(json.dumps({
        "load_seconds": runs.load_seconds, "prompt": sum(rates) / len(rates),
        "one": runs.generate(1, options.steps), "streams": runs.generate(options.streams, options.stream_steps),
        "system": llama_cpp.llama_print_system_info().decode(), "version": llama_cpp.__version__}))


if __name__ == "__main__":
    main()
