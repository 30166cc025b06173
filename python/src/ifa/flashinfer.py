"""FlashInfer-Bench's definitions of paged and ragged GQA as cases of this harness.

    definition = ifa.flashinfer.Definition.load("gqa_paged_decode_h32_kv8_d128_ps64.json")
    # run(q, k_cache, v_cache, kv_indptr, ..., sm_scale)
    report = ifa.flashinfer.check(definition, run, device="cuda")

A definition says what a solution `run` is called with; here each sequence of a workload becomes a
case, `run` is called with it in the middle of three (pages in random order, spare ones full of
NaN), and its answer is judged twice: by the tolerance as it is written (a share of the elements
within max_atol + max_rtol |reference|), and by this harness's bound for each element of each row
(docs/validate.md, section 11). Needs torch; f16, bf16 and f32 definitions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from . import _library as L
from ._case import Case
from ._check import Report, check as _check

_CLAIMS = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
_KNOWN = {
    "q",
    "k",
    "v",
    "k_cache",
    "v_cache",
    "qo_indptr",
    "kv_indptr",
    "kv_indices",
    "kv_last_page_len",
    "sm_scale",
}
# (nq, nk) where no workload says otherwise: around pages and tiles, more queries than keys never.
_LENGTHS = ((1, 1), (1, 17), (1, 64), (1, 65), (1, 1000), (7, 7), (33, 130), (64, 64), (70, 300))


@dataclasses.dataclass
class Tolerance:
    """When |o - reference| <= max_atol + max_rtol |reference| must hold, and for which share of the
    elements."""

    max_atol: float = 1e-2
    max_rtol: float = 1e-2
    required_matched_ratio: float = 1.0


@dataclasses.dataclass
class Matched:
    """What a tolerance says of one run: the share within it, and the largest error."""

    case: str
    ratio: float
    largest: float
    passed: bool


@dataclasses.dataclass
class Definition:
    """What is needed of a definition's JSON. page_size: 0 for ragged. inputs: the arguments of
    `run`, in order."""

    name: str
    q_heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    causal: bool
    kind: str
    inputs: list[str]
    lse: bool

    @classmethod
    def load(cls, path: Any) -> Definition:
        """BadFile, and what is missing, where it is no definition of gqa_paged or gqa_ragged."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls.parse(found)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as why:
            raise L.BadFile(
                f"{path}: no definition of FlashInfer-Bench: {type(why).__name__} {why}"
            ) from None

    @classmethod
    def parse(cls, found: dict[str, Any]) -> Definition:
        name, op = found["name"], found["op_type"]
        if op not in ("gqa_paged", "gqa_ragged"):
            raise L.Unsupported(f"{name}: op_type is {op!r}; only gqa_paged and gqa_ragged")
        axes = {
            axis: spec["value"] for axis, spec in found["axes"].items() if spec["type"] == "const"
        }
        types = {
            spec["dtype"]
            for axis, spec in found["inputs"].items()
            if axis in ("q", "k", "v", "k_cache", "v_cache")
        }
        if len(types) != 1 or not types <= set(_CLAIMS):
            raise L.Unsupported(
                f"{name}: inputs of {', '.join(sorted(types))}; only {', '.join(_CLAIMS)}"
            )
        unknown = set(found["inputs"]) - _KNOWN
        if unknown:
            raise L.Unsupported(f"{name}: input {sorted(unknown)[0]!r}")
        stage = "qo_indptr" in found["inputs"]
        return cls(
            name,
            axes["num_qo_heads"],
            axes["num_kv_heads"],
            axes["head_dim"],
            axes["page_size"] if op == "gqa_paged" else 0,
            stage,  # a decoded token sees all keys; prefill is causal, aligned at the bottom right
            _CLAIMS[types.pop()],
            list(found["inputs"]),
            "lse" in found["outputs"],
        )

    @property
    def claim(self) -> str:
        """Operands and output as the definition has them; the weights in the same type, as its
        kernels keep them."""
        return f"close q={self.kind} k={self.kind} v={self.kind} p={self.kind} o={self.kind}"

    def line(self, nq: int, nk: int, sm_scale: Optional[float] = None, seed: int = 1) -> str:
        """One sequence as a case."""
        words = f"b=1 hq={self.q_heads} hkv={self.kv_heads} nq={nq} nk={nk} d={self.head_dim} causal={int(self.causal)}"
        scale = "" if sm_scale is None else f" sm={float(np.float32(sm_scale))!r}"
        return f"{words} out={self.kind} lse={int(self.lse)}{scale} seed={seed}"

    def cases(self, workloads: Any = None) -> list[tuple[str, Tolerance]]:
        """Each sequence of each workload (a JSON-lines file; its tensors lie beside it or at
        absolute paths), without repeats; without workloads lengths around pages and tiles."""
        if workloads is None:
            return [
                (self.line(nq, nk), Tolerance()) for nq, nk in _LENGTHS if self.causal or nq == 1
            ]
        found: dict[str, Tolerance] = {}
        for number, text in enumerate(Path(workloads).read_text(encoding="utf-8").splitlines(), 1):
            if not text.strip():
                continue
            try:
                entry = json.loads(text)
                workload = entry.get("workload", entry)
                tolerance = Tolerance(
                    **{k: v for k, v in workload.get("tolerance", {}).items() if k in _TOLERANCE}
                )
                for nq, nk in self._lengths(workload, Path(workloads).parent):
                    found.setdefault(
                        self.line(nq, nk, workload["inputs"].get("sm_scale", {}).get("value")),
                        tolerance,
                    )
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError, OSError) as why:
                raise L.BadFile(
                    f"{workloads}:{number}: no workload: {type(why).__name__} {why}"
                ) from None
        return list(found.items())

    def _lengths(self, workload: dict[str, Any], folder: Path) -> list[tuple[int, int]]:
        def tensor(name: str) -> np.ndarray[Any, Any]:
            spec = workload["inputs"][name]
            if spec["type"] != "safetensors":
                raise L.Unsupported(f"{name} of type {spec['type']!r}: lengths must be in a file")
            return _read_tensor(folder / spec["path"], spec["tensor_key"])

        kv = np.diff(tensor("kv_indptr")).astype(int)
        if self.page_size and "kv_last_page_len" in self.inputs:
            kv = np.where(kv > 0, (kv - 1) * self.page_size + tensor("kv_last_page_len"), 0)
        elif self.page_size:
            kv = kv * self.page_size
        q = (
            np.diff(tensor("qo_indptr")).astype(int)
            if "qo_indptr" in self.inputs
            else np.ones(len(kv), int)
        )
        return [(int(a), int(b)) for a, b in zip(q, kv)]

    def kernel(
        self, run: Callable[..., Any], matched: Optional[Callable[[Any, Case], None]] = None
    ) -> Callable[..., Any]:
        """`run` as a kernel of ifa.check. matched: is told of each answer."""

        def solution(q: Any, k: Any, v: Any, p: Case) -> Any:
            answer = run(*_arguments(self, q, k, v, p))
            output, lse = answer if isinstance(answer, (tuple, list)) else (answer, None)
            first = _FILLERS[0][0] if self.causal else 1
            o = output[first : first + p.nq].transpose(0, 1)[None]
            if matched is not None:
                matched(o, p)
            if not p.lse:
                return o
            natural = lse[first : first + p.nq].transpose(0, 1)[None] * float(
                np.log(2.0)
            )  # the definition's is of base 2
            return o, natural

        solution.__name__ = self.name
        return solution


