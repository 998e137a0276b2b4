"""What the scripts that measure have in common: the machine, the commit, running a program."""

import os
import pathlib
import platform
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def log(text):
    print(text, file=sys.stderr, flush=True)


def output(command, **options):
    """What a program prints; CalledProcessError where it fails."""
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True,
                          **options).stdout


def machine():
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return {"cpu": model.group(1) if model else platform.processor(), "cores": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "kernel": platform.release()}


def commit():
    """The commit's name, with "+changes" where the tree is not what was committed."""
    try:
        name = output(["git", "rev-parse", "HEAD"], cwd=ROOT).strip()
        changes = output(["git", "status", "--porcelain", "--", ".", ":!benchmarks/results"], cwd=ROOT)
    except (subprocess.CalledProcessError, OSError):
        return "unknown"
    return name + ("+changes" if changes.strip() else "")
