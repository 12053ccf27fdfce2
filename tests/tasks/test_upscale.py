"""Upscaling: enlarge and redraw, and tiles that leave no seam and bound the memory."""

import json

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from ldm import Pipeline
from ldm.images import digest
from ldm.tasks import Colorizer, Enlarger, TiledUNet, enlarge, tiled
from ldm.unet import UNetConfig

FAST = {"steps": 4}


def last_latents(pipe: Pipeline, *args, **settings) -> Tensor:
    *_, last = pipe.steps(*args, **settings)
    return last.z


class Map(nn.Module):
    """In the UNet's place: any map of x, the same under every context; keeps what it was given."""

    def __init__(self, f):
        super().__init__()
        self.f, self.seen, self.cfg = f, [], UNetConfig()
        self.conv_in = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor, t: Tensor, context: Tensor, labels: Tensor | None = None) -> Tensor:
        self.seen.append(x)
        return torch.cat([self.f(x)] * (len(context) // len(x)))


def apply(network: nn.Module, x: Tensor) -> Tensor:
    return network(x, torch.tensor([5.0]), torch.zeros(len(x), 77, 64))


def test_enlarge_is_lanczos(photo):
    image = photo(13, 9)
    big = enlarge(image, 2.5)
    assert big.size == (32, 22) and big.tobytes() == image.resize((32, 22), Image.Resampling.LANCZOS).tobytes()
    assert enlarge(image, 1).tobytes() == image.tobytes()
    assert enlarge(image.convert("RGBA"), 2).mode == "RGB"


@pytest.mark.parametrize("scale", [0.5, 17, float("nan")])
def test_enlarge_refuses_a_scale_out_of_range(pipe, photo, scale):
    for refused in (lambda: enlarge(photo(), scale), lambda: Enlarger(pipe, scale)):
        with pytest.raises(ValueError, match=r"scale \S+ is outside 1..16"):
            refused()


def test_enlarger_redraws_the_enlarged_picture(pipe, photo):
    image, settings = photo(30, 21), {"strength": 0.5, "seed": 3, **FAST}
    [big] = Enlarger(pipe, 2.0)("a cat", image=image, **settings)
    [expected] = pipe("a cat", image=enlarge(image, 2), **settings)
    assert big.size == (60, 42) and big.tobytes() == expected.tobytes()
    told = json.loads(big.info["ldm"])
    assert (told["task"], told["scale"], told["image_sha256"]) == ("upscale", 2.0, digest(image))


def test_enlarger_refuses_what_it_cannot_do(pipe, photo):
    for wrong in ({}, {"image": photo(), "mask": photo()}, {"image": photo(), "width": 64}):
        with pytest.raises(ValueError, match="enlarged as a whole, by the scale; give image, but no mask, width"):
            Enlarger(pipe, 2)("a cat", **wrong)


@pytest.mark.parametrize(("size", "tile"), [((20, 33), 8), ((8, 8), 8), ((5, 40), 16), ((31, 31), 4)])
def test_tiles_weights_sum_to_one(size, tile):
    """Each square says 1 everywhere; and one that says what it is given gives the picture back."""
    x = torch.randn(2, 4, *size)
    assert_close(apply(TiledUNet(Map(torch.ones_like), tile), x), torch.ones_like(x), rtol=0, atol=1e-6)
    assert_close(apply(TiledUNet(Map(lambda part: part), tile), x), x, rtol=0, atol=1e-6)


def test_tiles_blend_smoothly():
    """Squares that disagree as much as can be: each says a number of its own.  Between two neighbours lie 8 latents of
    overlap; pasted side by side they would differ by up to 1 from one latent to the next."""
    values = iter(torch.rand(100, generator=torch.Generator().manual_seed(0)))
    network = Map(lambda part: torch.full_like(part, next(values).item()))
    blended = apply(TiledUNet(network, 32), torch.zeros(1, 4, 80, 80))
    assert blended.std() > 0.1
    for direction in (2, 3):
        assert blended.diff(dim=direction).abs().max() < 0.25


def test_tiles_are_cut_from_one_field_of_noise(pipe):
    """What a square sees of the first noise is what the whole picture has there, so neighbours see the same."""
    whole = pipe.unet = Map(torch.clone)
    next(pipe.steps("a cat", width=160, height=96, guidance=1, **FAST))
    pipe.unet = Map(torch.clone)
    task = tiled(pipe, 64)
    next(task.steps("a cat", width=160, height=96, guidance=1, **FAST))
    field, parts = whole.seen[0], pipe.unet.seen
    assert field.shape[2:] == (12, 20) and len(parts) == 2 * 3
    corners = [(top, left) for top in (0, 4) for left in (0, 6, 12)]
    for (top, left), part in zip(corners, parts, strict=True):
        assert torch.equal(part, field[:, :, top : top + 8, left : left + 8])


def test_tiled_pipeline_is_exact_for_a_network_that_looks_nowhere_else(pipe, photo):
    image, settings = photo(100, 76), {"strength": 0.6, "steps": 6, "seed": 2}
    pipe.unet = Map(torch.tanh)
    whole = last_latents(pipe, "a cat", image=image, **settings)
    assert_close(last_latents(tiled(pipe, 48), "a cat", image=image, **settings), whole, rtol=0, atol=1e-5)


def test_tiled_pipeline_is_exact_for_one_tile(pipe, photo):
    """With guidance; the UNet is a real one.  Measured 2.6e-6, of 6."""
    whole = last_latents(pipe, "a cat", image=photo(), **FAST)
    assert_close(last_latents(tiled(pipe, 64), "a cat", image=photo(), **FAST), whole, rtol=0, atol=1e-4)


def test_tiled_pipeline_stays_near_the_whole(pipe):
    """A real UNet, whose attention and norms see one square only.  Measured 0.10."""
    settings = {"width": 160, "height": 128, **FAST}
    whole = last_latents(pipe, "a cat", **settings)
    far = last_latents(pipe, "a cat", seed=1, **settings)
    near = last_latents(tiled(pipe, 64), "a cat", **settings)
    assert (near - whole).std() < 0.2 * (far - whole).std()


def most_seen(pipe: Pipeline, image: Image.Image) -> list[int]:
    """The largest input, in numbers, of UNet, encoder and decoder."""
    most = [0, 0, 0]

    def watch(i: int):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            most[i] = max(most[i], inputs[0].numel())
        return hook

    hooks = [module.register_forward_pre_hook(watch(i))
             for i, module in enumerate((pipe.unet, pipe.vae.encoder, pipe.vae.decoder))]
    [result] = tiled(pipe, 64)("a cat", image=image, strength=0.5, steps=4, tile=64)
    for hook in hooks:
        hook.remove()
    assert result.size == image.size
    return most


def test_tiled_pipeline_never_sees_more_than_a_tile(pipe, photo):
    """So what the networks take does not depend on the size of the picture."""
    small, large = (most_seen(pipe, photo(*size)) for size in ((100, 90), (300, 170)))
    assert small == large == [4 * 8 * 8, 3 * 64 * 64, 4 * 8 * 8]


def test_tiled_pipeline_says_so_and_joins_other_tasks(pipe, photo):
    [picture] = Colorizer(tiled(pipe, 32))("a cat", image=photo(), tile=32, **FAST)
    told = json.loads(picture.info["ldm"])
    assert (told["unet_tile"], told["tile"], told["task"]) == (32, 32, "colorize")


def test_tiled_pipeline_refuses_wrong_tiles_and_a_cache(pipe):
    for tile in (30, 24):
        with pytest.raises(ValueError, match=f"tile {tile} is not a multiple of 8, 32 or more"):
            tiled(pipe, tile)
    with pytest.raises(ValueError, match="tiles go neither with a cache nor with a ControlNet"):
        tiled(pipe, 32)("a cat", cache=2, **FAST)
