"""The way to a GPU without one: the library's two functions stand in as Python that computes on the
CPU what their arguments say, so structures, strides, plans and refusals are seen on every machine.
On a card: test_torch.py."""

import ctypes as c
import importlib.util
import unittest
from unittest import mock

import ifa
import numpy as np
from ifa import _arrays as A
from ifa import _attention, _cuda
from ifa import _library as L
from ifa._problem import Problem

HAVE = bool(importlib.util.find_spec("torch"))
if HAVE:
    import ifa.torch
    import torch

WORKSPACE = 4096
KINDS = {number: name for name, number in L.TYPES.items()}


def stand_in(args, workspace, size, stream, message):
    """ifa_cuda_attention: q, k, v, o and lse are addresses on the CPU."""
    assert (size, workspace % 64) == (WORKSPACE, 0)
    p = args.problem
    problem = Problem._from_c(p)
    heads = {
        "q": (p.q_heads, p.nq),
        "k": (p.kv_heads, p.nk),
        "v": (p.kv_heads, p.nk),
        "o": (p.q_heads, p.nq),
    }
    views = {}
    for name, (h, n) in heads.items():
        strides = getattr(problem, f"{name}_stride")
        kind = problem.out_type if name == "o" else KINDS[args.type]
        views[name] = A.View(
            getattr(args, name), (p.batch, h, n, p.head_dim), (*strides, 1), kind, False, None, True
        )
    lse = (
        A.View(
            args.lse,
            (p.batch, p.q_heads, p.nq),
            (p.q_heads * p.nq, p.nq, 1),
            "f32",
            False,
            None,
            True,
        )
        if p.lse
        else None
    )
    o = views.pop("o")
    _attention.attend_views(problem, views, bool(args.subtract_k_mean), o, lse)
    stand_in.calls += 1
    return 0


def workspace_bytes(args, size, message):
    c.cast(size, c.POINTER(c.c_size_t))[0] = WORKSPACE
    return 0


class Other:
    """An array that says it is on CUDA device 0, and is not."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, stream=None):
        assert stream == 77
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return (A.CUDA, 0)


def aligned(count):
    room = np.empty(count + 64, np.uint8)
    return room[-room.ctypes.data % 64 :][:count]


def arrays(nq=20, nk=70):
    random = np.random.default_rng(1)
    return [
        random.standard_normal((2, h, n, 32)).astype(np.float32)
        for h, n in ((4, nq), (2, nk), (2, nk))
    ]


class StandIn(unittest.TestCase):
    def setUp(self):
        stand_in.calls = 0
        for target, name, value in (
            (L, "HAS_CUDA", True),
            (L.lib, "ifa_cuda_attention", stand_in),
            (L.lib, "ifa_cuda_attention_workspace_bytes", workspace_bytes),
        ):
            patch = mock.patch.object(target, name, value, create=True)
            patch.start()
            self.addCleanup(patch.stop)

    def test_other_arrays(self):
        q, k, v = arrays()
        k = k.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3)
        want, want_lse = ifa.attention(q, k, v, causal=True, lse=True, window=9)
        out, lse = np.zeros_like(q), np.zeros(q.shape[:3], np.float32)
        options = dict(causal=True, lse=True, window=9, out=(Other(out), Other(lse)), stream=77)
        ifa.attention(*map(Other, (q, k, v)), workspace=Other(aligned(WORKSPACE)), **options)
        self.assertEqual(
            (out.tobytes(), lse.tobytes(), stand_in.calls), (want.tobytes(), want_lse.tobytes(), 1)
        )
        for text, call in (
            (
                f"workspace is missing: an array of {WORKSPACE} bytes",
                lambda: ifa.attention(*map(Other, (q, k, v)), **options),
            ),
            (
                r"workspace is \[4095\] of uint8",
                lambda: ifa.attention(
                    *map(Other, (q, k, v)), workspace=Other(aligned(4095)), **options
                ),
            ),
            (
                "k is on a CUDA device, q is not",
                lambda: ifa.attention(q, Other(k), Other(v), **options),
            ),
            ("need out=", lambda: ifa.attention(*map(Other, (q, k, v)), stream=77)),
            ("out is not where", lambda: ifa.attention(q, k, v, out=Other(out), stream=77)),
            (
                "k has strides",
                lambda: ifa.attention(Other(q), Other(k[..., ::2]), Other(v[..., ::2]), **options),
            ),
            (
                "must be of one type",
                lambda: ifa.attention(Other(q), Other(k.astype(np.float16)), Other(v), **options),
            ),
        ):
            with self.subTest(text), self.assertRaisesRegex(ifa.BadArgument, text):
                call()
        self.assertEqual(stand_in.calls, 1)

    def test_a_build_without_kernels(self):
        q, k, v = arrays()
        with mock.patch.object(L, "HAS_CUDA", False), self.assertRaisesRegex(
            ifa.NotAvailable, "no GPU kernels"
        ):
            ifa.attention(*map(Other, (q, k, v)), out=Other(np.zeros_like(q)), stream=77)

    @unittest.skipUnless(HAVE, "not available: torch")
    def test_the_operators_plans(self):
        class Stream:
            cuda_stream = 77

        fixed = dict(
            current_device=lambda: -1, current_stream=lambda card: Stream
        )  # -1 is where a tensor on the CPU says that it is
        ifa.torch._plans.clear()
        with mock.patch.multiple(ifa.torch, **fixed):
            for _ in range(2):
                for preset, nq, lse in (
                    ("fast", 20, False),
                    ("fast", 20, True),
                    ("accurate", 20, False),
                    ("accurate", 21, True),
                ):
                    q, k, v = (torch.from_numpy(x) for x in arrays(nq))
                    for operands in (
                        (q, k, v),
                        [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)],
                    ):
                        fields, smooth = ifa.torch.settings(preset, {})
                        scalars = [
                            float(fields.get(n, getattr(Problem, n)))
                            if n == "tau"
                            else fields.get(n, getattr(Problem, n))
                            for n in ifa.torch._FIELDS
                        ]
                        o, sums = ifa.torch._operator_cuda(
                            *operands, True, 0, None, lse, torch.float16, smooth, *scalars
                        )
                        want = ifa.attention(
                            *(x.numpy() for x in operands),
                            causal=True,
                            preset=preset,
                            lse=True,
                            out_type="f16",
                        )
                        self.assertEqual(o.numpy().tobytes(), want[0].tobytes())
                        self.assertEqual(sums.numpy().tobytes(), want[1].tobytes() if lse else b"")
        # The first of two alike goes another way (these tensors are on the CPU); the second by its
        # plan.
        self.assertEqual((stand_in.calls, len(ifa.torch._plans)), (8, 8))
        self.assertIsInstance(next(iter(ifa.torch._plans.values())), _cuda.Plan)


if __name__ == "__main__":
    unittest.main()
