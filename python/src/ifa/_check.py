"""ifa.check: a Python callable against the oracle, as `validate run` checks any other kernel."""

from __future__ import annotations

import dataclasses
import sys
import traceback
from typing import Any, Callable, Iterator, Optional, Union

from . import _judge as J
from . import _library as L
from ._case import NumpyDevice, TorchDevice, run_kernel

Kernel = Callable[..., Any]


@dataclasses.dataclass
class Result:
    """One case. verdict: "passed", "failed", "unsupported", "not available", "empty", "bad output"
    or "invalid". text: as `validate run` prints it. details: the entry of the JSON report (places
    that differ, distances, repeat, ...)."""

    case: str
    verdict: str
    message: str
    text: str
    details: dict[str, Any]

    @property
    def failed(self) -> bool:
        return self.verdict not in ("passed", "unsupported", "not available", "empty")


class Report:
    """What a check found. exit_code: 0 all that was executed agrees, 1 a mismatch, 2 an invalid
    case, 3 nothing was executed (docs/validate.md, section 1)."""

    def __init__(self, judge: J.Judge) -> None:
        self._judge = judge
        self.results: list[Result] = []
        self.matched: list[Any] = []  # ifa.flashinfer.check's

    @property
    def exit_code(self) -> int:
        return self._judge.exit_code()

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    def __bool__(self) -> bool:
        return self.ok

    @property
    def failures(self) -> list[Result]:
        return [r for r in self.results if r.failed]

    def __str__(self) -> str:
        """The counts: "12 passed, 0 failed, 3 unsupported, 0 not available"."""
        return self._judge.counts_text()

    def __repr__(self) -> str:
        return f"<ifa.Report: {self}>"

    def write(self, path: Any, format: str = "json") -> None:
        """format: "json", "html", "junit" or "csv", as `validate run` writes them. `validate
        report` merges JSON files."""
        self._judge.write(format, path)

    def raise_failures(self) -> None:
        """CheckFailed with the failures' text, unless exit_code is 0."""
        if not self.ok:
            raise CheckFailed("\n".join([*(r.text for r in self.failures), str(self)]))


class CheckFailed(AssertionError):
    """A kernel is not what it claims to be."""


def _name_of(kernel: Kernel) -> str:
    for name in (
        getattr(kernel, "__name__", None),
        getattr(getattr(kernel, "fn", None), "__name__", None),
        type(kernel).__name__,
    ):
        if isinstance(name, str) and name:
            return name
    return "kernel"


def _listed(x: Union[str, list[str], tuple[str, ...], None]) -> list[str]:
    return [] if x is None else [x] if isinstance(x, str) else list(x)


def _sources(suite: Any, cases: Any) -> list[tuple[str, str]]:
    named = _listed(suite if suite is not None or cases is not None else "smoke")
    return [*(("s", text) for text in named), *(("c", text) for text in _listed(cases))]


def _device(device: Any) -> Any:
    return NumpyDevice() if device is None or device == "numpy" else TorchDevice(device)


def _absent(why: str) -> Kernel:
    """In place of a kernel whose device is not here: every case is "not available"."""

    def kernel(*_: Any) -> None:
        raise L.NotAvailable(why)

    return kernel


def _repeat(name: str, claim: str, device: Any, once: bool) -> tuple[str, str]:
    """What stands around a case's text in the line of Python that repeats it."""
    more = "" if device is None else f", device={str(device)!r}"
    return f"ifa.check({name}, claim={claim!r}{more}{', once=True' if once else ''}, cases=\"", '")'


