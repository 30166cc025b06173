"""ifa.torch: the bits of ifa.attention from CPU and CUDA tensors, opcheck, torch.compile without a
break, CUDA graphs, streams, the drop-in and what it refuses; ifa.check on tensors."""

import importlib.util
import io
import itertools
import os
import sys
import time
import unittest
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import ifa
import numpy as np

try:
    import ifa.torch
    import torch
    from torch import library as torch_library
except ImportError:
    torch = None
CUDA = bool(torch) and ifa.HAS_CUDA and torch.cuda.is_available()
EXAMPLES = Path(os.environ.get("IFA_EXAMPLES") or Path(__file__).resolve().parents[2] / "examples")
FP16 = "close q=f16 k=f16 v=f16 p=f16 o=f16"


def tensors(dim=64, nq=50, nk=130, heads=4, kv_heads=2, batch=2, dtype=None, place="cpu"):
    make = torch.Generator().manual_seed(1)
    found = (
        torch.randn(batch, h, n, dim, generator=make)
        for h, n in ((heads, nq), (kv_heads, nk), (kv_heads, nk))
    )
    return tuple(x.to(place, dtype or torch.float32) for x in found)


def bits(x):
    """Of a tensor or an array, for comparison."""
    if isinstance(x, np.ndarray):
        return x.tobytes()
    return x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


def op_arguments(q, k, v, lse=True):
    return (
        q,
        k,
        v,
        True,
        0,
        None,
        lse,
        torch.float16,
        True,
        "int8",
        "int8",
        "int8",
        "token",
        "token",
        "token",
        64,
        256,
        4.0,
        64,
        0,
    )


