#!/usr/bin/env python3
"""bench_peers.py LIBIFA TOOLS: the half of tools/bench_peers.py that calls libifa, without peers: its
calls go through, and their outputs are near attention in binary64."""
import importlib.util
import sys

import numpy

LIBRARY, TOOLS = sys.argv[1:]
spec = importlib.util.spec_from_file_location("bench_peers", TOOLS + "/bench_peers.py")
peers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peers)

ifa = peers.Ifa(LIBRARY, 1)
random = numpy.random.default_rng(1)
q, k, v = (random.standard_normal((2, 40, peers.DIM)).astype("float32") for _ in "qkv")
checks = 0
for preset in ("fast", "accurate"):
    for causal in (0, 1):
        o = numpy.full_like(q, numpy.nan)
        ifa.attention(preset, peers.F32, q, k, v, o, causal)()
        error = peers.distance(o, peers.exact(q, k, v, causal))
        assert error < 0.05, f"{preset}, causal {causal}: {error}"
        checks += 1
step, forget = ifa.cache(2, 40, peers.F32)
for _ in range(2):
    o = numpy.full_like(q, numpy.nan)
    for first, count in ((0, 30), (30, 1), (31, 9)):
        step(*(x.ctypes.data for x in (q, k, v, o)), first, count)
    error = peers.distance(o, peers.exact(q, k, v, 1))
    assert error < 0.05, f"through the cache: {error}"
    checks += 1
    forget()
print(f"bench_peers: {checks} passed, 0 failed")