_TOLERANCE = {field.name for field in dataclasses.fields(Tolerance)}
_FILLERS = ((3, 21), (2, 5))  # (nq, nk) of the sequences before and behind the case's


def _read_tensor(path: Path, name: str) -> np.ndarray[Any, Any]:
    """Integers of a safetensors file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    spec = json.loads(data[8 : 8 + size])[name]
    first, end = (8 + size + x for x in spec["data_offsets"])
    return np.frombuffer(data[first:end], {"I32": "<i4", "I64": "<i8"}[spec["dtype"]]).reshape(
        spec["shape"]
    )


def _arguments(d: Definition, q: Any, k: Any, v: Any, p: Case) -> list[Any]:
    """Three sequences, the case's in the middle, as `run` takes them."""
    import torch

    def filler(rows: int, heads: int) -> Any:
        return torch.ones(rows, heads, d.head_dim, dtype=q.dtype).to(q)

    nq = [_FILLERS[0][0] if d.causal else 1, p.nq, _FILLERS[1][0] if d.causal else 1]
    nk = [_FILLERS[0][1], p.nk, _FILLERS[1][1]]
    tokens = [
        [filler(nk[0], d.kv_heads), x[0].transpose(0, 1), filler(nk[2], d.kv_heads)] for x in (k, v)
    ]

    def offsets(lengths: list[int]) -> Any:
        return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32).to(
            q.get_device() if q.is_cuda else "cpu"
        )

    values: dict[str, Any] = {
        "q": torch.cat([filler(nq[0], d.q_heads), q[0].transpose(0, 1), filler(nq[2], d.q_heads)]),
        "qo_indptr": offsets(nq),
        "sm_scale": p.sm_scale,
    }
    if d.page_size:
        values.update(_pages(d, tokens, nk, offsets))
    else:
        values.update(k=torch.cat(tokens[0]), v=torch.cat(tokens[1]), kv_indptr=offsets(nk))
    return [values[name] for name in d.inputs]


