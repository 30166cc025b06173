"""Attention on the CPU from floats to floats in one call: ifa_cpu_attention."""

from __future__ import annotations

import ctypes as c
import os
import threading
from typing import Any, Optional

import numpy as np

from . import _arrays as A
from . import _library as L
from ._cuda import arguments
from ._problem import Problem

_ALIGNMENT = 64  # IFA_CPU_ALIGNMENT
_KEPT = 64 << 20  # bytes: a workspace up to here is kept for the thread's next call
_mine = threading.local()


def threads_wanted(threads: Optional[int]) -> int:
    """As OpenMP would: OMP_NUM_THREADS, else the processors that this process may use."""
    if threads is not None:
        return threads
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(text) if text.isdigit() and 0 < int(text) <= 4096 else len(os.sched_getaffinity(0))


def _workspace(count: int) -> np.ndarray[Any, Any]:
    room: Optional[np.ndarray[Any, Any]] = getattr(_mine, "room", None)
    if room is None or len(room) < count + _ALIGNMENT:
        room = np.empty(count + _ALIGNMENT, np.uint8)
        _mine.room = room if count <= _KEPT else None
    return room[-room.ctypes.data % _ALIGNMENT :][:count]


def attend(
    problem: Problem,
    views: dict[str, A.View],
    smooth_k: bool,
    out: A.View,
    lse: Optional[A.View],
    threads: Optional[int],
) -> None:
    """q, k and v of one type, all on the CPU."""
    args = arguments(problem, views, smooth_k, out)
    for name, view in views.items():
        setattr(args, name, view.address)
    args.o, args.lse = out.address, None if lse is None else lse.address
    size, wanted = c.c_size_t(), threads_wanted(threads)
    L.call("ifa_cpu_attention_workspace_bytes", c.byref(args), wanted, c.byref(size))
    room = _workspace(size.value)
    L.call("ifa_cpu_attention", None, c.byref(args), room.ctypes.data, size.value, wanted)
