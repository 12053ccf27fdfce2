"""Inpaint: what the denoiser is shown, what is kept, and that nothing is lost where all is repainted.  Concat."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ldm.samplers import DEFAULT_SPACING, SAMPLERS, Denoiser, Schedule, Step, seeded_noise
from ldm.samplers.inpaint import Concat, Inpaint

SCHEDULE = Schedule()
SHAPE = 2, 4, 6, 5


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


KNOWN, NOISE = randn(1, 4, 6, 5, seed=1), randn(*SHAPE, seed=2)
MASK = (randn(1, 1, 6, 5, seed=3) > 0).double()
KEPT = (MASK == 0).expand(SHAPE)


class Shown:
    """A nonlinear denoiser that mixes neighbours and remembers what it was shown."""

    def __init__(self):
        self.calls: list[tuple[Tensor, float]] = []

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.calls.append((x, sigma))
        z = x / math.hypot(1, sigma)
        return torch.tanh(z + 0.5 * z.roll(1, -1) + 0.5 * z.roll(1, -2))


def trajectory(sampler: str, denoise, spacing=None) -> list[Step]:
    """Ten steps from noise, kept or not."""
    sigmas = SCHEDULE.sigmas(10, spacing or DEFAULT_SPACING[sampler])
    noise = seeded_noise([5, 6])
    return list(SAMPLERS[sampler](denoise, sigmas[0] * randn(*SHAPE), sigmas, noise))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_inpaint_shows_the_known_region_at_each_level_with_the_same_noise(sampler):
    shown = Shown()
    inpaint = Inpaint(shown, KNOWN, MASK, NOISE)
    steps = trajectory(sampler, inpaint)
    assert len(shown.calls) >= 10
    for x, sigma in shown.calls:
        assert_close(x[KEPT], (KNOWN + sigma * NOISE)[KEPT], rtol=0, atol=0)
    for step in steps:
        assert_close(step.x0[KEPT], KNOWN.expand(SHAPE)[KEPT], rtol=0, atol=0)
        settled = inpaint.settle(step, last=False)
        assert_close(settled.x[KEPT], (KNOWN + step.sigma * NOISE)[KEPT], rtol=0, atol=0)
        assert torch.equal(settled.x[~KEPT], step.x[~KEPT])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_inpaint_ends_with_the_known_latents_clean(sampler):
    inpaint = Inpaint(Shown(), KNOWN, MASK, NOISE)
    for spacing in ("leading", "linspace"):
        last = trajectory(sampler, inpaint, spacing)[-1]
        assert (last.sigma == 0) == (spacing == "linspace")
        assert_close(inpaint.settle(last, last=True).z[KEPT], KNOWN.expand(SHAPE)[KEPT], rtol=0, atol=1e-12)
    assert_close(last.x[KEPT], KNOWN.expand(SHAPE)[KEPT], rtol=0, atol=1e-9)       # at 0 the sampler came there itself


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_inpaint_of_everything_changes_no_bit(sampler):
    inpaint = Inpaint(Shown(), KNOWN, torch.ones_like(MASK), NOISE)
    for ours, plain in zip(trajectory(sampler, inpaint), trajectory(sampler, Shown()), strict=True):
        assert torch.equal(ours.x, plain.x) and torch.equal(ours.x0, plain.x0)
        assert torch.equal(inpaint.settle(ours, last=True).x, plain.x)


def test_inpaint_does_not_look_at_what_is_repainted():
    other = torch.where(MASK == 1, 100.0, KNOWN)
    ours, same = (trajectory("ddim", Inpaint(Shown(), known, MASK, NOISE))[-1] for known in (KNOWN, other))
    assert torch.equal(ours.x, same.x)


def test_inpaint_equals_the_loop_of_compvis():
    """CompVis ddim.py: in variance-preserving coordinates, the known region is noised before each step."""
    def network(z: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.tanh(z + 0.5 * z.roll(1, -1)) + torch.cos(t / 200).to(z)[:, None, None, None]

    sigmas = SCHEDULE.sigmas(10, "leading")
    x = math.hypot(1, sigmas[0]) * randn(*SHAPE)
    denoise = Inpaint(Denoiser(network, SCHEDULE), KNOWN, MASK, NOISE)
    *_, last = SAMPLERS["ddim"](denoise, x, sigmas, seeded_noise([5, 6]))
    z, alphas = randn(*SHAPE), SCHEDULE.alphas_cumprod
    for t in range(901, 0, -100):
        a, a_prev = alphas[t], alphas[max(t - 100, 0)]
        z = (a.sqrt() * KNOWN + (1 - a).sqrt() * NOISE) * (1 - MASK) + z * MASK
        eps = network(z, torch.full((2,), t, dtype=torch.float32))
        z = a_prev.sqrt() * (z - (1 - a).sqrt() * eps) / a.sqrt() + (1 - a_prev).sqrt() * eps
    assert z.std() > 0.1
    assert_close(last.z[~KEPT], z[~KEPT], rtol=0, atol=1e-5)        # the sinusoids' t is float32


def test_inpaint_takes_a_mask_for_each_picture():
    masks = torch.cat([MASK, 1 - MASK])
    x0 = Inpaint(Shown(), KNOWN, masks, NOISE)(randn(*SHAPE), 2.0)
    for i, mask in enumerate(masks):
        alone = Inpaint(Shown(), KNOWN, mask, NOISE[i : i + 1])(randn(*SHAPE)[i : i + 1], 2.0)
        assert_close(x0[i : i + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 2])
def test_concat_gives_the_network_its_further_channels_unscaled(rows):
    seen, channels = [], randn(rows, 5, 6, 5)

    def network(x: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        seen.append((x, t, context))
        return x[:, :4].repeat(2, 1, 1, 1)

    x, context, sigma = randn(*SHAPE), randn(4, 7, 3), SCHEDULE.sigma(500)
    out = Denoiser(Concat(network, channels), SCHEDULE)(x, sigma, context)
    (given, t, passed), = seen
    assert out.shape == (4, 4, 6, 5) and passed is context
    assert_close(t, torch.full((2,), 500.0), rtol=0, atol=1e-3)
    assert_close(given[:, :4], x / math.hypot(1, sigma), rtol=0, atol=1e-12)
    assert torch.equal(given[:, 4:], channels.expand(2, -1, -1, -1))
