#!/usr/bin/python3
"""A second implementation of the bit contract, written from its document (numerics.md) alone.

    second.py FILE.safetensors [FILE...]   recompute each case, compare with the file's tensors
    second.py --self-test                  check section 1's arithmetic against exact fractions

One line a case (`agree ...`, `DIFFER ...` or `BAD ...`), then `N agree, M differ`.
Exit: 0 all agree, 1 a difference, 2 a file that is not a valid case.  Needs Python 3 and numpy,
nothing else of the tree.

How the arithmetic is made exact, whatever numpy offers:
  * binary32 + - * / on float32 arrays are the processor's IEEE operations, rounded once (main()
  checks that subnormals live); * integer matrix products run in float64: every partial sum is below
  2^53; * binary32 fma: the product of two binary32 is exact in float64; the sum is rounded to odd
  there, then to binary32; * binary16 operations: exact in float64 (each place says why), then
  rounded once by round_to(), which uses only rint and
    powers of two.  numpy's own float16 only ever receives values that it represents exactly.
"""
import json
import sys
from fractions import Fraction

import numpy as np

f32, f64, i64 = np.float32, np.float64, np.int64
UNLIMITED = 1 << 40
np.seterr(all="ignore")


class Bad(Exception):
    """The file is not a valid case."""


# ---- section 1: arithmetic -----------------------------------------------------------------------


def f32_bits(pattern):
    return np.array([pattern], np.uint32).view(f32)[0]


def round_to(x, precision, emin, emax):
    """Exact float64 values, rounded once (nearest even) to a format of that precision and those
    exponents."""
    x = np.asarray(x, f64)
    quantum = np.maximum(np.frexp(x)[1] - precision, emin - precision + 1)
    y = np.ldexp(np.rint(np.ldexp(x, -quantum)), quantum)
    return np.where(np.abs(y) >= 2.0 ** (emax + 1), np.copysign(np.inf, x), y)


def fl16(x):
    """binary16, held in float64."""
    return round_to(x, 11, -14, 15)


def flbf16(x):
    return round_to(x, 8, -126, 127)


def pattern16(i):
    return np.asarray(i).astype(np.uint16).view(np.float16).astype(f64)


def fma16(a, b, c):
    """Only used in section 6, where |a*b|, |c| < 2^-5 are multiples of 2^-34: the sum is exact in
    float64."""
    return fl16(a * b + c)


def fma(a, b, c):
    """binary32 fma.  a*b is exact in float64; the sum is rounded to odd at 53 bits, which binary32
    (24) cannot see twice."""
    product = np.asarray(a, f32).astype(f64) * np.asarray(b, f32).astype(f64)
    addend = np.asarray(c, f32).astype(f64)
    total = np.atleast_1d(product + addend)
    t = total - product  # Knuth's TwoSum: total + error is the exact sum
    error = (product - (total - t)) + (addend - t)
    bits = total.view(i64)
    to_odd = (error != 0) & (bits & 1 == 0)
    away = (error > 0) == (total > 0)  # the true value is larger in magnitude than total
    odd = np.where(to_odd, np.where(away, bits + 1, bits - 1), bits).view(f64)
    return odd.astype(f32).reshape(np.broadcast_shapes(product.shape, addend.shape))


def nearest32(decimal):
    """The binary32 nearest to a decimal string (exactly: no rounding through binary64)."""
    exact, near = Fraction(decimal), f32(float(decimal))
    around = [np.nextafter(near, f32(-np.inf)), near, np.nextafter(near, f32(np.inf))]
    return min(around, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(np.uint32)) & 1))


# ---- sections 2, 3: the problem ------------------------------------------------------------------

INTEGERS = {
    "b": "B",
    "hq": "Hq",
    "hkv": "Hkv",
    "nq": "Nq",
    "nk": "Nk",
    "d": "D",
    "qblock": "q_block",
    "kblock": "k_block",
    "window": "window",
    "tile": "tile",
    "split": "split",
}
CHOICES = {
    "q": ("int8", "int4"),
    "k": ("int8", "int4"),
    "v": ("int8", "int4"),
    "qscale": ("token", "block", "tensor"),
    "kscale": ("token", "block", "tensor"),
    "vscale": ("tensor", "channel", "token", "token_channel"),
    "causal": ("0", "1"),
    "out": ("f32", "f16", "bf16"),
    "lse": ("0", "1"),
}


