"""The tabs of pictures that were drawn before: the history, and files that are dropped."""

from typing import Any

import gradio as gr

from ldm.web.history import pictures
from ldm.web.page_draw import AT_ONCE, DrawTab, Result, build_result, language, told_by
from ldm.web.page_html import line
from ldm.web.texts import say
from ldm.web.uploads import check_picture

PAGE = 24                                               # pictures at once


class HistoryTab:
    """All pictures of the server's folder, the newest first."""

    def __init__(self, draw: DrawTab, tab: gr.Tab, t: gr.I18n):
        self.draw = draw
        with gr.Row():
            newer = gr.Button(t("button.newer"), size="sm", min_width=100, elem_id="newer")
            older = gr.Button(t("button.older"), size="sm", min_width=100, elem_id="older")
        self.status = gr.HTML(elem_id="history_status")
        self.result: Result = build_result(t, "history", columns=4)
        self.skip = gr.State(0)
        parts = [self.status, self.skip, *self.result.parts]
        draw.connect(self.result)
        tab.select(self.first, None, parts, **AT_ONCE)
        newer.click(self.newer, self.skip, parts, **AT_ONCE)
        older.click(self.older, self.skip, parts, **AT_ONCE)

    def first(self, request: gr.Request) -> dict[Any, Any]:
        return self.turn(0, request)

    def newer(self, skip: int, request: gr.Request) -> dict[Any, Any]:
        return self.turn(max(skip - PAGE, 0), request)

    def older(self, skip: int, request: gr.Request) -> dict[Any, Any]:
        """The next page, or the same one where there is none."""
        return self.turn(skip + PAGE if pictures(self.draw.studio.out, 1, skip + PAGE) else skip, request)

    def turn(self, skip: int, request: gr.Request) -> dict[Any, Any]:
        """Updates that show the pictures after the first `skip`."""
        found, lang = pictures(self.draw.studio.out, PAGE, skip), language(request)
        told = say(lang, "state.page", first=skip + 1, last=skip + len(found)) if found else say(lang, "state.empty")
        return {self.status: line(told), self.skip: skip, **self.result.show(found, select=False)}


class InfoTab:
    """A picture file from anywhere: what it was made with, and back into the form with it."""

    def __init__(self, draw: DrawTab, t: gr.I18n):
        file = gr.Image(label=t("label.drop"), type="filepath", image_mode=None, sources=["upload"], height=320,
                        elem_id="drop")
        to_form = gr.Button(t("button.to_form"), elem_id="info_to_form")
        parameters = gr.Textbox(label=t("label.made_with"), lines=3, max_lines=12, interactive=False, buttons=["copy"],
                                elem_id="info_parameters")
        self.draw = draw
        file.change(self.told, file, parameters, **AT_ONCE)
        to_form.click(self.fill, file, [draw.status, draw.tabs, *draw.form.parts.values()], **AT_ONCE)

    def told(self, path: str | None) -> str:
        """The settings in a file, or why there are none."""
        try:
            return told_by(checked(path))[0] if path else ""
        except ValueError as error:
            return str(error)

    def fill(self, path: str | None, request: gr.Request) -> dict[Any, Any]:
        """As of the pictures drawn here, for a file within the bounds of uploads."""
        try:
            return self.draw.fill(checked(path) if path else None, request)
        except ValueError as error:
            return self.draw.failed(say(language(request), "state.failed", error=error))


def checked(path: str) -> str:
    """A path, after a look at the size of the picture; to read the metadata may mean to decode it."""
    check_picture(path)
    return path