def check(
    kernel: Kernel,
    claim: str,
    suite: Union[str, list[str], None] = None,
    *,
    cases: Union[str, list[str], None] = None,
    device: Any = None,
    name: Optional[str] = None,
    seed: int = 1,
    once: bool = False,
    lse: bool = True,
    failures: Optional[int] = None,
    show: int = 3,
    verbose: bool = False,
    quiet: bool = False,
    json: Any = None,
    html: Any = None,
    junit: Any = None,
    csv: Any = None,
    _around: Optional[tuple[Callable[[str, int], None], Callable[[str, int], None]]] = None,
) -> Report:
    """Runs `kernel` on cases, in this process, and says whether it is what it claims to be.

    kernel(q, k, v, p) returns o [batch, q_heads, nq, head_dim] (any float type; it is rounded to
    p.out_type), or (o, lse) where p.lse is True, or fills p.o (and p.lse_out) and returns None. p
    is an `ifa.Case`: the problem (p.causal, p.sm_scale, p.group, p.window ...), p.operands
    (integers and scales), p.floats. It raises ifa.Unsupported("window") for what it does not do;
    that is counted, never as passed.

    claim: "exact" (the contract's bits; q, k and v are the integer operands, scales are in
    p.operands), or "close" and words that say where it rounds: "close q=f16 k=f16 v=f16 p=f16
    o=f16" (docs/validate.md, section 11; q, k and v are then floats, already rounded where the
    claim says f16 or bf16, float32 otherwise; without a word, `given`, the integer operands).
    suite: a built-in suite ("smoke", "edge", "formats", "scales", "long", "real", "all") or a file
    of cases, or several; "smoke" where neither suite nor cases are given. cases: lines of cases
    ("nq=64 nk=64,65 causal=1"). lse=False: all of them without their log-sum-exp, for kernels that
    have none. device: None for numpy arrays; "cpu", "cuda", "cuda:1" for torch tensors there.

    A case is run three times, with other data in between, before the oracle runs (once=True: a
    single time). Inputs must stay as they are, outputs come poisoned and with guard bytes.
    failures: stop after so many. The first `show` failures are printed in full, each with the line
    that repeats it; verbose: a line for every case; quiet: nothing. json, html, junit, csv: files
    to write, as `validate run` does.

    Raises BadArgument for a claim, suite or case that cannot be read. What the kernel raises is a
    failure; the traceback of the first is printed. A kernel that crashes takes the process along,
    and one that hangs is not ended: `validate run --exec` has a process for it."""
    name = name or _name_of(kernel)
    judge = J.Judge(
        _sources(suite, cases),
        name,
        claim,
        seed,
        once,
        lse,
        *_repeat(getattr(kernel, "_repeated_as", name), claim, device, once),
    )
    try:
        place = _device(device)
    except L.NotAvailable as why:
        place, kernel = NumpyDevice(), _absent(str(why))
    report, traced = Report(judge), False
    for i in range(len(judge)):
        if _around is not None:
            _around[0](judge.case_text(i), i)
        result, trace = _run(judge, i, kernel, place)
        if _around is not None:
            _around[1](result.case, i)
        report.results.append(result)
        if not quiet:
            shown = len(report.failures) <= show if result.failed else verbose
            if shown:
                print(result.text)
            if trace and not traced:
                print(trace, file=sys.stderr)
            traced |= bool(trace)
        if failures is not None and len(report.failures) >= failures:
            break
    for kind, path in (("json", json), ("html", html), ("junit", junit), ("csv", csv)):
        if path is not None:
            report.write(path, kind)
    if not quiet:
        if len(report.failures) > show:
            print(
                f"... {len(report.failures) - show} more failures: the report's .failures has them"
            )
        print(report)
    return report


def _run(judge: J.Judge, index: int, kernel: Kernel, device: Any) -> tuple[Result, str]:
    """The result, and the traceback of what the kernel raised."""
    traces: list[str] = []

    def call(called: J.CalledCase) -> tuple[int, str]:
        try:
            return run_kernel(kernel, called, judge.formats, judge.close_claim, device)
        except Exception as why:
            traces.append("".join(traceback.format_exception(type(why), why, why.__traceback__)))
            return J.FAILED, f"it raised {type(why).__name__}: {' '.join(str(why).split())}"

    text = judge.case_text(index)
    try:
        details = judge.run(index, call)
    except L.Error as why:
        return Result(text, "invalid", str(why), f"INVALID  {text}\n  {why.status}: {why}", {}), ""
    message = details.get("message", "")
    return (
        Result(text, details["verdict"], message, judge.last_text().rstrip("\n"), details),
        (traces or [""])[0],
    )


@dataclasses.dataclass(frozen=True)
class TestCase:
    """A case of a suite, as the parameter of a test: `case.check(kernel, claim="close ...")`."""

    __test__ = False  # not a class of tests for pytest
    text: str

    def check(self, kernel: Kernel, claim: str, **options: Any) -> Report:
        """ifa.check on this case alone; raises CheckFailed, or skips the test where the kernel does
        not do the case."""
        __tracebackhide__ = True  # a failure is shown in the test
        report = check(kernel, claim, cases=self.text, quiet=True, **options)
        result = report.results[0]
        if result.failed:
            raise CheckFailed(result.text)
        if result.verdict in ("unsupported", "not available"):
            import pytest

            pytest.skip(f"{result.verdict}: {result.message}")
        return report

    def __str__(self) -> str:
        return self.text


def list_cases(
    suite: Union[str, list[str], None] = None,
    cases: Union[str, list[str], None] = None,
    seed: int = 1,
) -> Iterator[str]:
    """The cases of suites and lines, each as a line that `check(cases=...)` and `validate run
    --case` take."""
    judge = J.Judge(_sources(suite, cases), "none", "exact", seed, True, True, "", "")
    return (judge.case_text(i) for i in range(len(judge)))


def cases(
    suite: Union[str, list[str], None] = None,
    *,
    cases: Union[str, list[str], None] = None,
    seed: int = 1,
) -> Any:
    """Parametrizes a test of pytest by case:

    @ifa.cases("smoke")
    def test_attention(case):
        case.check(my_kernel, claim="close q=f16 k=f16 v=f16 p=f16 o=f16")
    """
    import pytest

    found = [TestCase(text) for text in list_cases(suite, cases, seed)]
    return pytest.mark.parametrize("case", found, ids=[case.text for case in found])
