#!/usr/bin/env python3
"""FlashAttention in fp16 with Triton. Where Triton, PyTorch or a GPU is missing every case is
counted as not available.

    validate run --exec "python3 examples/plugin_triton/attention.py"
"""
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from ifa_exec import Unsupported, serve

try:
    import torch
    import triton
    import triton.language as tl

    MISSING = None if torch.cuda.is_available() else "no GPU"
except ImportError as why:
    MISSING = "no module %s" % why.name

if not MISSING:

    @triton.jit
    def kernel(
        Q,
        K,
        V,
        O,
        L,
        sm,
        nq,
        nk,
        offset,
        group,
        WINDOW,
        CAUSAL: tl.constexpr,
        D: tl.constexpr,
        DIM: tl.constexpr,
        BLOCK_M: tl.constexpr,
        BLOCK_N: tl.constexpr,
    ):
        rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
        head = tl.program_id(1).to(tl.int64)
        d = tl.arange(0, DIM)
        q = tl.load(
            Q + (head * nq + rows[:, None]) * D + d[None, :],
            mask=(rows[:, None] < nq) & (d[None, :] < D),
            other=0.0,
        )
        k_base, v_base = K + head // group * nk * D, V + head // group * nk * D
        position = rows[:, None] + offset
        m = tl.full(
            [BLOCK_M], -1.0e30, tl.float32
        )  # finite, so that a row that has seen no key yet makes no NaN
        l = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, DIM], tl.float32)
        for start in range(0, nk, BLOCK_N):
            keys = start + tl.arange(0, BLOCK_N)
            inside = (keys[:, None] < nk) & (d[None, :] < D)
            k = tl.load(k_base + keys[:, None] * D + d[None, :], mask=inside, other=0.0)
            s = tl.dot(q, tl.trans(k)) * sm
            seen = keys[None, :] < nk
            if CAUSAL:
                seen = seen & (keys[None, :] <= position)
            seen = seen & (
                (WINDOW == 0)
                | ((keys[None, :] > position - WINDOW) & (keys[None, :] < position + WINDOW))
            )
            s = tl.where(seen, s, -1.0e30)
            m_new = tl.maximum(m, tl.max(s, 1))
            p = tl.where(seen, tl.exp(s - m_new[:, None]), 0.0)
            a = tl.exp(m - m_new)
            l = l * a + tl.sum(p, 1)
            v = tl.load(v_base + keys[:, None] * D + d[None, :], mask=inside, other=0.0)
            acc = acc * a[:, None] + tl.dot(p.to(tl.float16), v)
            m = m_new
        o = acc / tl.where(l > 0, l, 1.0)[:, None]
        tl.store(
            O + (head * nq + rows[:, None]) * D + d[None, :],
            o,
            mask=(rows[:, None] < nq) & (d[None, :] < D),
        )
        tl.store(
            L + head * nq + rows, tl.where(l > 0, m + tl.log(l), -float("inf")), mask=rows < nq
        )


def launch(q, k, v, sm, window, causal, offset):
    """o and lse in float32 of fp16 tensors [batch, heads, tokens, head_dim]; row i is at position i
    + offset of the keys."""
    (b, hq, nq, d), (_, hkv, nk, _) = q.shape, k.shape
    o = torch.empty(q.shape, device="cuda", dtype=torch.float32)
    lse = torch.empty(q.shape[:3], device="cuda", dtype=torch.float32)
    if o.numel():
        grid = (triton.cdiv(nq, 64), b * hq)
        kernel[grid](
            q,
            k,
            v,
            o,
            lse,
            sm,
            nq,
            nk,
            offset,
            hq // hkv,
            window,
            int(causal),
            d,
            max(16, triton.next_power_of_2(d)),
            64,
            64,
        )
    return o, lse


def attention(p, t):
    if p.d > 128:
        raise Unsupported("d")
    q, k, v = (torch.tensor(t[name], device="cuda").to(torch.float16) for name in "qkv")
    o, lse = launch(q, k, v, p.sm, p.window, p.causal, p.nk - p.nq)
    return o.cpu().numpy(), lse.cpu().numpy()  # .cpu() waits for the kernel


if __name__ == "__main__":
    serve("triton-fp16", "close q=f16 k=f16 v=f16 p=f16", attention, not_available=MISSING)
