"""Operators for PyTorch: torch.ops.ifa.attention on CPU and CUDA tensors, and a drop-in for its
attention.

    import ifa.torch
    o = ifa.torch.attention(q, k, v, causal=True)
    o = ifa.torch.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

On a CUDA device the call launches on the current stream, takes its memory from torch's allocator,
synchronizes nothing, and may be captured into a CUDA graph. Under torch.compile it is one operator,
without a graph break. numpy arrays, CPU and CUDA tensors give the same bits. There is no backward
pass."""

from typing import Any, Optional

import torch
from torch import library as torch_library
from torch.cuda import current_device, current_stream, device_of

from . import _arrays as A
from . import _library as L
from ._attention import attend_views
from ._cuda import Plan
from ._problem import Problem, default_scale, settings

_KINDS = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
_DTYPES = {kind: dtype for dtype, kind in _KINDS.items()}


def _view(name: str, x: torch.Tensor) -> A.View:
    kind = _KINDS.get(x.dtype)
    if kind is None:
        raise L.BadArgument(f"{name} is of {x.dtype}; it must be of float32, float16 or bfloat16")
    return A.View(x.data_ptr(), tuple(x.shape), x.stride(), kind, x.is_cuda, x, True)


def _operand(name: str, x: torch.Tensor) -> A.View:
    view = _view(name, x)
    return view if view.rows_contiguous() else _view(name, x.contiguous())


def _problem(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool,
    window: int,
    sm_scale: Optional[float],
    lse: bool,
    fields: dict[str, Any],
) -> Problem:
    if (
        q.dim() != 4
        or k.dim() != 4
        or k.shape != v.shape
        or k.shape[0] != q.shape[0]
        or k.shape[3] != q.shape[3]
    ):
        raise L.BadArgument(
            f"q {list(q.shape)}, k {list(k.shape)} and v {list(v.shape)} do not go together: [batch, heads, tokens, head_dim]"
        )
    for name, x in (("k", k), ("v", v)):
        if x.get_device() != q.get_device():
            raise L.BadArgument(f"{name} is on another device than q")
    batch, q_heads, nq, head_dim = q.shape
    return Problem(
        batch,
        q_heads,
        k.shape[1],
        nq,
        k.shape[2],
        head_dim,
        sm_scale=default_scale(sm_scale, head_dim),
        causal=causal,
        window=window,
        lse=lse,
        **fields,
    )


def _attend(
    problem: Problem,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    smooth_k: bool,
    o: torch.Tensor,
    lse: torch.Tensor,
) -> None:
    """Writes o, and lse if the problem has it."""
    out = A.output("out", _view("out", o), (*q.shape,), A.FLOATS)
    problem.out_type = out.type
    lse_view = _view("lse", lse) if problem.lse else None
    if lse_view is not None and (
        lse_view.shape != out.shape[:3] or not lse.is_contiguous() or lse_view.type != "f32"
    ):
        raise L.BadArgument(
            f"lse is {list(lse.shape)} of {lse.dtype}; it must be contiguous {list(out.shape[:3])} of float32"
        )
    if o.get_device() != q.get_device() or (problem.lse and lse.get_device() != q.get_device()):
        raise L.BadArgument("the output is on another device than q")
    views = {name: _operand(name, x) for name, x in (("q", q), ("k", k), ("v", v))}
    if q.is_cuda:
        with device_of(q):
            _attend_cuda(problem, views, smooth_k, out, lse_view, q)
    else:
        attend_views(problem, views, smooth_k, out, lse_view, torch.get_num_threads())


def _launch(
    plan: Plan, q: torch.Tensor, k: int, v: int, o: int, lse: Optional[int], q_address: int
) -> None:
    """On the current stream of q's card, which is the current one; pointers otherwise. The
    workspace is torch's: what comes later on the stream may have it at once."""
    workspace = q.new_empty(max(1, plan.bytes), dtype=torch.uint8)
    plan.launch(
        q_address, k, v, o, lse, workspace.data_ptr(), current_stream(q.get_device()).cuda_stream
    )


def _attend_cuda(
    problem: Problem,
    views: dict[str, A.View],
    smooth_k: bool,
    out: A.View,
    lse: Optional[A.View],
    q: torch.Tensor,
) -> None:
    plan = Plan(problem, views, smooth_k, out)
    _launch(
        plan,
        q,
        views["k"].address,
        views["v"].address,
        out.address,
        None if lse is None else lse.address,
        views["q"].address,
    )


