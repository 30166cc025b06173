"""FlashInfer-Bench's definitions: cases from lengths and workloads, a right solution, wrong ones,
what a tolerance overlooks, refusals."""

import importlib.util
import io
import json
import math
import os
import tempfile
import unittest
from contextlib import redirect_stdout
from pathlib import Path

import ifa
import numpy as np

HAVE = bool(importlib.util.find_spec("torch"))
if HAVE:
    import ifa.flashinfer
    import torch


def definition(op, inputs, dtype="bfloat16", **more):
    tensors = ("q", "k", "v", "k_cache", "v_cache")
    const = dict(num_qo_heads=4, num_kv_heads=2, head_dim=64, page_size=16)
    return {
        "name": f"{op}_h4_kv2_d64",
        "op_type": op,
        "axes": {
            **{name: {"type": "const", "value": value} for name, value in const.items()},
            "batch_size": {"type": "var"},
        },
        "inputs": {
            name: {"shape": [], "dtype": dtype if name in tensors else "int32"} for name in inputs
        },
        "outputs": {"output": {}, "lse": {}},
        **more,
    }


RAGGED = definition("gqa_ragged", ("q", "k", "v", "qo_indptr", "kv_indptr", "sm_scale"))
DECODE = definition(
    "gqa_paged",
    ("q", "k_cache", "v_cache", "kv_indptr", "kv_indices", "kv_last_page_len", "sm_scale"),
)


def attend(q, k, v, sm, causal, late=0):
    """One sequence: q [nq, 4, 64], k and v [nk, 2, 64]; late: how many keys too few a row sees."""
    k, v = (x.float().repeat_interleave(2, 1) for x in (k, v))
    s = torch.einsum("qhd,khd->hqk", q.float(), k) * sm
    nq, nk = q.shape[0], k.shape[0]
    if causal:
        s = s.masked_fill(torch.arange(nk) > torch.arange(nq)[:, None] + nk - nq - late, -math.inf)
    return torch.einsum("hqk,khd->qhd", s.softmax(2), v).bfloat16(), torch.logsumexp(
        s, 2
    ).T / math.log(2)


def ragged(q, k, v, qo, kv, sm, late=0):
    parts = [
        attend(q[a:b], k[c:d], v[c:d], sm, True, late) for a, b, c, d in zip(qo, qo[1:], kv, kv[1:])
    ]
    return tuple(torch.cat(x) for x in zip(*parts))


def decode(q, k_cache, v_cache, kv, indices, last, sm):
    outputs = []
    for i in range(len(kv) - 1):
        pages = indices[kv[i] : kv[i + 1]].long()
        n = (len(pages) - 1) * 16 + int(last[i])
        outputs.append(
            attend(
                q[i : i + 1],
                k_cache[pages].flatten(0, 1)[:n],
                v_cache[pages].flatten(0, 1)[:n],
                sm,
                False,
            )
        )
    return tuple(torch.cat(x) for x in zip(*outputs))


def checked(found, run, **options):
    out = io.StringIO()
    with redirect_stdout(out):
        report = ifa.flashinfer.check(ifa.flashinfer.Definition.parse(found), run, **options)
    return report, out.getvalue()


