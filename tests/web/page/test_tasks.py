"""Each task of the page draws, in headless Chromium."""

import numpy as np
import pytest
from acting import OF_GRADIO, PICTURE, ask, bright_picture, drawn, task, wait_for_end
from PIL import Image

pytestmark = OF_GRADIO


@pytest.mark.slow
def test_mask_is_drawn_and_the_rest_stays(visit, studio, tmp_path):
    page = visit()
    ask(page)
    task(page, "Inpaint")
    page.wait_for_selector("#editor canvas")
    page.wait_for_timeout(2000)                         # until it can be used
    page.click("#draw")
    wait_for_end(page, "inpaint needs a picture; give one")
    page.set_input_files("#editor input[type=file]", bright_picture(tmp_path))
    page.wait_for_timeout(2000)                         # the canvas takes its picture
    page.click("#draw")
    wait_for_end(page, "inpaint needs a mask")
    box = page.locator("#editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 20, y + 20, steps=5)
    page.mouse.up()
    page.wait_for_timeout(500)
    page.click("#draw")
    page.wait_for_selector(PICTURE)
    path, told = drawn(studio)
    changed = (np.asarray(Image.open(path)) != np.array([255, 165, 0])).any(2)
    assert "mask_sha256" in told
    assert changed[28:36, 28:36].mean() > 0.5           # in the middle
    assert not changed[0].any() and not changed[:, 0].any() and changed.mean() < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("name, needs_picture, fields, size, told", [
    ("Outpaint", True, {"left": 32, "bottom": 16}, (96, 80), {"strength": 1.0}),
    ("Upscale", True, {"scale": 1.5}, (96, 96), {"task": "upscale", "scale": 1.5}),
    ("Upscale", False, {"scale": 1.5}, (96, 96), {"task": "upscale", "scale": 1.5}),
    ("Colorize", True, {}, (64, 64), {"task": "colorize"}),
    ("Variations", False, {"variation_seed": 5}, (64, 64), {"task": "variation", "variation_seed": 5}),
    ("Grid", False, {"x": "steps=1,2", "y": "guidance=1,4"}, None, {"task": "grid", "x": ["steps", [1, 2]]})])
def test_other_tasks_draw(visit, studio, tmp_path, name, needs_picture, fields, size, told):
    page = visit()
    ask(page, steps=2)
    task(page, name)
    if name == "Outpaint":
        page.fill("#strength input[type=number]", "1")
    if needs_picture:
        page.set_input_files("#image input[type=file]", bright_picture(tmp_path))
        page.wait_for_selector("#image img")
    for field, value in fields.items():
        page.fill(f"#{field} input, #{field} textarea", str(value))
    page.click("#draw")
    page.wait_for_selector(PICTURE)
    wait_for_end(page)
    path, found = drawn(studio)
    assert told.items() <= found.items()
    with Image.open(path) as saved:
        assert saved.size == size if size else min(saved.size) > 128    # of a grid, labels and all
    if name == "Outpaint":
        kept = np.asarray(Image.open(path))[:64, 32:]
        assert (kept == [255, 165, 0]).all()            # what was there before
