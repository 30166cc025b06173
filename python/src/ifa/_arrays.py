"""Arrays from anywhere: numpy's, and whatever has __dlpack__, as pointer, shape and strides,
without a copy."""

from __future__ import annotations

import ctypes as c
from typing import Any, Optional

import numpy as np

from ._library import BadArgument, Strides

# DLPack's structures (dlpack.h, before version 1: what __dlpack__ gives when no version is asked
# for).
CPU, CUDA, CUDA_HOST = 1, 2, 3


class _Device(c.Structure):
    _fields_ = [("kind", c.c_int32), ("number", c.c_int32)]


class _DataType(c.Structure):
    _fields_ = [("code", c.c_uint8), ("bits", c.c_uint8), ("lanes", c.c_uint16)]


class _Tensor(c.Structure):
    _fields_ = [
        ("data", c.c_void_p),
        ("device", _Device),
        ("ndim", c.c_int32),
        ("dtype", _DataType),
        ("shape", c.POINTER(c.c_int64)),
        ("strides", c.POINTER(c.c_int64)),
        ("byte_offset", c.c_uint64),
    ]


_pointer_of = c.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = c.c_void_p, [c.py_object, c.c_char_p]

_DLPACK_TYPES = {
    (2, 32): "f32",
    (2, 16): "f16",
    (4, 16): "bf16",
    (2, 64): "f64",
    (0, 8): "int8",
    (1, 8): "uint8",
}
_NUMPY_TYPES = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float64": "f64",
    "int8": "int8",
    "uint8": "uint8",
}
FLOATS = ("f32", "f16", "bf16")
WIDTH = {"f32": 4, "f16": 2, "bf16": 2, "int8": 1, "uint8": 1}


class View:
    """Where an array lies. Strides count elements. `keep` holds the memory."""

    __slots__ = ("address", "shape", "strides", "type", "cuda", "keep", "writable")

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        kind: str,
        cuda: bool,
        keep: Any,
        writable: bool,
    ) -> None:
        self.address, self.shape, self.strides, self.type = address, shape, strides, kind
        self.cuda, self.keep, self.writable = cuda, keep, writable

    def rows_contiguous(self) -> bool:
        """What the kernels take: the last dimension contiguous, no stride negative. Strides that
        are all 0 mean "dense" to them, not that every row is the same one."""
        if 0 in self.shape:
            return True
        outer = [(n, s) for n, s in zip(self.shape[:-1], self.strides[:-1]) if n > 1]
        if outer and all(s == 0 for _, s in outer):
            return False
        return (self.shape[-1] <= 1 or self.strides[-1] == 1) and all(s >= 0 for _, s in outer)


def strides_of(view: View, elements: int = 1) -> Strides:
    """As the library takes them: in elements (of INT4, two to a byte: elements=2); 0, 0, 0 for an
    empty tensor."""
    if 0 in view.shape:
        return Strides()
    b, h, n = (s * elements if size > 1 else 0 for size, s in zip(view.shape, view.strides[:3]))
    return Strides(b, h, n)


def is_torch(x: Any) -> bool:
    """A torch.Tensor, without importing torch."""
    return any(t.__module__ == "torch" and t.__name__ == "Tensor" for t in type(x).__mro__)


def _numpy_view(name: str, x: np.ndarray[Any, Any]) -> View:
    kind = _NUMPY_TYPES.get(x.dtype.name, x.dtype.name)
    if not x.dtype.isnative or any(s % x.itemsize for s in x.strides):
        raise BadArgument(
            f"{name} is of {x.dtype}, or its strides are no multiples of it: take a copy"
        )
    strides = tuple(s // x.itemsize for s in x.strides)
    return View(x.ctypes.data, x.shape, strides, kind, False, x, bool(x.flags.writeable))


def _dlpack_view(name: str, x: Any, stream: Optional[int]) -> View:
    kind, _ = x.__dlpack_device__()
    if kind not in (CPU, CUDA, CUDA_HOST):
        raise BadArgument(
            f"{name} is on a device of DLPack's kind {int(kind)}; it must be on the CPU or a CUDA device"
        )
    cuda = kind == CUDA
    capsule = x.__dlpack__(stream=stream if stream else 1) if cuda else x.__dlpack__()
    t = _Tensor.from_address(_pointer_of(capsule, b"dltensor"))
    shape = tuple(t.shape[i] for i in range(t.ndim))
    if t.strides:
        strides = tuple(t.strides[i] for i in range(t.ndim))
    else:
        strides = tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(t.ndim))
    type_name = _DLPACK_TYPES.get(
        (t.dtype.code, t.dtype.bits), f"DLPack type {t.dtype.code}, {t.dtype.bits} bits"
    )
    return View((t.data or 0) + t.byte_offset, shape, strides, type_name, cuda, (x, capsule), True)


