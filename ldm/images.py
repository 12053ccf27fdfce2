"""Pictures as Pillow images and as tensors [B 3 H W] in [-1, 1]."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_tensor(image: Image.Image) -> Tensor:
    """Pillow image -> [1 3 H W] float32 in [-1, 1]; transparency is laid on white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_images(x: Tensor) -> list[Image.Image]:
    """[B 3 H W] in [-1, 1] (clamped) -> Pillow images, rounded to 8 bits."""
    x = (x.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    return [Image.fromarray(a) for a in x.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()]
