"""ControlNets: against diffusers', what they share and see, and when they act."""

import warnings

import pytest
import torch
from controlnet_files import official, same
from PIL import Image
from randomise import randomise
from relative_error import relative_error
from torch import Tensor, nn
from unet.conftest import TINY, inputs, reference

from ldm.plugins import Control, Controlled, ControlNet, load_controlnet
from ldm.samplers import SAMPLERS, Denoiser, Schedule
from ldm.unet import UNet

SCHEDULE = Schedule()
SIGMAS = SCHEDULE.sigmas(10, "leading")


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    g = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(256, (height, width, 3), generator=g, dtype=torch.uint8).numpy())


def controlled(unet: UNet, *controls: Control, size: tuple[int, int], sigmas: list[float] = SIGMAS) -> Controlled:
    return Controlled(unet, controls, sigmas, SCHEDULE, size)


@pytest.fixture(scope="module")
def unet() -> UNet:
    return randomise(UNet(TINY["sd1"]))


@pytest.fixture(scope="module")
def net(unet: UNet) -> ControlNet:
    return randomise(ControlNet(unet.cfg))


@pytest.fixture(scope="module")
def diffusers_net() -> nn.Module:
    """diffusers' ControlNet for a UNet of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                 # of third-party modules at import
        from diffusers import ControlNetModel
    return ControlNetModel


def their_output(theirs: nn.Module, nets: list[tuple[nn.Module, Tensor, float]], x: Tensor, t: Tensor,
                 context: Tensor) -> Tensor:
    """diffusers' UNet with the sum of its ControlNets' residuals, as its MultiControlNetModel makes it."""
    found = [net(x, t, context, hint, scale, return_dict=False) for net, hint, scale in nets]
    down = [sum(parts) for parts in zip(*(down for down, _ in found), strict=True)]
    return theirs(x, t, context, down_block_additional_residuals=down,
                  mid_block_additional_residual=sum(mid for _, mid in found)).sample


@pytest.mark.parametrize("size", [(16, 24), (17, 25)])
@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_controlnet_equals_diffusers(name, size, diffusers_net, tmp_path, parity):
    """One, and two together, from the folders that diffusers writes and, renamed, from an official file."""
    unet = randomise(UNet(TINY[name]))
    theirs, (height, width) = reference(unet), size
    nets, controls, hints = [], [], []
    for i, strength in enumerate((0.7, 1.3)):
        torch.manual_seed(i)
        their_net = diffusers_net.from_unet(theirs, load_weights_from_unet=False).eval().requires_grad_(False)
        for parameter in their_net.parameters():
            nn.init.normal_(parameter, std=max(parameter[0].numel(), 16) ** -0.5)
        their_net.save_pretrained(tmp_path / f"{i}")
        net = load_controlnet(tmp_path / f"{i}", unet)
        controls.append(Control(net, picture(8 * width, 8 * height, i), strength))
        hints.append(controls[-1].hint((8 * width, 8 * height)))
        nets.append((their_net, hints[-1], strength))
        again = load_controlnet(official(net, tmp_path / f"{i}.safetensors"), unet)
        assert same(again, net)
    x, t, context = inputs(unet.cfg, height, width)
    for n, told in ((1, "one"), (2, "two")):
        ours = controlled(unet, *controls[:n], size=(8 * width, 8 * height))(x, t, context)
        expected = their_output(theirs, nets[:n], x, t, context)
        assert (expected - unet(x, t, context)).abs().max() > 0.1 * expected.abs().max()
        parity(f"ControlNet, {told}, {name}", "diffusers", relative_error(ours, expected), 1e-5)


def test_controlled_unet_shares_what_the_conditions_share(unet, net):
    """Batch 2, three contexts each: as one after the other."""
    x, t, context = inputs(unet.cfg, 8, 10, contexts=3)
    network = controlled(unet, Control(net, picture(80, 64)), size=(80, 64))
    together = network(x, t, context)
    apart = torch.cat([network(x, t, one) for one in context.chunk(3)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)
    one, two = network(x, t[:1], context), network(x, t[:1].repeat(2), context)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_controlled_unet_is_the_unet_where_nothing_acts(unet, net):
    x, t, context = inputs(unet.cfg, 8, 10)
    plain = unet(x, t, context)
    assert torch.equal(controlled(unet, size=(80, 64))(x, t, context), plain)
    assert torch.equal(controlled(unet, Control(net, picture(80, 64), 0.0), size=(80, 64))(x, t, context), plain)
    zeroed = randomise(ControlNet(unet.cfg))            # as training starts
    for layer in (*zeroed.zeros, zeroed.zero_mid):
        layer.weight.zero_(), layer.bias.zero_()
    assert torch.equal(controlled(unet, Control(zeroed, picture(80, 64)), size=(80, 64))(x, t, context), plain)


def test_controlnet_does_not_look_at_the_channels_of_a_mask(net):
    inpainting = randomise(UNet(TINY["inpainting"]))
    x, t, context = inputs(inpainting.cfg, 8, 10)
    network = controlled(inpainting, Control(net, picture(80, 64)), size=(80, 64))
    assert network(x, t, context).isfinite().all()
    seen = net.look(network.controls[0].hint((80, 64)))
    (first, *_), _ = net(x, t, context, seen)
    assert torch.equal(first, net(x[:, :4], t, context, seen)[0][0])


class Counting(ControlNet):
    """Knows the timesteps at which it was called."""

    def forward(self, x, t, context, seen):
        self.called.append(t[0].item())
        return super().forward(x, t, context, seen)


@pytest.mark.parametrize("spacing", ["leading", "karras", "linspace"])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.2, 0.6), (0.0, 0.35), (0.5, 1.0), (0.25, 0.75), (0.9, 1)])
def test_control_acts_in_the_steps_of_its_share(start, end, spacing, unet):
    """Step i of n where diffusers' pipelines keep it: i / n >= start and (i + 1) / n <= end."""
    net = randomise(Counting(unet.cfg))
    net.called = []
    sigmas = SCHEDULE.sigmas(10, spacing)
    network = controlled(unet, Control(net, picture(16, 16), 1.0, start, end), size=(16, 16), sigmas=sigmas)
    context = torch.randn(1, 7, 24)
    steps: list[bool] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        before = len(net.called)
        out = Denoiser(network, SCHEDULE)(x, sigma, context)
        steps.append(len(net.called) > before)
        return out

    for _ in SAMPLERS["euler"](denoise, torch.randn(1, 4, 2, 2), sigmas, torch.randn_like):
        pass
    assert steps == [not (i / 10 < start or (i + 1) / 10 > end) for i in range(10)]