@unittest.skipUnless(HAVE, "not available: torch")
class FlashInfer(unittest.TestCase):
    def test_right_solutions(self):
        for found, run, cases in ((RAGGED, ragged, 9), (DECODE, decode, 5)):
            report, printed = checked(found, run)
            self.assertEqual(
                (report.exit_code, str(report).split(",")[0]), (0, f"{cases} passed"), printed
            )
            self.assertIn(
                f"tolerance as written: {cases} of {cases} pass; bound for each element: {cases} passed",
                printed,
            )

    def test_a_wrong_mask(self):
        report, printed = checked(
            RAGGED, lambda *a: ragged(*a, late=1 if len(a[0]) > 20 else 0), show=1
        )
        self.assertEqual(report.exit_code, 1)
        self.assertIn("nq=33 nk=130", report.failures[0].case)
        self.assertIn(
            "repeat: ifa.check(definition.kernel(run), claim='close q=bf16 k=bf16 v=bf16 p=bf16 o=bf16', device='cpu', cases=",
            printed,
        )

    def test_a_page_that_is_nobodys(self):
        def reads_the_whole_last_page(q, k_cache, v_cache, kv, indices, last, sm):
            return decode(q, k_cache, v_cache, kv, indices, torch.full_like(last, 16), sm)

        report, _ = checked(DECODE, reads_the_whole_last_page, quiet=True)
        self.assertEqual(
            [r.verdict for r in report.results], ["failed"] * 2 + ["passed"] + ["failed"] * 2
        )  # 64 keys fill their pages

    def test_what_a_tolerance_overlooks(self):
        """One row that is off by 0.008: within 0.01, and far outside of what bf16 explains."""

        def off(*arguments):
            o, lse = ragged(*arguments)
            o = o.clone()
            o[3] += 0.008
            return o, lse

        report, printed = checked(RAGGED, off, show=0)
        self.assertEqual((report.exit_code, [m.passed for m in report.matched]), (1, [True] * 9))
        self.assertIn(
            "bound for each element: failed; tolerance: 100.00% within it, enough", printed
        )
        self.assertIn(
            "tolerance as written: 9 of 9 pass; bound for each element: 0 passed", printed
        )

    def test_workloads(self):
        with tempfile.TemporaryDirectory() as folder:
            tensors = {
                "kv": np.array([0, 2, 2, 5], np.int32),
                "last": np.array([3, 0, 16], np.int32),
            }
            head, data = {}, b""
            for name, x in tensors.items():
                head[name] = {
                    "dtype": "I32",
                    "shape": list(x.shape),
                    "data_offsets": [len(data), len(data) + x.nbytes],
                }
                data += x.tobytes()
            text = json.dumps(head).encode()
            Path(folder, "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)

            def tensor(name):
                return {"type": "safetensors", "path": "a.safetensors", "tensor_key": name}

            inputs = {
                "q": {"type": "random"},
                "kv_indptr": tensor("kv"),
                "kv_last_page_len": tensor("last"),
                "sm_scale": {"type": "scalar", "value": 0.25},
            }
            tolerance = {"max_atol": 0.5, "max_rtol": 0.0, "required_matched_ratio": 0.9}
            lines = [
                {"definition": "d", "workload": {"inputs": inputs, "tolerance": tolerance}}
            ] * 2
            path = Path(folder, "w.jsonl")
            path.write_text("\n".join(map(json.dumps, lines)) + "\n")
            found = ifa.flashinfer.Definition.parse(DECODE)
            cases = found.cases(path)
            self.assertEqual(
                [c.split("d=64")[0].split()[3:] for c, _ in cases],
                [["nq=1", "nk=19"], ["nq=1", "nk=0"], ["nq=1", "nk=48"]],
            )
            self.assertTrue(all("sm=0.25" in c for c, _ in cases))
            self.assertEqual((cases[0][1].max_atol, cases[0][1].required_matched_ratio), (0.5, 0.9))
            path.write_text('{"workload": {"inputs": {}}}\n')
            with self.assertRaisesRegex(ifa.BadFile, "w.jsonl:1: no workload"):
                found.cases(path)

    def test_refusals(self):
        parse = ifa.flashinfer.Definition.parse
        for text, found in (
            ("op_type is 'gemm'", dict(RAGGED, op_type="gemm")),
            (
                "inputs of float8_e4m3fn",
                definition("gqa_ragged", RAGGED["inputs"], "float8_e4m3fn"),
            ),
            ("input 'mask'", definition("gqa_ragged", (*RAGGED["inputs"], "mask"))),
        ):
            with self.subTest(text), self.assertRaisesRegex(ifa.Unsupported, text):
                parse(found)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "d.json")
            Path(path).write_text("{}")
            with self.assertRaisesRegex(ifa.BadFile, "d.json: no definition"):
                ifa.flashinfer.Definition.load(path)
            Path(path).write_text(json.dumps(DECODE))
            self.assertEqual(ifa.flashinfer.Definition.load(path).page_size, 16)


if __name__ == "__main__":
    unittest.main()
