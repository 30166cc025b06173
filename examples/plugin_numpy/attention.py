#!/usr/bin/env python3
"""Softmax attention on the floats, in binary32 with numpy: the smallest plug-in in Python.

    validate run --exec "python3 examples/plugin_numpy/attention.py"
"""
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from ifa_exec import live, serve


def attention(p, t):
    group = p.hq // p.hkv
    q, k, v = t["q"], np.repeat(t["k"], group, axis=1), np.repeat(t["v"], group, axis=1)
    if p.nk == 0:
        return np.zeros(q.shape, np.float32), np.full(q.shape[:3], -np.inf, np.float32)
    scores = np.where(live(p), np.float32(p.sm) * (q @ k.swapaxes(2, 3)), np.float32(-np.inf))
    top = scores.max(axis=3, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = weights.sum(axis=3, keepdims=True)
    o = (weights @ v) / np.where(total > 0, total, 1)  # a row that sees no key gives 0
    with np.errstate(divide="ignore"):
        return o, (top + np.log(total))[..., 0]


if __name__ == "__main__":
    serve("numpy", "close q=f32 k=f32 v=f32", attention)
