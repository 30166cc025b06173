"""What a kernel under ifa.check gets, and what is done with what it gives back.

The arrays of a case are copies in one piece of memory, on the kernel's device, with guard bytes
between them; afterwards they are compared with what was handed out. The outputs come poisoned, with
guard bytes around, and go back as they are, to be judged (validate/kernels/trial.c)."""

from __future__ import annotations

import ctypes as c
import dataclasses
from typing import Any, Optional

import numpy as np

from . import _judge as J
from . import _library as L
from ._attention import Quantized, live, scale_shape
from ._problem import Problem

_GUARD, _ALIGNMENT = 256, 64
_FORMATS = {
    2: "f16",
    3: "bf16",
}  # ifa_format: what floats are rounded to before the kernel gets them
_GIVEN = 0


@dataclasses.dataclass
class Operands:
    """The quantized operands and their scales, arrays on the kernel's device. INT4: two elements to
    a byte, uint8."""

    q: Any
    k: Any
    v: Any
    q_scale: Any
    k_scale: Any
    v_scale: Any
    v_channel_scale: Any = None


@dataclasses.dataclass
class Stages:
    """What an exact kernel may record, so that the first stage that differs is named
    (docs/numerics.md; ifa_stages in include/ifa.h): of each computed row r, s, p and value_p [r,
    nk], unit and value_unit [r, tiles], l [r, splits], acc [r, splits, head_dim]. int32, the
    weights uint8. Keys that a row does not see hold 0."""

    s: Any
    unit: Any
    p: Any
    value_unit: Any
    value_p: Any
    l: Any
    acc: Any


@dataclasses.dataclass
class Case(Problem):
    """The problem that a kernel is given, and its arrays beyond q, k and v.

    operands: the integers and scales; floats: (q, k, v) in float32. o [batch, q_heads, nq,
    head_dim] of out_type by o_stride, and lse_out [batch, q_heads, nq] (None unless lse): may be
    filled, in place of returning them. rows: None, or the numbers (b * q_heads + h) * nq + i of the
    rows that are computed: a kernel that fills o writes only those; of what a kernel returns only
    those are looked at. stages: None, or what an exact kernel may fill as well, when its output was
    wrong."""

    operands: Operands = dataclasses.field(
        default_factory=lambda: Operands(None, None, None, None, None, None)
    )
    floats: tuple[Any, Any, Any] = (None, None, None)
    o: Any = None
    lse_out: Any = None
    rows: Any = None
    stages: Optional[Stages] = None

    @property
    def group(self) -> int:
        """Query heads to a key/value head."""
        return self.q_heads // self.kv_heads

    def quantized(self) -> tuple[Quantized, Quantized, Quantized]:
        """The operands as ifa.attention takes them."""
        o = self.operands
        return (
            Quantized(
                o.q,
                o.q_scale,
                self.q_type,
                self.q_scale,
                self.head_dim,
                self.q_block if self.q_scale == "block" else 0,
            ),
            Quantized(
                o.k,
                o.k_scale,
                self.k_type,
                self.k_scale,
                self.head_dim,
                self.k_block if self.k_scale == "block" else 0,
            ),
            Quantized(
                o.v, o.v_scale, self.v_type, self.v_scale, self.head_dim, 0, o.v_channel_scale
            ),
        )

    def live(self) -> np.ndarray[Any, Any]:
        """Boolean [nq, nk], numpy: does row i see key j?"""
        return live(self)


def _bytes_at(address: Optional[int], count: int) -> np.ndarray[Any, Any]:
    if not address or count <= 0:
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((c.c_uint8 * count).from_address(address))


def _round_bf16(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The upper 16 bits of float32, rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16)


def _extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides)) if all(shape) else 0


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))