_plans: dict[Any, Plan] = {}
_MOST_PLANS = 4096


def _operator(
    q: Any,
    k: Any,
    v: Any,
    causal: Any,
    window: Any,
    sm_scale: Any,
    lse: Any,
    out_dtype: Any,
    smooth_k: Any,
    *scalars: Any,
) -> Any:
    """On the CPU, and on a GPU the first time."""
    fields = dict(zip(_FIELDS, scalars))
    fields["tau"] = _tau(fields["tau"])
    problem = _problem(q, k, v, causal, window, sm_scale, lse, fields)
    if out_dtype not in _KINDS:
        raise L.BadArgument(f"out_type is {out_dtype}; it must be float32, float16 or bfloat16")
    o = q.new_empty(q.shape, dtype=out_dtype)
    sums = q.new_empty(q.shape[:3] if lse else (0,), dtype=torch.float32)
    _attend(problem, q, k, v, smooth_k, o, sums)
    return o, sums


def _operator_cuda(q: Any, k: Any, v: Any, *settings: Any) -> Any:
    """A call like an earlier one goes straight to the library: some microseconds."""
    if q.get_device() != current_device():
        with device_of(q):
            return _operator_cuda(q, k, v, *settings)
    shape = q.shape
    key = (
        shape,
        q.stride(),
        q.dtype,
        q.get_device(),
        k.shape,
        k.stride(),
        k.dtype,
        k.get_device(),
        v.shape,
        v.stride(),
        v.dtype,
        v.get_device(),
        settings,
    )
    plan = _plans.get(key)
    lse, out_dtype = settings[3], settings[4]
    if plan is None:
        answer = _operator(q, k, v, *settings)  # looks at everything
        operands = [_operand(name, x) for name, x in (("q", q), ("k", k), ("v", v))]
        if all(view.keep is x for view, x in zip(operands, (q, k, v))):  # none was copied
            fields = dict(zip(_FIELDS, settings[6:]))
            fields["tau"] = _tau(fields["tau"])
            problem = _problem(q, k, v, settings[0], settings[1], settings[2], lse, fields)
            problem.out_type = _KINDS[out_dtype]
            if len(_plans) >= _MOST_PLANS:
                _plans.clear()
            _plans[key] = Plan(
                problem, dict(zip("qkv", operands)), settings[5], _view("out", answer[0])
            )
        return answer
    o = q.new_empty(shape, dtype=out_dtype)
    sums = q.new_empty(shape[:3] if lse else (0,), dtype=torch.float32)
    _launch(
        plan,
        q,
        k.data_ptr(),
        v.data_ptr(),
        o.data_ptr(),
        sums.data_ptr() if lse else None,
        q.data_ptr(),
    )
    return o, sums


def _fake(
    q: Any,
    k: Any,
    v: Any,
    causal: Any,
    window: Any,
    sm_scale: Any,
    lse: Any,
    out_dtype: Any,
    *_: Any,
) -> Any:
    torch._check(
        q.dim() == 4 and k.dim() == 4 and v.dim() == 4,
        lambda: "q, k and v must be [batch, heads, tokens, head_dim]",
    )
    return q.new_empty(q.shape, dtype=out_dtype), q.new_empty(
        q.shape[:3] if lse else (0,), dtype=torch.float32
    )


def _backward(*_: Any) -> Any:
    raise L.Unsupported(_NO_BACKWARD)


_NO_BACKWARD = "gradients: no backward pass (torch.no_grad())"
_FIELDS = (
    "q_type",
    "k_type",
    "v_type",
    "q_scale",
    "k_scale",
    "v_scale",
    "q_block",
    "k_block",
    "tau",
    "kv_tile",
    "kv_split",
)

_operators = torch_library.Library("ifa", "DEF")
_operators.define(
    "attention(Tensor q, Tensor k, Tensor v, bool causal, int window, float? sm_scale, bool lse, ScalarType out_dtype, bool smooth_k,"
    " str q_type, str k_type, str v_type, str q_scale, str k_scale, str v_scale, int q_block, int k_block, float tau, int kv_tile,"
    " int kv_split) -> (Tensor o, Tensor lse_out)"
)
_operators.impl("attention", _operator, "CPU")
_operators.impl("attention", _operator_cuda, "CUDA")
torch_library.register_fake("ifa::attention", _fake, lib=_operators)
torch_library.register_autograd("ifa::attention", _backward, lib=_operators)
_overload = torch.ops.ifa.attention.default


