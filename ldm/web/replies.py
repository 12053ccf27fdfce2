"""Replies in A1111's words: pictures in base64, what they were made with, how far a job is; and refusals."""

import base64
import io
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import BaseModel
from torch import OutOfMemoryError

from ldm.images import TEXT, read_metadata
from ldm.metadata import SAMPLERS, model_name, to_parameters
from ldm.web.a1111 import Drawing, Mistake, UnknownName
from ldm.web.jobs import Job, QueueFull
from ldm.web.uploads import TooLarge

log = logging.getLogger("ldm.web")

RETRY_S = 10                                            # what a client shall wait where the queue is full
STATUS: dict[type[Exception], int] = {
    UnknownName: 404, TooLarge: 413, MemoryError: 413, OutOfMemoryError: 413, QueueFull: 503,
    ValueError: 422, ArithmeticError: 422,              # a NonFiniteError is one
    OSError: 507,                                       # of our own files, as where the disk is full
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": Mistake, "description": why} for code, why in {
        400: "The request is no JSON, or is for another host.", 404: "There is nothing of this name.",
        413: "Too large.", 422: "A value is wrong, or not supported.", 503: "The queue is full, or the server stops.",
        507: "A file cannot be written or read.",
    }.items()}


class Drawn(BaseModel):
    """Pictures."""

    images: list[str]                                   # PNG files in base64
    parameters: dict[str, Any]                          # the request
    info: str                                           # JSON


def encode(image: Image.Image) -> str:
    """A picture as a PNG in base64, with A1111's text where it has one."""
    file, info = io.BytesIO(), PngInfo()
    if image.info.get(TEXT):
        info.add_text(TEXT, str(image.info[TEXT]))
    image.save(file, "PNG", pnginfo=info)
    return base64.b64encode(file.getvalue()).decode()


def drawn(body: Drawing, files: Sequence[Path], notes: list[str], interrupted: bool) -> Drawn:
    """The reply of txt2img and img2img: what was drawn, all of it unless somebody interrupted."""
    told = [read_metadata(path) for path in files]
    sizes = [size_of(path) for path in files]
    first = told[0] if told else {}
    info = {
        "prompt": body.prompt, "all_prompts": [body.prompt] * len(told), "negative_prompt": body.negative_prompt,
        "all_negative_prompts": [body.negative_prompt] * len(told), "seed": first.get("seed", body.seed),
        "all_seeds": [one["seed"] for one in told], "subseed": first.get("variation_seed", body.subseed),
        "all_subseeds": [one.get("variation_seed", body.subseed) for one in told],
        "subseed_strength": body.subseed_strength, "width": body.width, "height": body.height,
        "sampler_name": SAMPLERS.get(first.get("sampler", ""), ""), "cfg_scale": body.cfg_scale, "steps": body.steps,
        "batch_size": body.batch_size, "sd_model_name": model_name(first.get("model", "")),
        "sd_model_hash": first.get("model_hash", "")[:10], "denoising_strength": first.get("strength"),
        "clip_skip": first.get("clip_skip", 1), "index_of_first_image": 0, "styles": [], "extra_generation_params": {},
        "infotexts": [to_parameters(one, *size) for one, size in zip(told, sizes, strict=True)],
        "interrupted": interrupted, "notes": notes,
    }
    images = [base64.b64encode(path.read_bytes()).decode() for path in files] if body.send_images else []
    echo = body.model_dump(include=set(type(body).model_fields), exclude={"init_images", "mask", "override_settings"})
    return Drawn(images=images, parameters=echo, info=json.dumps(info))


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture file."""
    with Image.open(path) as image:
        return image.size


def progress(job: Job | None, waiting: int, with_picture: bool) -> dict[str, Any]:
    """How far the job that runs is, as A1111 says it."""
    preview = job.preview if job is not None and with_picture else None
    return {
        "progress": job.progress if job is not None else 0.0,
        "eta_relative": (job.time_left_s or 0.0) if job is not None else 0.0,
        "state": {"skipped": False, "interrupted": job is not None and job.cancelled,
                  "job": job.id if job is not None else "", "job_count": waiting + (job is not None),
                  "job_no": job.passed if job is not None else 0,
                  "sampling_step": job.step if job is not None else 0,
                  "sampling_steps": job.steps if job is not None else 0},
        "current_image": encode(preview) if preview is not None else None, "textinfo": None,
    }


def refusal(request: Request, error: Exception) -> JSONResponse:
    """An exception that is a client's mistake, or a full queue, as a line of JSON."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    text = str(error) or type(error).__name__
    if isinstance(error, OSError):                      # whose text says where files lie
        log.error("%s", text)
        text = f"the server cannot write or read a file ({os.strerror(error.errno or 0)}); its log says which"
    return JSONResponse({"detail": printable(text)}, status, {"Retry-After": str(RETRY_S)} if status == 503 else None)


def invalid(request: Request, error: Exception) -> JSONResponse:
    """A body that is not as described, in a line, without what of it is long or no JSON."""
    assert isinstance(error, RequestValidationError)
    lines = [f"{'.'.join(map(str, one['loc'][1:])) or 'body'}{given(one['input'])}: {one['msg']}"
             for one in error.errors()[:5]]
    return JSONResponse({"detail": printable("; ".join(lines))}, 422)


def given(value: Any) -> str:
    """A value that was refused, where it is short."""
    return f" {value!r}" if isinstance(value, bool | int | float | str) and len(repr(value)) <= 40 else ""


def printable(text: str) -> str:
    """Text without what JSON has no sign for."""
    return text.encode("utf-8", "replace").decode()


def add_refusals(app: FastAPI) -> None:
    """Let an application answer mistakes with `refusal` and `invalid`."""
    app.add_exception_handler(RequestValidationError, invalid)
    for kind in STATUS:
        app.add_exception_handler(kind, refusal)
