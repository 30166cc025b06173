"""The paged key/value cache on the CPU (include/ifa_cache.h, docs/cache.md)."""

from __future__ import annotations

import ctypes as c
import weakref
from typing import Any, Optional, Sequence as Several

import numpy as np

from . import _arrays as A
from . import _library as L
from ._problem import Problem, default_scale


class Sequence:
    """A sequence of a Cache: a table of blocks that grows by append and is freed by remove (or with
    the last reference)."""

    def __init__(self, cache: Cache, handle: int) -> None:
        self._cache, self._handle = cache, handle
        self._finalizer = weakref.finalize(
            self, L.lib.ifa_cache_remove, cache._pointer, handle, None
        )
        cache._sequences.add(self)

    def __len__(self) -> int:
        """Tokens."""
        length = c.c_int64()
        L.call("ifa_cache_length", self._cache._pointer, self._live(), c.byref(length))
        return length.value

    def _live(self) -> int:
        if not self._finalizer.alive:
            raise L.BadArgument("the sequence was removed, or its cache was closed")
        return self._handle

    def append(self, k: Any, v: Any) -> None:
        """k and v [kv_heads, count, head_dim], f32, f16 or bf16, any strides: quantized and put
        behind the last token. Full, and nothing is changed, where blocks or positions do not
        suffice."""
        views = [A.floats(name, x, 3) for name, x in (("k", k), ("v", v))]
        config = self._cache._config
        for name, view in zip("kv", views):
            if view.cuda:
                raise L.BadArgument(f"{name} is on a CUDA device; the cache is on the CPU")
            if (view.shape[0], view.shape[2]) != (config.kv_heads, config.head_dim):
                raise L.BadArgument(
                    f"{name} has shape {list(view.shape)}; it must be [{config.kv_heads}, tokens, {config.head_dim}]"
                )
        (kv, vv), count = views, views[0].shape[1]
        if vv.shape != kv.shape or vv.type != kv.type:
            raise L.BadArgument(
                f"k is {list(kv.shape)} of {kv.type}, v {list(vv.shape)} of {vv.type}; they must be alike"
            )
        if count == 0:
            return
        tokens = L.CacheTokens(
            kv.address, vv.address, L.TYPES[kv.type], count, *kv.strides[:2], *vv.strides[:2]
        )
        L.call("ifa_cache_append", self._cache._pointer, self._live(), c.byref(tokens))

    def fork(self) -> Sequence:
        """Another sequence with the same tokens; blocks are shared until one of the two writes."""
        child = c.c_uint64()
        L.call("ifa_cache_fork", self._cache._pointer, self._live(), c.byref(child))
        return Sequence(self._cache, child.value)

    def truncate(self, length: int) -> None:
        """Keeps the first `length` tokens."""
        L.call("ifa_cache_truncate", self._cache._pointer, self._live(), length)

    def remove(self) -> None:
        """Ends the sequence and frees the blocks that nobody else has."""
        handle = self._live()
        self._finalizer.detach()
        L.call("ifa_cache_remove", self._cache._pointer, handle)

    def read(self, first: int = 0, count: Optional[int] = None) -> tuple[Any, Any, Any, Any]:
        """(k, v, k_scale, v_scale) of `count` tokens: the bits of ifa.quantize(..., scale="token"),
        [kv_heads, count, ...]."""
        config = self._cache._config
        count = len(self) - first if count is None else count
        heads = config.kv_heads
        if not 0 <= first <= first + count <= len(self):
            raise L.BadArgument(f"tokens {first} .. {first + count - 1} of {len(self)}")

        def empty(kind: int) -> np.ndarray[Any, Any]:
            width = (config.head_dim + 1) // 2 if kind == L.TYPES["int4"] else config.head_dim
            return np.empty((heads, count, width), np.uint8 if kind == L.TYPES["int4"] else np.int8)

        k, v = empty(config.k_type), empty(config.v_type)
        k_scale, v_scale = (np.empty((heads, count), np.float32) for _ in "kv")
        if count:
            L.call(
                "ifa_cache_read",
                self._cache._pointer,
                self._live(),
                first,
                count,
                *(x.ctypes.data for x in (k, v, k_scale, v_scale)),
            )
        return k, v, k_scale, v_scale


