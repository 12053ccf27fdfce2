"""The routes of A1111's API that draw, read pictures, and follow or stop what is drawn."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from ldm.metadata import NEGATIVE, PAIR, unquote
from ldm.web import translate, uploads
from ldm.web.a1111 import Drawing, Encoded, Extras, Img2Img, Txt2Img
from ldm.web.jobs import Job, QueueFull
from ldm.web.orders import passes
from ldm.web.replies import REFUSALS, Drawn, drawn, encode, progress
from ldm.web.state import State, Web
from ldm.web.translate import Asked

LOOK_S = 0.25                                           # how often to look whether a client has gone
CLIENT_GONE = 499                                       # status of nobody's reply

router = APIRouter(prefix="/sdapi/v1", tags=["drawing"], responses=REFUSALS)


@router.post("/txt2img")
async def txt2img(body: Txt2Img, request: Request, web: Web) -> Drawn:
    """Draw pictures from a prompt."""
    asked = await run_in_threadpool(translate.txt2img, body, web.options, web.studio)
    return await draw(body, asked, request, web)


@router.post("/img2img")
async def img2img(body: Img2Img, request: Request, web: Web) -> Drawn:
    """Redraw a picture, or what a mask says of it."""
    asked = await run_in_threadpool(translate.img2img, body, web.options, web.studio)
    return await draw(body, asked, request, web)


@router.post("/extra-single-image")
async def extra_single_image(body: Extras) -> dict[str, Any]:
    """Enlarge a picture, without a model."""
    def work() -> tuple[str, list[str]]:
        picture, notes = translate.enlarged(body)
        return encode(picture), notes

    image, notes = await run_in_threadpool(work)
    return {"image": image, "html_info": "; ".join(notes)}


@router.post("/png-info")
async def png_info(body: Encoded) -> dict[str, Any]:
    """The text in a picture, whole and in pairs."""
    picture = await run_in_threadpool(uploads.from_base64, body.image)
    items = {key: value for key, value in picture.info.items() if isinstance(value, str)}
    text = uploads.parameters(picture)
    return {"info": text, "items": items, "parameters": pairs(text)}


@router.get("/progress")
async def get_progress(web: Web, skip_current_image: bool = False) -> dict[str, Any]:
    """How far the job that runs is, and what it looks like by now."""
    return progress(web.queue.current, len(web.queue.waiting), not skip_current_image)


@router.post("/interrupt")
async def interrupt(web: Web) -> dict[str, Any]:
    """Stop the job that runs, whoever asked for it; its client gets what was finished of it."""
    web.queue.interrupt()
    return {}


@router.post("/skip")
async def skip(web: Web) -> dict[str, Any]:
    """As interrupt."""
    web.queue.interrupt()
    return {}


async def draw(body: Drawing, asked: Asked, request: Request, web: State) -> Drawn:
    """Let the orders of a request wait for their turn, and reply with their pictures.

    Where it was interrupted these are the batches that were finished.  Raises QueueFull, and what the drawing raised.
    """
    files: list[Path] = []

    def work(job: Job) -> None:
        job.passes = sum(passes(order) for order in asked.orders)
        for order in asked.orders:
            files.extend(web.studio.draw(order, job))

    job = await ended(work, request, web)
    return await run_in_threadpool(drawn, body, files, [*asked.notes, *job.notes], job.state == "cancelled")


async def ended(work: Callable[[Job], Any], request: Request, web: State) -> Job:
    """Submit work and wait for its end; where the client goes before it, cancel it.

    The job is done, or somebody interrupted it.  Raises QueueFull, also where the server stops; else what it raised.
    """
    job = web.queue.submit(work, request.client.host if request.client else "")
    end, loop = asyncio.Event(), asyncio.get_running_loop()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):         # the loop has ended before the job
            loop.call_soon_threadsafe(end.set)

    job.when_ended(wake)
    try:
        while not end.is_set():
            if await request.is_disconnected():
                raise HTTPException(CLIENT_GONE, "the client has gone")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(end.wait(), LOOK_S)
    finally:
        if not end.is_set():
            web.queue.cancel(job)
    if job.error is not None:
        raise job.error
    if job.state == "cancelled" and web.queue.closed:
        raise QueueFull("the server is stopping; try again later")
    return job


def pairs(text: str) -> dict[str, str]:
    """A1111's text in a picture, in its own words: "Prompt", "Negative prompt", "Steps", ...; {} where it has none."""
    *lines, last = text.strip().split("\n")
    found = {key.strip(): unquote(value.strip()) for key, value in PAIR.findall(last)}
    if len(found) < 3:
        return {}
    prompt, *negative = (part.strip() for part in NEGATIVE.split("\n".join(lines), maxsplit=1))
    return {"Prompt": prompt, "Negative prompt": "".join(negative), **found}