def load(path):
    spec = importlib.util.spec_from_file_location(path.parent.name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checked(kernel, claim, **options):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        report = ifa.check(kernel, claim, **options)
    return report, out.getvalue() + err.getvalue()


@unittest.skipUnless(torch, "not available: torch")
class Torch(unittest.TestCase):
    place = "cpu"

    def test_numpys_bits(self):
        kinds = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
        for (kind, dtype), preset, causal in itertools.product(
            kinds.items(), ("fast", "accurate", "int4"), (False, True)
        ):
            q, k, v = tensors(dtype=dtype, place=self.place)
            options = dict(preset=preset, causal=causal, window=0 if causal else 40)
            o, lse = ifa.attention(q, k, v, lse=True, **options)
            floats = [x.float().cpu().numpy() for x in (q, k, v)]  # exact: the floats are the same
            want, want_lse = ifa.attention(
                *floats, lse=True, out_type=kind, backend="scalar", **options
            )
            with self.subTest(kind=kind, **options):
                self.assertEqual((o.dtype, o.is_cuda), (dtype, self.place == "cuda"))
                self.assertEqual(bits(o), bits(want))
                self.assertEqual(bits(lse), bits(want_lse))

    def test_layouts_and_out(self):
        q, k, v = tensors(place=self.place)
        want = ifa.torch.attention(q, k, v, causal=True)
        token_first = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
        apart = [torch.cat([x, x], 3).to(self.place)[..., :64] for x in (q, k, v)]
        odd = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in (q, k, v)]
        for operands in (token_first, apart, odd):
            self.assertEqual(bits(ifa.torch.attention(*operands, causal=True)), bits(want))
        out = torch.empty(2, 50, 4, 64, device=self.place).transpose(1, 2)
        self.assertIs(ifa.torch.attention(q, k, v, causal=True, out=out), out)
        self.assertEqual(bits(out), bits(want))
        pair = out, torch.empty(2, 4, 50, device=self.place)
        ifa.torch.attention(q, k, v, lse=True, out=pair)
        self.assertEqual(bits(pair[1]), bits(ifa.torch.attention(q, k, v, lse=True)[1]))

    def test_nothing_to_do(self):
        q, k, v = tensors(place=self.place)
        for _ in range(2):
            for lse in (False, True):
                found = ifa.torch.attention(q.new_empty(2, 4, 0, 64), k, v, lse=lse)
                self.assertEqual((found[0] if lse else found).shape, (2, 4, 0, 64))
        with self.assertRaisesRegex(ifa.BadProblem, "batch is 0"):
            ifa.torch.attention(q[:0], k[:0], v[:0])
        with self.assertRaisesRegex(ifa.BadProblem, "tau is 2.5"):
            ifa.torch.attention(q, k, v, tau=2.5)

    def test_opcheck(self):
        for dtype, lse in ((torch.float16, True), (torch.float32, False)):
            found = torch_library.opcheck(
                torch.ops.ifa.attention.default,
                op_arguments(*tensors(dtype=dtype, place=self.place), lse),
            )
            self.assertEqual(set(found.values()), {"SUCCESS"})

    def test_compiled_without_a_break(self):
        def layer(q, k, v):
            return ifa.torch.scaled_dot_product_attention(
                q * 2, k, v, is_causal=True, enable_gqa=True
            ).sum(1)

        backend = (
            "inductor" if self.place == "cuda" else "aot_eager"
        )  # inductor needs a minute of the compiler on a CPU
        compiled = torch.compile(layer, fullgraph=True, backend=backend)
        with torch.no_grad():
            for nq in (40, 56, 64):  # sizes become symbols
                operands = tensors(nq=nq, nk=nq, place=self.place)
                self.assertLess((compiled(*operands) - layer(*operands)).abs().max().item(), 1e-5)
                out = torch.compile(ifa.torch.attention, fullgraph=True, backend=backend)(
                    *operands, causal=True
                )
                self.assertEqual(bits(out), bits(ifa.torch.attention(*operands, causal=True)))

    def test_drop_in(self):
        theirs = torch.nn.functional.scaled_dot_product_attention
        for nq, nk, options in (
            (50, 130, {}),
            (130, 130, {"is_causal": True}),
            (50, 130, {"is_causal": True}),
            (50, 130, {"scale": 0.3}),
        ):
            q, k, v = tensors(nq=nq, nk=nk, place=self.place)
            with self.subTest(nq=nq, nk=nk, **options):
                mine = ifa.torch.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)
                want = theirs(q, k, v, enable_gqa=True, **options)
                self.assertLess(((mine - want).norm() / want.norm()).item(), 0.03)

    def test_drop_in_refuses_by_name(self):
        q, k, v = tensors(nq=140, place=self.place)
        same = tensors(heads=2, place=self.place)
        mask = torch.ones(50, 130, dtype=torch.bool, device=self.place)
        grown = same[0].clone().requires_grad_()
        call = ifa.torch.scaled_dot_product_attention
        for text, arguments, options in (
            ("attn_mask", same, {"attn_mask": mask}),
            ("dropout_p is 0.1", same, {"dropout_p": 0.1}),
            ("gradients", (grown, *same[1:]), {}),
            ("enable_gqa=True", (q, k, v), {}),
            ("more query than key tokens", (q, k, v), {"is_causal": True, "enable_gqa": True}),
            ("torch.float64", [x.double() for x in same], {}),
            ("3 dimensions", [x[0] for x in same], {}),
        ):
            with self.subTest(text):
                with self.assertRaisesRegex(ifa.Unsupported, text):
                    call(*arguments, **options)
                if "enable_gqa=True" not in text and "dropout" not in text:
                    theirs = torch.nn.functional.scaled_dot_product_attention(*arguments, **options)
                    self.assertEqual(bits(call(*arguments, fallback=True, **options)), bits(theirs))
        with self.assertRaisesRegex(ifa.Unsupported, "gradients"):
            ifa.torch.attention(grown, *same[1:])
        with self.assertRaisesRegex(ifa.Unsupported, "gradients"):
            torch.ops.ifa.attention(*op_arguments(grown, *same[1:]))[0].sum().backward()
        with self.assertRaisesRegex(ifa.BadProblem, "tau is 99"):
            call(*same, tau=99)
        with self.assertRaisesRegex(ifa.BadArgument, "do not go together"):
            ifa.torch.attention(q, k[..., :8], v)
        with self.assertRaisesRegex(ifa.BadArgument, "torch.float64"):
            ifa.torch.attention(*(x.double() for x in same))

    def test_torchs_attention_in_fp16_is_close(self):
        kernel = load(EXAMPLES / "check_torch" / "attention.py").attention
        report, printed = checked(
            kernel,
            FP16,
            lse=False,
            device=self.place,
            cases=[
                "nq=1,33,70 nk=1,70,130 d=16,64 causal=0,1 hq=4 hkv=2",
                "nq=70 nk=90 window=20 out=f16",
            ],
        )
        self.assertEqual(report.exit_code, 0, printed)
        self.assertEqual((str(report).split(",")[0], kernel.__name__), ("37 passed", "attention"))

    def test_check_finds_torchs_other_mask(self):
        def top_left(q, k, v, p):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=p.causal)

        report, printed = checked(
            top_left, FP16, device=self.place, cases="nq=70 nk=70,71 causal=0,1"
        )
        self.assertEqual(
            [r.verdict for r in report.results], ["passed", "passed", "passed", "failed"], printed
        )
        self.assertIn(f"device='{self.place}'", printed)

    def test_check_guards_and_inputs(self):
        def writes_outside(q, k, v, p):
            p.o.fill_(0)
            p.o.as_strided((p.o.numel() + 1,), (1,))[-1] = 1

        def changes_input(q, k, v, p):
            q[0, 0, 0, 0] = 3
            return q.float()

        for kernel, text in (
            (writes_outside, "guard bytes around o"),
            (changes_input, "it changed its input q (f16)"),
            (lambda q, k, v, p: None, "it wrote nothing"),
        ):
            report, printed = checked(kernel, FP16, device=self.place, cases="nq=3 nk=3")
            self.assertEqual((report.exit_code, report.results[0].verdict), (1, "failed"))
            self.assertIn(text, printed)

    @unittest.skipIf(CUDA, "there is a CUDA device")
    def test_a_device_that_is_not_here(self):
        report, _ = checked(lambda q, k, v, p: q, FP16, device="cuda", cases="nq=3 nk=3")
        self.assertEqual((report.exit_code, report.results[0].verdict), (3, "not available"))

    def test_exact_operands(self):
        """The oracle's own arithmetic is not asked for: scores as integers, exact in binary64."""
        seen = {}

        def look(q, k, v, p):
            seen.update(q=q, p=p)
            p.o.zero_()

        checked(look, "exact", device=self.place, cases="nq=3 nk=5 v=int4 layout=bnhd lse=0")
        q, p = seen["q"], seen["p"]
        on_card = self.place == "cuda"
        self.assertEqual(
            (q.dtype, q.is_cuda, p.operands.v.dtype, p.o.is_cuda),
            (torch.int8, on_card, torch.uint8, on_card),
        )
        near = (q.float() * p.operands.q_scale[..., None] - p.floats[0]).abs().max()
        self.assertLess(near.item(), 0.02)


