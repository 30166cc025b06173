"""Hugging Face transformers (5.23 or later): `attn_implementation="ifa"`, and a cache class over
the paged cache (on the CPU).

    import ifa.transformers                                     # registers "ifa"
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="ifa")
    cache = ifa.transformers.PagedCache(model.config, blocks=1024)
    model.generate(**inputs, past_key_values=cache)

With any of transformers' own caches the model's keys and values are quantized at each call
(ifa.torch.attention); with a PagedCache they are kept as INT8 or INT4. What the kernels cannot do
(padding and other masks, dropout, soft caps, sinks, gradients) raises ifa.Unsupported, which names
it."""

from __future__ import annotations

from typing import Any, Optional

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache as TransformersCache
from transformers.cache_utils import CacheLayerMixin
from transformers.masking_utils import sdpa_mask

from . import _library as L
from . import torch as ifa_torch
from ._cache import Cache, Sequence

_OTHERS = (
    "softcap",
    "position_bias",
    "s_aux",
    "output_attentions",
    "head_mask",
)  # of models that have them


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    mask_function: Any = None,
    attention_mask: Optional[torch.Tensor] = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    **kwargs: Any,
) -> Optional[torch.Tensor]:
    """None where the kernels' own masks (causal, aligned at the bottom right, and a window) are the
    model's; else a mask, which attention_forward refuses."""
    aligned = int(kv_offset) + kv_length == int(q_offset) + q_length
    whole = attention_mask is None or bool(attention_mask.all())
    if aligned and whole and (allow_is_causal_skip or allow_is_bidirectional_skip):
        return None
    made: Optional[torch.Tensor] = sdpa_mask(
        batch_size,
        q_length,
        kv_length,
        q_offset,
        kv_offset,
        mask_function,
        attention_mask=attention_mask,
        allow_is_causal_skip=False,
        **kwargs,
    )
    return made


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Optional[torch.Tensor],
    dropout: float = 0.0,
    scaling: Optional[float] = None,
    is_causal: Optional[bool] = None,
    sliding_window: Optional[int] = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What a model calls: query [batch, heads, tokens, head_dim] to [batch, tokens, heads,
    head_dim]."""
    others = [
        name for name in _OTHERS if kwargs.get(name) is not None and kwargs[name] is not False
    ]
    why = ifa_torch.refusal(query, key, value, attention_mask, dropout, enable_gqa=True)
    if others or why is not None:
        raise L.Unsupported(why if why is not None else f"{others[0]} is {kwargs[others[0]]!r:.40}")
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    layer = getattr(key, "_ifa_layer", None)
    if layer is not None:
        return layer.attend(query, causal, sliding_window or 0, scaling), None
    o = ifa_torch.attention(
        query, key, value, causal=causal, window=sliding_window or 0, sm_scale=scaling
    )
    return o.transpose(1, 2).contiguous(), None


class _PagedLayer(CacheLayerMixin):  # type: ignore[misc,unused-ignore]
    """One layer's keys and values; a sequence for each row of the batch, made with the first
    tokens."""

    is_compileable = False
    is_sliding = False

    def __init__(self, config: Any, options: dict[str, Any]) -> None:
        super().__init__()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        self.cache = Cache(heads, head_dim, **options)
        self.sequences: list[Sequence] = []

    def lazy_initialization(self, key_states: torch.Tensor, value_states: Any = None) -> None:
        self.sequences = [self.cache.sequence() for _ in range(key_states.shape[0])]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if key_states.is_cuda:
            raise L.Unsupported("a PagedCache on a CUDA device: it is on the CPU")
        if not self.sequences:
            self.lazy_initialization(key_states)
        for i, sequence in enumerate(self.sequences):
            sequence.append(key_states[i], value_states[i])
        marked = key_states.view(key_states.shape)
        marked._ifa_layer = self  # type: ignore[attr-defined,unused-ignore]
        return marked, value_states

    def attend(
        self, query: torch.Tensor, causal: bool, window: int, scaling: Optional[float]
    ) -> torch.Tensor:
        """[batch, tokens, heads, head_dim]"""
        o = query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3])
        queries = [(sequence, query[i]) for i, sequence in enumerate(self.sequences)]
        self.cache.attend(
            queries,
            causal=causal,
            window=window,
            sm_scale=scaling,
            out=[row.transpose(0, 1) for row in o],
        )
        return o

    def get_seq_length(self, *_: Any) -> int:
        return len(self.sequences[0]) if self.sequences else 0

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        return self.get_seq_length() + int(query_length), 0

    def get_max_length(self) -> int:
        return -1

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Beams are forks: no token is copied."""
        forks = [self.sequences[int(i)].fork() for i in beam_idx]
        for sequence in self.sequences:
            sequence.remove()
        self.sequences = forks

    def crop(self, max_length: int) -> None:
        length = self.get_seq_length()
        for sequence in self.sequences:
            sequence.truncate(max_length if max_length >= 0 else max(0, length + max_length))

    def reset(self) -> None:
        for sequence in self.sequences:
            sequence.remove()
        self.sequences = []

    def offload(self) -> None:
        """It is on the CPU."""

    def prefetch(self) -> None:
        """It is on the CPU."""


class PagedCache(TransformersCache):  # type: ignore[misc,unused-ignore]
    """past_key_values over ifa.Cache, one a layer: K and V quantized per token on entry, in blocks.
    For models whose attn_implementation is "ifa": others would not find the tokens. blocks: each
    layer's capacity in blocks of block_tokens (64); sequences: the batch, and as many again for
    beams; k_type, v_type: "int8" or "int4"."""

    def __init__(self, config: Any, *, blocks: int, sequences: int = 16, **options: Any) -> None:
        config = config.get_text_config(decoder=True)
        if config._attn_implementation != "ifa":
            raise L.BadArgument(
                f"attn_implementation is {config._attn_implementation!r}; a PagedCache needs 'ifa'"
            )
        options.update(blocks=blocks, sequences=sequences)
        super().__init__(
            layers=[_PagedLayer(config, options) for _ in range(config.num_hidden_layers)]
        )


AttentionInterface.register("ifa", attention_forward)
AttentionMaskInterface.register("ifa", attention_mask)
