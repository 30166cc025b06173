"""libifa through ctypes: its structures as include/*.h has them, its errors as exceptions.

The library is the one inside this package; the environment variable IFA_LIBRARY names another.
ctypes releases the GIL during every call. The library may be used after fork() (include/ifa.h, "In
a process")."""

from __future__ import annotations

import ctypes as c
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
CONTRACT = 3  # IFA_CONTRACT_VERSION: the bits that this package was written for

TYPES = {"f32": 0, "f16": 1, "bf16": 2, "int8": 3, "int4": 4}
GRANULARITIES = {"tensor": 0, "block": 1, "token": 2, "channel": 3, "token_channel": 4}
TAU_INF = 2**31 - 1


class Error(Exception):
    """What the library refuses; the text names the field, its value and its range. `status` is
    ifa_status's name."""

    status = "error"


class BadProblem(Error, ValueError):
    """A size, type, scale choice or mask that is out of its range, or two that contradict each
    other."""

    status = "bad problem"


class BadArgument(Error, ValueError):
    """An array of a wrong shape, layout or type, a row number or a name."""

    status = "bad argument"


class BadData(Error, ValueError):
    """Contents: NaN, infinity, a scale out of range."""

    status = "bad data"


class BadFile(Error, ValueError):
    """A file that cannot be understood."""

    status = "bad file"


class Unsupported(Error, NotImplementedError):
    """A valid problem that is not implemented here. A kernel under `ifa.check` raises it for what
    it does not do."""

    status = "unsupported"


class NotAvailable(Error, RuntimeError):
    """What this build or machine does not have."""

    status = "not available"


class OutOfMemory(Error, MemoryError):
    status = "out of memory"


class SystemRefused(Error, OSError):
    """The operating system refused a read or a write."""

    status = "I/O error"


class Full(Error):
    """A cache has no block, sequence or position left."""

    status = "full"


_ERRORS: list[type[Error]] = [
    BadProblem,
    BadArgument,
    BadData,
    BadFile,
    Unsupported,
    NotAvailable,
    OutOfMemory,
    SystemRefused,
    Full,
]


class Message(c.Structure):
    """ifa_message"""

    _fields_ = [("text", c.c_char * 320)]


class Strides(c.Structure):
    """ifa_strides"""

    _fields_ = [("batch", c.c_int64), ("head", c.c_int64), ("token", c.c_int64)]


class CProblem(c.Structure):
    """ifa_problem"""

    _fields_ = [
        *((name, c.c_int64) for name in ("batch", "q_heads", "kv_heads", "nq", "nk")),
        ("head_dim", c.c_int32),
        *(
            (name, c.c_int)
            for name in ("q_type", "k_type", "v_type", "q_scale", "k_scale", "v_scale")
        ),
        ("q_block", c.c_int32),
        ("k_block", c.c_int32),
        *((name, Strides) for name in ("q_stride", "k_stride", "v_stride", "o_stride")),
        ("sm_scale", c.c_float),
        ("causal", c.c_int32),
        ("window", c.c_int64),
        ("tau", c.c_int32),
        ("kv_tile", c.c_int32),
        ("kv_split", c.c_int64),
        ("out_type", c.c_int),
        ("lse", c.c_int32),
    ]


class Inputs(c.Structure):
    """ifa_inputs"""

    _fields_ = [
        *(
            (name, c.c_void_p)
            for name in ("q", "k", "v", "q_scale", "k_scale", "v_scale", "v_channel_scale", "rows")
        ),
        ("row_count", c.c_int64),
    ]


class Outputs(c.Structure):
    """ifa_outputs"""

    _fields_ = [("o", c.c_void_p), ("lse", c.c_void_p), ("stages", c.c_void_p)]


class QuantizeArgs(c.Structure):
    """ifa_quantize_args"""

    _fields_ = [
        ("src", c.c_void_p),
        ("src_type", c.c_int),
        ("src_stride", Strides),
        *((name, c.c_int64) for name in ("batch", "heads", "tokens", "head_dim")),
        ("dst", c.c_void_p),
        ("dst_type", c.c_int),
        ("dst_stride", Strides),
        ("granularity", c.c_int),
        ("block", c.c_int32),
        ("subtract_mean", c.c_int32),
        *((name, c.c_void_p) for name in ("scale", "channel_scale", "mean")),
    ]


