#!/usr/bin/env python3
"""Time of PyTorch's fp16 attention on a GPU, by backend, and of cuDNN's fp8; started by bench_gpu
on its shapes.

    tools/bench_torch_gpu.py BATCH,HEADS,TOKENS,HEAD_DIM,CAUSAL...

Prints "pytorch VERSION", then a line "SHAPE flash|cudnn|fp8 MS" for each shape (numbered from 0)
and backend: flash is FlashAttention-2, fp8 cuDNN's e4m3 with a scale a tensor, through its Python
frontend (the module cudnn) where that is installed. Standard normal q, k, v; the median of 9 groups
of 4 calls by events, after a group that does not count. A backend that cannot run a shape has no
line. Exit code 3 and one line that says why where there is no PyTorch or it sees no GPU. """
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


try:
    import cudnn
except Exception:  # then without fp8
    cudnn = None


def time_ms(call):
    """Milliseconds a call."""
    times = []
    for group in range(-1, GROUPS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(CALLS):
            call()
        end.record()
        end.synchronize()
        if group >= 0:
            times.append(start.elapsed_time(end) / CALLS)
    return statistics.median(times)


def fp8_call(batch, heads, tokens, head_dim, causal):
    """cuDNN's graph for e4m3 q, k, v and o, and what runs it."""
    fp8, real = cudnn.data_type.FP8_E4M3, cudnn.data_type.FLOAT
    q, k, v = (
        torch.randn(batch, heads, tokens, head_dim, device="cuda").to(torch.float8_e4m3fn)
        for _ in range(3)
    )
    o = torch.empty_like(q)
    graph = cudnn.pygraph(io_data_type=fp8, intermediate_data_type=real, compute_data_type=real)

    def operand(x, name):
        return graph.tensor(dim=list(x.shape), stride=list(x.stride()), data_type=fp8, name=name)

    def scalar(name):
        return graph.tensor(dim=[1, 1, 1, 1], stride=[1, 1, 1, 1], data_type=real, name=name)

    inputs = {operand(q, "q"): q, operand(k, "k"): k, operand(v, "v"): v}
    names = ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o")
    scales = {name: scalar(name) for name in names}
    settings = dict(
        zip("qkv", inputs), attn_scale=head_dim**-0.5, use_causal_mask=causal, **scales
    )
    try:
        output, _, *largest = graph.sdpa_fp8(generate_stats=False, **settings)
    except TypeError:  # as it was called before
        output, _, *largest = graph.sdpa_fp8(is_inference=True, **settings)
    output.set_output(True).set_dim(list(o.shape)).set_stride(list(o.stride())).set_data_type(fp8)
    for x in largest:
        x.set_output(True).set_dim([1, 1, 1, 1]).set_stride([1, 1, 1, 1]).set_data_type(real)
    graph.build([cudnn.heur_mode.A])
    workspace = torch.empty(graph.get_workspace_size(), device="cuda", dtype=torch.uint8)
    tensors = {**inputs, output: o}
    tensors.update({x: torch.ones(1, 1, 1, 1, device="cuda") for x in scales.values()})
    tensors.update({x: torch.zeros(1, 1, 1, 1, device="cuda") for x in largest})
    return lambda: graph.execute(tensors, workspace)


def main():
    if not torch.cuda.is_available():
        unavailable("PyTorch sees no GPU")
    print("pytorch", torch.__version__, flush=True)
    torch.manual_seed(1)
    for number, text in enumerate(sys.argv[1:]):
        batch, heads, tokens, head_dim, causal = (int(word) for word in text.split(","))
        q, k, v = (
            torch.randn(batch, heads, tokens, head_dim, dtype=torch.float16, device="cuda")
            for _ in range(3)
        )
        for name, backend in (
            ("flash", SDPBackend.FLASH_ATTENTION),
            ("cudnn", SDPBackend.CUDNN_ATTENTION),
        ):
            try:
                with torch.inference_mode(), sdpa_kernel(backend):
                    ms = time_ms(
                        lambda: F.scaled_dot_product_attention(q, k, v, is_causal=bool(causal))
                    )
            except RuntimeError:  # not for this shape, or not in this build
                continue
            print(number, name, f"{ms:.5f}", flush=True)
        if cudnn is None:
            continue
        try:
            ms = time_ms(fp8_call(batch, heads, tokens, head_dim, bool(causal)))
        except Exception:  # not for this shape, or not in this version
            continue
        print(number, "fp8", f"{ms:.5f}", flush=True)


if __name__ == "__main__":
    main()
