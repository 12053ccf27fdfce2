"""What the page is made of, without a browser."""

import io
import re
from typing import Any

import httpx
import pytest
from PIL import Image

pytestmark = [                                          # what Gradio itself leaves open, and calls
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),
]


def png(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.usefixtures("page_address")                # which imports Gradio
def test_editor_opens_no_picture_beyond_the_bounds():
    import gradio as gr

    from ldm.web.page_editor import bounded

    opened = []
    convert = bounded(lambda file, flatten_on_white: opened.append(file) or "converted")
    assert convert(png(8)) == "converted" and convert(None) == "converted"
    for file in (png(4104), b"no picture"):
        with pytest.raises(gr.Error):
            convert(file)
    assert len(opened) == 2


class Gradio:
    """Speaks with the page's server as the page does, in one session."""

    def __init__(self, client: httpx.Client):
        self.client, self.config = client, client.get("config").json()
        self.ids = {part["props"].get("elem_id"): part["id"] for part in self.config["components"]}
        self.values = {part["id"]: part["props"].get("value") for part in self.config["components"]}

    def send(self, route: str, elem_id: str, event: str, **values: Any) -> str:
        """Let an event happen where the form has these values -> the reply."""
        [told] = [one for one in self.config["dependencies"] if [self.ids[elem_id], event] in one["targets"]]
        given = self.values | {self.ids[name]: value for name, value in values.items()}
        body = {"data": [given[i] for i in told["inputs"]], "fn_index": told["id"], "session_hash": "mine"}
        return self.client.post(f"gradio_api/{route}", json=body).raise_for_status().text

    def end(self) -> str:
        """The message that the session's event has ended."""
        with self.client.stream("GET", "gradio_api/queue/data", params={"session_hash": "mine"}) as stream:
            return next(line for line in stream.iter_lines() if "process_completed" in line)

    def brush(self, drawing: str, **data: Any) -> int:
        """Send a picture from the editor; the status."""
        fields = {"component_id": self.ids["editor"], "session_hash": "mine", "fn_name": "accept_blobs", "id": drawing}
        return self.client.post("gradio_api/component_server", data={**fields, **data},
                                files={"file": ("a.png", png(4104))}).status_code


def test_editor_keeps_its_bounds_after_the_form_has_changed(page_address):
    with httpx.Client(base_url=page_address, timeout=60) as client:
        gradio = Gradio(client)
        gradio.send("run/predict", "task", "change", task="inpaint")
        assert gradio.brush("drawing", type="background", index="null") == 200
        editor = {"id": "drawing", "background": None, "layers": [], "composite": None}
        gradio.send("queue/join", "draw", "click", task="inpaint", editor=editor)
        assert "a picture of 4104x4104 pixels is above" in gradio.end()
        assert [gradio.brush("drawing", type="layer", index=i) for i in ("7", "8", "99999999999", "-1")] == [
            200, 422, 422, 422]


@pytest.mark.usefixtures("page_address")                # which imports Gradio
def test_drawings_that_no_event_takes_give_way():
    from gradio.components.image_editor import AcceptBlobs, BlobData

    from ldm.web.page_editor import KEPT, few

    kept = {}
    accept = few(lambda data: kept.update({data.data["id"]: data}), kept)
    for i in range(KEPT + 5):
        accept(AcceptBlobs(data=BlobData(type="background", index=None, file=b"", id=str(i)), files=[]))
    assert [*kept] == [str(i) for i in range(5, KEPT + 5)]


def test_files_beside_the_pictures_are_not_served(page_address, studio, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    studio.out.mkdir(parents=True, exist_ok=True)
    picture = studio.out / "served.png"
    picture.write_bytes(png(8))
    try:
        with httpx.Client(base_url=page_address) as client:
            assert client.get(f"gradio_api/file={picture}").content == png(8)
            for path in (secret, studio.out / ".." / "secret.txt", studio.models_dir / "models" / "tiny.safetensors",
                         "/etc/hosts"):
                assert client.get(f"gradio_api/file={path}").status_code in (403, 404)
    finally:
        picture.unlink()


def test_page_names_no_font_or_script_of_another_host(page_address):
    from ldm.web.page import CSS, MONO, SCRIPT, SYSTEM

    assert "//" not in CSS + SCRIPT.replace("=>", "") and "url(" not in CSS
    config = httpx.get(f"{page_address}config").json()
    assert not config["analytics_enabled"]
    assert config["stylesheets"] == []
    theme = httpx.get(f"{page_address}theme.css").text
    assert not re.search(r"""@import|url\(["']?(https?:)?//""", theme)
    assert SYSTEM[0] in theme and MONO[0] in theme