class AttentionArgs(c.Structure):
    """ifa_cpu_attention_args and ifa_cuda_attention_args, which are alike"""

    _fields_ = [
        ("problem", CProblem),
        ("type", c.c_int),
        ("subtract_k_mean", c.c_int32),
        *((name, c.c_void_p) for name in ("q", "k", "v", "o", "lse")),
    ]


class CacheConfig(c.Structure):
    """ifa_cache_config"""

    _fields_ = [
        ("kv_heads", c.c_int64),
        ("head_dim", c.c_int32),
        ("k_type", c.c_int),
        ("v_type", c.c_int),
        ("kv_tile", c.c_int32),
        ("block_tokens", c.c_int32),
        *((name, c.c_int64) for name in ("blocks", "sequences", "sequence_tokens")),
    ]


class CacheUsage(c.Structure):
    """ifa_cache_usage"""

    _fields_ = [(name, c.c_int64) for name in ("free_blocks", "free_sequences", "shared_blocks")]


class CacheTokens(c.Structure):
    """ifa_cache_tokens"""

    _fields_ = [
        ("k", c.c_void_p),
        ("v", c.c_void_p),
        ("type", c.c_int),
        ("count", c.c_int64),
        *(
            (name, c.c_int64)
            for name in ("k_head_stride", "k_token_stride", "v_head_stride", "v_token_stride")
        ),
    ]


class CacheQuery(c.Structure):
    """ifa_cache_query"""

    _fields_ = [
        ("sequence", c.c_uint64),
        ("nq", c.c_int64),
        ("q", c.c_void_p),
        ("q_type", c.c_int),
        *((name, c.c_void_p) for name in ("q_scale", "o", "lse")),
    ]


