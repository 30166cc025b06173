#!/usr/bin/env python3
"""The published INT-FlashAttention's arithmetic (arXiv 2409.16997, Algorithm 1) in numpy, and the
defect of its causal kernel.

    validate run --exec "python3 examples/int_flash_numpy/int_flash.py" --case "nq=256 nk=256 d=64
    causal=0,1"

This is a transcription of formulas, not of the published code:

    S_Q = max_c |Q| / 127 and S_K a token, S_V = max |V| / 127 a head; Q', K', V' = the nearest
    integers per tile of keys:  S = diag(S_Q) (Q' K'^T) diag(S_K) sm;  m_new = max(m, rowmax S);  a
    = exp(m - m_new)
                       P = round(127 exp(S - m_new));  l = a l + rowsum(P);  O = a O + P V'
    O = O / l * S_V

Causal, the published kernel (github.com/INT-FlashAttention2024, flash_atten_full_int8.py; BLOCK_M
rows a block) goes over the keys in two passes: first those before the block's own diagonal, without
a mask, then the diagonal block, with one. Each pass begins with m = -infinity, because the first
hands on O and l, but not m. At the second pass's first tile a = exp(-infinity) = 0 then wipes out
what the first had gathered: a row sees only the keys of its own diagonal block. Rows of the first
block have nothing to lose and are right. Its authors measure the kernel without a mask only.

INT_FLASH_CAUSAL=paper in the environment hands m on, as Algorithm 1 says; then all is well.
Unsupported: windows, nk = 0, and causal masks with nq != nk. More than the published code does, so
that more of the suites apply: any sizes, GQA (each head of K and V repeated), lse. """
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from ifa_exec import Unsupported, serve

BLOCK_M, BLOCK_N = 64, 64  # rows and keys a tile; the published kernel tries several
AS_PUBLISHED = os.environ.get("INT_FLASH_CAUSAL", "published") != "paper"


def quantize(x, axes):
    scale = (np.abs(x).max(axis=axes, keepdims=True) / np.float32(127)).astype(np.float32)
    safe = np.where(scale > 0, scale, 1)
    return np.clip(np.rint(x / safe), -127, 127).astype(np.float32), scale


def one_pass(state, scores, v, tiles):
    """Algorithm 1's loop. scores(j0, j1) gives a tile's S, -infinity where a key is hidden."""
    m, l, o = state
    for start in tiles:
        s = scores(start, start + BLOCK_N)
        m_new = np.maximum(m, s.max(axis=1))
        safe = np.where(np.isfinite(m_new), m_new, 0)
        a = np.exp(m - safe)  # 0 while m is -infinity
        p = np.rint(127 * np.exp(s - safe[:, None]))
        l = a * l + p.sum(axis=1)
        o = a[:, None] * o + p @ v[start : start + BLOCK_N]
        m = m_new
    return m, l, o


def head(p, q, k, v):
    (qi, q_scale), (ki, k_scale), (vi, v_scale) = (
        quantize(q, 1),
        quantize(k, 1),
        quantize(v, (0, 1)),
    )
    out, lse = np.zeros((p.nq, p.d), np.float32), np.zeros(p.nq, np.float32)
    for top in range(0, p.nq, BLOCK_M):
        rows = np.arange(top, min(top + BLOCK_M, p.nq))

        def scores(j0, j1, masked=False):
            s = (qi[rows] @ ki[j0:j1].T) * q_scale[rows] * k_scale[j0:j1].T * np.float32(p.sm)
            keys = np.arange(j0, min(j1, p.nk))
            return np.where(keys[None, :] <= rows[:, None], s, -np.inf) if masked else s

        nothing = np.full(len(rows), -np.inf, np.float32)
        state = nothing, np.zeros(len(rows), np.float32), np.zeros((len(rows), p.d), np.float32)
        if not p.causal:
            m, l, o = one_pass(state, scores, vi, range(0, p.nk, BLOCK_N))
        else:
            m, l, o = one_pass(state, scores, vi, range(0, top, BLOCK_N))
            if AS_PUBLISHED:
                m = nothing  # the defect
            m, l, o = one_pass(
                (m, l, o), lambda a, b: scores(a, b, True), vi, range(top, top + len(rows), BLOCK_N)
            )
        out[rows] = o / l[:, None] * v_scale[0, 0]
        lse[rows] = m + np.log(l / 127)
    return out, lse


def attention(p, t):
    if p.window:
        raise Unsupported("window")
    if p.nk == 0 or (p.causal and p.nk != p.nq):
        raise Unsupported("nk")
    o, lse = np.zeros(t["q"].shape, np.float32), np.zeros(t["q"].shape[:3], np.float32)
    for b in range(p.b):
        for h in range(p.hq):
            kv = h // (p.hq // p.hkv)
            o[b, h], lse[b, h] = head(p, t["q"][b, h], t["k"][b, kv], t["v"][b, kv])
    return o, lse


if __name__ == "__main__":
    np.seterr(all="ignore")
    serve(
        "int-flash-published" if AS_PUBLISHED else "int-flash-paper",
        "close q=int8/token k=int8/token v=int8/head p=int8",
        attention,
    )