class Problem:
    def __init__(self, line, smooth):
        words = dict(word.split("=", 1) for word in line.split())
        known = {*INTEGERS, *CHOICES, "sm", "tau"}
        if set(words) != known or len(line.split()) != len(known):
            raise Bad("problem keys: %s" % sorted(set(words) ^ known))
        for key, name in INTEGERS.items():
            setattr(self, name, int(words[key]))
        for key, allowed in CHOICES.items():
            if words[key] not in allowed:
                raise Bad("%s=%s" % (key, words[key]))
        self.q, self.k, self.v, self.out = words["q"], words["k"], words["v"], words["out"]
        self.qscale, self.kscale, self.vscale = words["qscale"], words["kscale"], words["vscale"]
        self.causal, self.lse, self.smooth = (
            words["causal"] == "1",
            words["lse"] == "1",
            smooth == "1",
        )
        self.sm = nearest32(words["sm"])
        self.tau = None if words["tau"] == "inf" else int(words["tau"])  # None: infinity
        self.v_per_token = self.vscale in ("token", "token_channel")
        if self.split == 0:
            self.split = 32768
        self.check()

    def check(self):
        ok = (
            min(self.B, self.Hq, self.Hkv, self.Nq) >= 1
            and self.Nk >= 0
            and self.Hq % self.Hkv == 0
            and 1 <= self.D <= 256
            and self.tile in (32, 64, 128, 256)
            and 0 < self.split <= 32768
            and self.split % self.tile == 0
            and (self.tau is None or 0 <= self.tau <= 64)
            and self.window >= 0
            and (self.sm == 0 or 2.0**-20 <= self.sm <= 2.0**20)
            and (self.qscale != "block" or self.q_block >= 1)
            and (self.kscale != "block" or (self.k_block >= 1 and self.k_block % self.tile == 0))
        )
        if not ok:
            raise Bad("invalid problem")

    def check_scales(self, scales):
        for s in scales.values():
            if not np.all((s == 0) | ((s >= 2.0**-100) & (s <= 2.0**100))):
                raise Bad("a scale out of range")
        top = {"int8": 128.0, "int4": 8.0}
        q_top, k_top = (float(scales[name].max(initial=0)) for name in ("q_scale", "k_scale"))
        bound = q_top * float(self.sm) * float(LOG2E) * k_top
        if bound * self.D * top[self.q] * top[self.k] > 2.0**22:
            raise Bad("scores too large")

    def live(self, j):
        """Section 3: a [Nq, len(j)] mask."""
        pos = (np.arange(self.Nq) + self.Nk - self.Nq)[:, None]
        mask = np.ones((self.Nq, len(j)), bool)
        if self.causal:
            mask &= j <= pos
        if self.window > 0:
            mask &= j > pos - self.window
            if not self.causal:
                mask &= j < pos + self.window
        return mask


def per_token(scale, sharing, block, n):
    """The scales of one matrix (one for each group), repeated for each of its n tokens."""
    group = {
        "token": np.arange(n),
        "block": np.arange(n) // max(block, 1),
        "tensor": np.zeros(n, int),
    }[sharing]
    return scale[group]


# ---- section 6: weights, as tables over n --------------------------------------------------------

LOG2E = f32_bits(0x3FB8AA3B)


def weight_tables():
    n = np.arange(30721)
    c3, c2, c1, c0 = pattern16([0x1275, 0x9757, 0x887D, 0x2090])
    h = pattern16(n)
    w = pattern16((~n & 1023) | 0x3C00)
    g = fma16(fma16(fma16(w, c3, c2), w, c1), w, c0)
    hg = h * g  # two 11-bit numbers: exact
    return np.rint(hg).astype(i64), fl16(hg)


P_OF_N, W_OF_N = weight_tables()


def weight_index(u, r, U):
    """n of section 6; u [rows, keys], r and U [rows]."""
    z = fma(u, r[:, None], (12318 - U).astype(f32)[:, None])
    return (1024 * (np.minimum(np.maximum(z, f32(12288)), f32(12318)).astype(f64) - 12288)).astype(
        i64
    )


# ---- sections 5, 7: units and sums ---------------------------------------------------------------


def headroom(M, G):
    """The largest k >= 0 with M * 2^k <= 2^31 - 1 - G, for each row."""
    room = 2**31 - 1 - G
    assert np.all(M <= room)
    k = sum((M << step <= room).astype(i64) for step in range(1, 32))
    return np.where(M == 0, UNLIMITED, k)