_MESSAGE = c.POINTER(Message)
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ifa_status_name": (c.c_char_p, [c.c_int]),
    "ifa_problem_default": (CProblem, []),
    "ifa_problem_check": (c.c_int, [c.POINTER(CProblem), _MESSAGE]),
    "ifa_problem_print": (c.c_int, [c.POINTER(CProblem), c.c_char_p, c.c_size_t, _MESSAGE]),
    "ifa_problem_parse": (c.c_int, [c.c_char_p, c.POINTER(CProblem), _MESSAGE]),
    "ifa_backend_count": (c.c_int, []),
    "ifa_backend_name": (c.c_char_p, [c.c_int]),
    "ifa_backend_supports": (c.c_int, [c.c_char_p, c.POINTER(CProblem), _MESSAGE]),
    "ifa_run": (
        c.c_int,
        [c.c_char_p, c.POINTER(CProblem), c.POINTER(Inputs), c.POINTER(Outputs), _MESSAGE],
    ),
    "ifa_quantize": (c.c_int, [c.POINTER(QuantizeArgs), _MESSAGE]),
    "ifa_scale_count": (
        c.c_int64,
        [c.c_int, c.c_int64, c.c_int64, c.c_int64, c.c_int64, c.c_int32],
    ),
    "ifa_cpu_attention_workspace_bytes": (
        c.c_int,
        [c.POINTER(AttentionArgs), c.c_int, c.POINTER(c.c_size_t), _MESSAGE],
    ),
    "ifa_cpu_attention": (
        c.c_int,
        [c.c_char_p, c.POINTER(AttentionArgs), c.c_void_p, c.c_size_t, c.c_int, _MESSAGE],
    ),
    "ifa_cache_config_default": (CacheConfig, []),
    "ifa_cache_bytes": (c.c_int, [c.POINTER(CacheConfig), c.POINTER(c.c_size_t), _MESSAGE]),
    "ifa_cache_create": (
        c.c_int,
        [c.POINTER(CacheConfig), c.c_void_p, c.c_size_t, c.POINTER(c.c_void_p), _MESSAGE],
    ),
    "ifa_cache_destroy": (None, [c.c_void_p]),
    "ifa_cache_usage_of": (CacheUsage, [c.c_void_p]),
    "ifa_cache_check": (c.c_int, [c.c_void_p, _MESSAGE]),
    "ifa_cache_add": (c.c_int, [c.c_void_p, c.POINTER(c.c_uint64), _MESSAGE]),
    "ifa_cache_fork": (c.c_int, [c.c_void_p, c.c_uint64, c.POINTER(c.c_uint64), _MESSAGE]),
    "ifa_cache_truncate": (c.c_int, [c.c_void_p, c.c_uint64, c.c_int64, _MESSAGE]),
    "ifa_cache_remove": (c.c_int, [c.c_void_p, c.c_uint64, _MESSAGE]),
    "ifa_cache_length": (c.c_int, [c.c_void_p, c.c_uint64, c.POINTER(c.c_int64), _MESSAGE]),
    "ifa_cache_append": (c.c_int, [c.c_void_p, c.c_uint64, c.POINTER(CacheTokens), _MESSAGE]),
    "ifa_cache_read": (
        c.c_int,
        [
            c.c_void_p,
            c.c_uint64,
            c.c_int64,
            c.c_int64,
            c.c_void_p,
            c.c_void_p,
            c.c_void_p,
            c.c_void_p,
            _MESSAGE,
        ],
    ),
    "ifa_cache_problem": (CProblem, [c.c_void_p, c.c_int64]),
    "ifa_cache_workspace_create": (
        c.c_int,
        [
            c.c_void_p,
            c.POINTER(CProblem),
            c.c_int64,
            c.c_int32,
            c.c_void_p,
            c.c_size_t,
            c.POINTER(c.c_void_p),
            _MESSAGE,
        ],
    ),
    "ifa_cache_workspace_destroy": (None, [c.c_void_p]),
    "ifa_cache_attend": (
        c.c_int,
        [c.c_void_p, c.POINTER(CProblem), c.POINTER(CacheQuery), c.c_int64, c.c_void_p, _MESSAGE],
    ),
}
_CUDA_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ifa_cuda_available": (c.c_int, [_MESSAGE]),
    "ifa_cuda_workspace_bytes": (c.c_int, [c.POINTER(CProblem), c.POINTER(c.c_size_t), _MESSAGE]),
    "ifa_cuda_attend": (
        c.c_int,
        [
            c.POINTER(CProblem),
            c.POINTER(Inputs),
            c.POINTER(Outputs),
            c.c_void_p,
            c.c_size_t,
            c.c_void_p,
            _MESSAGE,
        ],
    ),
    "ifa_cuda_quantize_workspace_bytes": (
        c.c_int,
        [c.POINTER(QuantizeArgs), c.POINTER(c.c_size_t), _MESSAGE],
    ),
    "ifa_cuda_quantize": (
        c.c_int,
        [c.POINTER(QuantizeArgs), c.c_void_p, c.c_size_t, c.c_void_p, _MESSAGE],
    ),
    "ifa_cuda_attention_workspace_bytes": (
        c.c_int,
        [c.POINTER(AttentionArgs), c.POINTER(c.c_size_t), _MESSAGE],
    ),
    "ifa_cuda_attention": (
        c.c_int,
        [c.POINTER(AttentionArgs), c.c_void_p, c.c_size_t, c.c_void_p, _MESSAGE],
    ),
}


def declare(library: c.CDLL, signatures: dict[str, tuple[Any, list[Any]]]) -> None:
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


def _load() -> tuple[c.CDLL, bool]:
    path = os.environ.get("IFA_LIBRARY") or str(FOLDER / "lib" / "libifa.so")
    try:
        library = c.CDLL(path)
    except OSError as why:
        raise ImportError(f"{why}; IFA_LIBRARY may name a libifa.so") from None
    declare(library, _SIGNATURES)
    has_cuda = hasattr(library, "ifa_cuda_attention")
    if has_cuda:
        declare(library, _CUDA_SIGNATURES)
    return library, has_cuda


lib, HAS_CUDA = _load()


def raise_status(status: int, text: str) -> None:
    """The exception of an ifa_status; nothing for IFA_OK."""
    if status:
        known = 1 <= status <= len(_ERRORS)
        raise (_ERRORS[status - 1] if known else Error)(text)


def call(name: str, *arguments: Any) -> None:
    """A function of the library whose last argument is a message."""
    message = Message()
    status = getattr(lib, name)(*arguments, c.byref(message))
    if status:
        raise_status(status, message.text.decode(errors="replace"))


def backends() -> list[str]:
    """Names of the backends that this machine can run; "scalar" is the oracle, "cpu" the fastest of
    the processor's."""
    names = [lib.ifa_backend_name(i) for i in range(lib.ifa_backend_count())]
    return [name.decode() for name in names if lib.ifa_backend_supports(name, None, None) == 0]
