"""Steps of training, as scripts/train_unet.py takes them: latents in memory, bfloat16 autocast, AdamW, EMA.

Every function here returns what a worker times.  `size` is the picture's side in pixels.
"""

from typing import Literal

import torch
from networks import Call
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.flop_counter import FlopCounterMode

from ldm.text import CLIPText, CLIPTextConfig
from ldm.training.activations import recompute
from ldm.training.ema import EMA
from ldm.training.losses import diffusion_loss
from ldm.unet import UNet, UNetConfig
from ldm.unet.blocks import ResBlock, TransformerBlock

Model = Literal["small", "sd15"]
TOKENS = 77                                             # of a caption
FACTOR = 8                                              # pixels of a latent's side
WORDS = 1500                                            # that a small model knows


class TextToNoise(nn.Module):
    """UNet and text encoder, trained together; Stable Diffusion 1.5's UNet alone, for its text encoder is frozen."""

    def __init__(self, model: Model, width: int):
        super().__init__()
        small = UNetConfig(channels=width, multipliers=(1, 2, 3), res_blocks=1, attn_levels=(True, True, True),
                           cross_only=(False, False, False), context_width=256, heads=4, groups=16)
        self.unet = UNet(small if model == "small" else UNetConfig())
        self.text = CLIPText(CLIPTextConfig(vocab=WORDS, width=256, layers=2)) if model == "small" else None
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, context: Tensor) -> Tensor:
        return self.unet(x, t, self.text(ids) if self.text else context)


def inputs(net: TextToNoise, batch: int, size: int, device: str = "cpu") -> tuple[Tensor, ...]:
    """Noisy latents, timesteps, token ids, contexts for where there is no text encoder."""
    side, width = size // FACTOR, net.unet.cfg.context_width
    with torch.device(device):
        return (torch.randn(batch, 4, side, side), torch.arange(batch) * 1000 // batch,
                torch.zeros(batch, TOKENS, dtype=torch.long), torch.randn(batch, TOKENS, width))


def step(model: Model, width: int, batch: int, size: int, checkpointing: bool) -> Call:
    """One step; of Stable Diffusion 1.5 forward and backward alone, for its optimizer's state would not fit."""
    torch.manual_seed(0)
    net = TextToNoise(model, width)
    if checkpointing:
        recompute(net, (ResBlock, TransformerBlock))
    given = inputs(net, batch, size)
    opt = torch.optim.AdamW(net.parameters(), fused=True) if model == "small" else None
    ema = EMA(net, 0.999) if model == "small" else None

    def call() -> None:
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            predicted = net(*given)
        diffusion_loss(predicted, torch.ones_like(predicted)).backward()
        if opt and ema:
            clip_grad_norm_(net.parameters(), 1.0)
            opt.step()
            ema.update(net)
    return call


def flops(model: Model, width: int, batch: int, size: int, checkpointing: bool) -> Call:
    """Count the nominal operations of such a step, without what checkpointing computes again.

    Of Stable Diffusion 1.5 on the meta device; the small text encoder wants to see its ids.
    """
    device = "cpu" if model == "small" else "meta"
    with torch.device(device):
        net = TextToNoise(model, width)
    given = inputs(net, 1, size, device)

    def count() -> dict[str, float]:
        with FlopCounterMode(display=False) as counter:
            net(*given).sum().backward()
        return {"flops": batch * counter.get_total_flops(), "parameters": sum(p.numel() for p in net.parameters())}
    return count
