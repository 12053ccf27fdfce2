"""Show what was learned of a character beside the model as it was: a contact sheet, and losses.

    python docs/characters/sheet.py docs/characters/sheet.webp docs/characters/zorbl runs/dreambooth/class FILE ...

Each FILE is a LoRA or a textual inversion, and the name of its folder its label.  Printed is the loss on a folder of
pictures of the character, and on one of others.
"""

import sys
import warnings
from pathlib import Path

import torch
from PIL import Image

from ldm import Pipeline
from ldm.files import write_atomically
from ldm.plugins.reading import kind_of, read_entries
from ldm.tasks.sheet import sheet
from ldm.training.data import ImageFolder
from ldm.training.finetune import Examples, batch_loss

PROMPTS = ["3d render of a zorbl", "3d render of a zorbl on a green background",
           "3d render of a zorbl on a purple background", "a zorbl, 3d render", "3d render of a fox",
           "3d render of a tulip on a pink background"]
SEED, SAMPLES = 5, 96


def learned(file: str | None) -> Pipeline:
    """The bundled model with a LoRA or a textual inversion."""
    pipe = Pipeline.load(dtype="float32")
    if file:
        is_word = kind_of(read_entries(file)).family == "embedding"
        (pipe.load_embedding if is_word else pipe.load_lora)(file)
    return pipe


@torch.no_grad()
def main(out: str, own: str, others: str, *files: str) -> None:
    warnings.simplefilter("ignore")                         # of the word that the model never saw
    folders = [ImageFolder(folder, 128) for folder in (own, others)]
    rows: list[list[Image.Image]] = [[Image.open(file) for file in folders[0].files[: len(PROMPTS)]]]
    sides = ["the pictures", "before", *(Path(file).parent.name for file in files)]
    for file, side in zip([None, *files], sides[1:], strict=True):
        pipe = learned(file)
        rows.append(pipe(PROMPTS, seed=SEED))
        losses = [batch_loss(pipe, Examples.of(pipe, folder, PROMPTS[:1]), SAMPLES, SEED, 0) for folder in folders]
        print(f"{side:20} {losses[0]:.3f} {losses[1]:.3f}")
    page = sheet(rows, PROMPTS, sides)
    write_atomically(out, lambda path: page.save(path, quality=92))


if __name__ == "__main__":
    main(*sys.argv[1:])