class NumpyDevice:
    """Arrays are numpy's. bf16 is given as the rounded values in float32, and taken so."""

    names = {
        "f32": np.float32,
        "f16": np.float16,
        "bf16": np.uint16,
        "int8": np.int8,
        "uint8": np.uint8,
        "int32": np.int32,
        "int64": np.int64,
    }

    def memory(self, host: np.ndarray[Any, Any]) -> Any:
        return host.copy()

    def array(
        self, memory: Any, at: int, kind: str, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> Any:
        dtype = np.dtype(self.names[kind])
        flat = memory[at : at + _extent(shape, strides) * dtype.itemsize].view(dtype)
        return np.lib.stride_tricks.as_strided(flat, shape, [s * dtype.itemsize for s in strides])

    def host(self, memory: Any) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = memory
        return found

    def float_kind(self, kind: str) -> str:
        return "f32" if kind == "bf16" else kind

    def converted(self, x: Any, kind: str) -> Optional[np.ndarray[Any, Any]]:
        """What a kernel returned, as values of the output's type: numpy of its width."""
        x = np.asarray(x)
        if x.dtype.kind not in "fiu" and x.dtype.name != "bfloat16":
            return None
        with np.errstate(over="ignore"):  # what f16 cannot hold is infinite
            return (
                _round_bf16(x.astype(np.float32)) if kind == "bf16" else x.astype(self.names[kind])
            )


class TorchDevice:
    """Arrays are torch's, on one device."""

    def __init__(self, device: Any) -> None:
        try:
            import torch
        except ImportError:
            raise L.NotAvailable(f"device={device!r} needs torch") from None
        self.torch, self.place = torch, str(device)
        if self.place.startswith("cuda") and not torch.cuda.is_available():
            raise L.NotAvailable(f"device={device!r}: torch has no CUDA device here")
        names = ("float32", "float16", "bfloat16", "int8", "uint8", "int32", "int64")
        self.names = dict(
            zip(("f32", "f16", "bf16", *names[3:]), (getattr(torch, name) for name in names))
        )

    def memory(self, host: np.ndarray[Any, Any]) -> Any:
        return self.torch.from_numpy(host.copy()).to(self.place)

    def array(
        self, memory: Any, at: int, kind: str, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> Any:
        dtype = self.names[kind]
        flat = memory[at : at + _extent(shape, strides) * dtype.itemsize].view(dtype)
        return flat.as_strided(shape, strides)

    def host(self, memory: Any) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = memory.cpu().numpy()  # waits for the current stream
        return found

    def float_kind(self, kind: str) -> str:
        return kind

    def converted(self, x: Any, kind: str) -> Optional[np.ndarray[Any, Any]]:
        if not self.torch.is_tensor(x):
            x = self.torch.as_tensor(x)
        x = x.detach().to(self.names[kind]).cpu()
        found: np.ndarray[Any, Any] = (x.view(self.torch.int16) if kind == "bf16" else x).numpy()
        return found.view(np.uint16) if kind == "bf16" else found


class _Arrays:
    """Arrays one behind another in one piece of memory, guard bytes of 0xff (NaN, -1) between
    them."""

    def __init__(self) -> None:
        self.pieces: list[
            tuple[str, np.ndarray[Any, Any], str, tuple[int, ...], tuple[int, ...], int]
        ] = []
        self.size = 0

    def add(
        self,
        name: str,
        data: np.ndarray[Any, Any],
        kind: str,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
    ) -> None:
        flat = data.reshape(-1).view(np.uint8)
        self.pieces.append((name, flat, kind, shape, strides, self.size))
        self.size += -(-(len(flat) + _GUARD) // _ALIGNMENT) * _ALIGNMENT

    def hand_out(self, device: Any) -> dict[str, Any]:
        self.given = np.full(self.size, 0xFF, np.uint8)
        for _, flat, _, _, _, at in self.pieces:
            self.given[at : at + len(flat)] = flat
        self.owner, self.memory = device, device.memory(self.given)
        return {
            name: device.array(self.memory, at, kind, shape, strides)
            for name, _, kind, shape, strides, at in self.pieces
        }

    def changed(self) -> Optional[str]:
        """The first array that is not as it was handed out."""
        now = self.owner.host(self.memory)
        if np.array_equal(now, self.given):
            return None
        first = int(np.argmax(now != self.given))
        return [name for name, *_, at in self.pieces if at <= first][-1]


def _inputs(
    p: L.CProblem,
    problem: Problem,
    inputs: J.PluginInputs,
    formats: list[int],
    close: bool,
    device: Any,
) -> _Arrays:
    arrays = _Arrays()
    heads = {
        "q": (problem.q_heads, problem.nq),
        "k": (problem.kv_heads, problem.nk),
        "v": (problem.kv_heads, problem.nk),
    }
    for i, (name, (h, n)) in enumerate(heads.items()):
        b, d = problem.batch, problem.head_dim
        shape = (b, h, n, d)
        kind = getattr(problem, f"{name}_type")
        raw, s = ("uint8", 2) if kind == "int4" else ("int8", 1)
        strides = tuple(x // s for x in getattr(problem, f"{name}_stride")) + (1,)
        width = (b, h, n, -(-d // s))
        arrays.add(
            name,
            _bytes_at(getattr(inputs.operands, name), _extent(width, strides)),
            raw,
            width,
            strides,
        )
        floats = _bytes_at(getattr(inputs, name), 4 * b * h * n * d).view(np.float32)
        arrays.add(f"{name} (float)", floats, "f32", shape, _dense(shape))
        rounded = _FORMATS.get(formats[i]) if close else None
        if rounded == "f16":
            with np.errstate(over="ignore"):
                arrays.add(f"{name} (f16)", floats.astype(np.float16), "f16", shape, _dense(shape))
        elif rounded == "bf16":
            bits = _round_bf16(floats)
            if device.float_kind("bf16") == "f32":
                arrays.add(
                    f"{name} (bf16)",
                    (bits.astype(np.uint32) << 16).view(np.float32),
                    "f32",
                    shape,
                    _dense(shape),
                )
            else:
                arrays.add(f"{name} (bf16)", bits, "bf16", shape, _dense(shape))
        granularity = getattr(problem, f"{name}_scale")
        block = getattr(problem, f"{name}_block") if granularity == "block" else 0
        scales = scale_shape(granularity, shape, block)
        count = int(np.prod(scales, dtype=np.int64))
        arrays.add(
            f"{name}_scale",
            _bytes_at(getattr(inputs.operands, f"{name}_scale"), 4 * count),
            "f32",
            scales,
            _dense(scales),
        )
        if granularity == "token_channel":
            channels = (b, h, d)
            arrays.add(
                f"{name}_channel_scale",
                _bytes_at(inputs.operands.v_channel_scale, 4 * b * h * d),
                "f32",
                channels,
                _dense(channels),
            )
    if inputs.operands.rows:
        count = inputs.operands.row_count
        arrays.add("rows", _bytes_at(inputs.operands.rows, 8 * count), "int64", (count,), (1,))
    return arrays


class _Written:
    """An output between its guard bytes: on the kernel's device, and here."""

    def __init__(
        self,
        address: int,
        count: int,
        guard: int,
        kind: str,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        device: Any,
    ) -> None:
        self.whole = _bytes_at(address - guard, count + 2 * guard)
        self.owner, self.kind = device, kind
        self.memory = device.memory(self.whole)
        self.array = device.array(self.memory, guard, kind, shape, strides)
        self.here = NumpyDevice().array(self.whole, guard, kind, shape, strides)

    def take(self) -> None:
        """What the kernel left in the memory that it was given."""
        self.whole[:] = self.owner.host(self.memory)

    def put(self, values: np.ndarray[Any, Any], rows: Optional[np.ndarray[Any, Any]]) -> None:
        """What the kernel returned: of the computed rows."""
        if rows is None:
            self.here[...] = values
            return
        h, n = self.here.shape[1:3]
        self.here[rows // n // h, rows // n % h, rows % n] = values[
            rows // n // h, rows // n % h, rows % n
        ]


class _Recorder:
    """The stages on the kernel's device, and where they go."""

    def __init__(self, called: J.CalledCase, problem: Problem) -> None:
        n, d = problem.nk, problem.head_dim
        count = (
            called.inputs.operands.row_count
            if called.inputs.operands.rows
            else problem.batch * problem.q_heads * problem.nq
        )
        tiles, splits = -(-n // problem.kv_tile), -(-n // (problem.kv_split or 32768))
        shapes = dict(
            s=(n,),
            unit=(tiles,),
            p=(n,),
            value_unit=(tiles,),
            value_p=(n,),
            l=(splits,),
            acc=(splits, d),
        )
        addresses = J.Stages.from_address(called.outputs.stages)
        self.there: dict[str, np.ndarray[Any, Any]] = {}
        self.arrays = _Arrays()
        for name, shape in shapes.items():
            kind = "uint8" if name in ("p", "value_p") else "int32"
            whole = (count, *shape)
            size = int(np.prod(whole, dtype=np.int64)) * np.dtype(NumpyDevice.names[kind]).itemsize
            self.there[name] = _bytes_at(getattr(addresses, name), size)
            self.arrays.add(name, self.there[name], kind, whole, _dense(whole))

    def hand_out(self, device: Any) -> Stages:
        return Stages(**self.arrays.hand_out(device))

    def take(self) -> bool:
        """Did the kernel record anything?"""
        now = self.arrays.owner.host(self.arrays.memory)
        for name, flat, _, _, _, at in self.arrays.pieces:
            self.there[name][:] = now[at : at + len(flat)]
        return not np.array_equal(now, self.arrays.given)


def _take(
    returned: Any, written: _Written, name: str, rows: Optional[np.ndarray[Any, Any]]
) -> Optional[str]:
    """None, or what is wrong with a returned output."""
    if returned is None or returned is written.array:
        return None
    shape = getattr(returned, "shape", None)
    if shape is None or tuple(shape) != written.here.shape:
        got = f"{type(returned).__name__}" if shape is None else f"shape {list(shape)}"
        return f"it returned {name} of {got}; it is {list(written.here.shape)}"
    values = written.owner.converted(returned, written.kind)
    if values is None:
        return f"it returned {name} of {getattr(returned, 'dtype', '?')}"
    written.put(values, rows)
    return None


def run_kernel(
    kernel: Any, called: J.CalledCase, formats: list[int], close: bool, device: Any
) -> tuple[int, str]:
    """One run of a kernel on a case: the verdict on its answer (PASSED: it is to be judged), and
    why not."""
    p, problem = called.problem, Problem._from_c(called.problem)
    arrays = _inputs(p, problem, called.inputs, formats, close, device)
    given = arrays.hand_out(device)
    shape = (problem.batch, problem.q_heads, problem.nq, problem.head_dim)
    o = _Written(
        called.outputs.o,
        called.o_bytes,
        called.guard_bytes,
        problem.out_type,
        shape,
        problem.o_stride + (1,),
        device,
    )
    lse = None
    if problem.lse:
        lse = _Written(
            called.outputs.lse,
            called.lse_bytes,
            called.guard_bytes,
            "f32",
            shape[:3],
            _dense(shape[:3]),
            device,
        )
    recorder = _Recorder(called, problem) if called.outputs.stages else None
    case = Case(
        **{field.name: getattr(problem, field.name) for field in dataclasses.fields(Problem)},
        operands=Operands(
            *(
                given.get(name)
                for name in ("q", "k", "v", "q_scale", "k_scale", "v_scale", "v_channel_scale")
            )
        ),
        floats=(given["q (float)"], given["k (float)"], given["v (float)"]),
        o=o.array,
        lse_out=None if lse is None else lse.array,
        rows=given.get("rows"),
        stages=recorder.hand_out(device) if recorder else None,
    )
    operands = []
    for name, kind in zip("qkv", formats):
        if not close or kind == _GIVEN:
            operands.append(given[name])
        else:
            operands.append(
                given.get(f"{name} ({_FORMATS.get(kind, '')})", given[f"{name} (float)"])
            )
    try:
        returned = kernel(*operands, case)
    except L.Unsupported as why:
        return J.UNSUPPORTED, str(why)
    except L.NotAvailable as why:
        return J.ABSENT, str(why)
    o.take()
    if lse is not None:
        lse.take()
    changed = arrays.changed()
    if changed:
        return J.FAILED, f"it changed its input {changed}"
    if recorder and not recorder.take():
        return J.UNSUPPORTED, "stages"
    rows = None
    if called.inputs.operands.rows:
        rows = _bytes_at(called.inputs.operands.rows, 8 * called.inputs.operands.row_count).view(
            np.int64
        )
    return _take_all(returned, o, lse, rows)


def _take_all(
    returned: Any, o: _Written, lse: Optional[_Written], rows: Optional[np.ndarray[Any, Any]]
) -> tuple[int, str]:
    first, second = (
        returned if isinstance(returned, (tuple, list)) and len(returned) == 2 else (returned, None)
    )
    if lse is not None and returned is not None and second is None:
        return J.UNSUPPORTED, "lse: it returned the output alone"
    wrong = _take(first, o, "o", rows)
    if wrong is None and lse is not None:
        wrong = _take(second, lse, "lse", rows)
    return (J.BAD_OUTPUT, wrong) if wrong else (J.PASSED, "")
