"""Quantizers and attention: the oracle's bits from every layout and type, near exact attention;
refusals by name; children of fork(); threads."""

import multiprocessing
import re
import threading
import unittest
from pathlib import Path

import ifa
import numpy as np


def exact(q, k, v, sm_scale, causal):
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x.astype(np.float64), group, axis=1) for x in (k, v))
    s = sm_scale * q.astype(np.float64) @ k.transpose(0, 1, 3, 2)
    if causal:
        nq, nk = s.shape[2:]
        s = np.where(np.arange(nk) <= np.arange(nq)[:, None] + nk - nq, s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    return p @ v / p.sum(-1, keepdims=True)


def tensors(dim=64, nq=50, nk=130, heads=4, kv_heads=2, batch=2, seed=1):
    random = np.random.default_rng(seed)
    return tuple(
        random.standard_normal((batch, h, n, dim)).astype(np.float32)
        for h, n in ((heads, nq), (kv_heads, nk), (kv_heads, nk))
    )


def in_child(queue, *operands):
    queue.put(ifa.attention(*operands).tobytes())


class DLPack:
    """An array that is known by __dlpack__ alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, stream=None):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Attention(unittest.TestCase):
    def test_the_oracles_bits_near_exact_attention(self):
        cases = 0
        for dim, nq, nk, heads, kv_heads in (
            (64, 50, 130, 4, 2),
            (33, 7, 200, 3, 3),
            (128, 1, 300, 8, 1),
        ):
            q, k, v = tensors(dim, nq, nk, heads, kv_heads)
            for kind, bound in (("int8", 0.05), ("int4", 0.6)):
                for v_scale in ("tensor", "channel", "token", "token_channel"):
                    for causal in (False, True):
                        options = dict(
                            causal=causal, q_type=kind, k_type=kind, v_type=kind, v_scale=v_scale
                        )
                        oracle = ifa.attention(q, k, v, backend="scalar", **options)
                        self.assertEqual(
                            ifa.attention(q, k, v, **options).tobytes(), oracle.tobytes()
                        )
                        want = exact(q, k, v, dim**-0.5, causal)
                        error = np.linalg.norm(oracle - want) / np.linalg.norm(want)
                        self.assertTrue(0 < error < bound, (options, error))
                        cases += 1
        self.assertEqual(cases, 48)

    def test_any_layout_the_same_bits(self):
        q, k, v = tensors()
        want = ifa.attention(q, k, v, causal=True)
        token_first = [
            np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for x in (q, k, v)
        ]
        wide = np.zeros((*q.shape[:3], 100), np.float32)
        wide[..., :64] = q
        far = np.ascontiguousarray(v.transpose(0, 1, 3, 2)).transpose(
            0, 1, 3, 2
        )  # head_dim is not contiguous: a copy
        back = np.ascontiguousarray(k[:, :, ::-1])[:, :, ::-1]
        for name, operands in {
            "tokens before heads": token_first,
            "rows apart": (wide[..., :64], k, v),
            "head_dim apart": (q, k, far),
            "backwards": (q, back, v),
            "DLPack": tuple(map(DLPack, (q, k, v))),
            "DLPack, tokens before heads": tuple(map(DLPack, token_first)),
        }.items():
            with self.subTest(name):
                self.assertEqual(ifa.attention(*operands, causal=True).tobytes(), want.tobytes())
        one = k[:, :1, :1]
        same = ifa.attention(
            q, np.broadcast_to(one, k.shape), v
        )  # every stride but the batch's is 0
        self.assertEqual(
            same.tobytes(),
            ifa.attention(q, np.ascontiguousarray(np.broadcast_to(one, k.shape)), v).tobytes(),
        )
        zero = np.broadcast_to(k[:1, :1, :1], k.shape)  # all are 0, which is no "dense"
        self.assertEqual(
            ifa.attention(q, zero, v).tobytes(), ifa.attention(q, zero.copy(), v).tobytes()
        )

    def test_types_in_and_out(self):
        q, k, v = tensors()
        half = [x.astype(np.float16) for x in (q, k, v)]
        self.assertEqual(ifa.attention(*half).dtype, np.float16)
        wide = ifa.attention(*half, out_type="f32")
        self.assertEqual(wide.astype(np.float16).tobytes(), ifa.attention(*half).tobytes())
        self.assertEqual(
            wide.tobytes(), ifa.attention(*(x.astype(np.float32) for x in half)).tobytes()
        )
        bits = ifa.attention(q, k, v, out_type="bf16").view(np.uint16)
        o = ifa.attention(q, k, v).view(np.uint32)
        self.assertEqual(bits.tolist(), ((o + 0x7FFF + ((o >> 16) & 1)) >> 16).tolist())

    def test_out_and_lse(self):
        q, k, v = tensors()
        want, want_lse = ifa.attention(q, k, v, lse=True)
        place = np.full((2, 50, 4, 64), 7, np.float32).transpose(0, 2, 1, 3)
        lse = np.empty((2, 4, 50), np.float32)
        o, l = ifa.attention(q, k, v, lse=True, out=(place, lse))
        self.assertIs(o, place)
        self.assertIs(l, lse)
        self.assertEqual(place.tobytes(), want.tobytes())
        self.assertEqual(lse.tobytes(), want_lse.tobytes())
        some = np.zeros_like(q)
        ifa.attention(q, k, v, out=some, rows=[0, 3, 399])
        flat, all_rows = some.reshape(400, 64), want.reshape(400, 64)
        self.assertEqual([i for i in range(400) if flat[i].any()], [0, 3, 399])
        self.assertEqual(flat[[0, 3, 399]].tobytes(), all_rows[[0, 3, 399]].tobytes())

    def test_quantized_operands(self):
        q, k, v = tensors(nk=200)
        for scales in (
            ("token", "token", "channel"),
            ("block", "block", "token_channel"),
            ("tensor", "tensor", "tensor"),
        ):
            options = dict(
                zip(("q_scale", "k_scale", "v_scale"), scales),
                q_block=16,
                k_block=64,
                smooth_k=True,
            )
            want = ifa.attention(q, k, v, **options)
            qq, kk, vv = (
                ifa.quantize(q, scale=scales[0], block=16),
                ifa.quantize(k, scale=scales[1], block=64, subtract_mean=True),
                ifa.quantize(v, scale=scales[2]),
            )
            self.assertEqual(ifa.attention(qq, kk, vv, out_type="f32").tobytes(), want.tobytes())
            self.assertEqual(ifa.attention(q, kk, v, **options).tobytes(), want.tobytes())
        half = ifa.quantize(np.float16([[[[1.0, -2.0, 0.5]]]]), "int4")
        self.assertEqual(half.data.tolist(), [[[[0x94, 0x02]]]])
        self.assertEqual(half.scale.tolist(), [[[np.float32(2) / np.float32(7)]]])
        self.assertEqual(half.shape, (1, 1, 1, 3))
        mean = ifa.quantize(k, subtract_mean=True).mean
        self.assertLess(np.abs(mean - k.mean(2)).max(), 1e-5)

    def test_threads_and_mixed_types(self):
        q, k, v = tensors(nq=300, nk=500)
        want = ifa.attention(q, k, v, backend="scalar")
        for threads in (1, 2, 7):
            self.assertEqual(ifa.attention(q, k, v, threads=threads).tobytes(), want.tobytes())
        half = k.astype(np.float16)
        mixed = ifa.attention(q, half, v)
        self.assertEqual(mixed.tobytes(), ifa.attention(q, half.astype(np.float32), v).tobytes())

    def test_nothing_to_do(self):
        q, k, v = tensors()
        self.assertEqual(
            ifa.attention(q, k[:, :, :0], v[:, :, :0]).tolist(), np.zeros(q.shape).tolist()
        )
        self.assertEqual(ifa.attention(q[:, :, :0], k, v).shape, (2, 4, 0, 64))

    def test_refusals_name_field_and_value(self):
        q, k, v = tensors()
        for kind, text, call in (
            (ifa.BadProblem, "sm_scale is -1", lambda: ifa.attention(q, k, v, sm_scale=-1.0)),
            (ifa.BadProblem, "tau is 99", lambda: ifa.attention(q, k, v, tau=99)),
            (
                ifa.BadProblem,
                "kv_tile is 4294967360",
                lambda: ifa.attention(q, k, v, kv_tile=2**32 + 64),
            ),
            (ifa.BadProblem, "v_scale is 'row'", lambda: ifa.attention(q, k, v, v_scale="row")),
            (ifa.BadProblem, "q_heads is 3", lambda: ifa.attention(q[:, :3], k, v)),
            (ifa.BadArgument, "do not go together", lambda: ifa.attention(q, k[..., :8], v)),
            (ifa.BadArgument, "q is of f64", lambda: ifa.attention(q.astype(float), k, v)),
            (ifa.BadArgument, "q has shape [4, 50, 64]", lambda: ifa.attention(q[0], k, v)),
            (
                ifa.BadArgument,
                "there is no option 'smoth_k'",
                lambda: ifa.attention(q, k, v, smoth_k=True),
            ),
            (ifa.BadArgument, "preset is 'best'", lambda: ifa.attention(q, k, v, preset="best")),
            (
                ifa.BadArgument,
                "there is no backend 'no'",
                lambda: ifa.attention(q, k, v, backend="no"),
            ),
            (
                ifa.BadArgument,
                "out has shape",
                lambda: ifa.attention(q, k, v, out=np.empty(3, np.float32)),
            ),
            (
                ifa.BadArgument,
                "out is read-only",
                lambda: ifa.attention(q, k, v, out=np.broadcast_to(np.float32(0), q.shape)),
            ),
            (ifa.BadArgument, "rows", lambda: ifa.attention(q, k, v, rows=[3, 3])),
            (ifa.BadData, "k[0][0][0][0] is nan", lambda: ifa.attention(q, k * np.nan, v)),
            (
                ifa.BadData,
                "k[0][0][0][0] is nan",
                lambda: ifa.attention(q, k * np.nan, v, backend="scalar"),
            ),
            (ifa.BadArgument, "threads is 0", lambda: ifa.attention(q, k, v, threads=0)),
            (ValueError, "kscale", lambda: ifa.Problem.parse("kscale=row")),
        ):
            with self.subTest(text), self.assertRaisesRegex(kind, re.escape(text)):
                call()

    def test_problem_prints_and_parses(self):
        p = ifa.Problem(
            nq=3,
            nk=70,
            causal=True,
            tau=float("inf"),
            v_scale="token_channel",
            out_type="bf16",
            window=9,
        )
        self.assertIn("nq=3 nk=70 d=64", str(p))
        self.assertEqual(ifa.Problem.parse(str(p)).tau, float("inf"))
        self.assertEqual(str(ifa.Problem.parse(str(p))), str(p))

    def test_children_of_fork(self):
        operands = tensors(64, 300, 500, 8, 8)
        want = ifa.attention(*operands).tobytes()
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        children = [
            context.Process(target=in_child, args=(queue, *operands), daemon=True) for _ in range(3)
        ]
        for child in children:
            child.start()
        self.assertEqual([queue.get(timeout=60) for _ in children], [want] * 3)
        for child in children:
            child.join(60)
            self.assertEqual(child.exitcode, 0)

    def test_threads_and_the_gil(self):
        operands = tensors(64, 300, 500, 8, 8)
        want, got = ifa.attention(*operands).tobytes(), []
        threads = [
            threading.Thread(target=lambda: got.append(ifa.attention(*operands).tobytes()))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(got, [want] * 4)

    def test_the_package(self):
        self.assertIn("scalar", ifa.backends())
        header = Path(ifa.get_include()) / "ifa.h"
        if not header.exists():  # not installed: the checkout's
            header = Path(__file__).resolve().parents[2] / "include" / "ifa.h"
        text = header.read_text()
        self.assertIn(f'#define IFA_VERSION "{ifa.__version__}"', text)
        self.assertIn(f"#define IFA_CONTRACT_VERSION {ifa.CONTRACT}", text)


if __name__ == "__main__":
    unittest.main()
