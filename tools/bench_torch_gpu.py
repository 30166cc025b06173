#!/usr/bin/env python3
"""Time of PyTorch's fp16 attention on a GPU, by backend; started by bench_gpu on its shapes.

    tools/bench_torch_gpu.py BATCH,HEADS,TOKENS,HEAD_DIM,CAUSAL...

Prints "pytorch VERSION", then a line "SHAPE flash|cudnn MS" for each shape (numbered from 0) and backend: flash is FlashAttention-2.
Standard normal q, k, v; the median of 9 groups of 4 calls by events, after a group that does not count. A backend that cannot run a shape
has no line. Exit code 3 and one line that says why where there is no PyTorch or it sees no GPU.
"""
import statistics
import sys

GROUPS, CALLS = 9, 4


def unavailable(why):
    print(str(why).splitlines()[0] if str(why) else type(why).__name__)
    sys.exit(3)


try:
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
except Exception as error:  # ImportError, or a library that it needs
    unavailable(error)


def time_ms(q, k, v, causal):
    """Milliseconds a call."""
    times = []
    for group in range(-1, GROUPS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(CALLS):
            F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        end.record()
        end.synchronize()
        if group >= 0:
            times.append(start.elapsed_time(end) / CALLS)
    return statistics.median(times)


def main():
    if not torch.cuda.is_available():
        unavailable("PyTorch sees no GPU")
    print("pytorch", torch.__version__, flush=True)
    torch.manual_seed(1)
    for number, text in enumerate(sys.argv[1:]):
        batch, heads, tokens, head_dim, causal = (int(word) for word in text.split(","))
        q, k, v = (torch.randn(batch, heads, tokens, head_dim, dtype=torch.float16, device="cuda") for _ in range(3))
        for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
            try:
                with torch.inference_mode(), sdpa_kernel(backend):
                    ms = time_ms(q, k, v, bool(causal))
            except RuntimeError:  # not for this shape, or not in this build
                continue
            print(number, name, f"{ms:.5f}", flush=True)


if __name__ == "__main__":
    main()
