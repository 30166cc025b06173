"""ifa - quantized attention with the same bits everywhere, and a harness that says whether a kernel
is right.

    import ifa
    o = ifa.attention(q, k, v, causal=True)                 # numpy, or whatever has __dlpack__
    # is it right, and where is it not?
    ifa.check(my_kernel, claim="close q=f16 k=f16 v=f16 p=f16 o=f16")

Arrays are [batch, heads, tokens, head_dim] by any strides. What is refused raises one of
ifa.Error's kinds, whose text names the field and its value."""

from ._attention import Quantized, attention, live, quantize
from ._cache import Cache, Sequence
from ._case import Case, Operands, Stages
from ._check import CheckFailed, Report, Result, cases, check, list_cases
from ._library import (
    CONTRACT,
    HAS_CUDA,
    BadArgument,
    BadData,
    BadFile,
    BadProblem,
    Error,
    Full,
    NotAvailable,
    OutOfMemory,
    SystemRefused,
    Unsupported,
    backends,
)
from ._problem import PRESETS, Problem

__version__ = "0.1.0"


def get_include() -> str:
    """The folder of ifa.h, ifa_plugin.h and the others."""
    from ._library import FOLDER

    return str(FOLDER / "include")


__all__ = [
    *(
        "attention",
        "quantize",
        "Quantized",
        "Problem",
        "Cache",
        "Sequence",
        "PRESETS",
        "live",
        "backends",
        "get_include",
    ),
    *(
        "Error",
        "BadProblem",
        "BadArgument",
        "BadData",
        "BadFile",
        "Unsupported",
        "NotAvailable",
        "OutOfMemory",
    ),
    *(
        "check",
        "cases",
        "list_cases",
        "Case",
        "Operands",
        "Stages",
        "Report",
        "Result",
        "CheckFailed",
    ),
    *("SystemRefused", "Full", "CONTRACT", "HAS_CUDA"),
]
