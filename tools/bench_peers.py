#!/usr/bin/env python3
"""Attention from floats to floats on this CPU: libifa beside PyTorch, ONNX Runtime, OpenVINO, ggml.

    python3 tools/bench_peers.py --lib build/release/libifa.so [--threads 1,2] [--only torch,ggml]
    [--json FILE]

makes a virtual environment in build/peers (--venv) and installs the peers there (some gigabytes:
PyTorch's wheel brings CUDA along; ggml is compiled); what cannot be had is reported as not
available. Each peer runs in a process of its own, with its thread settings made. There ours and
theirs take turns on the same tensors, after their outputs were compared with binary64 attention;
printed are medians, and the median of theirs / ours of each turn (above 1: ours is faster). Clock:
the process's CPU time with one thread (other work on the machine then counts less), else wall time.

Ours: `fast` and `accurate`, ifa_cpu_attention's presets, quantization included; through the cache:
ifa_cache_append and ifa_cache_attend. Shapes: head_dim 128, 8 heads (2 at n 4096), as many query as
key/value heads. """
import argparse
import ctypes as c
import json
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DIM, F32, BF16 = 128, 0, 2
PREFILL = [(64, 8), (256, 8), (1024, 8), (4096, 2)]  # n, heads
PROMPTS = [16, 64, 128]
DECODED = 32  # tokens behind a prompt
LONGEST = 1200  # seconds of a peer
PEERS = {  # what is installed for it
    "torch": ["torch"],
    "onnxruntime": ["onnxruntime", "onnx"],
    "openvino": ["openvino"],
    "ggml": ["llama-cpp-python"],
}

# ---- the environment ----


def python_of(venv):
    return os.path.join(venv, "bin", "python")


def install(venv):
    """{peer: why not} of what cannot be had."""
    if not os.path.exists(python_of(venv)):
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    missing = {}
    for peer, packages in PEERS.items():
        command = [
            python_of(venv),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "numpy",
        ]
        got = subprocess.run(command + packages, capture_output=True, text=True, check=False)
        if got.returncode:
            missing[peer] = (got.stderr.strip().splitlines() or ["pip failed"])[-1]
    return missing


# ---- libifa ----


