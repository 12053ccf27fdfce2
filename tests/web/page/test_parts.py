"""What the page is made of, without a browser."""

import io
import re

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

    from ldm.web.page_form import bounded

    opened = []
    convert = bounded(lambda file, flatten_on_white: opened.append(file) or "converted")
    assert convert(png(8)) == "converted" and convert(None) == "converted"
    for file in (png(4104), b"no picture"):
        with pytest.raises(gr.Error):
            convert(file)
    assert len(opened) == 2


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
