#!/usr/bin/env python3
"""Softmax attention in numpy, checked in the process: the smallest kernel for ifa.check (pip
install .).

    python3 examples/check_numpy/attention.py
"""

import sys

import ifa
import numpy as np


def attention(q, k, v, p):
    """q [batch, q_heads, nq, head_dim], k and v [batch, kv_heads, nk, head_dim], float32; p: the
    problem (ifa.Case)."""
    if p.nk == 0:
        raise ifa.Unsupported("nk")
    k, v = (np.repeat(x, p.group, axis=1) for x in (k, v))
    scores = np.where(p.live(), np.float32(p.sm_scale) * (q @ k.swapaxes(2, 3)), -np.inf)
    top = scores.max(3, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    weights = np.exp(scores - top)
    total = weights.sum(3, keepdims=True)
    o = (weights @ v) / np.where(total > 0, total, 1)  # a row that sees no key gives 0
    with np.errstate(divide="ignore"):
        return o, (top + np.log(total))[..., 0]


if __name__ == "__main__":
    sys.exit(ifa.check(attention, claim="close q=f32 k=f32 v=f32").exit_code)
