"""ifa.check: right kernels pass, wrong ones fail at the right place, each way to cheat in this
process is caught; reports and exit codes as `validate run`'s."""

import importlib.util
import io
import json
import multiprocessing
import os
import re
import tempfile
import threading
import unittest
import xml.etree.ElementTree
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import ifa
import numpy as np

EXACT32 = "close q=f32 k=f32 v=f32"


def example():
    examples = os.environ.get("IFA_EXAMPLES") or Path(__file__).resolve().parents[2] / "examples"
    path = Path(examples) / "check_numpy" / "attention.py"
    spec = importlib.util.spec_from_file_location("example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.attention


attention = example()


def through_the_library(q, k, v, p):
    """An exact kernel: fills its outputs."""
    ifa.attention(
        *p.quantized(),
        sm_scale=p.sm_scale,
        causal=p.causal,
        window=p.window,
        tau=p.tau,
        kv_tile=p.kv_tile,
        kv_split=p.kv_split,
        lse=p.lse,
        rows=p.rows,
        out=(p.o, p.lse_out) if p.lse else p.o,
    )


def wrong_mask(q, k, v, p):
    """Aligned at the top left."""
    seen = np.arange(p.nk) <= np.arange(p.nq)[:, None] if p.causal else np.ones((p.nq, p.nk), bool)
    s = np.where(
        seen, np.float32(p.sm_scale) * (q @ np.repeat(k, p.group, 1).swapaxes(2, 3)), -np.inf
    )
    w = np.exp(s - s.max(3, keepdims=True))
    return (w @ np.repeat(v, p.group, 1)) / w.sum(3, keepdims=True)


def checked(kernel, claim=EXACT32, **options):
    """The report and what was printed."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        report = ifa.check(kernel, claim, **options)
    return report, out.getvalue(), err.getvalue()


class Check(unittest.TestCase):
    def failure(
        self, kernel, text, verdict="failed", claim=EXACT32, cases="b=1 hq=2 hkv=1 nq=9 nk=40 d=16"
    ):
        report, printed, _ = checked(kernel, claim, cases=cases)
        self.assertEqual((report.exit_code, report.results[0].verdict), (1, verdict))
        self.assertIn(text, report.results[0].message)
        self.assertIn(text, printed)
        return report

    def test_a_right_kernel_passes(self):
        report, printed, _ = checked(attention)
        self.assertEqual((report.exit_code, printed), (0, f"{report}\n"))
        self.assertRegex(str(report), r"^\d+ passed, 0 failed, \d unsupported, 0 not available$")
        self.assertTrue(report)

    def test_an_exact_kernel_has_the_contracts_bits(self):
        report, printed, _ = checked(through_the_library, "exact", suite="smoke")
        self.assertEqual(report.exit_code, 0, printed)
        self.assertEqual(report.failures, [])
        self.assertGreater(len(report.results), 200)

    def test_a_wrong_causal_mask_is_found(self):
        report, printed, _ = checked(
            wrong_mask, cases=["nq=70 nk=70 causal=1", "nq=70 nk=90 causal=0,1"]
        )
        self.assertEqual([r.verdict for r in report.results], ["passed", "passed", "failed"])
        self.assertIn("o[b 0][h 0][i 0][d 0] is ", printed)
        line = "repeat: ifa.check(wrong_mask, claim='close q=f32 k=f32 v=f32', cases=\"b=1 hq=1 hkv=1 nq=70 nk=90 d=64 causal=1 fill=normal seed=1\")"
        self.assertIn(line, printed)
        again = eval(line[len("repeat: ") :].replace("cases=", "quiet=True, cases="))
        self.assertEqual(again.results[0].details["places"], report.results[2].details["places"])
        with self.assertRaisesRegex(ifa.CheckFailed, "FAILED  wrong_mask"):
            report.raise_failures()

    def test_an_exact_kernel_that_is_off_by_a_bit(self):
        def off(q, k, v, p):
            through_the_library(q, k, v, p)
            p.o[0, 1, 3, 7] = np.nextafter(p.o[0, 1, 3, 7], np.float32(9))

        report = self.failure(off, "o differs in 1 of 288 elements", claim="exact")
        self.assertEqual(
            [place["where"] for place in report.results[0].details["places"]],
            ["o[b 0][h 1][i 3][d 7]"],
        )

    def test_the_first_stage_that_differs(self):
        """An exact kernel that shows its stages: scores in integers here, one of them wrong."""

        def shows(q, k, v, p, error=1):
            p.o.fill(0)
            if p.stages:
                s = q.astype(np.int32) @ np.repeat(k, p.group, 1).astype(np.int32).swapaxes(2, 3)
                p.stages.s[...] = np.where(p.live(), s, 0).reshape(p.stages.s.shape)
                p.stages.s[3, 5] += error

        report = self.failure(
            shows, "S differs in 1 of 720 elements; it is the first stage to differ", claim="exact"
        )
        self.assertEqual(
            (report.results[0].details["stage"], report.results[0].details["places"][0]["where"]),
            ("S", "S[b 0][h 0][i 3][key 5]"),
        )
        # what it does not show, is no difference
        self.failure(
            lambda *a: shows(*a, error=0), "o differs in 288 of 288 elements", claim="exact"
        )

    def test_cheats(self):
        kept = {}

        def earlier_answer(q, k, v, p):
            if "o" not in kept:
                kept["o"] = attention(q, k, v, p)[0]
            return kept["o"]

        def writes_outside(q, k, v, p):
            o = attention(q, k, v, p)[0]
            p.o[...] = o
            np.lib.stride_tricks.as_strided(
                p.o, (1,), (4,), writeable=True
            ).base  # a view that begins at o
            end = np.lib.stride_tricks.as_strided(p.o.reshape(-1), (p.o.size + 1,), (4,))
            end[-1] = 0

        def half(q, k, v, p):
            p.o[:, :1] = attention(q, k, v, p)[0][:, :1]

        def changes_input(q, k, v, p):
            o = attention(q, k, v, p)[0]
            k[0, 0, 0, 0] += 1
            return o

        def ignores_a_head(q, k, v, p):
            o = attention(q, k, v, p)[0]
            o[:, 1] = o[:, 0]
            return o

        def second_time_wrong(q, k, v, p):
            kept["n"] = kept.get("n", 0) + 1
            return attention(q, k, v, p)[0] * (1 if kept["n"] < 3 else 2)

        self.failure(earlier_answer, "right with this seed, wrong with seed=0")
        self.failure(lambda q, k, v, p: None, "it wrote nothing to o")
        self.failure(writes_outside, "guard bytes around o were overwritten")
        self.failure(half, "o[b 0][h 1][i 0][d 0] is ")
        self.failure(changes_input, "it changed its input k")
        self.failure(ignores_a_head, "[h 1]")
        self.failure(second_time_wrong, "right the first time, wrong after another case")

    def test_rows_that_were_not_chosen_stay(self):
        def all_rows(q, k, v, p):
            p.o[...] = attention(q, k, v, p)[0]

        self.failure(all_rows, "belongs to no computed row", cases="nq=40 nk=40 rows=3")
        report, printed, _ = checked(
            attention, cases="nq=40 nk=40 rows=3 lse=0,1 layout=bnhd,bhnd out=f16,bf16,f32"
        )
        self.assertEqual(
            report.exit_code, 0, printed
        )  # of what is returned only the chosen ones are taken

    def test_answers_that_are_none(self):
        self.failure(
            lambda q, k, v, p: q[:, :1],
            "it returned o of shape [1, 1, 9, 16]; it is [1, 2, 9, 16]",
            "bad output",
        )
        self.failure(lambda q, k, v, p: "o", "it returned o of str", "bad output")
        report, _, traced = checked(lambda q, k, v, p: q.nothing, cases="nq=3 nk=3")
        self.assertIn("it raised AttributeError", report.results[0].message)
        self.assertIn("q.nothing", traced)

    def test_without_log_sum_exp(self):
        report, printed, _ = checked(
            lambda q, k, v, p: attention(q, k, v, p)[0], cases="nq=3 nk=3 lse=0,1", lse=False
        )
        self.assertEqual(
            (str(report), "lse=1" in report.results[1].case),
            ("2 passed, 0 failed, 0 unsupported, 0 not available", False),
        )

    def test_unsupported_is_no_pass(self):
        def refuses(q, k, v, p):
            raise ifa.Unsupported("everything")

        def absent(q, k, v, p):
            raise ifa.NotAvailable("no card")

        report, _, _ = checked(refuses, cases="nq=3 nk=3 causal=0,1")
        self.assertEqual(
            (report.exit_code, report.results[1].verdict, str(report)),
            (3, "unsupported", "0 passed, 0 failed, 2 unsupported, 0 not available"),
        )
        self.assertEqual(checked(absent, cases="nq=3 nk=3")[0].results[0].verdict, "not available")
        report, _, _ = checked(
            lambda q, k, v, p: attention(q, k, v, p)[0], cases="nq=3 nk=3 lse=0,1"
        )
        self.assertEqual([r.verdict for r in report.results], ["passed", "unsupported"])

    def test_what_a_claim_hands_out(self):
        seen = {}

        def look(q, k, v, p):
            seen.update(q=q, k=k, v=v, p=p)
            raise ifa.Unsupported("")

        checked(look, "close q=f16 k=bf16", cases="nq=3 nk=5 d=33 v=int4 layout=bnhd")
        q, k, v, p = (seen[name] for name in "qkvp")
        self.assertEqual((q.dtype, k.dtype, v.dtype), (np.float16, np.float32, np.uint8))
        self.assertEqual(
            (v.shape, p.operands.q.shape, p.operands.q.dtype),
            ((1, 1, 5, 17), (1, 1, 3, 33), np.int8),
        )
        self.assertFalse((k.view(np.uint32) & 0xFFFF).any())
        self.assertEqual(q.tobytes(), p.floats[0].astype(np.float16).tobytes())
        checked(look, "exact", cases="nq=3 nk=5")
        self.assertEqual(seen["q"].dtype, np.int8)

    def test_bad_requests(self):
        for text, options in (
            ("claim: 'right' is not", dict(claim="right")),
            ("no suite and no file", dict(suite="smok")),
            ("unknown key 'nx'", dict(cases="nx=3")),
        ):
            with self.subTest(text), self.assertRaisesRegex(ifa.Error, re.escape(text)):
                checked(attention, **options)
        report, printed, _ = checked(attention, cases=["d=300", "nq=3 nk=3"])
        self.assertEqual((report.exit_code, report.results[0].verdict), (2, "invalid"))
        self.assertIn("head_dim is 300", printed)

    def test_reports(self):
        with tempfile.TemporaryDirectory() as folder:
            paths = {
                kind: os.path.join(folder, f"r.{kind}") for kind in ("json", "html", "junit", "csv")
            }
            report, _, _ = checked(wrong_mask, cases="nq=70 nk=90 causal=0,1", **paths)
            found = json.loads(Path(paths["json"]).read_text())
            self.assertEqual(
                ([r["verdict"] for r in found["results"]], found["counts"]["failed"]),
                (["passed", "failed"], 1),
            )
            self.assertEqual(found["results"][1], report.results[1].details)
            suite = xml.etree.ElementTree.parse(paths["junit"]).getroot()
            self.assertEqual((suite.get("tests"), suite.get("failures")), ("2", "1"))
            self.assertIn("wrong_mask", Path(paths["html"]).read_text())
            self.assertEqual(len(Path(paths["csv"]).read_text().splitlines()), 3)
            with self.assertRaisesRegex(ifa.SystemRefused, "nowhere"):
                report.write(os.path.join(folder, "nowhere", "r.json"))

    def test_stopping(self):
        report, _, _ = checked(wrong_mask, cases="nq=70 nk=90,91,92 causal=1", failures=1)
        self.assertEqual(len(report.results), 1)

        def interrupted(q, k, v, p):
            raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            checked(interrupted, cases="nq=3 nk=3")

    def test_a_child_of_fork_while_a_check_runs(self):
        begun, go = threading.Event(), threading.Event()

        def slow(q, k, v, p):
            begun.set()
            go.wait(30)
            return attention(q, k, v, p)

        thread = threading.Thread(
            target=lambda: ifa.check(slow, EXACT32, cases="nq=3 nk=3", quiet=True)
        )
        thread.start()
        begun.wait(30)
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(
            target=lambda: queue.put(
                ifa.check(attention, EXACT32, cases="nq=3 nk=3", quiet=True).exit_code
            ),
            daemon=True,
        )
        child.start()
        self.assertEqual(queue.get(timeout=30), 0)
        go.set()
        thread.join(30)
        child.join(30)

    def test_real_tensors(self):  # those of the package, or IFA_REAL_DIR's
        report, printed, _ = checked(attention, cases="input=minilm_layer0 rows=2")
        self.assertEqual(report.exit_code, 0, printed)


@unittest.skipUnless(importlib.util.find_spec("pytest"), "not available: pytest")
class Pytest(unittest.TestCase):
    def test_a_parametrized_test(self):
        import pytest

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "test_kernels.py"
            path.write_text(
                "import ifa, sys\n"
                f"sys.path.insert(0, {str(Path(__file__).resolve().parent)!r})\n"
                "from test_check import attention, wrong_mask\n"
                "LINES = ['nq=70 nk=90 causal=0,1', 'nq=3 nk=0']\n"
                "@ifa.cases(cases=LINES)\n"
                "def test_right(case):\n    case.check(attention, claim='close q=f32 k=f32 v=f32')\n"
                "@ifa.cases(cases=LINES[:1])\n"
                "def test_wrong(case):\n    case.check(wrong_mask, claim='close q=f32 k=f32 v=f32')\n"
            )
            counts = {}

            class Count:
                def pytest_runtest_logreport(self, report):
                    if report.when == "call":
                        counts.setdefault(report.outcome, []).append(report)

            out = io.StringIO()
            with redirect_stdout(out):
                code = pytest.main(["-q", "-p", "no:cacheprovider", str(path)], plugins=[Count()])
            self.assertEqual(
                (int(code), {k: len(v) for k, v in counts.items()}),
                (1, {"passed": 3, "failed": 1, "skipped": 1}),
            )
            self.assertIn("causal=1", counts["failed"][0].nodeid)
            self.assertIn("repeat: ifa.check(wrong_mask", str(counts["failed"][0].longrepr))
            self.assertNotIn(
                "_check.py", str(counts["failed"][0].longrepr).split("FAILED  wrong_mask")[1]
            )


if __name__ == "__main__":
    unittest.main()
