"""Losses, the critic, averaged weights, latents' statistics, the table of losses."""

import csv
import math

import pytest
import torch
from PIL import Image
from torch import nn

from ldm.training.data import ImageFolder
from ldm.training.discriminator import PatchGAN
from ldm.training.ema import EMA
from ldm.training.latents import cached_latents, encode, normalize_latents
from ldm.training.losses import adversarial_weight, hinge_discriminator_loss, kl_loss, reconstruction_loss
from ldm.training.progress import Losses, cosine, grid, load_state, save_state
from ldm.vae import Posterior


def test_reconstruction_loss_is_zero_for_equal_pictures():
    x = torch.randn(2, 3, 16, 16)
    assert reconstruction_loss(x, x) == 0


def test_reconstruction_loss_of_flat_pictures_is_their_difference():
    x = torch.zeros(2, 3, 16, 16)
    torch.testing.assert_close(reconstruction_loss(x + 0.25, x), torch.tensor(0.25), rtol=0, atol=1e-7)


def test_reconstruction_loss_weighs_edges():
    x = torch.zeros(1, 3, 16, 16)
    halves, stripes = x.clone(), x.clone()
    halves[..., :8] = 0.5                               # one edge
    stripes[..., ::2] = 0.5                             # the same L1, many edges
    assert reconstruction_loss(stripes, x, scales=1).item() == pytest.approx(0.25 + 0.5)
    assert reconstruction_loss(halves, x, scales=1).item() == pytest.approx(0.25 + 0.5 / 15)


def test_kl_loss_is_that_of_the_unit_gaussian_per_value():
    unit = Posterior(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3))
    assert kl_loss(unit) == 0
    mean, logvar = 0.7, -1.3
    other = Posterior(unit.mean + mean, unit.logvar + logvar)
    expected = torch.tensor((mean**2 + math.exp(logvar) - 1 - logvar) / 2)
    torch.testing.assert_close(kl_loss(other), expected, rtol=1e-6, atol=0)


def test_hinge_loss_is_zero_beyond_the_margin():
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -2.0])
    assert hinge_discriminator_loss(real, fake) == 0
    assert hinge_discriminator_loss(fake, real) == pytest.approx((2 + 3 + 2 + 4) / 4)


def test_adversarial_weight_balances_gradients():
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    reconstruction, adversarial = (weight * 3).sum(), (weight * 0.5).sum()
    assert adversarial_weight(reconstruction, adversarial, weight).item() == pytest.approx(6, rel=1e-3)


def test_patch_gan_scores_patches():
    torch.manual_seed(0)
    critic = PatchGAN(channels=16)
    scores = critic(torch.randn(2, 3, 64, 48))
    assert scores.shape == (2, 1, 64 // 8 - 2, 48 // 8 - 2)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(critic(x)[:1], critic(x[:1]), rtol=0, atol=1e-5)     # knows no batch


def test_patch_gan_refuses_pictures_below_24_pixels():
    critic = PatchGAN(channels=16)
    assert critic(torch.zeros(1, 3, 24, 24)).shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match="pictures of 16 pixels are too small to criticise; give 24 or more"):
        critic(torch.zeros(1, 3, 64, 16))


def test_ema_warms_up_and_follows():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    ema = EMA(layer, decay=0.5)
    nn.init.ones_(layer.weight)
    value = 0.0
    for n in range(1, 20):
        ema.update(layer)
        decay = min(0.5, (1 + n) / (10 + n))
        value = decay * value + (1 - decay)
        assert ema.weights["weight"].item() == pytest.approx(value, rel=1e-6)


def test_ema_applies_inside_a_block_alone():
    layer = nn.Linear(2, 2)
    ema = EMA(layer)
    averaged = layer.weight.detach().clone()
    nn.init.ones_(layer.weight)
    with pytest.raises(KeyError), ema.applied(layer):
        assert torch.equal(layer.weight, averaged)
        raise KeyError
    assert torch.equal(layer.weight, torch.ones(2, 2))
    assert torch.equal(ema.weights["weight"], averaged)


