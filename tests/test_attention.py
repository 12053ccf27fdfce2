"""The shared attention against the formula written out."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ldm.attention import attention, blocked


def written_out(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, head by head, query by query."""
    outs = []
    for q_h, k_h, v_h in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        rows = []
        for i in range(q.shape[1]):
            seen = i + 1 if causal else k.shape[1]
            scores = torch.einsum("bd,bsd->bs", q_h[:, i], k_h[:, :seen]) / math.sqrt(q_h.shape[-1])
            rows.append(torch.einsum("bs,bsd->bd", scores.softmax(-1), v_h[:, :seen]))
        outs.append(torch.stack(rows, 1))
    return torch.cat(outs, -1)


@pytest.mark.parametrize("kernels", ["auto", "portable", "plain"])
@pytest.mark.parametrize(("queries", "keys", "heads", "causal"),
                         [(5, 5, 1, False), (6, 3, 4, False), (5, 5, 2, True), (1, 9, 8, False)])
def test_attention_equals_the_formula(queries, keys, heads, causal, kernels):
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, queries, 16, generator=g, dtype=torch.float64)
    k, v = torch.randn(2, 2, keys, 16, generator=g, dtype=torch.float64)
    expected = written_out(q, k, v, heads, causal)
    assert_close(attention(q, k, v, heads, causal, kernels), expected, rtol=1e-12, atol=1e-12)


def test_causal_attention_does_not_see_later_tokens():
    q, k, v = torch.randn(3, 1, 6, 8)
    out = attention(q, k, v, heads=2, causal=True)
    k[:, 4:], v[:, 4:] = 7, 7
    changed = attention(q, k, v, heads=2, causal=True)
    assert_close(changed[:, :4], out[:, :4])
    assert not torch.allclose(changed[:, 4:], out[:, 4:])


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="3 heads do not divide 10 channels; choose a divisor"):
        attention(*torch.randn(3, 1, 4, 10), heads=3)


def test_blocks_of_queries_do_not_show(monkeypatch):
    q, k, v = torch.randn(3, 2, 50, 16, dtype=torch.float64)
    whole = blocked(q, k, v, heads=2)
    monkeypatch.setattr("ldm.attention.QUERIES", 7)
    monkeypatch.setattr("ldm.attention.SCORES", 3 * 7 * 50)             # 3 of the 4 heads of both pictures
    assert_close(blocked(q, k, v, heads=2), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("deviation", "error"), [(1, 0.006), (3, 0.015)])
def test_blocks_in_bfloat16_hold_scores_in_16_bits(deviation, error):
    """Coarser than PyTorch's kernel, by as much as docs/numerics.md says."""
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 256, 64, generator=g).bfloat16()
    q = q * deviation
    exact = blocked(q.double(), k.double(), v.double(), heads=1)
    assert (blocked(q, k, v, heads=1) - exact).norm() < error * exact.norm()
