"""In what numbers products are computed."""

import contextlib

import torch

# On a processor without its instructions bfloat16 is many times slower than float32.
HAS_BFLOAT16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)()


def fast_products(device):
    """A context in which products are in bfloat16, where the device has instructions for it."""
    kind = torch.device(device).type
    if kind == "cpu" and not HAS_BFLOAT16:
        return contextlib.nullcontext()
    return torch.autocast(kind, torch.bfloat16)
