"""What the scripts that measure have in common: the machine, the commit, running a program."""

import concurrent.futures
import importlib.machinery
import importlib.util
import json
import mmap
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

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


def gguf_maker():
    """scripts/fixtures/gguf_checkpoints as a module: writes small GGUF files."""
    loader = importlib.machinery.SourceFileLoader("gguf_checkpoints", str(ROOT / "scripts/fixtures/gguf_checkpoints"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def fio_memory():
    """What fio reads into. Into small pages a virtual disk can be half as fast, and the program uses huge ones."""
    reserved = int(pathlib.Path("/proc/sys/vm/nr_hugepages").read_text())
    return "shmhuge" if reserved >= 8 else "malloc"


def fio_bytes_per_second(path, *more):
    """Of reading a file as the program reads it, by fio."""
    report = json.loads(output([
        "fio", "--name=weights", f"--filename={path}", "--readonly", "--rw=read", "--ioengine=io_uring",
        "--direct=1", "--bs=1M", "--iodepth=4", f"--iomem={fio_memory()}", "--output-format=json", *more]))
    return report["jobs"][0]["read"]["bw_bytes"]


def populate(size):
    """Seconds until `size` bytes of memory that nobody has used yet are there, in huge pages."""
    populate_write = 23
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        begin = time.monotonic()
        memory.madvise(populate_write)
        return time.monotonic() - begin


def fresh_memory_bytes_per_second():
    """What the system gives to all processors at once. Under a hypervisor that takes free memory back it may be slow."""
    size = 1 << 30
    with concurrent.futures.ProcessPoolExecutor() as pool:
        return sum(size / seconds for seconds in pool.map(populate, [size] * os.cpu_count()))


def commit():
    """The commit's name, with "+changes" where the tree is not what was committed."""
    try:
        name = output(["git", "rev-parse", "HEAD"], cwd=ROOT).strip()
        changes = output(["git", "status", "--porcelain", "--", ".", ":!benchmarks/results"], cwd=ROOT)
    except (subprocess.CalledProcessError, OSError):
        return "unknown"
    return name + ("+changes" if changes.strip() else "")
