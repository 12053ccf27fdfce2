"""Networks of Stable Diffusion 1.5's shape with random weights, as this library, diffusers and OpenVINO run them.

Every function here returns what a worker times.  `kind` is "unet", one step with guidance (2 x batch rows), or "vae",
a decode; `size` is the picture's side in pixels.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ldm import native
from ldm.attention import KERNELS
from ldm.prepare import Kernels, prepare
from ldm.unet import UNet, UNetConfig
from ldm.vae import VAE, VAEConfig

Kind = Literal["unet", "vae"]
Call = Callable[[], Any]
UNET, VAE_DECODER = UNetConfig(), VAEConfig()           # the shapes that run: Stable Diffusion 1.5's
TOKENS = 77                                             # of a prompt


def inputs(kind: Kind, size: int, rows: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """x, t, context for the UNet; z for the decoder."""
    g = torch.Generator().manual_seed(0)
    side = size // VAE_DECODER.factor
    x = torch.randn(rows, UNET.in_channels, side, side, generator=g).to(dtype)
    if kind == "vae":
        return (x,)
    return x, torch.tensor([500.0]), torch.randn(rows, TOKENS, UNET.context_width, generator=g).to(dtype)


def materialise(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Give a module on the meta device weights in `dtype`: variance 1 / fan-in, norms 1, biases 0.

    Built so, no float32 copy is left in the peak of memory.
    """
    module = module.to(dtype).to_empty(device="cpu").requires_grad_(False).eval()
    g = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=g)
        else:
            parameter.fill_(float(name.endswith("weight")))
    return module


def own(kind: Kind) -> nn.Module:
    """Our network on the meta device."""
    with torch.device("meta"):
        return UNet(UNET) if kind == "unet" else VAE(VAE_DECODER)


def ldm(kind: Kind, size: int, batch: int, dtype: str, kernels: Kernels) -> Call:
    """Ours as `Pipeline.load` prepares it.  One row of x serves both halves of guidance, as in sampling."""
    module = materialise(own(kind), getattr(torch, dtype))
    prepare(module, kernels)
    if kind == "vae":
        (z,) = inputs(kind, size, batch, torch.float32)
        return torch.no_grad()(lambda: module.decode(z))
    x, t, context = inputs(kind, size, 2 * batch, torch.float32)
    return torch.no_grad()(lambda: module(x[:batch], t, context))


class PeerUNet(nn.Module):
    """diffusers' UNet of the same shape, called like ours with a row of x for each row of the context."""

    def __init__(self):
        super().__init__()
        self.net = diffusers_unet(UNET)

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.net(x, t, context, return_dict=False)[0]


class PeerDecoder(nn.Module):
    """diffusers' VAE of the same shape, of which the decoder is called."""

    def __init__(self):
        super().__init__()
        self.net = diffusers_vae(VAE_DECODER)

    def forward(self, z: Tensor) -> Tensor:
        return self.net.decode(z, return_dict=False)[0]


def peer(kind: Kind) -> nn.Module:
    """diffusers' network on the meta device."""
    with torch.device("meta"):
        return PeerUNet() if kind == "unet" else PeerDecoder()


def diffusers_unet(cfg: UNetConfig) -> nn.Module:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    return UNet2DConditionModel(
        in_channels=cfg.in_channels, out_channels=cfg.out_channels, block_out_channels=tuple(cfg.widths),
        layers_per_block=cfg.res_blocks, cross_attention_dim=cfg.context_width, norm_num_groups=cfg.groups,
        attention_head_dim=cfg.heads,                   # diffusers' name for the number of heads in this family
        down_block_types=tuple("CrossAttnDownBlock2D" if attn else "DownBlock2D" for attn in cfg.attn_levels),
        up_block_types=tuple("CrossAttnUpBlock2D" if attn else "UpBlock2D" for attn in reversed(cfg.attn_levels)))


def diffusers_vae(cfg: VAEConfig) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    levels = len(cfg.widths)
    return AutoencoderKL(
        in_channels=cfg.image_channels, out_channels=cfg.image_channels, latent_channels=cfg.latent_channels,
        block_out_channels=tuple(cfg.widths), layers_per_block=cfg.res_blocks, norm_num_groups=cfg.groups,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels)


def rows_of(kind: Kind, batch: int) -> int:
    """Rows that a peer computes for `batch` pictures: guidance doubles them in a step, not in a decode."""
    return 2 * batch if kind == "unet" else batch


def diffusers(kind: Kind, size: int, batch: int, dtype: str, channels_last: bool = False) -> Call:
    """diffusers in eager mode."""
    module = materialise(peer(kind), getattr(torch, dtype))
    if channels_last:
        module.to(memory_format=torch.channels_last)
    given = inputs(kind, size, rows_of(kind, batch), getattr(torch, dtype))
    return torch.no_grad()(lambda: module(*given))


def compiled(kind: Kind, size: int, rows: int, precision: str, cache: str) -> Callable[..., Tensor]:
    """diffusers' network in OpenVINO: static shapes, latency hint, as many threads as torch.

    `precision` is "bf16" or "f32".  Converted once, in another process so that its memory is not counted here.
    """
    import openvino
    path = Path(cache) / f"{kind}-{size}-{rows}.xml"
    if not path.exists():
        script = Path(__file__).with_name("convert.py")
        subprocess.run([sys.executable, str(script), kind, str(path), "--size", str(size), "--rows", str(rows)],
                       check=True)
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision,
             "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    model = openvino.Core().compile_model(path, "CPU", hints)
    return lambda *given: torch.from_numpy(model([x.float().numpy() for x in given])[0])


def openvino(kind: Kind, size: int, batch: int, precision: str, cache: str) -> Call:
    """OpenVINO at its best."""
    rows = rows_of(kind, batch)
    run, given = compiled(kind, size, rows, precision, cache), inputs(kind, size, rows, torch.float32)
    return lambda: run(*given)


def flops(kind: Kind, size: int, batch: int) -> Call:
    """Count the nominal floating point operations: our network without any saving, on the meta device."""
    module = own(kind).eval()
    given = [x.to("meta") for x in inputs(kind, size, rows_of(kind, batch), torch.float32)]

    def count() -> dict[str, int]:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(*given) if kind == "unet" else module.decode(*given)
        return {"flops": counter.get_total_flops()}
    return count


def matmul() -> Call:
    """The peak to compare with: a product of two 4096 x 4096 matrices in bfloat16."""
    a, b = torch.rand(2, 4096, 4096).bfloat16()
    return lambda: a @ b


def one_attention(shape: tuple[int, int, int, int, int], dtype: str, kernel: str) -> Call:
    """One kernel of `ldm.attention.KERNELS`.  shape: batch, heads, queries, keys, channels a head."""
    batch, heads, length, keys, width = shape
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, n, heads * width, generator=g).to(getattr(torch, dtype))
               for n in (length, keys, keys))
    if kernel == "native" and not native.available():
        raise RuntimeError("the compiled kernels are not built; run python -m ldm.native")
    return torch.no_grad()(lambda: KERNELS[kernel](q, k, v, heads))
