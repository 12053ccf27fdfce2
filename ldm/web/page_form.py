"""The form of the page: one component for each thing that a picture is drawn with.  See `ldm.web.forms`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from ldm.loading import PREDICTIONS
from ldm.masks import Fill
from ldm.web.forms import DEFAULTS, MORE, OF_TASK, SETTINGS, SIZE, parts_of
from ldm.web.orders import OPTIONS
from ldm.web.page_editor import build_editor
from ldm.web.studio import Studio

HEIGHT = 380                                            # of input pictures, in pixels


@dataclass
class Form:
    """The components by the names of their values, and what acts on the form."""

    parts: dict[str, Component]
    about: gr.Markdown
    editor: gr.Column                                   # that the component of this name is in
    lora: gr.Dropdown
    embedding: gr.Dropdown
    dice: gr.Button
    reuse: gr.Button
    draw: gr.Button
    interrupt: gr.Button

    def values(self, given: Mapping[Any, Any]) -> dict[str, Any]:
        """What an event's inputs say, by name."""
        return {name: given[part] for name, part in self.parts.items()}

    def inputs(self) -> set[Block]:
        """All components, for an event whose function takes them as one dictionary."""
        return {*self.parts.values()}

    def updates(self, values: Mapping[str, Any]) -> dict[Component, Any]:
        """What to send to the browser so that the form has these values."""
        return {self.parts[name]: gr.update(value=shown(name, value)) for name, value in values.items()
                if name in self.parts}


def shown(name: str, value: Any) -> Any:
    """A value as its component has it: what may be empty is text, and so are seeds, for browsers round above 2^53."""
    if name in DEFAULTS and DEFAULTS[name] is None or name in ("seed", "variation_seed", "unet_tile"):
        return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return value


def setting(name: str, t: gr.I18n, **more: Any) -> Component:
    """The component of a field of `Settings`, made from its type, choices and help."""
    field = SETTINGS[name]
    said: dict[str, Any] = {"label": t(f"label.{name}"), "info": t(f"help.{name}"), "elem_id": name, **more}
    choices, default = field.metadata["choices"], DEFAULTS[name]
    if choices:
        empty = [(t("auto"), "")] if default is None else []
        return gr.Dropdown([*empty, *choices], value=default or "", **said)
    if field.metadata["type"] is str:
        return gr.Textbox(default, **said)
    if default is None:                           # a gr.Number would show 0 where it is empty
        return gr.Textbox("", placeholder=t("auto"), max_lines=1, **said)
    whole = field.metadata["type"] is int
    return gr.Number(default, precision=0 if whole else None, step=1 if whole else 0.05, **said)


def build_form(studio: Studio, t: gr.I18n) -> Form:
    """The form, in the row that is open: a column of what is asked first, and one of settings."""
    parts: dict[str, Component] = {}
    with gr.Column(elem_id="ask"):
        about, editor, draw, interrupt = build_question(parts, t)
    with gr.Column(elem_id="set"):
        build_options(parts, t)
        dice, reuse = build_main(parts, t)
        lora, embedding = build_plugins(studio, t)
        with gr.Accordion(t("group.more"), open=False, elem_id="more"):
            parts["vae"] = gr.Dropdown(with_own(studio, t), value="", label=t("label.vae"), info=t("help.vae"),
                                       elem_id="vae")
            parts["prediction"] = gr.Dropdown([(t("auto"), ""), *PREDICTIONS], value="", label=t("label.prediction"),
                                              info=t("help.prediction"), elem_id="prediction")
            parts |= {name: setting(name, t) for name in MORE}
    form = Form(parts, about, editor, lora, embedding, dice, reuse, draw, interrupt)
    form.parts["task"].change(lambda task: show_task(form, task, t), form.parts["task"],      # pyright: ignore
                              [about, *special(form).values()], show_progress="hidden", queue=False,
                              api_visibility="private")
    return form


def build_question(parts: dict[str, Component], t: gr.I18n) -> tuple[gr.Markdown, gr.Column, gr.Button, gr.Button]:
    """Task, prompt and input picture -> what describes the task, the column of the editor, and the two buttons."""
    parts["task"] = gr.Radio([(t(f"task.{task}"), task) for task in OF_TASK], value="txt2img", label=t("task"),
                             elem_id="task")
    about = gr.Markdown(t("about.txt2img"), elem_id="about")
    parts["prompt"] = gr.Textbox(label=t("label.prompt"), placeholder=t("hint.prompt"), lines=2, max_lines=8,
                                 elem_id="prompt")
    with gr.Row():
        draw = gr.Button(t("button.draw"), variant="primary", scale=2, min_width=120, elem_id="draw")
        interrupt = gr.Button(t("button.interrupt"), variant="stop", scale=1, min_width=100, elem_id="interrupt")
    parts["negative_prompt"] = setting("negative_prompt", t, info=None, lines=1, max_lines=4)
    return about, build_inputs(parts, t), draw, interrupt


