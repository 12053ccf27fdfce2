"""What a pipeline does with plug-in files."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.images import on_white
from ldm.plan import Plan
from ldm.plugins.controlnet import Control, Controlled, check_control, load_controlnet
from ldm.plugins.embeddings import with_embedding, without_embedding, words_in, words_of
from ldm.plugins.folders import find
from ldm.plugins.lora import LoRA, LoRAs
from ldm.samplers import Schedule
from ldm.text import CLIPText, Tokenizer
from ldm.unet import UNet
from ldm.weights.fingerprint import fingerprint


class Plugins:
    """The part of a pipeline that takes plug-in files: by path, or by name from the folders of `ldm.plugins.find`."""

    unet: UNet
    text: CLIPText
    tokenizer: Tokenizer
    schedule: Schedule

    def __init__(self) -> None:
        self.loras = LoRAs()
        self.controls: list[Control] = []

    def load_lora(self, path: str | Path, weight: float = 1.0, merge: bool = True) -> LoRA:
        """Put a LoRA on; `matched` and `unmatched` of the result name its tensors.  Arguments as `LoRAs.load`."""
        return self.loras.load(self.unet, self.text, find("loras", path), weight, merge)

    def unload_lora(self, name: str | None = None) -> None:
        """Take a LoRA off, or all; the weights are then what they were, bit for bit.  Raises as `LoRAs.unload`."""
        self.loras.unload(name)

    def load_embedding(self, path: str | Path, token: str | None = None) -> str:
        """Teach the prompts a textual inversion; returns the word to write, which `token` sets.

        Raises as `with_embedding`.
        """
        path = find("embeddings", path)
        self.tokenizer, word = with_embedding(self.tokenizer, self.text.cfg.width, path, token)
        return word

    def unload_embedding(self, token: str | None = None) -> None:
        """Forget the textual inversion of a word, or all.  Raises as `without_embedding`."""
        self.tokenizer = without_embedding(self.tokenizer, token)

    def add_controlnet(self, path: str | Path, image: Image.Image, strength: float = 1.0, start: float = 0.0,
                       end: float = 1.0) -> Control:
        """Let a ControlNet look at a picture, in all that is drawn from now on; several add up.

        `start` and `end` are shares of the steps.  Raises as `Control` and `load_controlnet`.
        """
        check_control(strength, start, end)
        path = find("controlnets", path)
        control = Control(load_controlnet(path, self.unet), image, strength, start, end, path.stem, fingerprint(path))
        self.controls.append(control)
        return control

    def remove_controlnets(self) -> None:
        """Draw without ControlNets again."""
        self.controls.clear()

    def check_controls(self, cache: int, sigmas: Sequence[float]) -> None:
        """Raises ValueError where the ControlNets do not go with a step cache, or act in no step."""
        if cache > 1 and self.controls:
            raise ValueError(f"cache {cache} does not go with a ControlNet; set cache to 1")
        for control in self.controls:
            control.span(sigmas, self.schedule)

    def controlled(self, plan: Plan) -> UNet | Controlled:
        """The UNet with the ControlNets, each of which sees the part of its picture that is painted."""
        if not self.controls:
            return self.unet
        left, top, right, bottom = plan.canvas.box if plan.canvas else (0, 0, plan.width, plan.height)
        w, h = plan.canvas.image.size if plan.canvas else (plan.width, plan.height)
        view = left / w, top / h, right / w, bottom / h
        return Controlled(self.unet, self.controls, plan.sigmas, self.schedule, (plan.width, plan.height), view)

    def plugin_metadata(self, plan: Plan | None = None, i: int = 0) -> dict[str, Any]:
        """What of plug-in files is loaded; of embeddings those alone that picture i of a plan has in its prompts."""
        words = words_of(self.tokenizer)
        if plan:
            texts = plan.texts(plan.prompts[i // plan.settings.count], plan.settings.negative_prompt)
            words = words_in(plan.tokenizer, (i for text in texts for tokens in plan.chunks[text] for i in tokens))
        told = {
            "loras": [{"name": lora.name, "hash": lora.digest, "weight": lora.weight}
                      for lora in self.loras.loaded.values()],
            "embeddings": [{"name": word, "hash": hashlib.sha256(vectors.numpy().tobytes()).hexdigest()[:16]}
                           for word, vectors in words.items()],
            "controlnets": [{"name": c.name, "hash": c.digest, "strength": c.strength, "start": c.start, "end": c.end,
                             "image_sha256": hashlib.sha256(on_white(c.image).tobytes()).hexdigest()}
                            for c in self.controls],
        }
        return {name: value for name, value in told.items() if value}