def follow(has, U, e, tau, room):
    """Section 5: the unit after a tile that asks for e."""
    lower = e < U - tau if tau is not None else np.zeros(len(U), bool)
    return np.where(~has | (e > U), e, np.where(lower, U - np.minimum(U - e, room), U))


def shift(a, k):
    """Section 7.  Where a unit falls without limit, a is 0."""
    return (a >> np.clip(k, 0, 31)) * (1 << np.clip(-k, 0, 31))


class SplitSums:
    """The state of all rows in one split."""

    def __init__(self, rows, D):
        self.l, self.acc = np.zeros(rows, i64), np.zeros((rows, D), i64)
        self.U, self.has = np.zeros(rows, i64), np.zeros(rows, bool)
        self.Uv, self.has_v = np.zeros(rows, i64), np.zeros(rows, bool)  # U' of section 8

    def follow_unit(self, rows, e, tau, R, v_per_token):
        l, acc = self.l[rows], self.acc[rows]
        if v_per_token:
            room = headroom(l, 255 * R)
        else:
            room = headroom(np.maximum(l, np.abs(acc).max(axis=1)), 255 * 128 * R)
        U = follow(self.has[rows], self.U[rows], e, tau, room)
        k = np.where(self.has[rows], U - self.U[rows], 0)  # no unit yet: the sums are 0
        self.l[rows] = shift(l, k)
        if not v_per_token:
            self.acc[rows] = shift(acc, k[:, None])
        self.U[rows], self.has[rows] = U, True

    def follow_v_unit(self, rows, e, tau, R):
        acc = self.acc[rows]
        room = headroom(np.abs(acc).max(axis=1), 255 * 128 * R)
        U = follow(self.has_v[rows], self.Uv[rows], e, tau, room)
        k = np.where(self.has_v[rows], U - self.Uv[rows], 0)
        self.acc[rows] = shift(acc, k[:, None])
        self.Uv[rows], self.has_v[rows] = U, True

    def add(self, rows, p, P, V):
        """p [rows, keys] into l, P [rows, keys] times V [keys, D] into acc."""
        self.l[rows] += p.sum(axis=1)
        self.acc[rows] += (P.astype(f64) @ V.astype(f64)).astype(i64)
        assert self.l.max() < 2**31 and np.abs(self.acc).max() < 2**31


# ---- section 8: V scaled per token ---------------------------------------------------------------


def live_v_scales(scale, live):
    """b [rows] and s_j [rows, keys] from each row's live keys of a tile."""
    seen = np.where(live, np.abs(scale.astype(f64)), 0.0)  # a scale may be -0
    top = seen.max(axis=1)
    mantissa, exponent = np.frexp(top)  # top = mantissa * 2^exponent, mantissa in [1/2, 1)
    b = np.where(
        top == 0, 0, exponent.astype(i64) - np.where(mantissa == 0.5, 9, 8)
    )  # top * 2^-b in (128, 256]
    scaled = np.ldexp(top, -b)
    assert np.all((top == 0) | (128 < scaled) & (scaled <= 256))
    return b, fl16(np.ldexp(seen, -b[:, None]))


def product_exponent(top):
    """m: the largest integer <= 15 with top * 2^m <= 255, for top > 0."""
    m = np.full(top.shape, 15, i64)
    while np.any(high := np.ldexp(top, m) > 255):
        m -= high
    pattern = top.astype(np.float16).view(np.uint16).astype(i64)
    assert np.all(m == np.minimum(15, 22 - ((pattern + 7) >> 10)))
    return m


def token_products(sums, rows, n, live, v_scale, tau, R):
    """P_ij of section 8 for the given rows, after their U' has followed."""
    b, s = live_v_scales(v_scale, live)
    y = np.where(live, fl16(W_OF_N[n] * s), 0.0)  # 11 bits * 11 bits: exact before rounding
    top = y.max(axis=1)
    some = top > 0
    e = sums.U[rows][some] + b[some] - product_exponent(top[some])
    sums.follow_v_unit(rows[some], e, tau, R)
    P = np.zeros(y.shape, i64)
    power = (sums.U[rows] + b - sums.Uv[rows])[some]
    P[some] = np.rint(np.ldexp(y[some], power[:, None])).astype(i64)
    assert P.max() <= 255
    return P


# ---- sections 4, 7: one head ---------------------------------------------------------------------


