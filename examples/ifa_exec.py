"""ifa_exec.py - what a kernel in Python needs to be plugged into `validate run --exec "python3
my_kernel.py"`. Needs numpy only; copy it.

    from ifa_exec import Unsupported, live, serve

    def attention(p, t):  # the problem (p.nq, p.causal, ...); the tensors (t["q"], t["k_int"], ...)
        if p.window: raise Unsupported("window")
        return o          # float32 [b, hq, nq, d], or (o, lse)

    serve("my-kernel", "close q=f32 k=f32 v=f32", attention)

The protocol itself is in docs/validate.md, section 11: a line of JSON each way for a case, tensors
as safetensors files in a folder."""
import json
import os
import sys
import types

import numpy as np

DTYPES = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I8": np.dtype("i1"),
    "BF16": np.dtype("<u2"),
}


class Unsupported(Exception):
    """A problem that this kernel does not do; the text says which field."""


def read_tensors(path):
    with open(path, "rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    return {
        name: np.frombuffer(data[slice(*t["data_offsets"])], DTYPES[t["dtype"]]).reshape(t["shape"])
        for name, t in head.items()
        if name != "__metadata__"
    }


def write_tensors(path, tensors):
    """tensors: name -> (array, "F32" | "F16" | "BF16")."""
    head, data = {}, b""
    for name, (array, dtype) in tensors.items():
        with np.errstate(over="ignore"):  # what f16 cannot hold is infinite
            piece = np.ascontiguousarray(array, DTYPES[dtype]).tobytes()
        head[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(piece)],
        }
        data += piece
    text = json.dumps(head).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data)


def to_bf16(x):
    """float32 -> the upper 16 bits, rounded to nearest even. NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16)


def live(p):
    """Boolean [nq, nk]: does row i see key j? Causal masks are aligned at the bottom right."""
    position, key = np.arange(p.nq)[:, None] + p.nk - p.nq, np.arange(p.nk)[None, :]
    seen = np.ones((p.nq, p.nk), bool)
    if p.causal:
        seen &= key <= position
    if p.window:
        seen &= (key > position - p.window) & (key < position + p.window)
    return seen


def run_case(attention, folder, problem):
    """Reads the case, runs the kernel, writes output.safetensors."""
    p = types.SimpleNamespace(**problem)
    result = attention(p, read_tensors(os.path.join(folder, "input.safetensors")))
    o, lse = result if isinstance(result, tuple) else (result, None)
    dtype = {"f32": "F32", "f16": "F16", "bf16": "BF16"}[p.out]
    tensors = {"o": (to_bf16(o) if dtype == "BF16" else o, dtype)}
    if p.lse:
        if lse is None:
            raise Unsupported("lse")
        tensors["lse"] = (lse, "F32")
    write_tensors(os.path.join(folder, "output.safetensors"), tensors)


def serve_once(attention, folder):
    """--exec-once: the case's folder is the argument; exit code 77 stands for `unsupported`."""
    with open(os.path.join(folder, "problem.json")) as file:
        problem = json.load(file)
    try:
        run_case(attention, folder, problem)
    except Unsupported:
        return 77
    return 0


def serve(name, claim, attention, not_available=None):
    """Answers requests until there are no more. not_available: why this machine cannot run the
    kernel, or None."""
    if len(sys.argv) > 1:
        sys.exit(serve_once(attention, sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed goes to standard error, not among the answers
    for line in sys.stdin:
        request = json.loads(line)
        if request["request"] == "hello":
            answer = {"name": name, "claim": claim}
            if not_available:
                answer.update(status="not available", message=not_available)
        else:
            try:
                run_case(attention, request["folder"], request["problem"])
                answer = {"status": "ok"}
            except Unsupported as why:
                answer = {"status": "unsupported", "message": str(why)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