def _pages(
    d: Definition, tokens: list[list[Any]], nk: list[int], offsets: Callable[[list[int]], Any]
) -> dict[str, Any]:
    import torch

    size = d.page_size
    counts = [-(-n // size) for n in nk]
    order = np.random.default_rng(sum(nk)).permutation(sum(counts) + 3)  # three pages are nobody's
    caches = []
    for sequences in tokens:
        cache = sequences[0].new_full((sum(counts) + 3, size, d.kv_heads, d.head_dim), float("nan"))
        page = 0
        for sequence, count in zip(sequences, counts):
            for i in range(count):
                piece = sequence[i * size : (i + 1) * size]
                cache[order[page], : len(piece)] = piece
                page += 1
        caches.append(cache)
    ends = offsets(counts)
    last = [n - (count - 1) * size if count else 0 for n, count in zip(nk, counts)]
    return {
        "k_cache": caches[0],
        "v_cache": caches[1],
        "kv_indptr": ends,
        "kv_indices": torch.tensor(order[: sum(counts)], dtype=torch.int32).to(ends),
        "kv_last_page_len": torch.tensor(last, dtype=torch.int32).to(ends),
    }


def _reference(q: Any, k: Any, v: Any, p: Case) -> Any:
    """binary64 attention on the same tensors."""
    import torch

    q, k, v = (x.double() for x in (q, k, v))
    k, v = (x.repeat_interleave(p.group, 1) for x in (k, v))
    seen = torch.from_numpy(p.live()).to(q.get_device() if q.is_cuda else "cpu")
    s = torch.where(seen, p.sm_scale * (q @ k.transpose(2, 3)), -float("inf"))
    return torch.nan_to_num(torch.softmax(s, 3)) @ v


def check(
    definition: Definition,
    run: Callable[..., Any],
    workloads: Any = None,
    *,
    device: Any = "cpu",
    quiet: bool = False,
    **options: Any,
) -> Report:
    """ifa.check of `run` on the definition's cases; a line for each case on which the two
    judgements differ, and one with both counts. The report's `matched` has what the tolerance says
    of each case (the worst of its three runs), and its exit code is that of the bound. options:
    ifa.check's (show, failures, json, html, ...)."""
    listed = definition.cases(workloads)
    worst: list[Matched] = []
    now: dict[str, Any] = {}

    def judged(q: Any, k: Any, v: Any, p: Case) -> Any:
        def matched(o: Any, p: Case) -> None:
            want = _reference(q, k, v, p)
            error, tolerance = (o.double() - want).abs(), now["tolerance"]
            inside = error <= tolerance.max_atol + tolerance.max_rtol * want.abs()
            ratio = float(inside.double().mean()) if inside.numel() else 1.0
            found = Matched(
                "",
                ratio,
                float(error.max()) if error.numel() else 0.0,
                ratio >= tolerance.required_matched_ratio,
            )
            if now["found"] is None or found.ratio < now["found"].ratio:
                now["found"] = found

        return definition.kernel(run, matched)(q, k, v, p)

    judged.__name__ = definition.name
    judged._repeated_as = "definition.kernel(run)"  # type: ignore[attr-defined]

    def before(text: str, index: int) -> None:
        now.update(tolerance=listed[index][1], found=None)

    def after(text: str, index: int) -> None:
        found = now["found"] or Matched("", 0.0, float("nan"), False)
        worst.append(dataclasses.replace(found, case=text))

    report = _check(
        judged,
        definition.claim,
        cases=[line for line, _ in listed],
        device=device,
        quiet=quiet,
        _around=(before, after),
        **options,
    )
    report.matched = worst
    if not quiet:
        for result, found in zip(report.results, worst):
            if (
                result.verdict in ("passed", "failed")
                and (result.verdict == "passed") != found.passed
            ):
                print(
                    f"{result.case}\n  bound for each element: {result.verdict}; tolerance: {found.ratio:.2%} within it, {'enough' if found.passed else 'too few'}"
                )
        passed = sum(found.passed for found in worst)
        print(
            f"tolerance as written: {passed} of {len(worst)} pass; bound for each element: {str(report).split(',')[0]}"
        )
    return report
