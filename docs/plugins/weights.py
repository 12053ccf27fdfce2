"""Show what a LoRA does at several weights: a contact sheet of the bundled model's pictures.

    python docs/plugins/weights.py docs/plugins/weights.webp runs/lora/lora.safetensors
"""

import sys
import warnings

from PIL import Image

from ldm import Pipeline
from ldm.files import write_atomically
from ldm.tasks.sheet import sheet

PROMPTS = ["3d render of a zorbl on a purple background", "3d render of a fox"]
WEIGHTS = [0, 0.25, 0.5, 0.75, 1, 1.5]
SEED = 5


def main(out: str, file: str) -> None:
    warnings.simplefilter("ignore")                         # of the word that the model never saw
    pipe = Pipeline.load(dtype="float32")
    columns: list[list[Image.Image]] = []
    for weight in WEIGHTS:
        lora = pipe.load_lora(file, weight)
        columns.append(pipe(PROMPTS, seed=SEED))
        pipe.unload_lora(lora.name)
    page = sheet([*zip(*columns, strict=True)], [f"weight {weight:g}" for weight in WEIGHTS], PROMPTS)
    write_atomically(out, lambda path: page.save(path, quality=92))


if __name__ == "__main__":
    main(*sys.argv[1:])
