#!/usr/bin/env python3
"""FlashAttention in fp16 with Triton (examples/plugin_triton has the kernel), checked in the
process; and the same with a causal mask that is aligned at the top left, which is found. Needs
torch, Triton and a CUDA device.

    python3 examples/check_triton/attention.py
"""

import importlib.util
import sys
from pathlib import Path

import ifa

CLAIM = "close q=f16 k=f16 v=f16 p=f16"

spec = importlib.util.spec_from_file_location(
    "plugin_triton", Path(__file__).resolve().parents[1] / "plugin_triton" / "attention.py"
)
plugin = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plugin)


def attention(q, k, v, p):
    """q, k, v: fp16 tensors on the GPU. The kernel writes float32, which is rounded to the case's
    type afterwards."""
    if plugin.MISSING:
        raise ifa.NotAvailable(plugin.MISSING)
    if p.head_dim > 128:
        raise ifa.Unsupported("head_dim")
    return plugin.launch(q, k, v, p.sm_scale, p.window, p.causal, p.nk - p.nq)


def wrong_mask(q, k, v, p):
    """Row i sees keys up to i, however many keys there are."""
    if p.window:
        raise ifa.Unsupported("window")
    return plugin.launch(q, k, v, p.sm_scale, 0, p.causal, 0)


if __name__ == "__main__":
    ifa.check(wrong_mask, CLAIM, device="cuda", failures=1)
    sys.exit(ifa.check(attention, CLAIM, device="cuda").exit_code)
