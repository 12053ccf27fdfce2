"""Scaled dot-product attention, the one piece of code that the components share. It has no parameters.

Three kernels compute the same; which one is taken follows from a table, never from a timing, so that the same seed
gives the same picture tomorrow.  `benchmarks/bench_attention.py` justifies the table.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ldm import native

Kernels = Literal["auto", "portable", "plain"]
LEARN = 2**18           # scores a head may keep for the way back; above, PyTorch's kernel computes them once more
FEW = 128               # keys, as of a prompt, for which matrix products are too small to pay
QUERIES, SCORES = 512, 2**21        # of a block: more scores leave the cache, fewer queries make small products


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False, kernels: Kernels = "auto") -> Tensor:
    """Multi-head attention over tokens.  q [B L C], k and v [B S C] -> [B L C], C = heads x channels per head.

    Scores are scaled by 1 / sqrt(C / heads).  `causal` lets token i see tokens 0..i only.
    `kernels`: "auto" is the fastest, "portable" the fastest that needs no compiler, "plain" is PyTorch's own.
    Raises ValueError where the heads do not divide the channels.  Vaswani et al. 2017, eq. 1.
    """
    if q.shape[-1] % heads:
        raise ValueError(f"{heads} heads do not divide {q.shape[-1]} channels; choose a divisor")
    if causal:
        return sdpa(q, k, v, heads, causal=True)        # few tokens, once per prompt
    learning = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    return KERNELS[choose(q, k, kernels, learning)](q, k, v, heads)


def choose(q: Tensor, k: Tensor, kernels: Kernels = "auto", learning: bool = False) -> str:
    """The name of the fastest kernel for q [B L C] and k [B S C]: a key of KERNELS.  `learning`: with gradients."""
    exact = q.dtype in (torch.bfloat16, torch.float32)
    if kernels == "plain" or q.device.type != "cpu" or q.dtype == torch.float16:
        return "sdpa"                                   # GPUs have fast ones of their own
    if learning:                                        # the way back of PyTorch's kernel is slow on every CPU
        return "blocked" if q.shape[1] * k.shape[1] <= LEARN else "sdpa"
    if q.dtype == torch.bfloat16 and native.cpu().get("amx_bf16"):
        return "sdpa"                                   # so have CPUs with AMX, but for the way back
    if kernels == "auto" and exact and native.available():
        return "native"
    return "blocked" if q.dtype == torch.bfloat16 and k.shape[1] > FEW else "sdpa"


def check_kernels(kernels: str) -> None:
    """Raises ValueError for anything but "auto", "portable" and "plain"."""
    if kernels not in get_args(Kernels):
        raise ValueError(f"kernels {kernels!r} is unknown; try one of {', '.join(get_args(Kernels))}")


def sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """PyTorch's own kernel."""
    q, k, v = (rearrange(x, "b l (h d) -> b h l d", h=heads) for x in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v, is_causal=causal), "b h l d -> b l (h d)")


def blocked(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v as two matrix products, for a few heads and queries at a time.

    Scores are held in the precision of the inputs: in 16 bits they are coarser than those of the other kernels, which
    hold them in 32, the more so the larger they are.
    """
    q, k, v = (rearrange(x, "b l (h d) -> (b h) l d", h=heads) for x in (q, k, v))
    group = max(1, SCORES // (min(q.shape[1], QUERIES) * k.shape[1]))
    parts = zip((q * q.shape[-1] ** -0.5).split(group), k.transpose(1, 2).split(group), v.split(group), strict=True)
    out = [torch.cat([(part @ keys).softmax(-1) @ values for part in queries.split(QUERIES, dim=1)], dim=1)
           for queries, keys, values in parts]
    return rearrange(torch.cat(out), "(b h) l d -> b l (h d)", h=heads)


def compiled(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """ldm/native/attention.cpp.  No gradients."""
    return torch.ops.ldm.attention(q, k, v, heads)


KERNELS = {"sdpa": sdpa, "blocked": blocked, "native": compiled}
