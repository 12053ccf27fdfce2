"""CLIP score: how well a picture fits its prompt.  Hessel et al. 2021."""

import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from ldm.images import on_white

WEIGHT = 2.5                                            # Hessel et al. 2021, section 3


class ClipScorer:
    """A CLIP model from a local file: `scorer(pictures, prompts)` -> scores [N], 0 to 2.5.

    `model` is a name of open_clip's, such as "ViT-B-32"; OpenAI's own weights want "ViT-B-32-quickgelu".  `prefix` is
    put before each prompt: that of Hessel et al. is "A photo depicts ".
    Raises ValueError for a model that open_clip does not have, or whose tokenizer it would download, and for a file
    that is not there or not of that model.
    """

    def __init__(self, model: str, file: str | Path, device: str = "cpu", prefix: str = ""):
        import open_clip  # here, for it imports half the world

        config: Any = open_clip.get_model_config(model) if model in open_clip.list_models() else None
        if config is None:
            raise ValueError(f"{model} is no model of open_clip; try ViT-B-32 or ViT-L-14")
        if "hf_tokenizer_name" in config["text_cfg"] or "hf_model_name" in config["text_cfg"]:
            raise ValueError(f"{model} has a tokenizer that open_clip would download; try ViT-B-32 or ViT-L-14")
        if not Path(file).is_file():
            raise ValueError(f"{file} is no file; give the weights of {model}, nothing is downloaded")
        try:
            network, _, preprocess = open_clip.create_model_and_transforms(model, str(Path(file).resolve()))
        except (RuntimeError, ValueError, KeyError, AttributeError, SafetensorError, pickle.UnpicklingError) as error:
            raise ValueError(f"{file} does not hold the weights of {model}; give the file of that model") from error
        self.network: Any = network.to(device).eval()
        self.preprocess: Any = preprocess
        self.tokenizer: Any = open_clip.get_tokenizer(model)
        self.device, self.prefix = device, prefix

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """2.5 max(cos(picture, prompt), 0) of each pair.  A prompt longer than the model reads is cut, with a warning.

        Raises ValueError unless there are as many prompts as pictures.
        """
        if len(pictures) != len(prompts):
            raise ValueError(f"{len(pictures)} pictures do not go with {len(prompts)} prompts; give one for each")
        texts = [self.prefix + prompt for prompt in prompts]
        self.warn_of_cuts(texts)
        images = torch.stack([self.preprocess(on_white(picture)) for picture in pictures])
        seen = self.network.encode_image(images.to(self.device))
        read = self.network.encode_text(self.tokenizer(texts).to(self.device))
        return WEIGHT * F.cosine_similarity(seen.double(), read.double()).clamp(min=0).cpu()

    def warn_of_cuts(self, texts: Sequence[str]) -> None:
        """Warn of texts of which the model reads only the beginning."""
        room = self.tokenizer.context_length - 2        # beside start and end
        for text in texts:
            if len(self.tokenizer.encode(text)) > room:
                warnings.warn(f"CLIP reads only the first {room} tokens of {text[:40]!r}...", stacklevel=3)