def build_inputs(parts: dict[str, Component], t: gr.I18n) -> gr.Column:
    """Input picture, and the editor that draws a mask on one -> the column of the latter."""
    parts["image"] = gr.Image(label=t("label.image"), type="filepath", image_mode=None, height=HEIGHT,
                              sources=["upload", "clipboard"], visible=False, elem_id="image")
    box, parts["editor"] = build_editor(t, HEIGHT + 120)
    return box


def build_options(parts: dict[str, Component], t: gr.I18n) -> None:
    """What single tasks ask for.  All hidden at first, for text to image has none of it."""
    def number(name: str, value: float, **more: Any) -> gr.Number:
        return gr.Number(value, label=t(f"label.{name}"), elem_id=name, visible=False, min_width=100, **more)

    parts["strength"] = gr.Slider(0, 1, DEFAULTS["strength"], step=0.01, label=t("label.strength"),
                                  info=t("help.strength"), visible=False, elem_id="strength")
    with gr.Row():
        parts |= {name: setting(name, t, visible=False, min_width=140) for name in ("mask_blur", "only_masked")}
    with gr.Row():
        parts |= {side: number(side, OPTIONS["outpaint"][side], precision=0, step=8) for side in
                  ("left", "top", "right", "bottom")}
    parts["fill"] = gr.Dropdown(list(get_args(Fill)), value=OPTIONS["outpaint"]["fill"], label=t("label.fill"),
                                visible=False, elem_id="fill")
    with gr.Row():
        parts["scale"] = number("scale", 2, step=0.5)
        parts["unet_tile"] = gr.Textbox("", label=t("label.unet_tile"), info=t("help.unet_tile"),
                                        placeholder=t("whole"), max_lines=1, min_width=100, visible=False,
                                        elem_id="unet_tile")
        parts["noise_level"] = number("noise_level", 20, info=t("help.noise_level"), precision=0)
    with gr.Row():
        parts["variation_seed"] = gr.Textbox("-1", label=t("label.variation_seed"), info=t("help.seed"), visible=False,
                                             min_width=140, elem_id="variation_seed")
        parts["variation_strength"] = gr.Slider(0, 1, 0.5, step=0.05, label=t("label.variation_strength"),
                                                info=t("help.variation_strength"), visible=False, min_width=140,
                                                elem_id="variation_strength")
    with gr.Row():
        for name, value in {"x": "sampler=ddim,euler", "y": "steps=4,8,16"}.items():
            parts[name] = gr.Textbox(value, label=t(f"label.{name}"), info=t(f"help.{name}"), visible=False,
                                     max_lines=1, min_width=140, elem_id=name)


def build_main(parts: dict[str, Component], t: gr.I18n) -> tuple[gr.Button, gr.Button]:
    """What nearly every picture is drawn with -> the two buttons beside the seed."""
    with gr.Row():
        parts["steps"] = setting("steps", t, info=None, min_width=140, minimum=1)
        parts["guidance"] = setting("guidance", t, info=None, min_width=140)
    with gr.Row():
        parts |= {name: setting(name, t, info=None, min_width=140) for name in ("sampler", "spacing")}
    with gr.Row():
        parts |= {name: setting(name, t, info=None, min_width=90) for name in SIZE}
        parts["count"] = setting("count", t, info=None, min_width=90, minimum=1)
    with gr.Row():
        parts["seed"] = gr.Textbox("-1", label=t("label.seed"), info=t("help.seed"), min_width=120, scale=2,
                                   max_lines=1, elem_id="seed")
        dice = gr.Button(t("button.dice"), size="sm", min_width=70, scale=1, elem_id="dice")
        reuse = gr.Button(t("button.reuse"), size="sm", min_width=70, scale=1, elem_id="reuse")
    return dice, reuse


def build_plugins(studio: Studio, t: gr.I18n) -> tuple[gr.Dropdown, gr.Dropdown]:
    """The pickers that write into the prompt."""
    def picker(name: str, files: Iterable[str]) -> gr.Dropdown:
        return gr.Dropdown([*files], value=None, label=t(f"label.{name}"), info=t(f"help.{name}"), min_width=140,
                           elem_id=name)

    with gr.Accordion(t("group.plugins"), open=False, elem_id="plugins"), gr.Row():
        return picker("lora", studio.files("loras")), picker("embedding", studio.files("embeddings"))


def with_own(studio: Studio, t: gr.I18n) -> list[Any]:
    """The choices of a VAE."""
    return [(t("own"), ""), *studio.files("models")]


def special(form: Form) -> Mapping[str, Block]:
    """What not every task shows, by name: components, and the column of the editor."""
    shown = {name for task in OF_TASK for name in parts_of(task)}
    return {name: part for name, part in form.parts.items() if name in shown} | {"editor": form.editor}


def show_task(form: Form, task: str, t: gr.I18n) -> list[Any]:
    """What the browser shows for a task: its description, and those parts that it asks for."""
    shown = parts_of(task)
    return [t(f"about.{task}"), *(gr.update(visible=name in shown) for name in special(form))]
