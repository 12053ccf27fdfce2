"""Checkpoints: whole or not at all, the last few kept."""

import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from ldm.training.checkpoint import check_run, load_state, newest, prune, save_state, state_path


def test_state_is_restored(tmp_path):
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    opts = [torch.optim.AdamW(module.parameters(), lr=0.1) for module in (layer, other)]
    layer(torch.ones(1, 2)).sum().backward()
    opts[0].step()
    save_state(tmp_path / "state.pt", layer=layer, opt=opts[0], step=7, position={"marks": [[1, 2]]})
    plain = load_state(tmp_path / "state.pt", layer=other, opt=opts[1])
    assert plain == {"step": 7, "position": {"marks": [[1, 2]]}}
    assert torch.equal(layer.weight, other.weight) and torch.equal(layer.bias, other.bias)
    a, b = (opt.state_dict()["state"][0] for opt in opts)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("saved", [torch.contiguous_format, torch.channels_last])
def test_moments_are_laid_out_as_their_weights(tmp_path, saved):
    """Fused kernels mix them up otherwise.  A sharded run saves contiguous ones, with channels_last weights go on."""
    def adam(values: torch.Tensor, layout: torch.memory_format) -> tuple[nn.Parameter, torch.optim.AdamW]:
        weight = nn.Parameter(values.clone(memory_format=layout))
        return weight, torch.optim.AdamW([weight], lr=0.1, fused=True)

    def step(weight: nn.Parameter, opt: torch.optim.AdamW, gradient: torch.Tensor) -> torch.Tensor:
        weight.grad = torch.empty_like(weight).copy_(gradient)
        opt.step()
        return weight.detach()

    start, first, second = torch.randn(3, 6, 5, 3, 3)
    weight, opt = adam(start, saved)
    step(weight, opt, first)
    save_state(tmp_path / "state.pt", opt=opt)
    expected = step(weight, opt, second)
    after = torch.load(tmp_path / "state.pt", weights_only=True)["opt"]["state"][0]["exp_avg"]
    assert after.is_contiguous(memory_format=saved)
    for layout in (torch.contiguous_format, torch.channels_last):
        again, other = adam(start, saved)
        middle = step(again, other, first)
        again, other = adam(middle, layout)
        load_state(tmp_path / "state.pt", opt=other)
        torch.testing.assert_close(step(again, other, second), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("wanted", [{"layer": nn.Linear(3, 2)}, {"critic": nn.Linear(2, 2)}])
def test_state_of_another_run_is_refused(tmp_path, wanted):
    save_state(tmp_path / "state.pt", layer=nn.Linear(2, 2), step=7)
    with pytest.raises(ValueError, match=f"does not fit the {[*wanted][0]}: it is of a run with other settings"):
        load_state(tmp_path / "state.pt", **wanted)


@pytest.mark.parametrize("size", [0, 10, -100])
def test_a_broken_checkpoint_is_named(tmp_path, size):
    path = tmp_path / "state.pt"
    save_state(path, layer=nn.Linear(2, 2), step=7)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="state.pt is no whole checkpoint; remove it, so that the one before is taken"):
        load_state(path, layer=nn.Linear(2, 2))


def test_the_last_checkpoints_are_kept(tmp_path):
    assert newest(tmp_path) is None
    for step in (9, 10, 200_000, 3_000_000):
        save_state(state_path(tmp_path, step), step=step)
    half = tmp_path / ".state-00000011.123.partial.pt"  # of a run that was killed
    (tmp_path / ".model.123.partial.safetensors").touch()
    half.touch()
    (tmp_path / "model.safetensors").touch()
    assert load_state(newest(tmp_path)) == {"step": 3_000_000}
    prune(tmp_path, 2)
    kept = {state_path(tmp_path, step) for step in (200_000, 3_000_000)}
    assert set(tmp_path.iterdir()) == kept | {tmp_path / "model.safetensors"}
    prune(tmp_path, 5)
    assert newest(tmp_path) in kept


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    save_state(state_path(tmp_path, 1), layer=nn.Linear(2, 2), step=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OSError, match="state-00000002.pt cannot be written .File too large.; make room"):
            save_state(state_path(tmp_path, 2), layer=nn.Linear(200, 200), step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [state_path(tmp_path, 1)]
    assert load_state(newest(tmp_path), layer=nn.Linear(2, 2)) == {"step": 1}


def test_what_a_run_learns_is_compared():
    told = {"word": "zorbl", "pictures": ["a.png"]}
    check_run(Path("state.pt"), {"run": told}, told)
    check_run(Path("state.pt"), {}, told)               # of a version that did not say it
    with pytest.raises(ValueError, match="state.pt is of a run that differs in word and pictures; give the"):
        check_run(Path("state.pt"), {"run": {"word": "blob"}}, told)
