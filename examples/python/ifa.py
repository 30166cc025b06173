"""ifa.py - libifa from Python: a thin ctypes layer over include/ifa.h for numpy arrays.

    import ifa
    out = ifa.attention(q, k, v, sm_scale=0.125, causal=True)          # float32 [batch, heads, tokens, head_dim] in and out
    k8, k_scale, _ = ifa.quantize(k, "int8", "token")                  # the operands themselves

The library is the one that IFA_LIBRARY names, else libifa.so as built in this checkout, else as installed together with this file, else the one that
the loader knows. Arrays are taken as contiguous [batch, heads, tokens, head_dim]; INT4 is packed, two elements to a byte. Whatever the library refuses
is raised as ifa.Error with its message.
"""

import ctypes as c
import ctypes.util
import os
from pathlib import Path

import numpy as np

TYPES = {"f32": 0, "f16": 1, "bf16": 2, "int8": 3, "int4": 4}
SCALES = {"tensor": 0, "block": 1, "token": 2, "channel": 3, "token_channel": 4}
TAU_INF = 2**31 - 1


class Error(Exception):
    pass


class _Message(c.Structure):
    _fields_ = [("text", c.c_char * 320)]


class _Strides(c.Structure):
    _fields_ = [("batch", c.c_int64), ("head", c.c_int64), ("token", c.c_int64)]


class Problem(c.Structure):
    """ifa_problem, field by field."""
    _fields_ = ([(n, c.c_int64) for n in ("batch", "q_heads", "kv_heads", "nq", "nk")] + [("head_dim", c.c_int32)]
                + [(n, c.c_int) for n in ("q_type", "k_type", "v_type", "q_scale", "k_scale", "v_scale")]
                + [("q_block", c.c_int32), ("k_block", c.c_int32)]
                + [(n, _Strides) for n in ("q_stride", "k_stride", "v_stride", "o_stride")]
                + [("sm_scale", c.c_float), ("causal", c.c_int32), ("window", c.c_int64), ("tau", c.c_int32), ("kv_tile", c.c_int32),
                   ("kv_split", c.c_int64), ("out_type", c.c_int), ("lse", c.c_int32)])


class _Inputs(c.Structure):
    _fields_ = ([(n, c.c_void_p) for n in ("q", "k", "v", "q_scale", "k_scale", "v_scale", "v_channel_scale", "rows")]
                + [("row_count", c.c_int64)])


class _Outputs(c.Structure):
    _fields_ = [("o", c.c_void_p), ("lse", c.c_void_p), ("stages", c.c_void_p)]


class _QuantizeArgs(c.Structure):
    _fields_ = [("src", c.c_void_p), ("src_type", c.c_int), ("src_stride", _Strides),
                ("batch", c.c_int64), ("heads", c.c_int64), ("tokens", c.c_int64), ("head_dim", c.c_int64),
                ("dst", c.c_void_p), ("dst_type", c.c_int), ("dst_stride", _Strides),
                ("granularity", c.c_int), ("block", c.c_int32), ("subtract_mean", c.c_int32),
                ("scale", c.c_void_p), ("channel_scale", c.c_void_p), ("mean", c.c_void_p)]


def _places():
    """Where the library may be, the first one that is there counts: in a checkout, in an installed tree (this file is share/ifa/examples/python/ifa.py there)."""
    parents = Path(__file__).resolve().parents
    yield parents[2] / "build/release/libifa.so"
    if len(parents) > 4:
        yield from sorted(parents[4].glob("lib*/libifa.so")) + sorted(parents[4].glob("lib*/*/libifa.so"))


def _load():
    path = os.environ.get("IFA_LIBRARY") or next((p for p in _places() if p.exists()), None) or ctypes.util.find_library("ifa")
    if not path:
        raise ImportError("libifa.so is not there: build it (./dev deps && cmake ..., or install it), or name it in IFA_LIBRARY")
    lib = c.CDLL(str(path))
    lib.ifa_problem_default.restype = Problem
    lib.ifa_status_name.restype = c.c_char_p
    lib.ifa_backend_name.restype = c.c_char_p
    lib.ifa_scale_count.restype = c.c_int64
    lib.ifa_scale_count.argtypes = [c.c_int] + [c.c_int64] * 4 + [c.c_int32]
    return lib


