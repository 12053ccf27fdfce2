"""The web page, made of Gradio's components: `mount_page` puts it into a FastAPI app."""

from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.themes import Default

from ldm.web.desk import Desk
from ldm.web.jobs import Queue
from ldm.web.page_draw import DrawTab
from ldm.web.page_explain import ExplainTab
from ldm.web.page_history import HistoryTab, InfoTab
from ldm.web.studio import Studio
from ldm.web.texts import LOCALES, words
from ldm.web.uploads import BYTES

SYSTEM = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans CJK SC", "Microsoft YaHei", "sans-serif"]
MONO = ["ui-monospace", "Consolas", "monospace"]
CLEAN_S, KEEP_S = 3600, 24 * 3600                       # how often, and from what age on, Gradio's copies are removed

CSS = """
#board { display: grid; gap: 1rem; grid-template-columns: repeat(2, minmax(0, 1fr)); grid-template-rows: auto 1fr;
         grid-template-areas: "ask show" "set show"; }
@media (max-width: 800px) {
    #board { grid-template-columns: minmax(0, 1fr); grid-template-rows: auto; grid-template-areas: "ask" "show" "set"; }
    #tabs { width: calc(100% + 2.5rem); margin: -.5rem -1.25rem 0; }         /* all of the window: 4 tabs fit */
    #history_gallery .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)) !important; }
    #tabs button[role=tab] { padding: 0 .4rem; font-size: .95rem; }
}
#ask { grid-area: ask; } #show { grid-area: show; } #set { grid-area: set; }
.form:not(:has(> *)), .row:not(:has(.block)):not(:has(button)) { display: none; }
#refresh, #dice, #reuse { align-self: center; }
.strip { display: flex; gap: .5rem; overflow-x: auto; padding-bottom: .5rem; }
.strip.wrap { flex-wrap: wrap; }
.strip figure { margin: 0; flex: 0 0 auto; width: 8.5rem; }
.strip img { width: 100%; border-radius: 4px; image-rendering: auto; }
.strip figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.sketch { width: min(100%, 384px); aspect-ratio: auto; image-rendering: auto; border-radius: 6px; }
.line { margin: .25rem 0; } .line.alert { color: #b91c1c; font-weight: 600; } .dark .line.alert { color: #fca5a5; }
#status progress { width: 100%; height: .75rem; accent-color: var(--color-accent); }
.table { overflow-x: auto; } .table th, .table td { padding: .15rem .6rem; text-align: left; }
"""
SCRIPT = """
() => {
    document.addEventListener("keydown", event => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            event.target.dispatchEvent(new Event("input", { bubbles: true }));
            setTimeout(() => document.getElementById("draw")?.click(), 50);
        }
    }, true);
}
"""


def build_page(studio: Studio, queue: Queue) -> gr.Blocks:
    """The page's components and what they do; `options` has what belongs to it when it is mounted."""
    t, desk = translations(), Desk(queue)
    with gr.Blocks(title="ldm", analytics_enabled=False, fill_width=True, delete_cache=(CLEAN_S, KEEP_S)) as page:
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(t("tab.draw"), id="draw", elem_id="tab_draw"):
                draw = DrawTab(studio, desk, tabs, t)
            with gr.Tab(t("tab.explain"), id="explain", elem_id="tab_explain"):
                ExplainTab(studio, desk, draw.form, t)
            with gr.Tab(t("tab.history"), id="history", elem_id="tab_history") as history:
                HistoryTab(draw, history, t)
            with gr.Tab(t("tab.info"), id="info", elem_id="tab_info"):
                InfoTab(draw, t)
        page.unload(draw.interrupt)
    return page


def translations() -> gr.I18n:
    """The words by browser language."""
    return gr.I18n(**{locale: words(language) for locale, language in LOCALES.items()})


def options(studio: Studio) -> dict[str, Any]:
    """How `gradio.mount_gradio_app` is to mount the page: words, system fonts, no files but the pictures drawn."""
    theme = Default(primary_hue="blue", font=SYSTEM, font_mono=MONO)
    theme.set(block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300")      # legible
    return {"i18n": translations(), "theme": theme, "css": CSS, "js": SCRIPT, "footer_links": [], "ssr_mode": False,
            "run_history": False, "enable_monitoring": False, "allowed_paths": [str(studio.out.resolve())],
            "show_error": True, "max_file_size": BYTES}


def mount_page(app: FastAPI, studio: Studio, queue: Queue, path: str = "/") -> FastAPI:
    """Put the page into an app at `path`."""
    return gr.mount_gradio_app(app, build_page(studio, queue), path=path, **options(studio))