def view_of(name: str, x: Any, stream: Optional[int] = None) -> View:
    """The view of an array. stream: the CUDA stream (cudaStream_t as an integer) that will read
    it."""
    if isinstance(x, View):
        return x
    if isinstance(x, np.ndarray):
        return _numpy_view(name, x)
    if hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__"):
        if is_torch(x):
            x = x.detach()
        return _dlpack_view(name, x, stream)
    if isinstance(x, (list, tuple, float, int)) or hasattr(x, "__array__"):
        return _numpy_view(name, np.asarray(x))
    raise BadArgument(
        f"{name} is a {type(x).__name__}; it must be an array: numpy's, or one with __dlpack__"
    )


def floats(name: str, x: Any, ndim: int, stream: Optional[int] = None) -> View:
    """A float array of `ndim` dimensions as the kernels take it; a layout that they do not take is
    copied (on the CPU)."""
    view = view_of(name, x, stream)
    if view.type not in FLOATS:
        raise BadArgument(
            f"{name} is of {view.type}; it must be of f32, f16 or bf16 (with numpy: {name}.astype(numpy.float32))"
        )
    if len(view.shape) != ndim:
        wanted = "[batch, heads, tokens, head_dim]" if ndim == 4 else "[heads, tokens, head_dim]"
        raise BadArgument(f"{name} has shape {list(view.shape)}; it must be {wanted}")
    if view.rows_contiguous():
        return view
    if view.cuda:
        raise BadArgument(
            f"{name} has strides {list(view.strides)}: head_dim must be contiguous, no stride negative"
        )
    return dense_copy(name, view)


def dense_copy(name: str, view: View) -> View:
    """On the CPU."""
    width = WIDTH[view.type]
    source: np.ndarray[Any, Any]
    if isinstance(view.keep, np.ndarray):
        source = view.keep
    else:  # DLPack's on the CPU, perhaps of bf16, which numpy lacks
        if any(s < 0 for s in view.strides):
            raise BadArgument(f"{name} has a negative stride")
        count = (
            1 + sum((n - 1) * s for n, s in zip(view.shape, view.strides)) if all(view.shape) else 0
        )
        flat = (
            np.ctypeslib.as_array((c.c_uint8 * (count * width)).from_address(view.address))
            if count
            else np.empty(0, np.uint8)
        )
        whole = flat.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[width])
        source = np.lib.stride_tricks.as_strided(
            whole, view.shape, [s * width for s in view.strides]
        )
    copy = np.ascontiguousarray(source)
    strides = tuple(s // copy.itemsize for s in copy.strides)
    return View(copy.ctypes.data, view.shape, strides, view.type, False, copy, True)


def output(
    name: str, x: Any, shape: tuple[int, ...], types: tuple[str, ...], stream: Optional[int] = None
) -> View:
    """An array to be written: of this shape and one of these types, never a copy."""
    view = view_of(name, x, stream)
    if view.shape != shape:
        raise BadArgument(f"{name} has shape {list(view.shape)}; it must be {list(shape)}")
    if view.type == "uint16" and "bf16" in types:
        view.type = "bf16"
    if view.type not in types:
        raise BadArgument(f"{name} is of {view.type}; it must be of {' or '.join(types)}")
    if not view.writable:
        raise BadArgument(f"{name} is read-only")
    if not view.rows_contiguous():
        raise BadArgument(
            f"{name} has strides {list(view.strides)}: head_dim must be contiguous, no stride negative"
        )
    return view


def numpy_dtype(kind: str) -> Any:
    """Of an output of this type; numpy has no bf16: its bits in uint16, or ml_dtypes' where that is
    installed."""
    if kind == "bf16":
        try:
            from ml_dtypes import bfloat16  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            return np.dtype(np.uint16)
        return np.dtype(bfloat16)
    return np.dtype({"f32": np.float32, "f16": np.float16}[kind])