def split_sums(pr, head, r_row, begin, end, nominal_end):
    """All rows over the keys begin .. end-1; the split would end at nominal_end if there were keys
    enough."""
    sums = SplitSums(pr.Nq, pr.D)
    for t in range(begin, end, pr.tile):
        j = np.arange(t, min(t + pr.tile, end))
        live = pr.live(j)
        rows = np.flatnonzero(live.any(axis=1))
        if len(rows) == 0:
            continue
        live, R, V = live[rows], nominal_end - t, head["v"][j]
        S = (head["q"][rows].astype(f64) @ head["k"][j].astype(f64).T).astype(f32)
        if pr.kscale == "token":
            u, r = S * head["k_scale"][j], r_row[rows]
        else:
            u, r = S, r_row[rows] * head["k_scale"][t]
        top = np.where(live, u, f32(-np.inf)).max(axis=1)
        e = np.where((top < 0) & (top * r == 0), 0, np.floor(top * r).astype(i64) + 1)
        sums.follow_unit(rows, e, pr.tau, R, pr.v_per_token)
        n = weight_index(np.where(live, u, f32(0)), r, sums.U[rows])
        assert n[live].max() <= 30720
        n = np.where(live, n, 0)  # p(0) = 0: a key that is not live has no part
        p = P_OF_N[n]
        P = (
            token_products(sums, rows, n, live, head["v_scale"][j], pr.tau, R)
            if pr.v_per_token
            else p
        )
        sums.add(rows, p, P, V)
    return sums


# ---- section 9: merging splits -------------------------------------------------------------------


def pow2(k):
    return np.where(k >= -126, np.ldexp(1.0, np.clip(k, -126, 0)), 0.0).astype(f32)


class Merged:
    """binary32 sums [rows, columns] with an exponent for each row."""

    def __init__(self, rows, columns):
        self.x, self.E, self.has = (
            np.zeros((rows, columns), f32),
            np.zeros(rows, i64),
            np.zeros(rows, bool),
        )

    def merge(self, sums, U, has):
        """Add one split's integers; `has` are the rows that have a unit in it."""
        x = sums.astype(f32)  # |sums| < 2^31: one rounding
        E = np.maximum(self.E, U)
        old = self.x * pow2(self.E - E)[:, None]
        both = fma(x, pow2(U - E)[:, None], old)
        first, more = has & ~self.has, has & self.has
        self.x = np.where(first[:, None], x, np.where(more[:, None], both, self.x))
        self.E = np.where(first, U, np.where(more, E, self.E))
        self.has |= has


# ---- sections 10, 11: output ---------------------------------------------------------------------


def output(pr, L, O, v_scale, v_channel_scale):
    """out_d [Nq, D] as binary32."""
    x = O.x / L.x
    if pr.v_per_token:
        x = np.ldexp(x.astype(f64), (O.E - L.E)[:, None]).astype(f32)
        if pr.vscale == "token_channel":
            x = x * v_channel_scale
    else:
        x = x * v_scale  # [1] or [D]
    return np.where(O.has[:, None], x, f32(0))


def log_sum_exp(L):
    """Section 11."""
    a0, a1, a2, a3, a4 = map(f32_bits, (0x4038AA3B, 0x3F76384F, 0x3F13BB63, 0x3ED30BB1, 0x3EA4258A))
    b, ln2 = f32_bits(0xC0FFD1BE), f32_bits(0x3F317218)
    m, a = np.frexp(np.where(L.has, L.x[:, 0], f32(1)))  # m in [1/2, 1)
    low = m < f32(0.75)
    m, a = np.where(low, m * f32(2), m), np.where(low, a - 1, a)
    t = (m - f32(1)) / (m + f32(1))
    q = t * t
    y = fma(fma(fma(fma(q, a4, a3), q, a2), q, a1), q, a0)
    f = y * t + b  # two float32 operations, two roundings
    lse = fma((L.E + a).astype(f32), ln2, f * ln2)
    return np.where(L.has, lse, f32(-np.inf))


def to_output_type(x, out):
    """binary32 [..] -> the output type's bit patterns."""
    if out == "f32":
        return x.view(np.uint32)
    if out == "f16":
        return (
            fl16(x).astype(np.float16).view(np.uint16)
        )  # fl16's values are binary16: astype only repacks
    return (flbf16(x).astype(f32).view(np.uint32) >> 16).astype(np.uint16)