_lib = _load()


def _check(status, message):
    if status:
        raise Error(f"{_lib.ifa_status_name(status).decode()}: {message.text.decode(errors='replace')}")


def _at(array):
    return None if array is None else array.ctypes.data


def backends():
    """Names of the backends that this machine can run."""
    names = [_lib.ifa_backend_name(i) for i in range(_lib.ifa_backend_count())]
    return [n.decode() for n in names if _lib.ifa_backend_supports(n, None, None) == 0]


def quantize(x, dtype="int8", scale="token", subtract_mean=False):
    """(q, scale, channel_scale): ifa_quantize on [batch, heads, tokens, head_dim] of float32 or float16. channel_scale only for "token_channel"."""
    x = np.ascontiguousarray(x, dtype=np.float16 if np.asarray(x).dtype == np.float16 else np.float32)
    if x.ndim != 4:
        raise ValueError("x must be [batch, heads, tokens, head_dim]")
    b, h, n, d = x.shape
    q = np.zeros((b, h, n, (d + 1) // 2), np.uint8) if dtype == "int4" else np.zeros((b, h, n, d), np.int8)
    scales = np.zeros(max(1, _lib.ifa_scale_count(SCALES[scale], b, h, n, d, 0)), np.float32)
    channel = np.zeros((b, h, d), np.float32) if scale == "token_channel" else None
    args = _QuantizeArgs(src=_at(x), src_type=TYPES["f16" if x.dtype == np.float16 else "f32"], batch=b, heads=h, tokens=n, head_dim=d, dst=_at(q),
                         dst_type=TYPES[dtype], granularity=SCALES[scale], subtract_mean=int(subtract_mean), scale=_at(scales), channel_scale=_at(channel))
    message = _Message()
    _check(_lib.ifa_quantize(c.byref(args), c.byref(message)), message)
    return q, scales, channel


def attention(q, k, v, sm_scale, causal=False, q_type="int8", k_type="int8", v_type="int8", q_scale="token", k_scale="token", v_scale="token",
              smooth_k=False, tau=2, kv_tile=64, kv_split=0, window=0, backend="cpu"):
    """softmax(sm_scale * q k^T) v on operands quantized here. q [batch, q_heads, nq, head_dim], k and v [batch, kv_heads, nk, head_dim], floats;
    float32 [batch, q_heads, nq, head_dim] comes back. smooth_k: K less its mean, which the softmax does not notice. The rest as in ifa_problem."""
    problem = _lib.ifa_problem_default()
    problem.batch, problem.q_heads, problem.nq, problem.head_dim = np.shape(q)
    _, problem.kv_heads, problem.nk, _ = np.shape(k)
    if np.shape(k) != np.shape(v) or np.shape(k)[0] != problem.batch or np.shape(k)[3] != problem.head_dim:
        raise ValueError(f"q {np.shape(q)}, k {np.shape(k)} and v {np.shape(v)} do not go together")
    problem.q_type, problem.k_type, problem.v_type = TYPES[q_type], TYPES[k_type], TYPES[v_type]
    problem.q_scale, problem.k_scale, problem.v_scale = SCALES[q_scale], SCALES[k_scale], SCALES[v_scale]
    problem.sm_scale, problem.causal, problem.window, problem.tau = sm_scale, int(causal), window, tau
    problem.kv_tile, problem.kv_split = kv_tile, kv_split
    message = _Message()
    _check(_lib.ifa_problem_check(c.byref(problem), c.byref(message)), message)
    qq, qs, _ = quantize(q, q_type, q_scale)
    kq, ks, _ = quantize(k, k_type, k_scale, subtract_mean=smooth_k)
    vq, vs, vc = quantize(v, v_type, v_scale)
    out = np.zeros(np.shape(q), np.float32)
    inputs = _Inputs(q=_at(qq), k=_at(kq), v=_at(vq), q_scale=_at(qs), k_scale=_at(ks), v_scale=_at(vs), v_channel_scale=_at(vc))
    outputs = _Outputs(o=_at(out))
    _check(_lib.ifa_run(backend.encode(), c.byref(problem), c.byref(inputs), c.byref(outputs), c.byref(message)), message)
    return out