class Cache:
    """Keys and values of one attention layer, INT8 or INT4, in blocks; sequences grow, fork and end
    without copies.

    kv_heads, head_dim: of the layer. blocks of block_tokens tokens (a multiple of kv_tile): the
    capacity. sequences: how many may live at once. Calls on different sequences may run in
    different threads; include/ifa_cache.h says which on one. A child of fork() may use the cache if
    no call was under way."""

    def __init__(
        self,
        kv_heads: int,
        head_dim: int,
        *,
        blocks: int,
        sequences: int = 1,
        block_tokens: int = 64,
        k_type: str = "int8",
        v_type: str = "int8",
        kv_tile: int = 64,
        sequence_tokens: int = 0,
    ) -> None:
        for name, kind in (("k_type", k_type), ("v_type", v_type)):
            if kind not in ("int8", "int4"):
                raise L.BadArgument(f"{name} is {kind!r}; it must be int8 or int4")
        self._config = L.CacheConfig(
            kv_heads,
            head_dim,
            L.TYPES[k_type],
            L.TYPES[v_type],
            kv_tile,
            block_tokens,
            blocks,
            sequences,
            sequence_tokens,
        )
        pointer = c.c_void_p()
        L.call("ifa_cache_create", c.byref(self._config), None, 0, c.byref(pointer))
        self._pointer = pointer
        self._sequences: weakref.WeakSet[Sequence] = weakref.WeakSet()
        self._finalizer = weakref.finalize(self, L.lib.ifa_cache_destroy, pointer)

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Frees the memory; the sequences end with it."""
        for sequence in list(self._sequences):
            sequence._finalizer.detach()
        self._finalizer()

    def _live(self) -> c.c_void_p:
        if not self._finalizer.alive:
            raise L.BadArgument("the cache was closed")
        return self._pointer

    def sequence(self) -> Sequence:
        """A new, empty one; Full where `sequences` live already."""
        handle = c.c_uint64()
        L.call("ifa_cache_add", self._live(), c.byref(handle))
        return Sequence(self, handle.value)

    def usage(self) -> dict[str, int]:
        """free_blocks, free_sequences, shared_blocks."""
        usage = L.lib.ifa_cache_usage_of(self._live())
        return {
            name: getattr(usage, name)
            for name in ("free_blocks", "free_sequences", "shared_blocks")
        }

    def check(self) -> None:
        """Everything that the cache believes about itself, looked over; BadData and where."""
        L.call("ifa_cache_check", self._live())

    def bytes(self) -> int:
        """Memory that the cache takes."""
        size = c.c_size_t()
        L.call("ifa_cache_bytes", c.byref(self._config), c.byref(size))
        return size.value

    def problem(self, q_heads: int) -> Problem:
        """The problem that the cache poses: its sizes, types and scale choices."""
        return Problem._from_c(L.lib.ifa_cache_problem(self._live(), q_heads))

    def attend(
        self,
        queries: Several[tuple[Sequence, Any]],
        *,
        causal: bool = True,
        window: int = 0,
        sm_scale: Optional[float] = None,
        tau: Any = 2,
        kv_split: int = 0,
        q_type: str = "int8",
        lse: bool = False,
        out_type: Optional[str] = None,
        out: Optional[Several[Any]] = None,
        threads: int = 0,
    ) -> list[Any]:
        """Attention of each query on its sequence, all in one call. q [q_heads, nq, head_dim]
        floats (f32, f16 or bf16): the sequence's last nq tokens. A list of outputs [q_heads, nq,
        head_dim] (of pairs with their lse [q_heads, nq]): what ifa.attention(backend="scalar")
        gives on the tokens that the cache holds, K and V per token, bit by bit."""
        if not queries:
            return []
        views = [A.floats(f"q of query {i}", q, 3) for i, (_, q) in enumerate(queries)]
        first = views[0]
        problem = self.problem(first.shape[0])
        for i, view in enumerate(views):
            if view.cuda or (view.shape[0], view.shape[2]) != (problem.q_heads, problem.head_dim):
                raise L.BadArgument(
                    f"q of query {i} has shape {list(view.shape)}; it must be [{problem.q_heads}, rows, {problem.head_dim}], on the CPU"
                )
        views = self._strided_alike(views)
        first = views[0]
        kind = out_type or first.type
        if kind not in A.FLOATS:
            raise L.BadArgument(f"out_type is {kind!r}; it must be one of {', '.join(A.FLOATS)}")
        problem.causal, problem.window, problem.tau, problem.kv_split = (
            causal,
            window,
            tau,
            kv_split,
        )
        problem.sm_scale, problem.q_type, problem.out_type, problem.lse = (
            default_scale(sm_scale, problem.head_dim),
            q_type,
            kind,
            lse,
        )
        if out is None:  # by one stride too: [nq, q_heads, head_dim] in memory
            out = [
                np.empty((n, h, d), A.numpy_dtype(kind)).transpose(1, 0, 2)
                for h, n, d in (view.shape for view in views)
            ]
        outs = list(out)
        if len(outs) != len(views):
            raise L.BadArgument(f"out has {len(outs)} arrays for {len(views)} queries")
        written = [
            A.output(f"out of query {i}", o, view.shape, (kind,))
            for i, (o, view) in enumerate(zip(outs, views))
        ]
        sums = [np.empty(view.shape[:2], np.float32) for view in views] if lse else None
        p = problem._to_c()
        p.q_stride = L.Strides(0, first.strides[0], first.strides[1])
        p.o_stride = L.Strides(0, written[0].strides[0], written[0].strides[1])
        list_of = (L.CacheQuery * len(views))()
        for i, ((sequence, _), view, o) in enumerate(zip(queries, views, written)):
            if sequence._cache is not self:
                raise L.BadArgument(f"the sequence of query {i} is another cache's")
            if o.strides[:2] != written[0].strides[:2]:
                raise L.BadArgument(
                    f"out of query {i} has strides {list(o.strides)}; the first one's are {list(written[0].strides)}"
                )
            list_of[i] = L.CacheQuery(
                sequence._live(),
                view.shape[1],
                view.address,
                L.TYPES[view.type],
                None,
                o.address,
                sums[i].ctypes.data if sums else None,
            )
        self._run(p, list_of, sum(view.shape[1] for view in views), threads)
        return list(zip(outs, sums)) if sums else outs

    @staticmethod
    def _strided_alike(views: list[A.View]) -> list[A.View]:
        """One call has one stride for all queries: where theirs differ, they are copied to [nq,
        q_heads, head_dim]."""
        if all(view.strides[:2] == views[0].strides[:2] for view in views):
            return views
        copies = []
        for i, view in enumerate(views):
            h, n, d = view.shape
            turned = A.View(
                view.address,
                (n, h, d),
                (view.strides[1], view.strides[0], view.strides[2]),
                view.type,
                False,
                view,
                True,
            )
            copy = A.dense_copy(f"q of query {i}", turned)
            copies.append(
                A.View(copy.address, view.shape, (d, h * d, 1), view.type, False, copy, True)
            )
        return copies

    def _run(self, p: L.CProblem, queries: Any, rows: int, threads: int) -> None:
        workspace = c.c_void_p()
        L.call(
            "ifa_cache_workspace_create",
            self._live(),
            c.byref(p),
            rows,
            threads,
            None,
            0,
            c.byref(workspace),
        )
        try:
            L.call("ifa_cache_attend", self._live(), c.byref(p), queries, len(queries), workspace)
        finally:
            L.lib.ifa_cache_workspace_destroy(workspace)
