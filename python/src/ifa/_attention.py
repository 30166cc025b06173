"""Quantizers and attention on arrays."""

from __future__ import annotations

import ctypes as c
import dataclasses
from typing import Any, Optional

import numpy as np

from . import _arrays as A
from . import _library as L
from ._cpu import attend as attend_cpu
from ._cuda import attend as attend_cuda
from ._problem import Problem, default_scale, settings


@dataclasses.dataclass
class Quantized:
    """A quantized [batch, heads, tokens, head_dim] tensor.

    data: int8, or for INT4 uint8 with two elements to a byte ([..., ceil(head_dim / 2)]). scale:
    float32 in the shape that `granularity` has (include/ifa.h, ifa_granularity). channel_scale:
    [batch, heads, head_dim], for "token_channel" only. mean: [batch, heads, head_dim], what was
    subtracted, or None."""

    data: Any
    scale: Any
    type: str
    granularity: str
    head_dim: int
    block: int = 0
    channel_scale: Any = None
    mean: Any = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        b, h, n, _ = self.data.shape
        return (b, h, n, self.head_dim)


_Operand = tuple[
    A.View, A.View, Optional[A.View]
]  # integers, scales, and of "token_channel" the channels' scales


def scale_shape(granularity: str, shape: tuple[int, ...], block: int) -> tuple[int, ...]:
    b, h, n, d = shape
    return {
        "tensor": (b, h),
        "block": (b, h, -(-n // block) if block > 0 else 0),
        "token": (b, h, n),
        "channel": (b, h, d),
        "token_channel": (b, h, n),
    }[granularity]


def quantize_view(
    name: str,
    view: A.View,
    kind: str,
    granularity: str,
    block: int,
    subtract_mean: bool,
) -> Quantized:
    if kind not in ("int8", "int4"):
        raise L.BadArgument(f"type of {name} is {kind!r}; it must be int8 or int4")
    if granularity not in L.GRANULARITIES:
        raise L.BadArgument(
            f"scale of {name} is {granularity!r}; it must be one of {', '.join(L.GRANULARITIES)}"
        )
    if granularity == "block" and block < 1:
        raise L.BadArgument(f"block of {name} is {block}; it must be at least 1")
    b, h, n, d = view.shape
    q = (
        np.empty((b, h, n, (d + 1) // 2), np.uint8)
        if kind == "int4"
        else np.empty((b, h, n, d), np.int8)
    )
    result = Quantized(
        q,
        np.empty(scale_shape(granularity, view.shape, block), np.float32),
        kind,
        granularity,
        d,
        block,
    )
    if granularity == "token_channel":
        result.channel_scale = np.empty((b, h, d), np.float32)
    if subtract_mean:
        result.mean = np.empty((b, h, d), np.float32)
    if 0 in view.shape:
        if granularity != "token" and not 0 in (
            b,
            h,
            d,
        ):  # no token: every group is empty
            result.scale.fill(0)
            if result.channel_scale is not None:
                result.channel_scale.fill(0)
        if result.mean is not None:
            result.mean.fill(0)
        return result
    args = L.QuantizeArgs(
        src=view.address,
        src_type=L.TYPES[view.type],
        src_stride=A.strides_of(view),
        batch=b,
        heads=h,
        tokens=n,
        head_dim=d,
        dst=q.ctypes.data,
        dst_type=L.TYPES[kind],
        granularity=L.GRANULARITIES[granularity],
        block=block,
        subtract_mean=int(subtract_mean),
        scale=result.scale.ctypes.data,
        channel_scale=None if result.channel_scale is None else result.channel_scale.ctypes.data,
        mean=None if result.mean is None else result.mean.ctypes.data,
    )
    try:
        L.call("ifa_quantize", c.byref(args))
    except L.Error as why:
        raise type(why)(str(why).replace("src[", f"{name}[")) from None
    return result


def quantize(
    x: Any,
    type: str = "int8",
    scale: str = "token",
    *,
    block: int = 64,
    subtract_mean: bool = False,
    name: str = "x",
) -> Quantized:
    """Symmetric quantization of [batch, heads, tokens, head_dim] floats (f32, f16 or bf16; numpy or
    __dlpack__ on the CPU; any strides): the bits of ifa_quantize. scale: "tensor", "block" (of
    `block` tokens), "token", "channel" or "token_channel". subtract_mean: each channel less its
    mean over the tokens (for K: the softmax does not notice).

    Raises BadArgument, and BadData for NaN, infinity or |x| > 2^99, with the place."""
    view = A.floats(name, x, 4)
    if view.cuda:
        raise L.BadArgument(f"{name} is on a CUDA device; it must be on the CPU")
    return quantize_view(name, view, type, scale, block if scale == "block" else 0, subtract_mean)


def _given(name: str, x: Quantized) -> tuple[A.View, A.View, Optional[A.View]]:
    """Quantized operands as they are given; scales dense, as the library wants them."""
    data = A.view_of(name, x.data)
    width = (x.head_dim + 1) // 2 if x.type == "int4" else x.head_dim
    if (
        x.type not in ("int8", "int4")
        or len(data.shape) != 4
        or data.shape[3] != width
        or A.WIDTH.get(data.type) != 1
    ):
        raise L.BadArgument(
            f"{name}: {list(data.shape)} of {data.type} is no [batch, heads, tokens, {width}] of {x.type}"
        )
    if not data.rows_contiguous():
        data = A.dense_copy(name, data)
    if x.granularity not in L.GRANULARITIES:
        raise L.BadArgument(
            f"scale of {name} is {x.granularity!r}; it must be one of {', '.join(L.GRANULARITIES)}"
        )
    b, h, _, d = x.shape
    channel = None
    if x.granularity == "token_channel":
        channel = _dense_scale(f"{name}.channel_scale", x.channel_scale, (b, h, d))
    return (
        data,
        _dense_scale(f"{name}.scale", x.scale, scale_shape(x.granularity, x.shape, x.block)),
        channel,
    )


def _dense_scale(name: str, x: Any, shape: tuple[int, ...]) -> A.View:
    view = A.view_of(name, x)
    if view.shape != shape or view.type != "f32":
        raise L.BadArgument(
            f"{name} is {list(view.shape)} of {view.type}; it must be {list(shape)} of f32"
        )
    dense = tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))
    same = all(n == 1 or a == b for n, a, b in zip(shape, view.strides, dense))
    return view if same else A.dense_copy(name, view)


def _rows(rows: Any, count: int) -> Optional[np.ndarray[Any, Any]]:
    if rows is None:
        return None
    numbers = np.ascontiguousarray(rows, np.int64)
    if numbers.ndim != 1:
        raise L.BadArgument(
            f"rows has shape {list(numbers.shape)}; it must be a list of numbers below {count}"
        )
    return numbers


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    causal: bool = False,
    window: int = 0,
    sm_scale: Optional[float] = None,
    preset: str = "accurate",
    lse: bool = False,
    out_type: Optional[str] = None,
    out: Any = None,
    rows: Any = None,
    backend: str = "cpu",
    threads: Optional[int] = None,
    workspace: Any = None,
    stream: Optional[int] = None,
    **options: Any,
) -> Any:
    """softmax(sm_scale q k^T) v on integer operands: the same bits on every backend and machine.

    q [batch, q_heads, nq, head_dim], k and v [batch, kv_heads, nk, head_dim], each f32, f16 or bf16
    floats, quantized here, or a `Quantized`. Any layout by strides ([batch, tokens, heads,
    head_dim] transposed costs no copy) as long as head_dim is contiguous; others are copied. numpy
    arrays, or whatever has __dlpack__; torch tensors on any device go to ifa.torch.attention, and
    tensors come back. Other arrays on a CUDA device (CuPy's, JAX's) are floats of one type, all on
    the current device, and nothing is allocated there: `out` and a `workspace` (uint8, [bytes];
    without one the refusal says how many) are the caller's; the call launches on `stream` (a
    cudaStream_t; the default stream if not given).

    causal: row i sees keys j <= i + nk - nq. window w > 0: keys within w - 1 of i + nk - nq.
    sm_scale: 1/sqrt(head_dim) if not given. preset: "accurate" (V per token, K less its mean),
    "fast" (V per channel), "int4"; docs/numerics.md, section 14, has their errors. Options replace
    its settings: q_type, k_type, v_type ("int8", "int4"), q_scale, k_scale, v_scale, q_block,
    k_block, smooth_k, tau, kv_tile, kv_split. rows: numbers (b * q_heads + h) * nq + i, ascending,
    of the rows to compute; the others are not written.

    Returns the output [batch, q_heads, nq, head_dim] of out_type (that of `out`, else of q if q is
    a float, else f32; numpy has no bf16: its bits as uint16 unless ml_dtypes is installed), or
    (output, lse) with lse=True: the natural log-sum-exp [batch, q_heads, nq]. threads: at most so
    many (as OpenMP would, if not given); no result depends on it. out: written and returned; with
    lse=True a pair.

    Raises ifa.Error's kinds; the text names the field and its value. Where it is BadData, `out` is
    unspecified. The bits are those of ifa_quantize and ifa_run."""
    if any(A.is_torch(x) for x in (q, k, v)):
        from . import torch as ifa_torch

        if rows is not None or backend != "cpu" or any(isinstance(x, Quantized) for x in (q, k, v)):
            raise L.BadArgument(
                "rows, backend and Quantized operands are for numpy arrays: x.numpy() is a view of a tensor on the CPU"
            )
        return ifa_torch.attention(
            q,
            k,
            v,
            causal=causal,
            window=window,
            sm_scale=sm_scale,
            preset=preset,
            lse=lse,
            out_type=out_type,
            out=out,
            **options,
        )
    fields, smooth = settings(preset, options)
    operands, floats, problem = _operands(q, k, v, fields, stream)
    problem.sm_scale = default_scale(sm_scale, problem.head_dim)
    problem.causal, problem.window, problem.lse = causal, window, lse
    on_device = _on_device(floats)
    if on_device and (out is None or rows is not None or backend != "cpu"):
        raise L.BadArgument("arrays on a CUDA device need out=, and take neither rows nor backend")
    float_type = floats["q"].type if "q" in floats else "f32"
    written = _outputs(problem, out, out_type or float_type, bool(out_type), on_device, stream)
    if on_device:
        attend_cuda(problem, floats, smooth, written[1], written[3], workspace, stream)
        return out
    o, o_view, sums, lse_view = written
    if (
        len(floats) == 3
        and len({view.type for view in floats.values()}) == 1
        and rows is None
        and backend == "cpu"
    ):
        attend_cpu(problem, floats, smooth, o_view, lse_view, threads)
    else:
        _quantize_floats(problem, floats, smooth, operands)
        _run(problem, operands, o_view, lse_view, rows, backend)
    return (o, sums) if lse else o


def _operands(
    q: Any, k: Any, v: Any, fields: dict[str, Any], stream: Optional[int]
) -> tuple[dict[str, _Operand], dict[str, A.View], Problem]:
    """What is quantized already, what is floats, and a problem of their sizes."""
    operands: dict[str, _Operand] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    floats: dict[str, A.View] = {}
    for name, x in (("q", q), ("k", k), ("v", v)):
        if isinstance(x, Quantized):
            operands[name], shapes[name] = _given(name, x), x.shape
            fields[f"{name}_type"], fields[f"{name}_scale"] = x.type, x.granularity
            if x.granularity == "block" and name != "v":
                fields[f"{name}_block"] = x.block
        else:
            floats[name] = A.floats(name, x, 4, stream)
            shapes[name] = floats[name].shape
    problem = Problem(**fields)
    problem.batch, problem.q_heads, problem.nq, problem.head_dim = shapes["q"]
    problem.kv_heads, problem.nk = shapes["k"][1:3]
    if (
        shapes["k"] != shapes["v"]
        or shapes["k"][0] != problem.batch
        or shapes["k"][3] != problem.head_dim
    ):
        raise L.BadArgument(
            f"q {list(shapes['q'])}, k {list(shapes['k'])} and v {list(shapes['v'])} do not go together"
        )
    return operands, floats, problem


def _on_device(floats: dict[str, A.View]) -> bool:
    """Are all three on a CUDA device?"""
    there = {name for name, view in floats.items() if view.cuda}
    if there and len(there) < 3:
        raise L.BadArgument(
            f"{sorted(there)[0]} is on a CUDA device, {sorted(set('qkv') - there)[0]} is not"
        )
    return bool(there)


def _quantize_floats(
    problem: Problem,
    floats: dict[str, A.View],
    smooth: bool,
    operands: dict[str, _Operand],
) -> None:
    problem.check()
    for name, view in floats.items():
        kind, scale = getattr(problem, f"{name}_type"), getattr(problem, f"{name}_scale")
        block = getattr(problem, f"{name}_block") if scale == "block" else 0
        operands[name] = _given(
            name, quantize_view(name, view, kind, scale, block, smooth and name == "k")
        )


def attend_views(
    problem: Problem,
    floats: dict[str, A.View],
    smooth: bool,
    o: A.View,
    lse: Optional[A.View],
    threads: Optional[int] = None,
) -> None:
    """Floats on the CPU, all sizes and settings in the problem."""
    if len({view.type for view in floats.values()}) == 1:
        attend_cpu(problem, floats, smooth, o, lse, threads)
        return
    operands: dict[str, _Operand] = {}
    _quantize_floats(problem, floats, smooth, operands)
    _run(problem, operands, o, lse, None, "cpu")


def _outputs(
    problem: Problem,
    out: Any,
    kind: str,
    demanded: bool,
    cuda: bool = False,
    stream: Optional[int] = None,
) -> tuple[Any, A.View, Any, Optional[A.View]]:
    """Output and lse as arrays and as views; sets out_type."""
    shape = (problem.batch, problem.q_heads, problem.nq, problem.head_dim)
    pair = (out if problem.lse else (out, None)) if out is not None else (None, None)
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise L.BadArgument("out must be a pair (output, lse) where lse=True")
    if kind not in A.FLOATS:
        raise L.BadArgument(f"out_type is {kind!r}; it must be one of {', '.join(A.FLOATS)}")
    o = np.empty(shape, A.numpy_dtype(kind)) if pair[0] is None else pair[0]
    view = A.output("out", o, shape, (kind,) if demanded or pair[0] is None else A.FLOATS, stream)
    if view.cuda != cuda:
        raise L.BadArgument(
            "out is not where q, k and v are: one is on a CUDA device, the other is not"
        )
    problem.out_type = view.type
    if not problem.lse:
        return o, view, None, None
    lse = np.empty(shape[:3], np.float32) if pair[1] is None else pair[1]
    lse_view = A.view_of("lse", lse, stream)
    if lse_view.cuda != cuda:
        raise L.BadArgument(
            "lse is not where q, k and v are: one is on a CUDA device, the other is not"
        )
    dense = (shape[1] * shape[2], shape[2], 1)
    if (
        lse_view.shape != shape[:3]
        or lse_view.type != "f32"
        or any(n > 1 and s != t for n, s, t in zip(shape, lse_view.strides, dense))
    ):
        raise L.BadArgument(
            f"lse is {list(lse_view.shape)} of {lse_view.type}; it must be dense {list(shape[:3])} of f32"
        )
    return o, view, lse, lse_view


def _run(
    problem: Problem,
    operands: dict[str, _Operand],
    o_view: A.View,
    lse_view: Optional[A.View],
    rows: Any,
    backend: str,
) -> None:
    p = problem._to_c()
    for name, (data, _, _) in operands.items():
        setattr(
            p,
            f"{name}_stride",
            A.strides_of(data, 2 if getattr(problem, f"{name}_type") == "int4" else 1),
        )
    p.o_stride = A.strides_of(o_view)
    numbers = _rows(rows, problem.batch * problem.q_heads * problem.nq)
    channel = operands["v"][2]
    inputs = L.Inputs(
        **{name: data.address for name, (data, _, _) in operands.items()},
        **{f"{name}_scale": scale.address for name, (_, scale, _) in operands.items()},
        v_channel_scale=None if channel is None else channel.address,
        rows=None if numbers is None else numbers.ctypes.data,
        row_count=0 if numbers is None else len(numbers),
    )
    outputs = L.Outputs(o=o_view.address, lse=None if lse_view is None else lse_view.address)
    L.call("ifa_run", backend.encode(), c.byref(p), c.byref(inputs), c.byref(outputs))


def live(p: Any) -> np.ndarray[Any, Any]:
    """Boolean [nq, nk]: does row i see key j? p: a Problem, or a case's."""
    position, key = np.arange(p.nq)[:, None] + p.nk - p.nq, np.arange(p.nk)[None, :]
    seen = np.ones((p.nq, p.nk), bool)
    if p.causal:
        seen &= key <= position
    if p.window:
        seen &= (key > position - p.window) & (key < position + p.window)
    return seen
