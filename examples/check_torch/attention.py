#!/usr/bin/env python3
"""PyTorch's own attention in fp16, checked in the process: is it what FlashAttention in fp16 should
be?

    python3 examples/check_torch/attention.py [cpu|cuda]
"""

import sys

import ifa
import torch


def attention(q, k, v, p):
    """q, k, v: tensors in fp16, as the claim says. Rows that see no key are NaN in torch, and 0
    here."""
    if p.nk == 0:
        raise ifa.Unsupported("nk")
    seen = torch.from_numpy(p.live()).to(q.get_device() if q.is_cuda else "cpu")
    o = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=seen, scale=p.sm_scale, enable_gqa=True
    )
    return torch.where(seen.any(1)[:, None], o, 0)


if __name__ == "__main__":
    place = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    sys.exit(
        ifa.check(
            attention, claim="close q=f16 k=f16 v=f16 p=f16 o=f16", device=place, lse=False
        ).exit_code
    )