def _tau(tau: Any) -> Any:
    return int(tau) if float(tau).is_integer() else tau  # what is none is refused by name


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    window: int = 0,
    sm_scale: Optional[float] = None,
    preset: str = "accurate",
    lse: bool = False,
    out_type: Any = None,
    out: Any = None,
    **options: Any,
) -> Any:
    """ifa.attention on tensors, all on one device (CPU or CUDA, there of one type): arguments,
    settings and bits are the same. q [batch, q_heads, nq, head_dim], k and v [batch, kv_heads, nk,
    head_dim], any strides with head_dim contiguous.

    out_type: a torch.dtype, or "f32", "f16", "bf16"; that of q if not given. Returns the output,
    contiguous, or (output, lse). out: written and returned (a pair where lse=True); not for
    torch.compile. With K less its mean (preset "accurate") lse is that of the scores so shifted: it
    is lower by sm_scale q . mean in each row. Not differentiable."""
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        raise L.Unsupported(_NO_BACKWARD)
    fields, smooth = settings(preset, options)
    all_fields = {name: fields.get(name, getattr(Problem, name)) for name in _FIELDS}
    if out is not None:
        o, sums = out if lse else (out, None)
        problem = _problem(
            q, k, v, causal, window, sm_scale, lse, dict(all_fields, tau=_tau(all_fields["tau"]))
        )
        _attend(problem, q.detach(), k.detach(), v.detach(), smooth, o, sums)
        return out
    dtype = q.dtype if out_type is None else _DTYPES.get(out_type, out_type)
    if dtype not in _KINDS:
        raise L.BadArgument(
            f"out_type is {out_type if out_type is not None else q.dtype}; it must be float32, float16 or bfloat16"
        )
    scalars = [float(all_fields[name]) if name == "tau" else all_fields[name] for name in _FIELDS]
    o, sums = _overload(q, k, v, causal, window, sm_scale, lse, dtype, smooth, *scalars)
    return (o, sums) if lse else o


def refusal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Optional[torch.Tensor] = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    enable_gqa: bool = False,
) -> Optional[str]:
    """Why scaled_dot_product_attention does not do this, or None."""
    if attn_mask is not None:
        return "attn_mask: only is_causal"
    if dropout_p != 0:
        return f"dropout_p is {dropout_p}: no dropout"
    if torch.is_grad_enabled() and (
        query.requires_grad or key.requires_grad or value.requires_grad
    ):
        return _NO_BACKWARD
    if query.dtype not in _KINDS:
        return f"{query.dtype}: only float32, float16 and bfloat16"
    if query.dim() != 4:
        return f"{query.dim()} dimensions: only [batch, heads, tokens, head_dim]"
    if query.shape[-1] != value.shape[-1]:
        return f"head_dim of value is {value.shape[-1]}, of query {query.shape[-1]}"
    if query.shape[-1] > 256:
        return f"head_dim is {query.shape[-1]}: at most 256"
    if query.shape[1] != key.shape[1] and not enable_gqa:
        return f"{key.shape[1]} key heads to {query.shape[1]} query heads: enable_gqa=True"
    if is_causal and query.shape[2] > key.shape[2]:
        return "is_causal with more query than key tokens"
    return None


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Optional[torch.Tensor] = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Optional[float] = None,
    enable_gqa: bool = False,
    *,
    fallback: bool = False,
    preset: str = "accurate",
    **options: Any,
) -> torch.Tensor:
    """torch.nn.functional.scaled_dot_product_attention on integer operands: same arguments, same
    meaning (is_causal is aligned at the top left, as torch has it), the output of query's type,
    contiguous.

    What it cannot do (`refusal` has the list: masks, dropout, gradients, ...) raises
    ifa.Unsupported, which names it; with fallback=True torch's does it instead. preset and options:
    as ifa.attention's."""
    why = refusal(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
    if why is not None:
        if not fallback:
            raise L.Unsupported(why)
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if (
        is_causal and query.shape[2] < key.shape[2]
    ):  # torch's mask: the later keys are seen by no row
        key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
    result: torch.Tensor = attention(
        query, key, value, causal=is_causal, sm_scale=scale, preset=preset, **options
    )
    return result
