"""The tiny autoencoder: against diffusers' AutoencoderTiny, and as a stand-in for the VAE."""

import re

import pytest
import torch
from randomise import randomise
from relative_error import relative_error
from torch import nn
from torch.testing import assert_close

from ldm.prepare import prepare
from ldm.vae import VAE, TinyVAE, TinyVAEConfig
from ldm.vae.tiny_names import config_from, rows

CONFIGS = {"narrow": TinyVAEConfig(channels=8), "16 latent channels": TinyVAEConfig(latent_channels=16, channels=8)}
OFFICIAL, DIFFUSERS = 1, 2


@pytest.fixture
def tiny() -> TinyVAE:
    return randomise(TinyVAE(CONFIGS["narrow"])).eval()


def named(vae: TinyVAE, column: int) -> dict[str, torch.Tensor]:
    """Its weights by the names of one column."""
    names = {row[0]: row[column] for row in rows(vae.cfg)}
    split = ((*name.rpartition("."), tensor) for name, tensor in vae.state_dict().items())
    return {f"{names[module]}.{parameter}": tensor for module, _, parameter, tensor in split}


def reference(vae: TinyVAE) -> nn.Module:
    from diffusers import AutoencoderTiny

    widths = (vae.cfg.channels,) * 4
    with torch.device("meta"):
        theirs = AutoencoderTiny(latent_channels=vae.cfg.latent_channels, encoder_block_out_channels=widths,
                                 decoder_block_out_channels=widths)
    theirs.load_state_dict(named(vae, DIFFUSERS), assign=True)
    return theirs.eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(64, 96), (72, 40)])
@pytest.mark.parametrize("name", CONFIGS)
def test_tiny_vae_equals_diffusers(name, size, parity):
    vae = randomise(TinyVAE(CONFIGS[name])).eval()
    theirs, g = reference(vae), torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, *size, generator=g) * 2 - 1
    z = 2 * torch.randn(2, vae.cfg.latent_channels, size[0] // 8, size[1] // 8, generator=g)
    parity(f"TAESD, {name}, encoder", "diffusers",
           relative_error(vae.encode(image).mean, theirs.encode(image).latents), 1e-5)
    parity(f"TAESD, {name}, decoder", "diffusers", relative_error(vae.decode(z), theirs.decode(z).sample), 1e-5)


def test_tiny_vae_has_the_published_number_of_parameters():
    """madebyollin/taesd: 1.2 million in each half."""
    with torch.device("meta"):
        vae = TinyVAE()
    sizes = [sum(p.numel() for p in half.parameters()) for half in (vae.encoder, vae.decoder)]
    assert sizes == [1_222_532, 1_222_531]


def test_official_names_are_places_in_a_sequence(tiny):
    """The decoder's are those of diffusers plus one, for its clamp."""
    official, diffusers = named(tiny, OFFICIAL), named(tiny, DIFFUSERS)
    places = {half: sorted({int(name.split(".")[1]) for name in official if name.startswith(half)})
              for half in ("encoder", "decoder")}
    assert places == {"encoder": [*range(15)], "decoder": [1, 3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 15, 17, 18, 19]}
    def later(name: str) -> str:
        return re.sub(r"decoder\.layers\.(\d+)", lambda m: f"decoder.{int(m[1]) + 1}", name).replace(".layers.", ".")
    assert [later(name) for name in diffusers] == list(official)
    assert "encoder.2.bias" not in official and "decoder.19.bias" in official


@pytest.mark.parametrize("column", [OFFICIAL, DIFFUSERS], ids=["official", "diffusers"])
@pytest.mark.parametrize("cfg", [*CONFIGS.values(), TinyVAEConfig(encodes=False)])
def test_config_from_reads_the_shapes_that_rows_name(cfg, column):
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in named(TinyVAE(cfg), column).items()}
    assert config_from(shapes) == cfg
    with pytest.raises(KeyError, match="decoder"):
        config_from({name: shape for name, shape in shapes.items() if not name.startswith("decoder")})


def test_tiny_vae_stands_in_for_a_vae(tiny):
    """The same methods, and latents that are scaled already: factor 1 between them and the UNet's."""
    assert isinstance(tiny, VAE) and (tiny.cfg.factor, tiny.cfg.scale_factor) == (8, 1.0)
    image = torch.rand(1, 3, 32, 48) * 2 - 1
    posterior = tiny.encode(image)
    assert posterior.mean.shape == (1, 4, 4, 6) and posterior.std.max() < 1e-6
    assert torch.equal(tiny(image), tiny.decode(posterior.mean))
    with pytest.raises(ValueError, match="image side 30 is not a multiple of 8; pad it to 32"):
        tiny.encode(image[..., :30])
    with pytest.raises(ValueError, match=r"latents have shape \(1, 3, 4, 6\); the VAE decodes \[B 4 h w\]"):
        tiny.decode(posterior.mean[:, :3])


def test_latents_far_outside_are_squeezed(tiny):
    """Beyond 3 they hardly change the picture, which keeps previews of noise in sight."""
    far, further = tiny.decode(torch.full((1, 4, 2, 2), 20.0)), tiny.decode(torch.full((1, 4, 2, 2), 200.0))
    assert_close(far, further, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernels", ["plain", "portable", "auto"])
def test_tiny_vae_is_prepared_as_the_vae(tiny, kernels):
    image, z = torch.rand(1, 3, 64, 64), torch.randn(1, 4, 9, 7)
    latents, pixels = tiny.encode(image).mean, tiny.decode(z)
    wide = randomise(TinyVAE(TinyVAEConfig(channels=32)))           # as wide as convolutions that are packed
    expected = wide.decode(z)
    for vae in (tiny, wide):
        prepare(vae, kernels)
    assert_close(tiny.encode(image).mean, latents, rtol=1e-4, atol=1e-4)
    assert_close(tiny.decode(z), pixels, rtol=1e-4, atol=1e-4)
    assert relative_error(wide.decode(z), expected) < 1e-5


def test_tiles_cover_the_picture(tiny):
    z = torch.randn(1, 4, 24, 17)
    whole, tiled = tiny.decode(z), tiny.decode(z, tile=128)
    assert tiled.shape == whole.shape
    assert_close(tiny.decode(z, tile=192), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tiny_vae_returns_the_dtype_of_its_input(dtype, tiny):
    """Weights and sums in 16 bits: a few per cent of the output's spread."""
    image, z = torch.rand(1, 3, 32, 48) * 2 - 1, torch.randn(1, 4, 8, 12)
    latents, decoded = tiny.encode(image).mean, tiny.decode(z)
    tiny.to(dtype)
    for ours, expected in ((tiny.encode(image).mean, latents), (tiny.decode(z), decoded)):
        assert ours.dtype == torch.float32
        assert (ours - expected).std() < 0.05 * expected.std()
    assert tiny.decode(z.to(dtype)).dtype == dtype


def test_gradients_reach_every_parameter(tiny):
    tiny.requires_grad_(True)
    tiny(torch.rand(2, 3, 16, 24)).square().mean().backward()
    for name, parameter in tiny.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_decoder_alone_decodes_and_says_that_it_cannot_encode():
    vae = TinyVAE(TinyVAEConfig(channels=8, encodes=False))
    assert vae.decode(torch.randn(1, 4, 2, 3)).shape == (1, 3, 16, 24)
    with pytest.raises(ValueError, match="is a decoder alone; give one with an encoder, or the model's VAE"):
        vae.encode(torch.zeros(1, 3, 16, 16))
