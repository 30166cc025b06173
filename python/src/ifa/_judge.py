"""libifa_judge.so through ctypes: the cases, the oracle, the comparison and the reports of
`validate run`."""

from __future__ import annotations

import ctypes as c
import json
import os
import threading
from typing import Any, Callable, Optional

from . import _library as L

# ifa_verdict
PASSED, FAILED, UNSUPPORTED, ABSENT, EMPTY, CRASHED, TIMED_OUT, BAD_OUTPUT = range(8)


class PluginInputs(c.Structure):
    """ifa_plugin_inputs"""

    _fields_ = [("operands", L.Inputs), ("q", c.c_void_p), ("k", c.c_void_p), ("v", c.c_void_p)]


class Stages(c.Structure):
    """ifa_stages"""

    _fields_ = [
        (name, c.c_void_p) for name in ("s", "unit", "p", "value_unit", "value_p", "l", "acc")
    ]


class CalledCase(c.Structure):
    """ifa_called_case"""

    _fields_ = [
        ("problem", L.CProblem),
        ("inputs", PluginInputs),
        ("outputs", L.Outputs),
        *((name, c.c_int64) for name in ("o_bytes", "lse_bytes", "guard_bytes")),
    ]


class _Options(c.Structure):
    """ifa_judge_options"""

    _fields_ = [
        ("sources", c.POINTER(c.c_char_p)),
        ("kinds", c.c_char_p),
        ("source_count", c.c_int32),
        ("once", c.c_int32),
        ("no_lse", c.c_int32),
        ("seed", c.c_uint64),
        *(
            (name, c.c_char_p)
            for name in ("name", "claim", "repeat_before", "repeat_after", "real_folder")
        ),
    ]


_CALL = c.CFUNCTYPE(c.c_int, c.c_void_p, c.POINTER(CalledCase), c.POINTER(L.Message))
_MESSAGE = c.POINTER(L.Message)
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ifa_judge_version": (c.c_int, []),
    "ifa_judge_open": (c.c_int, [c.POINTER(_Options), c.POINTER(c.c_void_p), _MESSAGE]),
    "ifa_judge_close": (None, [c.c_void_p]),
    "ifa_judge_claim": (None, [c.c_void_p, c.POINTER(c.c_int32), c.POINTER(c.c_int32)]),
    "ifa_judge_case_count": (c.c_int64, [c.c_void_p]),
    "ifa_judge_case_text": (c.c_void_p, [c.c_void_p, c.c_int64]),
    "ifa_judge_run": (
        c.c_int,
        [c.c_void_p, c.c_int64, _CALL, c.c_void_p, c.POINTER(c.c_void_p), _MESSAGE],
    ),
    "ifa_judge_last_text": (c.c_void_p, [c.c_void_p]),
    "ifa_judge_counts_text": (c.c_void_p, [c.c_void_p]),
    "ifa_judge_exit_code": (c.c_int32, [c.c_void_p]),
    "ifa_judge_write": (c.c_int, [c.c_void_p, c.c_char_p, c.c_char_p, _MESSAGE]),
    "ifa_judge_free": (None, [c.c_void_p]),
}
_VERSION = 2
_REAL = os.fsencode(L.FOLDER / "share" / "ifa" / "real")
_loaded: Optional[c.CDLL] = None
_one_at_a_time = threading.RLock()  # the file of tensors that the judge keeps is one run's


def _new_lock() -> None:
    global _one_at_a_time
    _one_at_a_time = threading.RLock()


os.register_at_fork(after_in_child=_new_lock)  # another thread's of the parent may have held it


def _library() -> c.CDLL:
    global _loaded
    if _loaded is None:
        path = os.environ.get("IFA_JUDGE_LIBRARY") or str(L.FOLDER / "lib" / "libifa_judge.so")
        try:
            library = c.CDLL(path)
        except OSError as why:
            raise L.NotAvailable(
                f"{why}: this package was built without the judge (it needs jansson and xxhash)"
            ) from None
        L.declare(library, _SIGNATURES)
        if library.ifa_judge_version() != _VERSION:
            raise L.NotAvailable(
                f"{path} is of version {library.ifa_judge_version()}; this package needs {_VERSION}"
            )
        _loaded = library
    return _loaded


def _bytes(text: str) -> bytes:
    """For C; surrogates come from file names that are no UTF-8."""
    return text.encode("utf-8", "surrogateescape")


class Judge:
    """A list of cases, one kernel's name and claim, and the report so far."""

    def __init__(
        self,
        sources: list[tuple[str, str]],
        name: str,
        claim: str,
        seed: int,
        once: bool,
        lse: bool,
        before: str,
        after: str,
    ) -> None:
        self._lib = _library()
        texts = (c.c_char_p * len(sources))(*(_bytes(text) for _, text in sources))
        options = _Options(
            sources=texts,
            kinds="".join(kind for kind, _ in sources).encode(),
            source_count=len(sources),
            once=int(once),
            no_lse=int(not lse),
            seed=seed,
            name=_bytes(name),
            claim=_bytes(claim),
            repeat_before=_bytes(before),
            repeat_after=_bytes(after),
            real_folder=_REAL if os.path.isdir(_REAL) else None,
        )
        pointer = c.c_void_p()
        self._call("ifa_judge_open", c.byref(options), c.byref(pointer))
        self._pointer = pointer
        formats, close = (c.c_int32 * 3)(), c.c_int32()
        self._lib.ifa_judge_claim(pointer, formats, c.byref(close))
        self.formats, self.close_claim = list(formats), bool(close.value)

    def __del__(self) -> None:
        if hasattr(self, "_pointer"):
            self._lib.ifa_judge_close(self._pointer)

    def _call(self, name: str, *arguments: Any) -> None:
        message = L.Message()
        status = getattr(self._lib, name)(*arguments, c.byref(message))
        if status:
            L.raise_status(status, message.text.decode(errors="replace"))

    def _text(self, address: Optional[int]) -> str:
        if not address:
            return ""
        text = c.string_at(address).decode("utf-8", "surrogateescape")
        self._lib.ifa_judge_free(address)
        return text

    def __len__(self) -> int:
        return int(self._lib.ifa_judge_case_count(self._pointer))

    def case_text(self, index: int) -> str:
        return self._text(self._lib.ifa_judge_case_text(self._pointer, index))

    def run(self, index: int, kernel: Callable[[CalledCase], tuple[int, str]]) -> dict[str, Any]:
        """The result as it stands in the JSON report. What the kernel raises that is no Exception
        is raised again."""
        raised: list[BaseException] = []

        def call(_: Any, case: Any, message: Any) -> int:
            try:
                verdict, text = kernel(case.contents)
            except BaseException as why:
                raised.append(why)
                verdict, text = FAILED, "interrupted"
            message.contents.text = text.encode("ascii", "backslashreplace")[:319]
            return verdict

        result = c.c_void_p()
        with _one_at_a_time:
            self._call("ifa_judge_run", self._pointer, index, _CALL(call), None, c.byref(result))
        if raised:
            raise raised[0]
        found: dict[str, Any] = json.loads(self._text(result.value) or "{}")
        return found

    def last_text(self) -> str:
        return self._text(self._lib.ifa_judge_last_text(self._pointer))

    def counts_text(self) -> str:
        return self._text(self._lib.ifa_judge_counts_text(self._pointer)).rstrip("\n")

    def exit_code(self) -> int:
        return int(self._lib.ifa_judge_exit_code(self._pointer))

    def write(self, kind: str, path: Any) -> None:
        self._call("ifa_judge_write", self._pointer, kind.encode(), os.fsencode(path))
