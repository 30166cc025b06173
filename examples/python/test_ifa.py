#!/usr/bin/env python3
"""test_ifa.py - the ctypes layer: the best CPU backend against the oracle bit by bit on random tensors, both near exact attention, children of fork(), and refusals."""

import multiprocessing
import sys

import numpy as np

import ifa


def exact(q, k, v, sm_scale, causal):
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x.astype(np.float64), group, axis=1) for x in (k, v))
    s = sm_scale * q.astype(np.float64) @ k.transpose(0, 1, 3, 2)
    if causal:
        nq, nk = s.shape[2:]
        s = np.where(np.arange(nk) <= np.arange(nq)[:, None] + nk - nq, s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    return p @ v / p.sum(-1, keepdims=True)


def refused(call, text):
    try:
        call()
    except (ifa.Error, ValueError) as error:
        assert text in str(error), error
        return
    raise AssertionError(f"not refused: {text}")


def in_child(queue, *operands):
    queue.put(ifa.attention(*operands, sm_scale=0.125).tobytes())


def forked(*operands):
    """multiprocessing's children by fork(), after this process has computed on threads: the same bits from each, and at once."""
    wanted = ifa.attention(*operands, sm_scale=0.125).tobytes()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=in_child, args=(queue, *operands), daemon=True) for _ in range(3)]
    for child in children:
        child.start()
    assert [queue.get(timeout=60) for _ in children] == [wanted] * 3
    for child in children:
        child.join(60)
        assert child.exitcode == 0


def main():
    random = np.random.default_rng(1)
    cases = 0
    for dim, nq, nk, heads, kv_heads in ((64, 50, 130, 4, 2), (33, 7, 200, 3, 3), (128, 1, 300, 8, 1)):
        q, k, v = (random.standard_normal((2, h, n, dim)).astype(np.float32) for h, n in ((heads, nq), (kv_heads, nk), (kv_heads, nk)))
        for kind, bound in (("int8", 0.05), ("int4", 0.6)):
            for v_scale in ("tensor", "channel", "token", "token_channel"):
                for causal in (False, True):
                    options = dict(sm_scale=dim**-0.5, causal=causal, q_type=kind, k_type=kind, v_type=kind, v_scale=v_scale)
                    oracle = ifa.attention(q, k, v, backend="scalar", **options)
                    assert ifa.attention(q, k, v, **options).tobytes() == oracle.tobytes()
                    want = exact(q, k, v, dim**-0.5, causal)
                    error = np.linalg.norm(oracle - want) / np.linalg.norm(want)
                    assert 0 < error < bound, (options, error)
                    cases += 1
    forked(*(random.standard_normal((2, 8, n, 64)).astype(np.float32) for n in (300, 500, 500)))
    assert "scalar" in ifa.backends() and "cpu" in ifa.backends()
    half, scale, _ = ifa.quantize(np.float16([[[[1.0, -2.0, 0.5]]]]), "int4")
    assert half.tolist() == [[[[0x94, 0x02]]]] and scale.tolist() == [np.float32(2) / np.float32(7)]
    refused(lambda: ifa.attention(q, k, v, sm_scale=-1.0), "sm_scale")
    refused(lambda: ifa.attention(q, k[:, :, :, :8], v, sm_scale=1.0), "do not go together")
    refused(lambda: ifa.attention(q, k * np.nan, v, sm_scale=1.0), "nan")
    refused(lambda: ifa.attention(q, k, v, sm_scale=1.0, backend="no"), "there is no backend")
    print(f"{cases} cases: the oracle's bits")


if __name__ == "__main__":
    sys.exit(main())
