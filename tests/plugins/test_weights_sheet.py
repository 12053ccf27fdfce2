"""docs/plugins/weights.py: the sheet of a LoRA at several weights."""

import runpy
from pathlib import Path

import numpy as np
from lora_files import layers, write_lora
from PIL import Image

from ldm import Pipeline

PROGRAM = Path(__file__).parents[2] / "docs" / "plugins" / "weights.py"
SIDE, STEP = 64, 64 + 4                                 # of a picture of the tiny model, and from one to the next


def test_sheet_shows_each_prompt_at_each_weight(pipe, tmp_path, monkeypatch):
    write_lora(tmp_path / "fox.safetensors", layers(pipe.unet, pipe.text))
    monkeypatch.setattr(Pipeline, "load", lambda **_: pipe)
    program = runpy.run_path(str(PROGRAM))
    program["WEIGHTS"][:] = [0, 0.5, 1]
    program["main"](str(tmp_path / "sheet.png"), str(tmp_path / "fox.safetensors"))
    with Image.open(tmp_path / "sheet.png") as image:
        page = np.asarray(image.convert("RGB"), int)
    last = pipe(program["PROMPTS"], seed=program["SEED"])               # nothing of the LoRA has stayed
    rows = [page[-STEP - SIDE:-STEP], page[-SIDE:]]
    for row, expected in zip(rows, last, strict=True):
        without, half, whole = (row[:, row.shape[1] - i * STEP - SIDE:row.shape[1] - i * STEP] for i in (2, 1, 0))
        assert (without == np.asarray(expected)).all()
        assert len({part.tobytes() for part in (without, half, whole)}) == 3
