"""The KL autoencoder of latent diffusion: pictures to latents and back."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.vae.blocks import EPS, DownStage, Mid, UpStage
from ldm.vae.tiling import MIN_TILE, map_tiles


@dataclass(frozen=True)
class VAEConfig:
    """Shape of a VAE; the defaults are Stable Diffusion's (CompVis configs/stable-diffusion/v1-inference.yaml)."""

    image_channels: int = 3
    latent_channels: int = 4
    channels: int = 128                             # width at full resolution, a multiple of `groups`
    multipliers: tuple[int, ...] = (1, 2, 4, 4)     # width of each level over `channels`; each but the first halves
    res_blocks: int = 2                             # per level in the encoder, one more in the decoder
    groups: int = 32                                # of every GroupNorm; small models need fewer: with one channel to
                                                    # a group, normalisation loses a picture's mean color
    scale_factor: float = 0.18215                   # latents the UNet sees = posterior x scale_factor

    def __post_init__(self):
        for width in self.widths:
            if width % self.groups:
                raise ValueError(f"width {width} is not a multiple of groups {self.groups}; choose another")

    @property
    def factor(self) -> int:
        """Pixels per latent, along each side."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def widths(self) -> list[int]:
        return [self.channels * m for m in self.multipliers]


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian over raw latents.  mean, logvar [B 4 h w].  Kingma & Welling 2014."""

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.logvar)

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std x noise, with noise [B 4 h w] of unit variance."""
        return self.mean + self.std * noise

    def mode(self) -> Tensor:
        return self.mean

    def kl(self) -> Tensor:
        """KL divergence to the unit Gaussian, summed over each latent -> [B], in nats."""
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1 - self.logvar).sum(dim=(1, 2, 3))


class Encoder(nn.Module):
    """Image [B 3 H W] -> the posterior's moments [B 2x4 H/8 W/8]."""

    def __init__(self, cfg: VAEConfig):
        super().__init__()
        self.conv_in = nn.Conv2d(cfg.image_channels, cfg.channels, 3, padding=1)
        self.down = nn.Sequential()
        c = cfg.channels
        for level, width in enumerate(cfg.widths):
            self.down.append(DownStage(c, width, cfg.res_blocks, cfg.groups, last=level == len(cfg.widths) - 1))
            c = width
        self.mid = Mid(c, cfg.groups)
        self.norm_out = nn.GroupNorm(cfg.groups, c, EPS)
        self.conv_out = nn.Conv2d(c, 2 * cfg.latent_channels, 3, padding=1)
        self.quant = nn.Conv2d(2 * cfg.latent_channels, 2 * cfg.latent_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.mid(self.down(self.conv_in(x)))
        return self.quant(self.conv_out(F.silu(self.norm_out(h), inplace=True)))


class Decoder(nn.Module):
    """Raw latents [B 4 h w] -> image [B 3 8h 8w]."""

    def __init__(self, cfg: VAEConfig):
        super().__init__()
        c = cfg.widths[-1]
        self.post_quant = nn.Conv2d(cfg.latent_channels, cfg.latent_channels, 1)
        self.conv_in = nn.Conv2d(cfg.latent_channels, c, 3, padding=1)
        self.mid = Mid(c, cfg.groups)
        self.up = nn.Sequential()
        for level, width in reversed(list(enumerate(cfg.widths))):
            self.up.append(UpStage(c, width, cfg.res_blocks + 1, cfg.groups, last=level == 0))
            c = width
        self.norm_out = nn.GroupNorm(cfg.groups, c, EPS)
        self.conv_out = nn.Conv2d(c, cfg.image_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.up(self.mid(self.conv_in(self.post_quant(z))))
        return self.conv_out(F.silu(self.norm_out(h), inplace=True))


class VAE(nn.Module):
    """Kullback-Leibler autoencoder.  Rombach et al. 2022, sec. 3.1; CompVis ldm/models/autoencoder.py, AutoencoderKL.

    Computes in the dtype of its weights and returns the dtype of its input.
    """

    def __init__(self, cfg: VAEConfig = VAEConfig()):  # noqa: B008  (frozen, so safe as a default)
        super().__init__()
        self.cfg = cfg
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg)

    def check_encoder(self) -> None:
        """Raises ValueError where a VAE has no encoder; this one has."""

    def encode(self, image: Tensor, tile: int | None = None) -> Posterior:
        """Image [B 3 H W] in [-1, 1] -> Posterior over raw latents [B 4 H/8 W/8].

        `tile` (pixels, a multiple of 8) encodes overlapping squares and blends them: less memory, approximate.
        Raises ValueError where the image has not 3 channels, H or W is not a multiple of 8, or the tile does not fit.
        """
        self.check_encoder()
        f = self.cfg.factor
        if image.ndim != 4 or image.shape[1] != self.cfg.image_channels:
            raise ValueError(f"image has shape {tuple(image.shape)}; the VAE encodes [B {self.cfg.image_channels} H W]")
        for side in image.shape[2:]:
            if side % f or side == 0:
                raise ValueError(f"image side {side} is not a multiple of {f}; pad it to {-(-side // f) * f or f}")
        x = image.to(self.encoder.conv_in.weight.dtype)
        moments = self.encoder(x) if tile is None else map_tiles(self.encoder, x, self._tile(tile), down=f)
        mean, logvar = moments.to(image.dtype).chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30, 20))

    def decode(self, z: Tensor, tile: int | None = None) -> Tensor:
        """Raw latents [B 4 h w] -> image [B 3 8h 8w], about [-1, 1] (not clamped).

        `tile` (pixels, a multiple of 8) decodes overlapping squares and blends them: less memory, approximate.
        Raises ValueError where z has not 4 channels or the tile does not fit.
        """
        if z.ndim != 4 or z.shape[1] != self.cfg.latent_channels:
            raise ValueError(f"latents have shape {tuple(z.shape)}; the VAE decodes [B {self.cfg.latent_channels} h w]")
        h = z.to(self.decoder.conv_in.weight.dtype)
        image = self.decoder(h) if tile is None else map_tiles(self.decoder, h, self._tile(tile), up=self.cfg.factor)
        return image.to(z.dtype)

    def _tile(self, tile: int) -> int:
        """A tile's side in latents."""
        f = self.cfg.factor
        if tile % f or tile < MIN_TILE * f:
            raise ValueError(f"tile {tile} is not a multiple of {f}, {MIN_TILE * f} or more; try {64 * f}")
        return tile // f

    def forward(self, image: Tensor) -> Tensor:
        """Encode to the posterior's mean and decode it: the reconstruction [B 3 H W]."""
        return self.decode(self.encode(image).mode())
