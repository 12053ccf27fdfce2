"""The tab that draws: the form on one side, what comes of it on the other."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ldm.images import read_metadata, read_parameters
from ldm.web import forms
from ldm.web.desk import Desk
from ldm.web.jobs import QueueFull
from ldm.web.page_form import Form, build_form, with_own
from ldm.web.page_html import ending, line, progress
from ldm.web.studio import Studio
from ldm.web.texts import Language, language_of, say

WAITING: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}


@dataclass
class Result:
    """What shows pictures: a gallery, the settings of the picture that is selected, and what can be done with it."""

    box: gr.Column                                      # of it all, hidden while there are no pictures
    gallery: gr.Gallery
    files: gr.State                                     # paths of the gallery's pictures
    chosen: gr.State                                    # path of the selected one, or None
    parameters: gr.Textbox
    told: gr.JSON
    to_form: gr.Button
    to_input: gr.Button

    def show(self, paths: list[Path], select: bool = True) -> dict[Any, Any]:
        """Updates for these pictures; with `select` the first one is selected."""
        files = [str(path) for path in paths]
        first = files[0] if files and select else None
        return {self.box: gr.update(visible=bool(files)), self.files: files, **self.choose(first),
                self.gallery: gr.update(value=files, selected_index=0 if first else None)}

    def choose(self, path: str | None) -> dict[Any, Any]:
        """Updates for a selected picture."""
        parameters, told = ("", None) if path is None else told_by(path)
        return {self.chosen: path, self.parameters: parameters, self.told: told}

    def picked(self, files: list[str], event: gr.SelectData) -> dict[Any, Any]:
        """Updates for a click into the gallery."""
        index = event.index
        return self.choose(files[index] if isinstance(index, int) and index < len(files) else None)

    @property
    def parts(self) -> list[Any]:
        return [self.box, self.gallery, self.files, self.chosen, self.parameters, self.told]


def told_by(path: str) -> tuple[str, dict[str, Any] | None]:
    """The settings in a picture file, as text and as JSON; or why there are none."""
    try:
        return read_parameters(path), read_metadata(path)
    except (ValueError, OSError) as error:
        return without_folder(error, path), None


def without_folder(error: Exception, path: str) -> str:
    """A message about a file, which says its name but not where the server keeps it."""
    return str(error).replace(path, Path(path).name)


def language(request: gr.Request) -> Language:
    """The language of who asks."""
    return language_of(request.headers.get("accept-language", ""))


def build_result(t: gr.I18n, name: str, columns: int = 2) -> Result:
    """A gallery with what belongs to it, in the column that is open; elem_ids begin with `name`."""
    with gr.Column(visible=False) as box:
        gallery = gr.Gallery(label=t("label.gallery"), columns=columns, fit_columns=False, height=440,
                             object_fit="contain", buttons=["download", "fullscreen"], interactive=False,
                             elem_id=f"{name}_gallery")
        with gr.Row():
            to_input = gr.Button(t("button.to_input"), size="sm", min_width=140, elem_id=f"{name}_to_input")
            to_form = gr.Button(t("button.to_form"), size="sm", min_width=140, elem_id=f"{name}_to_form")
        parameters = gr.Textbox(label=t("label.made_with"), lines=3, max_lines=12, interactive=False, buttons=["copy"],
                                elem_id=f"{name}_parameters")
        with gr.Accordion(t("group.json"), open=False):
            told = gr.JSON(label=t("label.made_with"), elem_id=f"{name}_json")
    result = Result(box, gallery, gr.State([]), gr.State(None), parameters, told, to_form, to_input)
    gallery.select(result.picked, result.files, [result.chosen, parameters, told], **AT_ONCE)
    return result


class DrawTab:
    """The tab's parts, and what happens at their events."""

    def __init__(self, studio: Studio, desk: Desk, tabs: gr.Tabs, t: gr.I18n):
        self.studio, self.desk, self.tabs = studio, desk, tabs
        with gr.Row():
            self.model = gr.Dropdown([*studio.models()], value=studio.model, label=t("label.model"), scale=4,
                                     min_width=180, elem_id="model")
            self.refresh = gr.Button(t("button.refresh"), size="sm", scale=1, min_width=110, elem_id="refresh")
        with gr.Row(elem_id="board"):
            self.form: Form = build_form(studio, t)
            with gr.Column(elem_id="show"):
                self.status = gr.HTML(t("state.ready"), elem_id="status")
                self.result = build_result(t, "draw")
        self.form.parts["model"] = self.model
        self.listen()
        self.connect(self.result)

    def listen(self) -> None:
        form, result = self.form, self.result
        form.draw.click(self.draw, form.inputs(), [self.status, *result.parts], **WAITING)
        form.interrupt.click(self.interrupt, **AT_ONCE)
        form.dice.click(lambda: "-1", None, form.parts["seed"], **AT_ONCE)
        form.reuse.click(self.last_seed, result.files, form.parts["seed"], **AT_ONCE)
        form.lora.input(lambda prompt, name: (f"{prompt} <lora:{name}:1>".strip() if name else prompt, None),
                        [form.parts["prompt"], form.lora], [form.parts["prompt"], form.lora], **AT_ONCE)
        form.embedding.input(lambda prompt, name: (f"{prompt} {Path(name).name}".strip() if name else prompt, None),
                             [form.parts["prompt"], form.embedding], [form.parts["prompt"], form.embedding], **AT_ONCE)
        self.model.input(self.use, self.model, [self.status, form.parts["prediction"], form.parts["vae"]], **WAITING)
        self.refresh.click(self.look_again, None, [self.status, self.model, form.lora, form.embedding,
                                                   form.parts["vae"]], **AT_ONCE)

    async def draw(self, given: Mapping[Any, Any], request: gr.Request) -> AsyncIterator[dict[Any, Any]]:
        """Draw what the form says: show the progress, then the pictures."""
        lang = language(request)
        try:
            order = await asyncio.to_thread(forms.order, self.form.values(given))
            job = self.desk.submit(lambda job: self.studio.draw(order, job), str(request.session_hash))
        except QueueFull as error:
            yield {self.status: line(say(lang, "state.full", error=error), "alert")}
            return
        except (ValueError, OSError) as error:
            yield {self.status: line(say(lang, "state.failed", error=error), "alert")}
            return
        async for _ in self.desk.follow(job):
            yield {self.status: progress(job, self.desk.queue, lang)}
        shown = await asyncio.to_thread(self.result.show, job.result) if job.result else {}
        yield {self.status: ending(job, lang), **shown}

    def interrupt(self, request: gr.Request) -> None:
        """Cancel what this browser session has asked for."""
        self.desk.cancel(str(request.session_hash))

    def last_seed(self, files: list[str]) -> Any:
        """The seed of the first picture drawn last."""
        return str(read_metadata(files[0])["seed"]) if files else gr.skip()

    async def use(self, name: str, request: gr.Request) -> AsyncIterator[dict[Any, Any]]:
        """Load a model now, so that a file that does not fit is told at once."""
        lang, form = language(request), self.form
        own = {form.parts["prediction"]: "", form.parts["vae"]: ""}
        try:
            job = self.desk.submit(lambda job: self.studio.use(name), str(request.session_hash))
        except QueueFull as error:
            yield {self.status: line(say(lang, "state.full", error=error), "alert")}
            return
        async for _ in self.desk.follow(job):
            yield {self.status: progress(job, self.desk.queue, lang)}
        if job.state != "done":
            yield {self.status: ending(job, lang)}
            return
        pipe = job.result
        told = say(lang, "state.model", model=name, size=pipe.size, guidance=pipe.guidance)
        yield {self.status: line(told), **own}

    def look_again(self, request: gr.Request) -> list[Any]:
        """Look for files that came or went."""
        models, loras, embeddings = ([*found] for found in (self.studio.models(), self.studio.files("loras"),
                                                            self.studio.files("embeddings")))
        told = say(language(request), "state.refreshed", models=len(models), loras=len(loras),
                   embeddings=len(embeddings))
        return [line(told), *(gr.update(choices=found) for found in (models, loras, embeddings)),
                gr.update(choices=with_own(self.studio, gr.I18n()))]

    def connect(self, result: Result) -> None:
        """Let the buttons of a gallery act on the form."""
        parts, steps = self.form.parts, [self.status, self.tabs]
        result.to_form.click(self.fill, result.chosen, [*steps, *parts.values()], **AT_ONCE)
        result.to_input.click(self.take, [result.chosen, parts["task"]],
                              [*steps, parts["image"], parts["editor"], parts["task"]], **AT_ONCE)

    def fill(self, path: str | None, request: gr.Request) -> dict[Any, Any]:
        """Bring the settings of a picture file into the form, and go there."""
        lang = language(request)
        if path is None:
            return self.failed(say(lang, "state.none"))
        try:
            filled = forms.read_settings(path, self.studio.models())
        except (ValueError, OSError) as error:
            return self.failed(say(lang, "state.failed", error=without_folder(error, path)))
        told = [say(lang, "state.filled", name=Path(path).name),
                *(say(lang, "state.note", note=say(lang, key, **gaps)) for key, gaps in filled.notes)]
        return {self.status: "".join(map(line, told)), **self.form.updates(filled.values), **self.here()}

    def take(self, path: str | None, task: str, request: gr.Request) -> dict[Any, Any]:
        """Make a picture file the input picture, and go to the form; of a task without one to image to image."""
        parts = self.form.parts
        if path is None:
            return self.failed(say(language(request), "state.none"))
        own = {"image", "editor"} & forms.parts_of(task)
        return {parts["image"]: path, parts["editor"]: {"background": path, "layers": [], "composite": None},
                parts["task"]: task if own else "img2img", **self.here()}

    def failed(self, text: str) -> dict[Any, Any]:
        """Say what went wrong, where it is seen."""
        return {self.status: line(text, "alert"), **self.here()}

    def here(self) -> dict[Any, Any]:
        """The update that shows this tab."""
        return {self.tabs: gr.Tabs(selected="draw")}
