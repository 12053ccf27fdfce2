"""Losses, the critic, averaged weights, latents' statistics, learning rates, the table of losses."""

import csv
import math

import pytest
import torch
from PIL import Image
from torch import nn

from ldm.samplers import Schedule
from ldm.training.data import ImageFolder
from ldm.training.discriminator import PatchGAN
from ldm.training.distributed import World
from ldm.training.ema import EMA
from ldm.training.latents import cached_latents, encode, normalize_latents
from ldm.training.losses import (
    adversarial_weight,
    diffusion_loss,
    hinge_discriminator_loss,
    kl_loss,
    min_snr_weight,
    reconstruction_loss,
)
from ldm.training.progress import Losses, constant, cosine, grid
from ldm.vae import Posterior

ALONE = World(0, 1, torch.device("cpu"))


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


def test_adversarial_weight_balances_gradients_at_the_last_layer(vae):
    """Against automatic differentiation."""
    features, seen = torch.randn(2, 4, 8, 8), []
    vae.decoder.conv_out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    decoded = vae.decode(features)
    losses = decoded.abs().mean(), -decoded.square().mean()
    wanted, given = (torch.autograd.grad(loss, vae.decoder.conv_out.weight, retain_graph=True)[0] for loss in losses)
    at_picture = (torch.autograd.grad(loss, decoded, retain_graph=True)[0] for loss in losses)
    weight = adversarial_weight(*at_picture, *seen, ALONE.mean)
    torch.testing.assert_close(weight, wanted.norm() / (given.norm() + 1e-4), rtol=1e-5, atol=0)
    assert 0 < weight < 1e4


def test_adversarial_weight_is_of_the_mean_over_ranks():
    wanted, given, features = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.randn(2, 5, 8, 8)
    halves = [[x[i : i + 1] for x in (wanted, given, features)] for i in range(2)]
    seen: list[torch.Tensor] = []
    adversarial_weight(*halves[1], lambda gradient: seen.append(gradient) or gradient)
    other = iter(seen)
    both = adversarial_weight(*halves[0], lambda gradient: (gradient + next(other)) / 2)
    whole = adversarial_weight(wanted / 2, given / 2, features, ALONE.mean)     # means over twice as many
    torch.testing.assert_close(both, whole, rtol=1e-4, atol=0)


def test_diffusion_loss_is_the_weighted_squared_error():
    a, b, weight = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([1.0, 0.5, 0.0])
    torch.testing.assert_close(diffusion_loss(a, b), nn.functional.mse_loss(a, b), rtol=1e-6, atol=0)
    expected = ((a[0] - b[0]).square().mean() + 0.5 * (a[1] - b[1]).square().mean()) / 3
    torch.testing.assert_close(diffusion_loss(a, b, weight), expected, rtol=1e-6, atol=0)


def test_min_snr_weighs_the_error_of_x0_alike_whatever_is_predicted():
    """The same error, told as one of eps, v or x0, has the same loss: min(SNR, 5) times that of x0."""
    schedule, t = Schedule(), torch.arange(0, 1000, 37)
    alpha_bar = schedule.alphas_cumprod[t]
    x0, noise, error = torch.randn(3, len(t), 4, 2, 2, dtype=torch.float64)
    x = schedule.add_noise(x0, noise, t)
    alpha, sigma = schedule.weights(t, x)
    guess = x0 + error
    eps = (x - alpha * guess) / sigma                   # what says that x0 is `guess`
    told = {"x0": guess, "eps": eps, "v": alpha * eps - sigma * guess}
    losses = {name: diffusion_loss(answer.float(), schedule.target(x0, noise, t, name).float(),
                                   min_snr_weight(alpha_bar, name)) for name, answer in told.items()}
    snr = alpha_bar / (1 - alpha_bar)
    assert snr.min() < 5 < snr.max()
    expected = (snr.clamp(max=5).float() * error.float().square().mean((1, 2, 3))).mean()
    for name in told:
        torch.testing.assert_close(losses[name], expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_min_snr_is_finite_at_both_ends(prediction):
    weight = min_snr_weight(torch.tensor([0.0, 2**-24, 1.0], dtype=torch.float64), prediction, 5.0)
    assert weight.isfinite().all() and (weight >= 0).all()
    assert weight[-1] == {"eps": 0, "v": 0, "x0": 5}[prediction]
    assert weight[0] == {"eps": 1, "v": 0, "x0": 0}[prediction]


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


def test_constant_rises_then_stays():
    assert [constant(step, 100, 4) for step in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1, 1, 1]
    assert constant(0, 100, 0) == 1


def test_normalized_latents_have_unit_statistics_and_change_no_picture(shapes, vae):
    images = ImageFolder(shapes, 64).batch(range(24)).double()
    vae.double()                                        # so that rounding does not hide a mistake
    with torch.no_grad():
        before = vae(images)
        deviation = vae.encode(images).logvar.exp().sqrt() / vae.encode(images).mean.std((0, 2, 3), keepdim=True)
    normalize_latents(vae, images.split(5))
    z = encode(vae, images)
    assert z.mean((0, 2, 3)).abs().max() < 1e-4
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-4)
    with torch.no_grad():
        posterior = vae.encode(images)
        torch.testing.assert_close(vae.decode(posterior.mean), before, rtol=0, atol=1e-9)
        after = posterior.logvar.exp().sqrt() / posterior.mean.std((0, 2, 3), keepdim=True)
    torch.testing.assert_close(after, deviation, rtol=1e-3, atol=0)     # the noise is scaled with the mean


