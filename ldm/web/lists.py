"""The routes that say and set what there is: models, samplers, plug-ins, options; health and metrics."""

import os
from pathlib import Path
from typing import Any

import psutil
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ldm.metadata import SAMPLERS, SPACINGS
from ldm.web.api import ended
from ldm.web.jobs import Job
from ldm.web.options import changed
from ldm.web.replies import REFUSALS
from ldm.web.state import State, Web
from ldm.web.translate import UPSCALERS

router = APIRouter(prefix="/sdapi/v1", tags=["lists and options"], responses=REFUSALS)
watching = APIRouter(tags=["watching"])


@router.get("/options")
async def get_options(web: Web) -> dict[str, Any]:
    """The options that have an effect."""
    return web.options.told()


@router.post("/options")
async def set_options(body: dict[str, Any], request: Request, web: Web) -> dict[str, Any]:
    """Set some options; a model is loaded in its turn, and the reply comes when it is."""
    options, notes = changed(web.options, body, web.studio)
    if options.sd_model_checkpoint != web.options.sd_model_checkpoint:
        def load(job: Job) -> None:
            web.studio.use(options.sd_model_checkpoint, options.vae)

        await ended(load, request, web)
        options, _ = changed(web.options, body, web.studio)             # others may have set some meanwhile
    web.options = options
    return {"notes": notes}


@router.get("/sd-models")
async def sd_models(web: Web) -> list[dict[str, Any]]:
    """The models that `sd_model_checkpoint` may name."""
    return [{"title": name, "model_name": name, "hash": None, "sha256": None, "filename": path.name, "config": None}
            for name, path in web.studio.models().items()]


@router.get("/sd-vae")
async def sd_vae(web: Web) -> list[dict[str, str]]:
    """The files that `sd_vae` may name."""
    return [{"model_name": name, "filename": path.name} for name, path in web.studio.files("models").items()]


@router.get("/samplers")
async def samplers() -> list[dict[str, Any]]:
    """Samplers: A1111's names, and ours as aliases."""
    return [{"name": theirs, "aliases": [ours], "options": {}} for ours, theirs in SAMPLERS.items()]


@router.get("/schedulers")
async def schedulers() -> list[dict[str, Any]]:
    """Spacings of the noise levels."""
    return [{"name": theirs.casefold(), "label": theirs, "aliases": None, "default_rho": -1.0,
             "need_inner_model": False} for theirs in ("Automatic", *SPACINGS.values())]


@router.get("/upscalers")
async def upscalers() -> list[dict[str, Any]]:
    """What enlarges pictures: plain resampling, no networks."""
    return [{"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4} for name in UPSCALERS]


@router.get("/loras")
async def loras(web: Web) -> list[dict[str, Any]]:
    """The LoRAs that prompts may name."""
    return [{"name": name, "alias": Path(name).name, "path": path.name, "metadata": {}}
            for name, path in web.studio.files("loras").items()]


@router.get("/embeddings")
async def embeddings(web: Web) -> dict[str, Any]:
    """The textual inversions that prompts may name."""
    return {"loaded": {Path(name).name: {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None}
                       for name in web.studio.files("embeddings")}, "skipped": {}}


@router.get("/scripts")
async def scripts() -> dict[str, list[str]]:
    """None: extensions of A1111 are not run."""
    return {"txt2img": [], "img2img": []}


@router.post("/refresh-checkpoints")
async def refresh_checkpoints() -> None:
    """Nothing needs to be done: folders are looked up anew each time."""


@router.get("/memory")
async def memory() -> dict[str, Any]:
    """Bytes of memory: of the machine, and of this process."""
    machine = psutil.virtual_memory()
    return {"ram": {"free": machine.available, "used": resident(), "total": machine.total}, "cuda": {}}


@watching.get("/health")
async def health(web: Web) -> dict[str, Any]:
    """Whether the server lives, its model, and how many jobs wait."""
    return {"status": "stopping" if web.queue.closed else "ok", "model": web.options.sd_model_checkpoint,
            "loaded": web.studio.pipe is not None, "running": web.queue.current is not None,
            "waiting": len(web.queue.waiting)}


@watching.get("/metrics", response_class=PlainTextResponse)
async def metrics(web: Web) -> PlainTextResponse:
    """The text that Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(Figures(web))
    return PlainTextResponse(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class Figures:
    """The queue's figures, for Prometheus."""

    def __init__(self, web: State):
        self.web = web

    def collect(self):
        """Yield each figure."""
        queue = self.web.queue
        jobs = CounterMetricFamily("ldm_jobs", "Jobs that have ended, by how they did", labels=["state"])
        for state, count in queue.finished.items():
            jobs.add_metric([state], count)
        yield jobs
        yield CounterMetricFamily("ldm_job_seconds", "Seconds that jobs have run", value=queue.worked_s)
        yield GaugeMetricFamily("ldm_jobs_waiting", "Jobs that wait", value=len(queue.waiting))
        yield GaugeMetricFamily("ldm_jobs_running", "Jobs that run", value=int(queue.current is not None))
        yield GaugeMetricFamily("ldm_resident_memory_bytes", "Resident memory of the process", value=resident())


def resident() -> int:
    """Bytes of this process that are in memory."""
    return psutil.Process(os.getpid()).memory_info().rss
