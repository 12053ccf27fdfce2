"""Pieces of HTML for what has no component of its own.  Every text is escaped; pictures are part of the text."""

import base64
import io
from collections.abc import Iterable
from html import escape

from PIL import Image

from ldm.web.jobs import Job, Queue
from ldm.web.texts import Language, say


def data_url(image: Image.Image) -> str:
    """A picture as the address of itself, so that nothing is written to the disk or asked of the server."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def picture(image: Image.Image, alt: str, name: str = "") -> str:
    """An <img> of a class `name`."""
    return f'<img class="{escape(name)}" alt="{escape(alt)}" src="{data_url(image)}">'


def figures(pictures: Iterable[tuple[Image.Image, str]], label: str, wrap: bool = False) -> str:
    """Pictures with captions, side by side; those that do not fit go on below with `wrap`, else can be moved along."""
    parts = (f"<figure>{picture(image, caption)}<figcaption>{escape(caption)}</figcaption></figure>"
             for image, caption in pictures)
    kind = "strip wrap" if wrap else "strip"
    return f'<div class="{kind}" role="group" tabindex="0" aria-label="{escape(label)}">{"".join(parts)}</div>'


def line(text: str, kind: str = "status") -> str:
    """One line that screen readers say at once.  `kind`: "status", or "alert" for what went wrong."""
    return f'<p class="line {kind}" role="{kind}">{escape(text)}</p>'


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of texts; the first cell of each row is its head."""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        body += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def progress(job: Job, queue: Queue, language: Language) -> str:
    """Where a job is: its place in the queue, or bar, step and time left, and below the last preview."""
    if job.state == "queued":
        waiting = queue.waiting
        place = waiting.index(job) + 1 if job in waiting else 1
        return line(say(language, "state.queued", place=place, waiting=len(waiting)))
    if not job.steps:
        return line(say(language, "state.loading"))
    text = say(language, "state.running", step=job.step, steps=job.steps)
    if job.passes > 1:
        text += say(language, "state.pass", passed=min(job.passed + 1, job.passes), passes=job.passes)
    left = job.time_left_s
    if left is not None:
        text += say(language, "state.left", seconds=round(left))
    label = escape(say(language, "label.status"))
    bar = f'<progress aria-label="{label}" value="{job.progress:.3f}" max="1"></progress>'
    seen = picture(job.preview, say(language, "state.preview"), "sketch") if job.preview else ""
    return f'{bar}<p class="line">{escape(text)}</p>{seen}'


def ending(job: Job, language: Language) -> str:
    """How a job ended, in lines."""
    said = {
        "done": lambda: say(language, "state.done", seconds=round((job.ended or 0) - (job.started or 0), 1)),
        "cancelled": lambda: say(language, "state.cancelled"),
        "failed": lambda: say(language, "state.failed", error=" ".join(str(job.error).split())),
    }[job.state]()
    notes = (line(say(language, "state.note", note=note)) for note in job.notes)
    return line(said, "alert" if job.state == "failed" else "status") + "".join(notes)