def test_control_acts_up_to_its_last_step_between_the_levels_too(unet):
    """Heun evaluates at the next level: that belongs to the next step."""
    net = randomise(Counting(unet.cfg))
    net.called = []
    network = controlled(unet, Control(net, picture(16, 16), 1.0, 0.0, 0.5), size=(16, 16))
    denoiser, context = Denoiser(network, SCHEDULE), torch.randn(1, 7, 24)
    for _ in SAMPLERS["heun"](lambda x, sigma: denoiser(x, sigma, context), torch.randn(1, 4, 2, 2), SIGMAS,
                              torch.randn_like):
        pass
    levels = [round(SCHEDULE.timestep(sigma)) for sigma in SIGMAS[:5]]
    assert sorted({round(t) for t in net.called}, reverse=True) == levels


@pytest.mark.parametrize(("settings", "message"), [
    ({"strength": -1}, r"strength -1 is outside 0\.\.10; try 0"), ({"start": 1.5}, r"start 1.5 is outside 0\.\.1"),
    ({"end": -0.1}, r"end -0.1 is outside 0\.\.1"), ({"start": 0.5, "end": 0.5}, "start 0.5 is not below end 0.5"),
])
def test_control_checks_its_settings(settings, message, net):
    with pytest.raises(ValueError, match=message):
        Control(net, picture(8, 8), **settings)


def test_control_that_would_never_act_is_refused(net, unet):
    with pytest.raises(ValueError, match="from 0.91 to 0.99 acts in none of 10 steps; widen that, or take more steps"):
        controlled(unet, Control(net, picture(16, 16), 1.0, 0.91, 0.99), size=(16, 16))


def test_hint_is_the_picture_in_0_to_1(net):
    image = picture(24, 16)
    pixels = torch.tensor(list(image.tobytes())).reshape(1, 16, 24, 3).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(Control(net, image).hint((24, 16)), pixels, rtol=0, atol=1e-6)
    assert Control(net, image.convert("L")).hint((24, 16)).shape == (1, 3, 16, 24)
    red = Control(net, Image.new("RGBA", (50, 30), (255, 0, 0, 255))).hint((20, 12))
    assert red.shape == (1, 3, 16, 24) and torch.equal(red, torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand_as(red))


def test_hint_of_a_part_is_the_part_of_the_picture(net):
    image = picture(40, 32)
    part = Control(net, image.crop((10, 8, 30, 24))).hint((20, 16))
    assert torch.equal(Control(net, image).hint((20, 16), (0.25, 0.25, 0.75, 0.75)), part)
