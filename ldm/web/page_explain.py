"""The tab that shows how a picture comes about."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import gradio as gr
import pandas as pd

from ldm.web import forms
from ldm.web.desk import Desk
from ldm.web.explain import PADDING, START, Explained, Token, explain, heat_map
from ldm.web.jobs import Job, QueueFull
from ldm.web.orders import Order
from ldm.web.page_draw import WAITING, language
from ldm.web.page_form import Form
from ldm.web.page_html import ending, figures, line, progress, table
from ldm.web.studio import Studio
from ldm.web.texts import Language, say


class ExplainTab:
    """The tab's parts, and what happens at its button."""

    def __init__(self, studio: Studio, desk: Desk, form: Form, t: gr.I18n):
        self.studio, self.desk, self.form = studio, desk, form
        gr.Markdown(t("explain.about"))
        self.button = gr.Button(t("button.explain"), variant="primary", elem_id="explain")
        self.status = gr.HTML(elem_id="explain_status")
        self.plan = gr.Textbox(label=t("explain.plan"), lines=4, max_lines=20, interactive=False, elem_id="plan")
        self.tokens = gr.HTML(elem_id="tokens")
        self.schedule = gr.LinePlot(x="step", y="sigma", label=t("explain.schedule"), height=260, visible=False,
                                    elem_id="schedule")
        self.steps = gr.HTML(elem_id="moments")
        self.maps = gr.HTML(elem_id="maps")
        parts = [self.status, self.plan, self.tokens, self.schedule, self.steps, self.maps]
        self.button.click(self.explain, form.inputs(), parts, **WAITING)

    async def explain(self, given: Mapping[Any, Any], request: gr.Request) -> AsyncIterator[dict[Any, Any]]:
        """Draw one picture of the form's prompt, and show how."""
        lang = language(request)
        try:
            order = await asyncio.to_thread(forms.order, {**self.form.values(given), "task": "txt2img"})
            job = self.desk.submit(lambda job: self.work(order, job), str(request.session_hash))
        except (QueueFull, ValueError) as error:
            key = "state.full" if isinstance(error, QueueFull) else "state.failed"
            yield {self.status: line(say(lang, key, error=error), "alert")}
            return
        async for _ in self.desk.follow(job):
            yield {self.status: progress(job, self.desk.queue, lang)}
        shown = await asyncio.to_thread(self.show, job.result, lang) if job.result else {}
        yield {self.status: ending(job, lang), **shown}

    def work(self, order: Order, job: Job) -> Explained:
        """The work of a job, in the queue's thread."""
        pipe, order = self.studio.prepare(order)
        return explain(pipe, order.prompt, order.settings, self.studio.preview, job.report)

    def show(self, found: Explained, lang: Language) -> dict[Any, Any]:
        """Updates that show it."""
        sigmas = found.plan.sigmas
        plot = gr.LinePlot(pd.DataFrame({"step": range(len(sigmas)), "sigma": sigmas}), visible=True,
                           x_title=say(lang, "explain.step"), y_title=say(lang, "explain.sigma"))
        return {self.plan: found.plan.describe(), self.tokens: tokens(found, lang), self.schedule: plot,
                self.steps: moments(found, lang), self.maps: maps(found, lang)}


def heading(text: str) -> str:
    return f"<h3>{text}</h3>"


def tokens(found: Explained, lang: Language) -> str:
    """Tables of the tokens of prompt and negative prompt."""
    return (heading(say(lang, "explain.tokens")) + chunks(found.tokens, lang)
            + heading(say(lang, "explain.negative")) + chunks(found.negative, lang))


def chunks(parts: list[list[Token]], lang: Language) -> str:
    """A table for each chunk."""
    heads = [say(lang, f"explain.{name}") for name in ("token", "id", "weight")]
    made = []
    for i, part in enumerate(parts, start=1):
        rows = [[token.text, str(token.id), f"{token.weight:.3g}"] for token in part]
        made.append(line(say(lang, "explain.chunk", i=i, n=len(parts), used=len(part)), "note"))
        made.append(table(heads, rows) if rows else line(say(lang, "explain.empty"), "note"))
    return "".join(made)


def moments(found: Explained, lang: Language) -> str:
    """Two strips of pictures: the latents, and what was expected of them."""
    label = say(lang, "explain.strip")
    noisy = [(m.noisy, say(lang, "explain.noisy", i=m.i, sigma=m.sigma)) for m in found.moments]
    expected = [(m.x0, say(lang, "explain.x0", i=m.i)) for m in found.moments]
    return heading(label) + figures(noisy, label) + figures(expected, label)


def maps(found: Explained, lang: Language) -> str:
    """The picture, and over it the map of each word."""
    names = {START: say(lang, "explain.start"), PADDING: say(lang, "explain.padding")}
    shown = [(heat_map(word, found.picture), say(lang, "explain.word", word=names.get(word.word, word.word),
                                                 share=word.share)) for word in found.words]
    label = say(lang, "explain.maps")
    return (heading(label) + line(say(lang, "explain.maps_about"), "note")
            + figures([(found.picture, say(lang, "explain.picture")), *shown], label, wrap=True))
