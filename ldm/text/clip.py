"""CLIP's text transformer: token ids to one context vector per token."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.attention import attention
from ldm.text.tokenizer import EOS


@dataclass(frozen=True)
class CLIPTextConfig:
    """Shape of a CLIP text transformer; the defaults are ViT-L/14's, the text encoder of Stable Diffusion 1.x.

    Stable Diffusion 2 takes OpenCLIP's ViT-H/14 without its last layer: width 1024, 23 layers, `open_clip`.
    Raises ValueError where the width is not a multiple of 64, the channels of a head in every CLIP.
    """

    vocab: int = 49408                                  # 2 x 256 bytes, 48,894 merges, 2 special tokens
    length: int = 77                                    # tokens of a prompt, with the first and the last
    width: int = 768
    layers: int = 12
    open_clip: bool = False                             # OpenCLIP's: exact GELU, its padding, its names in files

    def __post_init__(self):
        if self.width % 64 or self.width <= 0:
            near = max(64, round(self.width / 64) * 64)
            raise ValueError(f"width {self.width} is not a positive multiple of 64; try {near}")

    @property
    def heads(self) -> int:
        return self.width // 64

    @property
    def pad(self) -> int:
        """The token that fills up short prompts."""
        return 0 if self.open_clip else EOS


class Attention(nn.Module):
    """Causal self-attention.  x [B T W] -> [B T W]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(attention(self.q(x), self.k(x), self.v(x), self.heads, causal=True))


class MLP(nn.Module):
    """Two linear layers with a GELU between them: exact, or else CLIP's QuickGELU, x sigmoid(1.702 x)."""

    def __init__(self, width: int, exact: bool):
        super().__init__()
        self.exact = exact
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(F.gelu(x) if self.exact else x * torch.sigmoid(1.702 * x))


class Layer(nn.Module):
    """Pre-norm transformer layer.  x [B T W] -> [B T W]."""

    def __init__(self, cfg: CLIPTextConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(cfg.width)
        self.attn = Attention(cfg.width, cfg.heads)
        self.norm2 = nn.LayerNorm(cfg.width)
        self.mlp = MLP(cfg.width, exact=cfg.open_clip)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CLIPText(nn.Module):
    """CLIP's text transformer, up to the final norm: all tokens, not projected.

    Radford et al. 2021, sec. 2.4; openai/CLIP clip/model.py, CLIP.encode_text; mlfoundations/open_clip transformer.py,
    TextTransformer.
    """

    def __init__(self, cfg: CLIPTextConfig = CLIPTextConfig()):  # noqa: B008  (frozen, so safe as a default)
        super().__init__()
        self.cfg = cfg
        self.token_embedding = nn.Embedding(cfg.vocab, cfg.width)
        self.position_embedding = nn.Embedding(cfg.length, cfg.width)
        self.layers = nn.ModuleList(Layer(cfg) for _ in range(cfg.layers))
        self.final_norm = nn.LayerNorm(cfg.width)

    def forward(self, ids: Tensor, skip: int = 1) -> Tensor:
        """Token ids [B 77], int64 -> context [B 77 W] in the dtype of the weights.

        `skip` is the web UIs' "clip skip": n leaves out the last n - 1 layers, 1 none; the final norm stays.
        Raises ValueError where ids are not integers of that shape, or outside the vocabulary, or no layer is left.
        """
        self._check(ids)
        if not 1 <= skip <= self.cfg.layers:
            raise ValueError(f"clip skip {skip} is outside 1..{self.cfg.layers}; 1 uses every layer")
        x = self.token_embedding(ids) + self.position_embedding.weight
        for layer in self.layers[: self.cfg.layers + 1 - skip]:
            x = layer(x)
        return self.final_norm(x)

    def _check(self, ids: Tensor) -> None:
        cfg = self.cfg
        if ids.ndim != 2 or ids.shape[1] != cfg.length:
            raise ValueError(f"ids have shape {list(ids.shape)}, not [B {cfg.length}]; make them with Tokenizer")
        if ids.dtype != torch.long:
            raise ValueError(f"ids are {ids.dtype}, not torch.int64; make them with Tokenizer")
        outside = ids[(ids < 0) | (ids >= cfg.vocab)]
        if len(outside):
            raise ValueError(f"token id {outside[0].item()} is outside the vocabulary; use 0..{cfg.vocab - 1}")
