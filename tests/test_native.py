"""The compiled attention against the formula in float64, and what happens where it cannot be had."""

import pytest
import torch
from torch.testing import assert_close

from ldm import attention, native
from ldm.native import build, library, supported

SHAPES = [(1, 1, 1, 1, 8), (2, 3, 5, 7, 16), (1, 2, 33, 129, 40), (2, 8, 100, 77, 40), (1, 4, 64, 256, 80),
          (1, 1, 70, 300, 512), (1, 3, 31, 128, 7)]


@pytest.fixture(scope="module", autouse=True)
def built():
    if not supported():
        pytest.skip("there are no compiled kernels for this machine")
    try:
        build()
    except RuntimeError as error:
        pytest.skip(str(error))
    native.available.cache_clear()
    assert native.available()


def tokens(b: int, heads: int, queries: int, keys: int, d: int, dtype: torch.dtype):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(b, n, heads * d, generator=g).to(dtype) for n in (queries, keys, keys)]


def exact(q, k, v, heads):
    return attention.sdpa(*(x.double() for x in (q, k, v)), heads)


@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_attention_equals_the_formula(shape):
    q, k, v = tokens(*shape, torch.float32)
    assert_close(attention.compiled(q, k, v, shape[1]).double(), exact(q, k, v, shape[1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_attention_is_as_exact_as_bfloat16_allows(shape):
    q, k, v = tokens(*shape, torch.bfloat16)
    expected = exact(q, k, v, shape[1])
    worst = (attention.compiled(q, k, v, shape[1]).double() - expected).abs().max()
    peer = (attention.sdpa(q, k, v, shape[1]).double() - expected).abs().max()
    assert worst <= max(2 * peer, 0.004 * expected.abs().max())
    blocks = (attention.blocked(q, k, v, shape[1]).double() - expected).abs().max()
    assert blocks <= max(4 * peer, 0.01 * expected.abs().max())        # its scores are bfloat16 as well


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_attention_survives_large_and_equal_scores(dtype):
    q, k, v = tokens(1, 2, 40, 300, 16, dtype)
    out = attention.compiled(1000 * q, 1000 * k, v, 2)              # one key wins: the softmax is a choice
    assert_close(out.double(), exact(1000 * q, 1000 * k, v, 2), rtol=1e-2, atol=1e-2)
    flat = attention.compiled(torch.zeros_like(q), k, v, 2)         # all keys count the same
    assert_close(flat.double(), v.double().mean(1, keepdim=True).expand_as(flat), rtol=0, atol=2e-3)


def test_compiled_attention_does_not_depend_on_the_batch():
    q, k, v = tokens(3, 4, 50, 77, 16, torch.bfloat16)
    alone = attention.compiled(q[1:2], k[1:2], v[1:2], 4)
    assert torch.equal(attention.compiled(q, k, v, 4)[1:2], alone)


def test_compiled_attention_takes_strided_tokens():
    q, k, v = tokens(2, 2, 6, 6, 16, torch.float32)
    merged = torch.cat([q, k, v], dim=-1)
    parts = merged.chunk(3, dim=-1)
    assert torch.equal(attention.compiled(*parts, 2), attention.compiled(q, k, v, 2))


def test_compiled_attention_refuses_what_does_not_fit():
    q, k, v = tokens(1, 2, 4, 5, 8, torch.float32)
    with pytest.raises(RuntimeError, match="do not fit 3 heads"):
        attention.compiled(q, k, v, 3)
    with pytest.raises(RuntimeError, match="differ in dtype"):
        attention.compiled(q, k.bfloat16(), v, 2)
    with pytest.raises(RuntimeError, match="neither bfloat16 nor float32"):
        attention.compiled(q.double(), k.double(), v.double(), 2)


def test_table_takes_the_compiled_kernel_only_where_it_may(monkeypatch):
    q, k, _ = tokens(1, 2, 4, 5, 8, torch.float32)
    monkeypatch.setattr(native, "cpu", dict)
    assert attention.choose(q, k) == attention.choose(q.bfloat16(), k.bfloat16()) == "native"
    assert attention.choose(q, k, "plain") == attention.choose(q, k, "portable") == "sdpa"
    assert attention.choose(q, k, learning=True) == "blocked"
    assert attention.choose(q.double(), k.double()) == attention.choose(q.half(), k.half()) == "sdpa"
    long = torch.zeros(1, 1024, 8)
    pixels, words = long.bfloat16(), long[:, :77].bfloat16()
    assert attention.choose(pixels, pixels, "portable") == "blocked"
    assert attention.choose(pixels, words, "portable") == "sdpa"            # few keys
    assert attention.choose(long, long, learning=True) == "sdpa"            # or every score is kept for the way back
    monkeypatch.setattr(native, "cpu", lambda: {"amx_bf16": True})
    assert attention.choose(q.bfloat16(), k.bfloat16()) == "sdpa" and attention.choose(q, k) == "native"
    assert attention.choose(q.bfloat16(), k.bfloat16(), learning=True) == "blocked"         # its way back is slow


def test_gradients_pass_where_the_compiled_kernel_has_none():
    q, k, v = tokens(1, 2, 4, 5, 8, torch.float32)
    attention.attention(q, k, v.requires_grad_(), 2).sum().backward()
    assert v.grad is not None and v.grad.abs().sum() > 0


def test_compiled_attention_has_a_shape_on_the_meta_device():
    q, k, v = (x.to("meta") for x in tokens(1, 2, 4, 5, 8, torch.float32))
    assert attention.compiled(q, k, v, 2).shape == q.shape


def test_without_a_compiler_the_build_says_so_and_nothing_is_left(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="no-such-compiler is not there; install"):
        build()
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeError, match="false failed on attention.cpp"):
        build()
    assert not library().exists() and not list(tmp_path.rglob("*.so"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("CXX", "true")
    with pytest.raises(RuntimeError, match="cannot be written"):
        build()


def test_kernels_that_cannot_be_loaded_are_done_without(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library().parent.mkdir()
    library().write_text("no library")
    native.available.cache_clear()
    with pytest.warns(UserWarning, match="cannot be loaded .*; remove"):
        assert not native.available()
    monkeypatch.undo()
    native.available.cache_clear()
    assert native.available()


def test_another_version_of_pytorch_never_loads_this_build(monkeypatch):
    here = library()
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert library() != here
