#!/usr/bin/env python3
"""PyTorch's CPU scaled_dot_product_attention on bench_cpu's shapes: times in binary32 and bfloat16,
medians. Run by hand:

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch --index-url
    https://download.pytorch.org/whl/cpu /tmp/torch/bin/python tools/bench_torch.py [THREADS]
    [REPEAT]

and build/release/cpu/bench_cpu --threads THREADS beside it. Rates count 4 * head_dim operations for
each live (query, key) pair. """
import statistics
import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention


clock = time.perf_counter


def measure(name, shape_q, shape_k, causal, pairs, repeat):
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(1)
        q = torch.randn(shape_q).to(dtype)
        k, v = torch.randn(shape_k).to(dtype), torch.randn(shape_k).to(dtype)
        seconds = []
        for _ in range(repeat + 1):
            start = clock()
            scaled_dot_product_attention(q, k, v, is_causal=causal)
            seconds.append(clock() - start)
        median = statistics.median(seconds[1:])  # the first warms up
        print(
            f"  {name:<36} {str(dtype)[6:]:<9} {median * 1e3:10.3f} ms"
            f" {4 * shape_q[-1] * pairs / median * 1e-9:9.1f} Gop/s"
        )


def main():
    global clock
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads()
    repeat = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    torch.set_num_threads(threads)
    if threads == 1:
        clock = time.process_time  # as bench_cpu: what else runs does not count as much
    print(
        f"PyTorch {torch.__version__}; {threads} threads; medians of {repeat};"
        f" {'CPU' if threads == 1 else 'wall'} time"
    )
    n, heads = 4096, 8
    with torch.inference_mode():
        measure(
            "prefill b1 h8 n4096 d128",
            (1, heads, n, 128),
            (1, heads, n, 128),
            False,
            heads * n * n,
            repeat,
        )
        measure(
            "causal b1 h8 n4096 d128",
            (1, heads, n, 128),
            (1, heads, n, 128),
            True,
            heads * n * (n + 1) // 2,
            repeat,
        )
        # 4 query heads share a key/value head: as 4 rows of one, which is the same sum
        measure(
            "decode nq=1 hq=32 hkv=8 nk=32768",
            (1, 8, 4, 128),
            (1, 8, 32768, 128),
            False,
            32 * 32768,
            repeat,
        )


main()
