"""Scaled dot-product attention, the one piece of code that the components share. It has no parameters."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """Multi-head attention over tokens.  q [B L C], k and v [B S C] -> [B L C], C = heads x channels per head.

    Scores are scaled by 1 / sqrt(C / heads).  `causal` lets token i see tokens 0..i only.
    Vaswani et al. 2017, eq. 1.
    """
    q, k, v = (rearrange(x, "b l (h d) -> b h l d", h=heads) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return rearrange(out, "b h l d -> b l (h d)")