def test_latents_are_cached_for_one_vae(shapes, vae, tmp_path, monkeypatch):
    data, path = ImageFolder(shapes, 64), tmp_path / "latents.safetensors"
    first = cached_latents(path, vae, data, ALONE)
    assert first.shape == (24, 4, 8, 8) and first.dtype == torch.float16
    torch.testing.assert_close(first.float(), encode(vae, data.batch(range(24))), rtol=1e-3, atol=1e-3)
    encode_, calls = vae.encode, []
    monkeypatch.setattr(vae, "encode", lambda x: calls.append(len(x)) or encode_(x))
    assert torch.equal(cached_latents(path, vae, data, ALONE), first) and not calls
    with torch.no_grad():
        vae.encoder.quant.bias += 1
    assert not torch.equal(cached_latents(path, vae, data, ALONE), first) and sum(calls) == 24
    part = cached_latents(path, vae, data.only([3, 4]), ALONE)
    assert part.shape == (2, 4, 8, 8)


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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_losses_that_diverged_stop_the_run(tmp_path, value):
    losses = Losses(tmp_path / "losses.csv", ["loss"])
    losses.add(10, 0.5)
    with pytest.raises(ValueError, match=f"the loss at step 20 is {value}: training has diverged"):
        Losses(tmp_path / "both.csv", ["train", "held out"]).add(20, 0.3, value)
    with pytest.raises(ValueError, match=f"the loss at step 20 is {value}: training has diverged"):
        losses.add(20, value)
    assert (tmp_path / "losses.csv").read_text().splitlines() == ["step,loss", "10,0.5"]


def test_losses_and_samples_go_to_tensorboard(tmp_path):
    """Read back by TensorBoard itself; what an interrupted run wrote after `start` is not shown."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = Losses(tmp_path / "losses.csv", ["train", "held out"], tmp_path / "board")
    for step in (0, 10, 20):
        first.add(step, 1.0, 2.0 + step)
    again = Losses(tmp_path / "losses.csv", ["train", "held out"], tmp_path / "board", start=10)
    again.add(20, 0.25, 0.5)
    again.show(20, Image.new("RGB", (5, 4), (255, 0, 0)))
    for losses in (first, again):
        losses.board.close()
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss/held out")] == [(0, 2.0), (20, 0.5)]
    [shown] = board.Images("samples")
    assert (shown.step, shown.width, shown.height) == (20, 5, 4)
    with Image.open(tmp_path / "samples.png") as image:
        assert image.size == (5, 4)


@pytest.mark.parametrize("missing", ["matplotlib", "tensorboard"])
def test_losses_say_at_once_what_is_not_installed(tmp_path, monkeypatch, missing):
    monkeypatch.setattr("ldm.training.progress.find_spec", lambda name: None if name == missing else name)
    with pytest.raises(ValueError, match=rf"needs {missing}; try pip install 'ldm\[train\]'"):
        Losses(tmp_path / "losses.csv", ["loss"], tmp_path / "board")
    if missing == "tensorboard":
        Losses(tmp_path / "losses.csv", ["loss"])       # which does without


def test_grid_lays_pictures_out_in_rows():
    colors = [(i, 0, 0) for i in range(5)]
    sheet = grid([Image.new("RGB", (4, 3), color) for color in colors], columns=3, gap_px=1)
    assert sheet.size == (16, 9)
    assert [sheet.getpixel((1 + n % 3 * 5, 1 + n // 3 * 4)) for n in range(5)] == colors
    assert sheet.getpixel((0, 0)) == sheet.getpixel((11, 5)) == (255, 255, 255)