def attend_head(pr, head):
    """One query head: (out [Nq, D] binary32, lse [Nq])."""
    r_row = (head["q_scale"] * pr.sm) * LOG2E  # section 4, one for each row
    L, O = Merged(pr.Nq, 1), Merged(pr.Nq, pr.D)
    for begin in range(0, pr.Nk, pr.split):
        sums = split_sums(pr, head, r_row, begin, min(begin + pr.split, pr.Nk), begin + pr.split)
        L.merge(sums.l[:, None], sums.U, sums.has)
        if pr.v_per_token:
            O.merge(sums.acc, sums.Uv, sums.has_v)
        else:
            O.merge(sums.acc, sums.U, sums.has)
    assert np.all(L.x[L.has] > 0)
    return output(pr, L, O, head["v_scale"], head.get("v_channel_scale")), log_sum_exp(L)


def attention(pr, x):
    """x: the quantized operands and scales by name.  Returns (o as bit patterns, lse)."""
    out, lse = np.zeros((pr.B, pr.Hq, pr.Nq, pr.D), f32), np.zeros((pr.B, pr.Hq, pr.Nq), f32)
    for b in range(pr.B):
        for h in range(pr.Hq):
            kv = h // (pr.Hq // pr.Hkv)
            head = {
                "q": x["q_int"][b, h],
                "k": x["k_int"][b, kv],
                "v": x["v_int"][b, kv],
                "q_scale": per_token(x["q_scale"][b, h], pr.qscale, pr.q_block, pr.Nq),
                "k_scale": per_token(x["k_scale"][b, kv], pr.kscale, pr.k_block, pr.Nk),
                "v_scale": x["v_scale"][b, kv],
            }
            if pr.vscale == "token_channel":
                head["v_channel_scale"] = x["v_channel_scale"][b, kv]
            out[b, h], lse[b, h] = attend_head(pr, head)
    return to_output_type(out, pr.out), lse


# ---- section 12: quantizers ----------------------------------------------------------------------


def group_scales(a, qmax):
    """scale and inv for groups with the largest magnitudes a; both 0 for a group of zeros, which
    makes every q 0."""
    tiny = a < f32(2.0**-93)
    divisor = np.where(tiny, f32(1), a)
    return np.where(tiny, f32(0), divisor / f32(qmax)), np.where(tiny, f32(0), f32(qmax) / divisor)


