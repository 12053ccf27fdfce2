"""Grids: how axes are read, what is drawn again and what is not, and where the pictures stand."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from plugins.lora_files import layers, write_lora
from safetensors.torch import save_file
from torch import Tensor

from ldm import NonFiniteError, Pipeline
from ldm.images import read_metadata, save_image, with_metadata
from ldm.tasks import Axis, axis, cells, draw_cells, sheet

FAST = {"steps": 2, "spacing": "trailing"}


def evaluations(pipe: Pipeline) -> list[Tensor]:
    """A list that fills with the inputs of the UNet."""
    seen: list[Tensor] = []
    pipe.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    return seen


@pytest.mark.parametrize(("text", "expected"), [
    ("steps=10,20", Axis("steps", [10, 20])),
    ("guidance=1, 7.5", Axis("guidance", [1.0, 7.5])),
    ("clip-skip=2", Axis("clip_skip", [2])),
    ('prompt=a fox,"a cat, red"', Axis("prompt", ["a fox", "a cat, red"])),
    ("negative_prompt=,ugly", Axis("negative_prompt", ["", "ugly"])),
    ("prompt=a=b", Axis("prompt", ["a=b"])),
])
def test_axis_reads_values_of_the_type_of_their_setting(text, expected):
    assert axis(text) == expected


@pytest.mark.parametrize(("text", "message"), [
    ("stepz=1,2", "axis 'stepz=1,2' is not NAME=VALUE,VALUE,...; NAME is one of prompt, negative_prompt, steps"),
    ("steps", "axis 'steps' is not NAME=VALUE"),
    ("steps=", "axis 'steps=' is not NAME=VALUE"),
    ("count=1,2", "axis 'count=1,2' is not NAME=VALUE"),
    ("steps=10,many", "axis 'steps=10,many' has a value that is no int; give numbers"),
])
def test_axis_says_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        axis(text)


def test_cells_are_the_product_of_the_axes():
    grid = cells("a cat", {"seed": 3}, Axis("steps", [1, 2]), Axis("prompt", ["a dog", "a fox", "a bird"]))
    assert [[(cell.prompt, cell.settings) for cell in row] for row in grid] == [
        [(prompt, {"seed": 3, "steps": steps}) for steps in (1, 2)] for prompt in ("a dog", "a fox", "a bird")]
    [row] = cells("a cat", {"steps": 5}, Axis("steps", [1, 2]))
    assert [(cell.prompt, cell.settings["steps"]) for cell in row] == [("a cat", 1), ("a cat", 2)]


def test_cells_refuse_settings_out_of_range_and_equal_axes():
    with pytest.raises(ValueError, match="steps 0 is outside"):
        cells("a cat", {}, Axis("seed", [1, 2]), Axis("steps", [10, 0]))
    with pytest.raises(ValueError, match="both axes are steps; take another setting"):
        cells("a cat", {}, Axis("steps", [1]), Axis("steps", [2]))


def test_draw_cells_draws_what_the_pipeline_draws(pipe, tmp_path):
    [row] = cells("a cat", FAST, Axis("seed", [4, 5]))
    paths = list(draw_cells(pipe, row, tmp_path / "new"))
    for path, cell in zip(paths, row, strict=True):
        with Image.open(path) as image:
            assert image.tobytes() == pipe("a cat", **cell.settings)[0].tobytes()


def test_draw_cells_goes_on_where_it_was(pipe, tmp_path):
    """What is there is not drawn again, in whatever place of a grid; what is new is."""
    [row] = cells("a cat", FAST, Axis("seed", [4, 5, 6]))
    seen, drawing = evaluations(pipe), draw_cells(pipe, row, tmp_path)
    first = [next(drawing), next(drawing)]              # and there it is interrupted
    assert len(seen) == 2 * 2
    again = list(draw_cells(pipe, row[::-1], tmp_path))
    assert again[:0:-1] == first and len(seen) == 3 * 2
    assert sorted(tmp_path.iterdir()) == sorted(again)


def test_draw_cells_knows_the_model_under_another_name_and_with_plugins(pipe, tiny_model, tmp_path):
    """An embedding that no prompt has changes nothing; one LoRA is not another of its name."""
    [row] = cells("a cat", FAST, Axis("seed", [4]))
    renamed = Pipeline.load(shutil.copy(tiny_model, tmp_path / "other.safetensors"), "cpu", "float32")
    save_file({"my-hat": torch.randn(2, 64)}, tmp_path / "my-hat.safetensors")
    renamed.load_embedding(tmp_path / "my-hat.safetensors")
    assert [*draw_cells(renamed, row, tmp_path / "cells")] == [*draw_cells(pipe, row, tmp_path / "cells")]
    for seed in (0, 1):
        write_lora(tmp_path / "fox.safetensors", layers(pipe.unet, pipe.text), seed=seed)
        pipe.load_lora(tmp_path / "fox.safetensors")
        [*_] = draw_cells(pipe, row, tmp_path / "cells")
        pipe.unload_lora()
    assert len(list((tmp_path / "cells").iterdir())) == 3


@pytest.mark.parametrize("change", [{"guidance": 2.0}, {"width": 72}, {"negative_prompt": "a dog"}])
def test_draw_cells_draws_again_what_is_set_otherwise(pipe, tmp_path, change):
    seen = evaluations(pipe)
    for settings in (FAST, {**FAST, **change}):
        [row] = cells("a cat", settings, Axis("seed", [4]))
        list(draw_cells(pipe, row, tmp_path))
    assert len(seen) == 2 * 2 and len(list(tmp_path.iterdir())) == 2


def test_draw_cells_knows_another_model_and_picture(pipe, tmp_path, photo):
    """And a model of the same name from another folder."""
    [row] = cells("a cat", FAST, Axis("seed", [4]))
    paths = {next(draw_cells(pipe, row, tmp_path / "cells", image)) for image in (None, photo(), photo(seed=1))}
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(-1)
    pipe.save(tmp_path / "tiny.safetensors")
    other = Pipeline.load(tmp_path / "tiny.safetensors", "cpu", "float32")
    assert other.origin.model == pipe.origin.model
    path = next(draw_cells(other, row, tmp_path / "cells"))
    assert path not in paths and Image.open(path).tobytes() == other("a cat", **row[0].settings)[0].tobytes()


def test_draw_cells_replaces_damaged_files(pipe, tmp_path):
    [row] = cells("a cat", FAST, Axis("seed", [4]))
    [path] = draw_cells(pipe, row, tmp_path)
    whole = path.read_bytes()
    other = with_metadata(Image.new("RGB", (64, 64)), read_metadata(path) | {"seed": 7})
    at = whole.index(b"IDAT")
    broken = whole[: at - 4] + bytes([0, 0, 0, 9]) + whole[at:]         # a length that ends in the middle
    for damage in (lambda: path.write_bytes(whole[:-200]), lambda: path.write_bytes(broken),
                   lambda: path.write_text("no picture"),
                   lambda: Image.new("RGB", (64, 64)).save(path), lambda: save_image(other, path)):
        path.unlink()
        damage()
        assert list(draw_cells(pipe, row, tmp_path)) == [path] and path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_draw_cells_loses_no_work_where_one_fails(pipe, tmp_path, monkeypatch):
    [row] = cells("a cat", FAST, Axis("seed", [4, 5, 6]))
    sample = pipe.sample

    def fail(plan):
        if plan.settings.seed == 5:
            raise NonFiniteError("too much")
        return sample(plan)

    monkeypatch.setattr(pipe, "sample", fail)
    first, failed, last = draw_cells(pipe, row, tmp_path)
    assert isinstance(failed, NonFiniteError) and {first, last} == set(tmp_path.iterdir())
    monkeypatch.undo()
    seen = evaluations(pipe)
    assert None not in [read_metadata(path) for path in draw_cells(pipe, row, tmp_path)] and len(seen) == 2


def test_draw_cells_checks_all_before_any_work(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(pipe.unet, "forward", None)
    [row] = cells("a cat", FAST, Axis("clip_skip", [1, 2]))         # the tiny text encoder has one layer
    with pytest.raises(ValueError, match="clip_skip 2 is outside 1..1"):
        draw_cells(pipe, row, tmp_path)


def test_sheet_shows_every_picture_and_label():
    def plain(level: int, width: int, height: int) -> Image.Image:
        return Image.new("RGB", (width, height), (level, 10, 10))

    rows = [[plain(100, 60, 40), plain(110, 60, 40)], [plain(120, 60, 40), plain(130, 20, 30)],
            [plain(140, 60, 40), "no"]]
    page = np.asarray(sheet(rows, ["steps 1", "steps 2"], ["seed 1", "", "a long prompt " * 9]))
    boxes = {}
    for level in (100, 110, 120, 130, 140):
        y, x = np.nonzero((page == (level, 10, 10)).all(-1))
        boxes[level] = x.min(), y.min(), x.max() + 1, y.max() + 1
    left, top, right, bottom = boxes[100]
    assert (right - left, bottom - top) == (60, 40) and left > 0 and top > 0
    assert boxes[110] == (left + 64, top, right + 64, bottom)                       # 4 pixels between them
    assert boxes[120] == (left, top + 44, right, bottom + 44)
    assert boxes[130] == (left + 64 + 20, top + 44 + 5, left + 64 + 40, top + 44 + 35)      # in the middle of its cell
    dark = page.max(-1) < 200
    assert dark[:top, left:right].any() and dark[:top, left + 64 : right + 64].any()        # labels of the columns
    assert dark[top:bottom, :left].any() and not dark[top + 44 : bottom + 44, :left].any()  # of the rows; one is empty
    assert dark[top + 88 :, :left].any() and dark[top + 88 :, left + 64 :].any()            # and what stands in a cell
    assert not dark[:top, :left].any()


def test_sheet_of_one_row_has_no_room_beside_it():
    page = sheet([[Image.new("RGB", (30, 20), "red")]], ["seed 1"], [""])
    assert page.getpixel((0, page.height - 5)) == (255, 0, 0)


def test_sheet_survives_json():
    """What a grid's file tells of it is plain: an axis is a list."""
    assert json.loads(json.dumps(axis("steps=1,2"))) == ["steps", [1, 2]]