class Ifa:
    """The calls that are measured, through the structures of the Python package. Arrays are [heads,
    tokens, DIM]."""

    def __init__(self, path, threads):
        os.environ["IFA_LIBRARY"] = path
        sys.path.insert(0, os.path.join(ROOT, "python", "src"))
        from ifa import _library as structures

        self.names, self.lib, self.threads = structures, structures.lib, threads
        self.why = structures.Message()
        args, why = structures.AttentionArgs, c.POINTER(structures.Message)
        structures.declare(self.lib, {
            "ifa_cpu_attention_fast": (args, [c.c_int64] * 5 + [c.c_int32]),
            "ifa_cpu_attention_accurate": (args, [c.c_int64] * 5 + [c.c_int32]),
            "ifa_cpu_attention_workspace_bytes": (c.c_int, [c.POINTER(args), c.c_int, c.POINTER(c.c_size_t), why]),
            "ifa_cpu_attention": (c.c_int, [c.c_char_p, c.POINTER(args), c.c_void_p, c.c_size_t, c.c_int, why]),
        })  # fmt: skip

    def must(self, status):
        if status:
            raise RuntimeError(self.why.text.decode())

    def attention(self, preset, number, q, k, v, o, causal):
        """A call without arguments; number: the floats' type."""
        heads, n = q.shape[0], q.shape[1]
        args = getattr(self.lib, "ifa_cpu_attention_" + preset)(1, heads, heads, n, n, DIM)
        args.problem.causal, args.problem.out_type, args.type = causal, number, number
        args.q, args.k, args.v, args.o = (x.ctypes.data for x in (q, k, v, o))
        size, why = c.c_size_t(), c.byref(self.why)
        self.must(self.lib.ifa_cpu_attention_workspace_bytes(args, self.threads, size, why))
        memory = c.create_string_buffer(size.value + 64)
        at = c.c_void_p((c.addressof(memory) + 63) // 64 * 64)
        pointer, function, threads, keep = (
            c.byref(args),
            self.lib.ifa_cpu_attention,
            self.threads,
            (memory, q, k, v, o),
        )

        def call():
            if function(None, pointer, at, size, threads, why):
                raise RuntimeError(keep and self.why.text.decode())

        return call

    def cache(self, heads, tokens, number):
        """(append and attend of tokens first .. first + count - 1, forget all); pointers to [heads,
        tokens, DIM]."""
        lib, why, names = self.lib, c.byref(self.why), self.names
        config = lib.ifa_cache_config_default()
        config.kv_heads, config.head_dim, config.blocks = heads, DIM, tokens // 64 + 2
        cache, workspace, sequence = c.c_void_p(), c.c_void_p(), c.c_uint64()
        self.must(lib.ifa_cache_create(config, None, 0, cache, why))
        self.must(lib.ifa_cache_add(cache, sequence, why))
        problem = lib.ifa_cache_problem(cache, heads)
        problem.sm_scale, problem.causal, problem.out_type = DIM**-0.5, 1, number
        problem.q_stride = problem.o_stride = names.Strides(heads * tokens * DIM, tokens * DIM, DIM)
        self.must(
            lib.ifa_cache_workspace_create(
                cache, problem, tokens, self.threads, None, 0, workspace, why
            )
        )
        size = 4 if number == F32 else 2

        def step(q, k, v, o, first, count):
            shift = first * DIM * size
            piece = names.CacheTokens(
                k + shift, v + shift, number, count, tokens * DIM, DIM, tokens * DIM, DIM
            )
            query = names.CacheQuery(
                sequence.value, count, q + shift, number, None, o + shift, None
            )
            if lib.ifa_cache_append(cache, sequence, piece, why) or lib.ifa_cache_attend(
                cache, problem, query, 1, workspace, why
            ):
                raise RuntimeError(self.why.text.decode())

        return step, lambda: self.must(lib.ifa_cache_truncate(cache, sequence, 0, why))


# ---- the peers: a class each; prefill(q, k, v, causal) gives (call, output as float array) ----


class Torch:
    def __init__(self, threads, kind):
        import torch

        self.torch, self.kind = torch, kind
        self.type = {"f32": torch.float32, "bf16": torch.bfloat16}[kind]
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.version = torch.__version__

    def tensor(self, x):
        return self.torch.from_numpy(x)[None].to(self.type)

    def prefill(self, q, k, v, causal):
        from torch.nn.functional import scaled_dot_product_attention as attention

        q, k, v = (self.tensor(x) for x in (q, k, v))
        return (
            lambda: attention(q, k, v, is_causal=bool(causal)),
            lambda: attention(q, k, v, is_causal=bool(causal))[0].float().numpy(),
        )

    def cache(self, q, k, v):
        """As libifa's: new tokens into tensors that are there, attention over all that came so
        far."""
        from torch.nn.functional import scaled_dot_product_attention as attention

        q, k, v = (self.tensor(x) for x in (q, k, v))
        keys, values = self.torch.zeros_like(k), self.torch.zeros_like(v)

        def step(first, count):
            end = first + count
            keys[:, :, first:end] = k[:, :, first:end]
            values[:, :, first:end] = v[:, :, first:end]
            return attention(
                q[:, :, first:end], keys[:, :, :end], values[:, :, :end], is_causal=count > 1
            )

        return step

    def matmul(self):
        """Operations a second of a matrix product, 1024 x 1024 x 1024."""
        a = self.torch.randn(1024, 1024).to(self.type)
        times = [timed(lambda: a @ a, 1) for _ in range(15)]
        return 2 * 1024**3 / statistics.median(times[3:])


class OnnxRuntime:
    def __init__(self, threads, kind):
        import onnxruntime

        self.ort, self.threads, self.version = onnxruntime, threads, onnxruntime.__version__

    def prefill(self, q, k, v, causal):
        import numpy
        import onnx
        from onnx import TensorProto, helper

        shape = [1, *q.shape]
        value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        node = helper.make_node("Attention", ["q", "k", "v"], ["o"], is_causal=causal)
        graph = helper.make_graph([node], "attention", [value(x) for x in "qkv"], [value("o")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
        model.ir_version = 10
        onnx.checker.check_model(model)
        options = self.ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        session = self.ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        binding, o = session.io_binding(), numpy.empty(shape, "f")
        for name, x in zip("qkv", (q, k, v)):
            binding.bind_cpu_input(name, x[None])
        binding.bind_output("o", "cpu", 0, numpy.float32, shape, o.ctypes.data)

        def result():
            session.run_with_iobinding(binding)
            return o[0]

        return lambda: session.run_with_iobinding(binding), result


class OpenVino:
    def __init__(self, threads, kind):
        import openvino

        self.ov, self.threads, self.kind, self.version = (
            openvino,
            threads,
            kind,
            openvino.__version__.split("-")[0],
        )

    def prefill(self, q, k, v, causal):
        from openvino import opset13

        inputs = [opset13.parameter([1, *q.shape], self.ov.Type.f32) for _ in range(3)]
        model = self.ov.Model(
            [opset13.scaled_dot_product_attention(*inputs, causal=bool(causal))], inputs
        )
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": self.kind,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = self.ov.Core().compile_model(model, "CPU", settings).create_infer_request()
        held = [x[None].copy() for x in (q, k, v)]
        for i, x in enumerate(held):
            request.set_input_tensor(i, self.ov.Tensor(x, shared_memory=True))

        def result():
            request.infer()
            return request.get_output_tensor(0).data[0] if held else None

        return request.infer, result


class Ggml:
    """flash_attn_ext: Q in binary32, K and V in binary16."""

    class Init(c.Structure):
        _fields_ = [("mem_size", c.c_size_t), ("mem_buffer", c.c_void_p), ("no_alloc", c.c_bool)]

    class PoolParams(c.Structure):
        _fields_ = [
            ("cpumask", c.c_bool * 512),
            ("n_threads", c.c_int),
            ("prio", c.c_int),
            ("poll", c.c_uint32),
            ("strict_cpu", c.c_bool),
            ("paused", c.c_bool),
        ]

    def __init__(self, threads, kind):
        import llama_cpp

        folder = os.path.join(os.path.dirname(llama_cpp.__file__), "lib")
        self.base, self.cpu = (
            c.CDLL(os.path.join(folder, name), mode=c.RTLD_GLOBAL)
            for name in ("libggml-base.so", "libggml-cpu.so")
        )
        p, i = c.c_void_p, c.c_int64
        for lib, name, result, arguments in (
            (self.base, "ggml_init", p, [self.Init]), (self.base, "ggml_new_tensor_4d", p, [p, c.c_int, i, i, i, i]), (self.base, "ggml_get_data", p, [p]),
            (self.base, "ggml_flash_attn_ext", p, [p, p, p, p, p, c.c_float, c.c_float, c.c_float]), (self.base, "ggml_new_graph", p, [p]),
            (self.base, "ggml_build_forward_expand", None, [p, p]), (self.base, "ggml_threadpool_params_default", self.PoolParams, [c.c_int]),
            (self.cpu, "ggml_threadpool_new", p, [p]), (self.cpu, "ggml_backend_cpu_init", p, []), (self.cpu, "ggml_backend_cpu_set_n_threads", None, [p, c.c_int]),
            (self.cpu, "ggml_backend_cpu_set_threadpool", None, [p, p]), (self.base, "ggml_backend_graph_compute", c.c_int, [p, p])):  # fmt: skip
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        self.backend = self.cpu.ggml_backend_cpu_init()
        params = self.base.ggml_threadpool_params_default(threads)
        self.cpu.ggml_backend_cpu_set_n_threads(self.backend, threads)
        self.cpu.ggml_backend_cpu_set_threadpool(
            self.backend, self.cpu.ggml_threadpool_new(c.byref(params))
        )
        self.version = f"of llama-cpp-python {llama_cpp.__version__}"

    def prefill(self, q, k, v, causal):
        import numpy

        heads, n, dim = q.shape
        context = self.base.ggml_init(
            self.Init(4 * 6 * q.size + 4 * n * n + (1 << 24), None, False)
        )

        def tensor(x, kind):
            x = numpy.ascontiguousarray(x)
            t = self.base.ggml_new_tensor_4d(context, kind, x.shape[2], x.shape[1], x.shape[0], 1)
            c.memmove(self.base.ggml_get_data(t), x.ctypes.data, x.nbytes)
            return t

        mask = None
        if causal:
            mask = tensor(
                numpy.where(numpy.tri(n, n, dtype=bool), 0, -numpy.inf).astype("e")[None], 1
            )
        o = self.base.ggml_flash_attn_ext(
            context,
            tensor(q, 0),
            tensor(k.astype("e"), 1),
            tensor(v.astype("e"), 1),
            mask,
            dim**-0.5,
            0.0,
            0.0,
        )
        graph = self.base.ggml_new_graph(context)
        self.base.ggml_build_forward_expand(graph, o)

        def result():
            self.base.ggml_backend_graph_compute(self.backend, graph)
            data = (c.c_float * (heads * n * dim)).from_address(self.base.ggml_get_data(o))
            return numpy.frombuffer(data, "f").reshape(n, heads, dim).transpose(1, 0, 2)

        return lambda: self.base.ggml_backend_graph_compute(self.backend, graph), result


KINDS = [
    ("torch", "f32", Torch),
    ("torch", "bf16", Torch),
    ("onnxruntime", "f32", OnnxRuntime),
    ("openvino", "bf16", OpenVino),
    ("openvino", "f32", OpenVino),
    ("ggml", "f16", Ggml),
]

# ---- measuring ----

clock = time.perf_counter


def timed(call, times):
    start = clock()
    for _ in range(times):
        call()
    return (clock() - start) / times


def take_turns(calls, seconds):
    """{name: times} and {name: first's time over it} of calls that take turns; the first is the
    peer's."""
    names = list(calls)
    for name in names:
        timed(calls[name], 2)
    once = {name: max(1e-7, timed(calls[name], 1)) for name in names}
    batch = {name: max(1, int(4e-4 / once[name])) for name in names}
    rounds = max(7, min(301, int(seconds / sum(once[n] * batch[n] for n in names))))
    times = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            times[name].append(timed(calls[name], batch[name]))
    ratios = {
        name: statistics.median(t / own for t, own in zip(times[names[0]], times[name]))
        for name in names[1:]
    }
    return {name: statistics.median(times[name]) for name in names}, ratios, rounds


def exact(q, k, v, causal):
    import numpy

    s = q.astype("d") @ k.astype("d").transpose(0, 2, 1) * DIM**-0.5
    if causal:
        s[:, ~numpy.tri(*s.shape[1:], dtype=bool)] = -numpy.inf
    p = numpy.exp(s - s.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ v.astype("d")


def distance(o, expected):
    import numpy

    return float(numpy.linalg.norm(o.astype("d") - expected) / numpy.linalg.norm(expected))


def as_type(x, number):
    """binary32, or bfloat16 as its patterns (round to nearest even)."""
    import numpy

    if number == F32:
        return x
    bits = x.view("I").astype("Q")
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(numpy.uint16)


def from_type(x, number):
    return x if number == F32 else (x.astype("I") << 16).view("f")


def worker(options):
    """One peer, all cases: a line of JSON each."""
    global clock
    import numpy

    peer, kind, factory = next(x for x in KINDS if f"{x[0]}-{x[1]}" == options.worker)
    threads = int(options.threads)
    if threads == 1:
        clock = lambda: time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)
    theirs, ifa = factory(threads, kind), Ifa(options.lib, threads)
    number = BF16 if (peer, kind) == ("torch", "bf16") else F32
    random = numpy.random.default_rng(1)
    emit = lambda **line: print(
        json.dumps(
            {"peer": f"{peer} {kind}", "version": theirs.version, "threads": threads, **line}
        ),
        flush=True,
    )
    if peer == "torch":
        emit(case="matrix product", rate=theirs.matmul())
    for n, heads in PREFILL:
        for causal in (0, 1):
            case = f"n{n} {'causal' if causal else 'full'}"
            if options.case not in case:
                continue
            q, k, v = (
                from_type(as_type(random.standard_normal((heads, n, DIM), "f"), number), number)
                for _ in range(3)
            )
            expected = exact(q, k, v, causal)
            call, result = theirs.prefill(q, k, v, causal)
            calls, errors = {"theirs": call}, {"theirs": distance(result(), expected)}
            ours = [as_type(x, number) for x in (q, k, v)]
            for preset in ("fast", "accurate"):
                o = numpy.zeros_like(ours[0])
                calls[preset] = ifa.attention(preset, number, *ours, o, causal)
                calls[preset]()
                errors[preset] = distance(from_type(o, number), expected)
            if max(errors.values()) > 0.04:
                raise RuntimeError(f"n {n}: outputs differ from binary64 attention by {errors}")
            times, ratios, rounds = take_turns(calls, options.seconds)
            emit(case=case, times=times, ratios=ratios, errors=errors, rounds=rounds)
    if peer == "torch" and options.case in "cache":
        through_the_cache(theirs, ifa, number, random, emit, options.seconds)


def through_the_cache(theirs, ifa, number, random, emit, seconds):
    import numpy

    heads, tokens = 8, max(PROMPTS) + DECODED
    q, k, v = (
        from_type(as_type(random.standard_normal((heads, tokens, DIM), "f"), number), number)
        for _ in range(3)
    )
    ours = [as_type(x, number) for x in (q, k, v)]
    o = numpy.zeros_like(ours[0])
    ours_step, forget = ifa.cache(heads, tokens, number)
    theirs_step = theirs.cache(q, k, v)
    pointers = [x.ctypes.data for x in (*ours, o)]
    expected = exact(q, k, v, 1)
    for prompt in PROMPTS:
        times = {"theirs": [[], []], "cache": [[], []]}
        for turn in range(max(15, min(200, int(seconds / 0.01)))):
            forget()
            for name, step in (
                ("theirs", theirs_step),
                ("cache", lambda first, count: ours_step(*pointers, first, count)),
            ):
                started = clock()
                step(0, prompt)
                decoding = clock()
                for token in range(prompt, prompt + DECODED):
                    step(token, 1)
                ended = clock()
                times[name][0].append(decoding - started)
                times[name][1].append((ended - decoding) / DECODED)
        end = prompt + DECODED
        error = distance(from_type(o, number)[:, :end], expected[:, :end])
        if error > 0.04:
            raise RuntimeError(
                f"cache, prompt {prompt}: differs from binary64 attention by {error}"
            )
        for phase, name in (
            (0, f"cache, prompt of {prompt}"),
            (1, f"cache, {DECODED} tokens behind {prompt}, each"),
        ):
            emit(case=name, times={who: statistics.median(t[phase]) for who, t in times.items()}, errors={"cache": error}, rounds=turn + 1,
                 ratios={"cache": statistics.median(a / b for a, b in zip(times["theirs"][phase], times["cache"][phase]))})  # fmt: skip


# ---- all of it ----


def run_peer(options, name, threads):
    """Its lines, or why there are none."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    command = [
        python_of(options.venv),
        os.path.abspath(__file__),
        "--worker",
        name,
        "--threads",
        str(threads),
        "--lib",
        options.lib,
        "--seconds",
        str(options.seconds),
        "--case",
        options.case,
    ]
    try:
        got = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return [], f"no end within {LONGEST} seconds"
    lines = [json.loads(line) for line in got.stdout.splitlines() if line.startswith("{")]
    if got.returncode:
        return lines, (got.stderr.strip().splitlines() or [f"exit code {got.returncode}"])[-1]
    return lines, None


def show(lines, threads):
    """Tables: times of ours, and each peer's time over ours."""
    peers = list(dict.fromkeys(line["peer"] for line in lines))
    cases = list(dict.fromkeys(line["case"] for line in lines if "ratios" in line))
    at = {(line["case"], line["peer"]): line for line in lines}
    print(
        f"\n{threads} thread{'s' if threads > 1 else ''}; time of the peer over ours, above 1: ours is faster\n"
    )
    print("| | ours | " + " | ".join(peers) + " |\n" + "|---" * (len(peers) + 2) + "|")
    for case in cases:
        for preset in ("fast", "accurate", "cache"):
            found = [
                at[case, p] for p in peers if (case, p) in at and preset in at[case, p]["ratios"]
            ]
            if not found:
                continue
            ours = statistics.median(line["times"][preset] for line in found)
            cells = [
                f"{at[case, p]['ratios'][preset]:.2f}" if (case, p) in at else "" for p in peers
            ]
            print(f"| {case}, {preset} | {ours * 1e6:.0f} us | " + " | ".join(cells) + " |" if preset != "cache" else
                  f"| {case} | {ours * 1e6:.0f} us | " + " | ".join(cells) + " |")  # fmt: skip
    for line in lines:
        if "rate" in line:
            print(f"\n{line['peer']}: a matrix product at {line['rate'] * 1e-9:.0f} Gop/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lib", default=os.path.join(ROOT, "build/release/libifa.so"))
    parser.add_argument("--venv", default=os.path.join(ROOT, "build/peers"))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--only", help="peers, by the beginning of PEER-KIND")
    parser.add_argument("--seconds", type=float, default=1.0, help="a case, about")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    options.lib = os.path.abspath(options.lib)
    missing, everything = install(options.venv), []
    for threads in (int(x) for x in options.threads.split(",")):
        lines = []
        for peer, kind, _ in KINDS:
            name = f"{peer}-{kind}"
            if options.only and not any(name.startswith(x) for x in options.only.split(",")):
                continue
            more, why = ([], missing[peer]) if peer in missing else run_peer(options, name, threads)
            lines += more
            if why:
                print(f"{name}: {'not available' if not more else 'stopped'}: {why}", flush=True)
            elif more:
                print(f"{name} {more[0]['version']}: {len(more)} measurements", flush=True)
        show(lines, threads)
        everything += lines
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(everything, file, indent=1)


if __name__ == "__main__":
    main()
