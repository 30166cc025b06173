"""Attention on a CUDA device: what ifa.attention (arrays with __dlpack__) and ifa.torch share."""

from __future__ import annotations

import ctypes as c
from typing import Any, Optional

from . import _arrays as A
from . import _library as L
from ._problem import Problem


def arguments(
    problem: Problem, views: dict[str, A.View], smooth_k: bool, out: A.View
) -> L.AttentionArgs:
    """All but the pointers; q, k and v are of one type."""
    args = L.AttentionArgs(
        problem=problem._to_c(), type=L.TYPES[views["q"].type], subtract_k_mean=int(smooth_k)
    )
    for name, view in views.items():
        setattr(args.problem, f"{name}_stride", A.strides_of(view))
    args.problem.o_stride = A.strides_of(out)
    return args


class Plan:
    """What calls alike share, ready for the library: all but the pointers. bytes: of the
    workspace."""

    __slots__ = ("args", "bytes")

    def __init__(
        self, problem: Problem, views: dict[str, A.View], smooth_k: bool, out: A.View
    ) -> None:
        if not L.HAS_CUDA:
            raise L.NotAvailable(
                "this build of ifa has no GPU kernels (./dev wheel cuda makes one that has)"
            )
        if len({view.type for view in views.values()}) != 1:
            raise L.BadArgument(
                f"q, k and v are of {', '.join(view.type for view in views.values())}; on a GPU they must be of one type"
            )
        self.args = arguments(problem, views, smooth_k, out)
        size = c.c_size_t()
        L.call("ifa_cuda_attention_workspace_bytes", c.byref(self.args), c.byref(size))
        self.bytes = size.value

    def launch(
        self, q: int, k: int, v: int, o: int, lse: Optional[int], workspace: int, stream: Any
    ) -> None:
        """Addresses on the current device; the workspace is the call's until the stream is past
        it."""
        args = L.AttentionArgs.from_buffer_copy(self.args)
        args.q, args.k, args.v, args.o, args.lse = q, k, v, o, lse
        message = L.Message()
        status = L.lib.ifa_cuda_attention(args, workspace, self.bytes, stream, message)
        if status:
            L.raise_status(status, message.text.decode(errors="replace"))


def attend(
    problem: Problem,
    views: dict[str, A.View],
    smooth_k: bool,
    out: A.View,
    lse: Optional[A.View],
    workspace: Any,
    stream: Optional[int],
) -> None:
    """Arrays with __dlpack__: nothing is allocated here, so the workspace is the caller's."""
    plan = Plan(problem, views, smooth_k, out)
    if workspace is None:
        raise L.BadArgument(f"workspace is missing: an array of {plan.bytes} bytes on the device")
    room = A.view_of("workspace", workspace, stream)
    if not room.cuda or len(room.shape) != 1 or room.type != "uint8" or room.shape[0] < plan.bytes:
        raise L.BadArgument(
            f"workspace is {list(room.shape)} of {room.type}; it must be at least [{plan.bytes}] of uint8 on the device"
        )
    plan.launch(
        views["q"].address,
        views["k"].address,
        views["v"].address,
        out.address,
        None if lse is None else lse.address,
        room.address,
        stream,
    )
