"""The editor of the page, in which a mask is drawn on a picture, within bounds that Gradio's own does not have.

The bounds are put on the component, for a class of ours would make Gradio write a file beside it.  So the component may
not be updated: Gradio would make a new one of its class for the session.  What is shown and hidden is its column.
"""

import io
from collections.abc import Callable
from typing import Any

import gradio as gr
from fastapi import HTTPException
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs
from gradio.data_classes import FileData

from ldm.web.uploads import check_picture

BRUSH = ("rgb(255, 0, 110)", 0.6)                       # visible on most pictures, which shine through
KEPT = 16                                               # drawings that wait for the event that takes them
LAYERS = 8                                              # of one


def build_editor(t: gr.I18n, height: int) -> tuple[gr.Column, gr.ImageEditor]:
    """The editor, and the column, hidden at first, that it is alone in."""
    with gr.Column(visible=False) as box:
        editor = gr.ImageEditor(label=t("label.editor"), type="pil", format="png", height=height,
                                placeholder=t("hint.editor"),  # pyright: ignore[reportArgumentType]  (it is translated)
                                sources=("upload", "clipboard"), transforms=(), layers=False,
                                brush=gr.Brush(default_size=16, colors=[BRUSH], default_color=BRUSH,
                                               color_mode="fixed"), elem_id="editor")
    editor.convert_and_format_image = bounded(editor.convert_and_format_image)
    editor.accept_blobs = few(editor.accept_blobs, editor.blob_storage)
    return box, editor


def bounded(convert: Callable[..., Any]) -> Callable[..., Any]:
    """The function by which Gradio opens a picture of its editor, after a look at the size."""
    def convert_bounded(file: FileData | bytes | None, flatten_on_white: bool = False) -> Any:
        if file is not None:
            try:
                check_picture(file.path if isinstance(file, FileData) else io.BytesIO(file))
            except ValueError as error:
                raise gr.Error(str(error)) from error
        return convert(file, flatten_on_white)

    return convert_bounded


def few(accept: Callable[..., None], kept: dict[str, Any]) -> Callable[..., None]:
    """The function that takes drawings from browsers into `kept`, where those that no event came for give way."""
    @server
    def accept_few(data: AcceptBlobs) -> None:
        layer = str(data.data.get("index") or "0")
        if layer != "null" and not (layer.isdecimal() and int(layer) < LAYERS):
            raise HTTPException(422, f"layer {layer[:20]!r} is none of the {LAYERS} that a drawing may have")
        accept(data)
        while len(kept) > KEPT:
            kept.pop(next(iter(kept)), None)

    return accept_few