def quantize(x, kind, sharing, block):
    """x [B,H,N,D] -> (q int8 [B,H,N,D], scale [B,H,groups])."""
    qmax = {"int8": 127, "int4": 7}[kind]
    N, magnitude = x.shape[2], np.abs(x)
    if sharing == "channel":
        scale, inv = group_scales(
            magnitude.max(axis=2, initial=0), qmax
        )  # without tokens (Nk = 0): 0
        each = inv[:, :, None, :]
    else:
        length = {"token": 1, "block": block, "tensor": max(N, 1)}[sharing]
        if N == 0 and sharing == "tensor":
            largest = np.zeros(x.shape[:2] + (1,), f32)
        else:
            largest = np.maximum.reduceat(magnitude.max(axis=3), np.arange(0, N, length), axis=2)
        scale, inv = group_scales(largest, qmax)
        each = inv[:, :, np.arange(N) // length, None]
    return np.clip(np.rint(x * each), -qmax, qmax).astype(np.int8), scale


def remove_mean(x):
    """Section 12, `Removing the mean`."""
    a = np.abs(x).max(axis=(2, 3), keepdims=True, initial=0)
    e = np.frexp(a)[1]  # 2^(e-1) <= a < 2^e
    total = np.rint(np.ldexp(x.astype(f64), 24 - e)).astype(i64).sum(axis=2, keepdims=True)
    mean = np.ldexp(total.astype(f64) / f64(x.shape[2]), e - 24).astype(f32)
    return x - np.where(a < f32(2.0**-93), f32(0), mean)


def quantize_all(pr, q, k, v):
    for x in (q, k, v):
        if not np.all(np.abs(x) <= 2.0**99):  # also refuses NaN
            raise Bad("an input that the quantizers refuse")
    x = {}
    x["q_int"], x["q_scale"] = quantize(q, pr.q, pr.qscale, pr.q_block)
    x["k_int"], x["k_scale"] = quantize(
        remove_mean(k) if pr.smooth else k, pr.k, pr.kscale, pr.k_block
    )
    if pr.vscale == "token_channel":
        x["v_channel_scale"], inv = group_scales(np.abs(v).max(axis=2, initial=0), 1)
        v = v * inv[:, :, None, :]
    x["v_int"], x["v_scale"] = quantize(v, pr.v, "token" if pr.v_per_token else pr.vscale, 0)
    return x


# ---- files and comparison ------------------------------------------------------------------------

TYPES = {"F32": "<f4", "F16": "<u2", "BF16": "<u2", "I8": "i1"}  # 16-bit floats as patterns


def load(path):
    """(metadata, {name: array}, {name: type}) of a safetensors file."""
    with open(path, "rb") as f:
        data = f.read()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    meta, arrays, types = header.pop("__metadata__"), {}, {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        flat = np.frombuffer(data[8 + size + begin : 8 + size + end], TYPES[entry["dtype"]])
        arrays[name], types[name] = flat.reshape(entry["shape"]), entry["dtype"]
    return meta, arrays, types


def expected_layout(pr):
    """{name: (type, shape)} of every tensor that the file must hold."""

    def groups(sharing, block, n):
        return {
            "token": n,
            "token_channel": n,
            "block": -(-n // max(block, 1)),
            "tensor": 1,
            "channel": pr.D,
        }[sharing]

    q, kv = (pr.B, pr.Hq, pr.Nq, pr.D), (pr.B, pr.Hkv, pr.Nk, pr.D)
    layout = {
        "q": ("F32", q),
        "k": ("F32", kv),
        "v": ("F32", kv),
        "q_int": ("I8", q),
        "k_int": ("I8", kv),
        "v_int": ("I8", kv),
        "q_scale": ("F32", q[:2] + (groups(pr.qscale, pr.q_block, pr.Nq),)),
        "k_scale": ("F32", kv[:2] + (groups(pr.kscale, pr.k_block, pr.Nk),)),
        "v_scale": ("F32", kv[:2] + (groups(pr.vscale, 0, pr.Nk),)),
        "o": (pr.out.upper(), q),
    }
    if pr.vscale == "token_channel":
        layout["v_channel_scale"] = ("F32", (pr.B, pr.Hkv, pr.D))
    if pr.lse:
        layout["lse"] = ("F32", q[:3])
    return layout


def patterns(x):
    """An array's elements as unsigned integers of their width."""
    x = np.ascontiguousarray(x)
    return x.view("<u%d" % x.itemsize)


def difference(name, got, expected):
    """'' or a description of where two tensors' bytes differ."""
    got, expected = patterns(got), patterns(expected)
    where = np.argwhere(got != expected)
    if len(where) == 0:
        return ""
    first, digits = tuple(where[0]), 2 * got.itemsize
    return "%s %d first at [%s]: got %0*x expected %0*x" % (
        name,
        len(where),
        ",".join(map(str, first)),
        digits,
        got[first],
        digits,
        expected[first],
    )


def run_case(path):
    """(agrees, line)."""
    meta, arrays, types = load(path)
    if (
        not {"problem", "smooth"}
        <= set(meta)
        <= {"problem", "smooth", "operands", "case", "contract"}
    ):  # "case": how it was made
        raise Bad("metadata keys: %s" % sorted(meta))
    if meta["smooth"] not in ("0", "1") or meta.get("contract", "3") != "3":
        raise Bad("smooth=%s contract=%s" % (meta["smooth"], meta.get("contract")))
    pr = Problem(meta["problem"], meta["smooth"])
    layout = expected_layout(pr)
    if {n: (types[n], a.shape) for n, a in arrays.items()} != layout:
        raise Bad(
            "tensors: %s"
            % sorted({n: (types[n], a.shape) for n, a in arrays.items()}.items() ^ layout.items())
        )
    mine = quantize_all(pr, arrays["q"], arrays["k"], arrays["v"])
    given = meta.get("operands") == "given"  # then they are not what the quantizers make of q, k, v
    notes = [] if given else [difference(name, mine[name], arrays[name]) for name in mine]
    operands = {name: arrays[name] for name in mine}  # the same as mine, unless that was reported
    pr.check_scales({name: s for name, s in operands.items() if name.endswith("scale")})
    o, lse = attention(pr, operands)
    notes.append(difference("o", o, arrays["o"]))
    if pr.lse:
        notes.append(difference("lse", lse, arrays["lse"]))
    notes = "; ".join(filter(None, notes))
    title = "%s smooth=%d" % (meta["problem"], pr.smooth)
    return not notes, "DIFFER %s  %s" % (notes, title) if notes else "agree  %s" % title


# ---- self-test -----------------------------------------------------------------------------------


def exact_round(x, precision, emin):
    """A Fraction rounded to nearest even; no float arithmetic."""
    if x == 0:
        return x
    e = abs(x.numerator).bit_length() - x.denominator.bit_length()
    e -= Fraction(2) ** e > abs(x)  # 2^e <= |x| < 2^(e+1)
    quantum = Fraction(2) ** max(e - precision + 1, emin - precision + 1)
    return round(x / quantum) * quantum  # Python rounds a Fraction half to even


def hard_operands(rng, count):
    """binary32 triples: random patterns, few-bit mantissas, near-cancellations, subnormals, ties,
    wide exponent gaps."""
    bits = rng.integers(0, 1 << 32, (count, 3), dtype=np.uint64).astype(np.uint32)
    keep = rng.integers(0, 24, (count, 3)).astype(np.uint32)
    bits = np.where(rng.random((count, 3)) < 0.5, bits, bits >> keep << keep)
    x = bits.view(f32).astype(f64)
    a, b, c = x.T
    near = np.ldexp(a * b, rng.integers(-60, 60, count)) * rng.choice(
        [-1, 1, 1 + 2.0**-23, 1 - 2.0**-24], count
    )
    c = np.where(rng.random(count) < 0.4, near, c)
    c = np.where(rng.random(count) < 0.2, -a * b, c).astype(f32)
    a, b = a.astype(f32), b.astype(f32)
    small = np.abs(a.astype(f64) * b) + np.abs(c.astype(f64)) < 2.0**127
    good = np.isfinite(a) & np.isfinite(b) & np.isfinite(c) & small
    return a[good], b[good], c[good]


def self_test():
    rng = np.random.default_rng(1)
    a, b, c = hard_operands(rng, 150000)
    bad = sum(
        exact_round(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)), 24, -126)
        != Fraction(float(got))
        for x, y, z, got in zip(a, b, c, fma(a, b, c))
    )
    print("fma: %d of %d wrong" % (bad, len(a)))
    n = np.arange(30721)
    constants = [Fraction(float(x)) for x in pattern16([0x1275, 0x9757, 0x887D, 0x2090])]
    for i in n:  # section 6 with fractions only
        h, w = Fraction(float(pattern16(i))), Fraction(float(pattern16((~i & 1023) | 0x3C00)))
        g = constants[0]
        for constant in constants[1:]:
            g = exact_round(g * w + constant, 11, -14)
        bad += P_OF_N[i] != round(h * g) or Fraction(float(W_OF_N[i])) != exact_round(
            h * g, 11, -14
        )
    monotone = np.all(np.diff(P_OF_N) >= 0) and np.all(np.diff(W_OF_N) >= 0)
    print(
        "weights: %d wrong so far; monotone %s; p(30720) = %d; first p > 0 at n = %d"
        % (bad, monotone, P_OF_N[-1], np.flatnonzero(P_OF_N)[0])
    )
    x = np.concatenate([a, c]).astype(f64) * np.ldexp(1.0, rng.integers(-40, 40, 2 * len(a)))
    x = x[(np.abs(x) < 2.0**15)][:60000]
    bad += sum(
        Fraction(float(y)) != exact_round(Fraction(float(v)), 11, -14) for v, y in zip(x, fl16(x))
    )
    bad += sum(
        Fraction(float(y)) != exact_round(Fraction(float(v)), 8, -126) for v, y in zip(x, flbf16(x))
    )
    print("fl16, flbf16: %d wrong so far" % bad)
    return 1 if bad or not monotone else 0


def main(paths):
    tiny = np.full(8, 2.0**-126, f32)
    assert np.all(tiny * f32(0.5) == 2.0**-127), "subnormals are flushed here"
    if paths == ["--self-test"]:
        return self_test()
    agree = differ = bad = 0
    for path in paths:
        try:
            ok, line = run_case(path)
        except (Bad, OSError, LookupError, AttributeError, ValueError, TypeError) as error:
            bad, line = bad + 1, "BAD %s: %s: %s" % (path, type(error).__name__, error)
        else:
            agree, differ = agree + ok, differ + (not ok)
        print(line, flush=True)
    print("%d agree, %d differ" % (agree, differ) + (", %d bad" % bad if bad else ""))
    return 2 if bad or not paths else 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