def test_cosine_rises_then_falls():
    factors = [cosine(step, 100, 10) for step in range(101)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1 and factors[55] == pytest.approx(0.505) and factors[100] == pytest.approx(0.01)
    assert all(a >= b for a, b in zip(factors[10:], factors[11:], strict=False))


def test_normalized_latents_have_unit_statistics_and_change_no_picture(shapes, vae):
    data, indices = ImageFolder(shapes, 64), list(range(24))
    images = data.batch(indices).double()
    vae.double()                                        # so that rounding does not hide a mistake
    with torch.no_grad():
        before = vae(images)
        deviation = vae.encode(images).logvar.exp().sqrt() / vae.encode(images).mean.std((0, 2, 3), keepdim=True)
    normalize_latents(vae, data, indices)
    z = encode(vae, data, indices)
    assert z.mean((0, 2, 3)).abs().max() < 1e-4
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-4)
    with torch.no_grad():
        posterior = vae.encode(images)
        torch.testing.assert_close(vae.decode(posterior.mean), before, rtol=0, atol=1e-9)
        after = posterior.logvar.exp().sqrt() / posterior.mean.std((0, 2, 3), keepdim=True)
    torch.testing.assert_close(after, deviation, rtol=1e-3, atol=0)     # the noise is scaled with the mean


def test_latents_are_cached_for_one_vae(shapes, vae, tmp_path, monkeypatch):
    data, path = ImageFolder(shapes, 64), tmp_path / "latents.safetensors"
    first = cached_latents(path, vae, data)
    assert first.shape == (24, 4, 8, 8) and first.dtype == torch.float16
    torch.testing.assert_close(first.float(), encode(vae, data, list(range(24))), rtol=1e-3, atol=1e-3)
    encode_, calls = vae.encode, []
    monkeypatch.setattr(vae, "encode", lambda x: calls.append(len(x)) or encode_(x))
    assert torch.equal(cached_latents(path, vae, data), first) and not calls
    with torch.no_grad():
        vae.encoder.quant.bias += 1
    assert not torch.equal(cached_latents(path, vae, data), first) and sum(calls) == 24


def test_state_is_restored(tmp_path):
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    save_state(tmp_path / "state.pt", layer=layer, step=7)
    assert load_state(tmp_path / "state.pt", layer=other) == {"step": 7}
    assert torch.equal(layer.weight, other.weight) and torch.equal(layer.bias, other.bias)


@pytest.mark.parametrize("wanted", [{"layer": nn.Linear(3, 2)}, {"critic": nn.Linear(2, 2)}])
def test_state_of_another_run_is_refused(tmp_path, wanted):
    save_state(tmp_path / "state.pt", layer=nn.Linear(2, 2), step=7)
    with pytest.raises(ValueError, match=f"does not fit the {[*wanted][0]}: it is of a run with other settings"):
        load_state(tmp_path / "state.pt", **wanted)


def test_losses_replace_rows_from_before_a_restart(tmp_path):
    losses = Losses(tmp_path / "losses.csv", ["train", "held out"])
    for step in (0, 10, 20):
        losses.add(step, 1 / (step + 1), 2 / (step + 1))
    again = Losses(tmp_path / "losses.csv", ["train", "held out"])
    again.add(10, 5.0, 6.0)
    with (tmp_path / "losses.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "train", "held out"]
    assert [list(map(float, row)) for row in rows] == [[0, 1, 2], [10, 5, 6]]
    again.draw()
    with Image.open(tmp_path / "losses.png") as image:
        assert image.size == (700, 400)


def test_grid_lays_pictures_out_in_rows():
    colors = [(i, 0, 0) for i in range(5)]
    sheet = grid([Image.new("RGB", (4, 3), color) for color in colors], columns=3, gap_px=1)
    assert sheet.size == (16, 9)
    assert [sheet.getpixel((1 + n % 3 * 5, 1 + n // 3 * 4)) for n in range(5)] == colors
    assert sheet.getpixel((0, 0)) == sheet.getpixel((11, 5)) == (255, 255, 255)