@unittest.skipUnless(
    CUDA, "not available: a CUDA device, torch and a build of ifa with its kernels"
)
class TorchCuda(Torch if torch else unittest.TestCase):
    place = "cuda"

    def test_the_same_bits_everywhere(self):
        for preset, dtype in itertools.product(
            ("fast", "accurate"), (torch.float16, torch.bfloat16, torch.float32)
        ):
            operands = tensors(128, 300, 700, 8, 2, dtype=dtype)
            here = ifa.attention(*operands, preset=preset, causal=True)
            there = ifa.attention(*(x.cuda() for x in operands), preset=preset, causal=True)
            kind = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "f32"}[dtype]
            arrays = ifa.attention(
                *(x.float().numpy() for x in operands), preset=preset, causal=True, out_type=kind
            )
            self.assertEqual(bits(here), bits(there))
            self.assertEqual(bits(arrays), bits(there))

    def test_again_with_other_data(self):
        """Calls alike share a plan: settings, layouts and types that differ do not."""
        for _ in range(2):
            for preset, nq, dtype, lse in itertools.product(
                ("fast", "accurate"), (50, 51), (torch.float16, torch.float32), (False, True)
            ):
                for operands in (
                    tensors(nq=nq, dtype=dtype),
                    [
                        x.transpose(1, 2).contiguous().transpose(1, 2)
                        for x in tensors(nq=nq, dtype=dtype)
                    ],
                ):
                    got = ifa.torch.attention(
                        *(x.cuda() for x in operands), preset=preset, lse=lse, causal=True
                    )
                    want = ifa.torch.attention(*operands, preset=preset, lse=lse, causal=True)
                    for a, b in zip(got, want) if lse else ((got, want),):
                        self.assertEqual(bits(a), bits(b))

    def test_a_calls_overhead(self):
        """What the call itself costs the processor, launches included."""
        operands = tensors(128, 128, 128, 8, 8, 1, torch.float16, "cuda")
        for _ in range(20):
            ifa.torch.attention(*operands)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(200):
            ifa.torch.attention(*operands)
        microseconds = (time.perf_counter() - begin) / 200 * 1e6
        torch.cuda.synchronize()
        print(f"a call: {microseconds:.1f} us", file=sys.stderr)
        self.assertLess(microseconds, 500)

    def test_other_arrays_on_the_card(self):
        """What is known by __dlpack__ alone."""

        class Other:
            def __init__(self, x):
                self.x = x

            def __dlpack__(self, stream=None):
                return self.x.__dlpack__(stream=stream)

            def __dlpack_device__(self):
                return self.x.__dlpack_device__()

        operands = tensors(place="cuda", dtype=torch.bfloat16)
        want, want_lse = ifa.torch.attention(*operands, causal=True, lse=True)
        out, lse = torch.empty_like(operands[0]), torch.empty(2, 4, 50, device="cuda")
        others = [Other(x) for x in operands]
        options = dict(causal=True, lse=True, out=(Other(out), Other(lse)))
        with self.assertRaisesRegex(
            ifa.BadArgument, r"workspace is missing: an array of \d+ bytes"
        ) as refused:
            ifa.attention(*others, **options)
        room = torch.empty(
            int(str(refused.exception).split()[-5]), dtype=torch.uint8, device="cuda"
        )
        with self.assertRaisesRegex(ifa.BadArgument, "it must be at least"):
            ifa.attention(*others, workspace=Other(room[1:]), **options)
        ifa.attention(
            *others,
            workspace=Other(room),
            stream=torch.cuda.current_stream().cuda_stream,
            **options,
        )
        self.assertEqual((bits(out), bits(lse)), (bits(want), bits(want_lse)))
        with self.assertRaisesRegex(ifa.BadArgument, "q is on a CUDA device, v is not"):
            ifa.attention(*others[:2], operands[2].float().cpu().numpy(), **options)
        with self.assertRaisesRegex(ifa.BadArgument, "need out="):
            ifa.attention(*others)

    def test_graph(self):
        operands = [x.contiguous() for x in tensors(place="cuda", dtype=torch.float16)]
        ifa.torch.attention(*operands, causal=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            o = ifa.torch.attention(*operands, causal=True)
        for factor in (1, -2):
            operands[0].mul_(factor)
            graph.replay()
            torch.cuda.synchronize()
            self.assertEqual(bits(o), bits(ifa.torch.attention(*operands, causal=True)))

    def test_current_stream(self):
        operands = tensors(place="cuda", dtype=torch.float16)
        want = bits(ifa.torch.attention(*operands))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)  # what comes later on this stream waits for it
            late = [x + 0 for x in operands]
            o = ifa.torch.attention(*late)
        self.assertFalse(
            stream.query()
        )  # the call came back before its stream was done: it did not wait
        stream.synchronize()
        self.assertEqual(bits(o), want)

    def test_refusals_of_a_gpu(self):
        q, k, v = tensors(place="cuda")
        with self.assertRaisesRegex(ifa.BadArgument, "k is on another device"):
            ifa.torch.attention(q, k.cpu(), v)
        with self.assertRaisesRegex(ifa.BadArgument, "of one type"):
            ifa.torch.attention(q, k.half(), v)

    @unittest.skipUnless(importlib.util.find_spec("triton"), "not available: triton")
    def test_triton(self):
        example = load(EXAMPLES / "check_triton" / "attention.py")
        report, printed = checked(example.attention, FP16.replace(" o=f16", ""), device="cuda")
        self.assertEqual(report.exit_code, 0, printed)
        self.assertGreater(int(str(report).split()[0]), 200)
        report, printed = checked(
            example.wrong_mask, FP16.replace(" o=f16", ""), device="cuda", failures=1
        )
        self.assertEqual(report.exit_code, 1)
        self.assertIn("causal=1", report.failures[0].case)
        print(printed, file=sys.stderr)


if __name__ == "__main__":
    unittest.main()
