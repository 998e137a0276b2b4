"""What both trainings share: the time left, the log, checkpoints, and a polite end."""

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch


def add_arguments(parser, minutes_help="time to train, past runs included"):
    parser.add_argument("--minutes", type=float, required=True, help=minutes_help)
    parser.add_argument("--decay-minutes", type=float, default=20, help="length of the final decay")
    parser.add_argument("--warmup-steps", type=int, default=60, help="steps until the full rate")
    parser.add_argument("--save-minutes", type=float, default=3, help="time between checkpoints")
    parser.add_argument("--check-minutes", type=float, default=6,
                        help="time between looks at the held-out pictures")
    parser.add_argument("--workers", type=int, default=2,
                        help="parts of a batch in work at once on a CPU, a thread each")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=1)


class Workers:
    """Threads that each take a part of a step, forward and backward, so that nothing is waited
    for but its end: on a machine with other work, threads that share each product mostly wait."""

    def __init__(self, args, parameters):
        torch.set_num_threads(1)
        self.count = args.workers if args.device == "cpu" else 1
        self.pool = ThreadPoolExecutor(self.count, initializer=lambda: torch.set_num_threads(1))
        self.parameters = list(parameters)
        self.adding = threading.Lock()

    def gradients(self, work, parts):
        """Sets the parameters' gradients to the sum of those of `work(part)`, which returns
        (loss, anything); returns all the second values."""
        for p in self.parameters:
            p.grad = None
        return list(self.pool.map(lambda part: self._add(work, part), parts))

    def _add(self, work, part):
        loss, rest = work(part)
        slopes = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        with self.adding:
            for p, slope in zip(self.parameters, slopes):
                if slope is not None:
                    p.grad = slope if p.grad is None else p.grad.add_(slope)
        return rest


class Clock:
    """Counts steps and seconds; the learning rate rises, stays, and falls to zero at the end.

    A file STOP in the run's folder brings the fall on at once; SIGTERM saves and ends.
    """

    def __init__(self, args):
        self.args = args
        self.step = 0
        self.spent = 0.0
        self.decay_from = None
        self.stop = False
        self.started = None
        self.saved = self.checked = 0.0
        args.run.mkdir(parents=True, exist_ok=True)
        self.log = open(args.run / "log.jsonl", "a", encoding="utf-8")
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stop", True))

    def rate(self):
        """The part of the full learning rate to use now."""
        if self.decay_from is None and (self.args.run / "STOP").exists():
            self.decay_from = self.spent
        decay = self.args.decay_minutes * 60
        begin = self.args.minutes * 60 - decay
        if self.decay_from is not None:
            begin = min(begin, self.decay_from)
        fall = 1 - (self.spent - begin) / decay
        return max(0.0, min(1.0, fall, (self.step + 1) / self.args.warmup_steps))

    def running(self):
        return self.rate() > 0 and not self.stop

    def begin(self):
        self.started = time.monotonic()

    def end(self):
        self.spent += time.monotonic() - self.started
        self.step += 1

    def due(self, what):
        """Whether "saved" or "checked" is due; if so it counts as done now."""
        minutes = {"saved": self.args.save_minutes, "checked": self.args.check_minutes}[what]
        if self.spent - getattr(self, what) < minutes * 60:
            return False
        setattr(self, what, self.spent)
        return True

    def write(self, entry):
        head = {"step": self.step, "minutes": round(self.spent / 60, 2),
                "rate": round(self.rate(), 4)}
        line = json.dumps(head | entry)
        print(line, flush=True)
        self.log.write(line + "\n")
        self.log.flush()

    def save(self, state):
        """Writes the checkpoint in one stroke."""
        path = self.args.run / "checkpoint.pt"
        state = state | {"step": self.step, "spent": self.spent, "decay_from": self.decay_from}
        torch.save(state, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)

    def load(self):
        """The checkpoint's state, or None."""
        path = self.args.run / "checkpoint.pt"
        if not path.exists():
            return None
        state = torch.load(path, map_location=self.args.device)
        self.step, self.spent = state["step"], state["spent"]
        self.decay_from = state["decay_from"]
        self.saved = self.checked = self.spent
        return state
