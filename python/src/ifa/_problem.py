"""ifa_problem as an object, and the named settings."""

from __future__ import annotations

import ctypes as c
import dataclasses
import math
from typing import Any, Optional, Union

from . import _library as L

_SETTINGS_TYPES = ("q_type", "k_type", "v_type", "out_type")
_SETTINGS_SCALES = ("q_scale", "k_scale", "v_scale")
_STRIDES = ("q_stride", "k_stride", "v_stride", "o_stride")
_TYPE_NAMES = {number: name for name, number in L.TYPES.items()}
_SCALE_NAMES = {number: name for name, number in L.GRANULARITIES.items()}


def _number_of(table: dict[str, int], field: str, value: Any) -> int:
    if value not in table:
        raise L.BadProblem(f"{field} is {value!r}; it must be one of {', '.join(table)}")
    return table[value]


@dataclasses.dataclass
class Problem:
    """One attention problem: sizes, number formats, scale choices, masks, and what of them is part
    of the bits.

    The fields are those of ifa_problem (include/ifa.h), with names for types ("int8", "int4";
    "f32", "f16", "bf16") and scale choices ("tensor", "block", "token", "channel",
    "token_channel"). tau may be math.inf. Strides count elements (of INT4: nibbles); (0, 0, 0) is
    dense."""

    batch: int = 1
    q_heads: int = 1
    kv_heads: int = 1
    nq: int = 1
    nk: int = 1
    head_dim: int = 64
    q_type: str = "int8"
    k_type: str = "int8"
    v_type: str = "int8"
    q_scale: str = "token"
    k_scale: str = "token"
    v_scale: str = "channel"
    q_block: int = 64
    k_block: int = 256
    sm_scale: float = 0.125
    causal: bool = False
    window: int = 0
    tau: Union[int, float] = 2
    kv_tile: int = 64
    kv_split: int = 0
    out_type: str = "f32"
    lse: bool = False
    q_stride: tuple[int, int, int] = (0, 0, 0)
    k_stride: tuple[int, int, int] = (0, 0, 0)
    v_stride: tuple[int, int, int] = (0, 0, 0)
    o_stride: tuple[int, int, int] = (0, 0, 0)

    def _to_c(self) -> L.CProblem:
        p = L.CProblem()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _SETTINGS_TYPES:
                value = _number_of(L.TYPES, field.name, value)
            elif field.name in _SETTINGS_SCALES:
                value = _number_of(L.GRANULARITIES, field.name, value)
            elif field.name in _STRIDES:
                value = L.Strides(*value)
            elif field.name == "tau":
                value = L.TAU_INF if value == math.inf else value
            elif field.name in ("causal", "lse"):
                value = int(value)
            try:
                setattr(p, field.name, value)
            except TypeError:
                raise L.BadProblem(f"{field.name} is {value!r}; it must be a number") from None
            if (
                isinstance(value, int) and getattr(p, field.name) != value
            ):  # ctypes cuts what does not fit
                raise L.BadProblem(f"{field.name} is {value}: out of range")
        return p

    @classmethod
    def _from_c(cls, p: L.CProblem) -> Problem:
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            value = getattr(p, field.name)
            if field.name in _SETTINGS_TYPES:
                value = _TYPE_NAMES[value]
            elif field.name in _SETTINGS_SCALES:
                value = _SCALE_NAMES[value]
            elif field.name in _STRIDES:
                value = (value.batch, value.head, value.token)
            elif field.name == "tau" and value == L.TAU_INF:
                value = math.inf
            elif field.name in ("causal", "lse"):
                value = bool(value)
            values[field.name] = value
        return cls(**values)

    def check(self) -> None:
        """Raises BadProblem, which names the field, its value and its range."""
        L.call("ifa_problem_check", c.byref(self._to_c()))

    def __str__(self) -> str:
        """The words of ifa_problem_print: "b=1 hq=8 hkv=2 ...", which parse reads back."""
        text = c.create_string_buffer(1024)
        L.call("ifa_problem_print", c.byref(self._to_c()), text, len(text))
        return text.value.decode()

    @classmethod
    def parse(cls, text: str) -> Problem:
        """Words `key=value` in any order; what is not named has its default."""
        p = cls()._to_c()
        L.call("ifa_problem_parse", text.encode(), c.byref(p))
        return cls._from_c(p)


# Named settings: ifa_cuda_attention_fast and _accurate. docs/numerics.md, section 14, has the
# errors.
PRESETS: dict[str, dict[str, Any]] = {
    "fast": dict(v_scale="channel", smooth_k=False, tau=4, kv_tile=64),
    "accurate": dict(v_scale="token", smooth_k=True, tau=4, kv_tile=64),
    "int4": dict(
        q_type="int4",
        k_type="int4",
        v_type="int4",
        v_scale="token",
        smooth_k=True,
        tau=4,
        kv_tile=64,
    ),
}
_OPTIONS = {
    *("q_type", "k_type", "v_type", "q_scale", "k_scale", "v_scale", "q_block", "k_block"),
    *("tau", "kv_tile", "kv_split", "smooth_k"),
}


def settings(preset: str, options: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Fields of a Problem, and whether K's mean is subtracted."""
    if preset not in PRESETS:
        raise L.BadArgument(f"preset is {preset!r}; it must be one of {', '.join(PRESETS)}")
    for name in options:
        if name not in _OPTIONS:
            raise L.BadArgument(
                f"there is no option {name!r}; there are {', '.join(sorted(_OPTIONS))}"
            )
    fields = {**PRESETS[preset], **options}
    return fields, bool(fields.pop("smooth_k"))


def default_scale(sm_scale: Optional[float], head_dim: int) -> float:
    return 1 / math.sqrt(head_dim) if sm_scale is None and head_dim > 0 else float(sm_scale or 0)
