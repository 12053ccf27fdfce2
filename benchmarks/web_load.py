"""Many clients of one server at once: is every picture the one that its client asked for, and how long did it take?"""

import base64
import contextlib
import io
import re
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any, NamedTuple

import httpx
from PIL import Image


class Answer(NamedTuple):
    """What became of one request."""

    job: int
    status: int                                         # of HTTP; 0 where there was no reply
    right: bool                                         # the picture has the prompt and the seed that were asked for
    wait_s: float                                       # from the request to the reply


def prompt(job: int) -> str:
    return f"3d render of a fox {job}"


def ask(client: httpx.Client, job: int, body: dict[str, Any]) -> Answer:
    """Have one picture drawn, whose prompt and seed no other has."""
    start = time.perf_counter()
    try:
        reply = client.post("/sdapi/v1/txt2img", json={**body, "prompt": prompt(job), "seed": job})
    except httpx.TransportError:
        return Answer(job, 0, False, time.perf_counter() - start)
    wait_s = time.perf_counter() - start
    return Answer(job, reply.status_code, reply.status_code == 200 and is_right(reply.json()["images"], job), wait_s)


def is_right(images: list[str], job: int) -> bool:
    """Whether a reply holds one picture, and this says the job's prompt and seed."""
    if len(images) != 1:
        return False
    with Image.open(io.BytesIO(base64.b64decode(images[0]))) as picture:
        text = str(picture.info["parameters"])
    seed = re.search(r"\bSeed: (\d+)", text)
    return text.split("\n")[0] == prompt(job) and seed is not None and int(seed[1]) == job


def resident_mib(client: httpx.Client) -> float:
    """Memory that the server holds."""
    found = re.search(r"^ldm_resident_memory_bytes (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1]) / 2**20


def load(address: str, clients: int, jobs: int, body: dict[str, Any]) -> tuple[list[Answer], list[float]]:
    """So many clients, each with one request at a time -> the answers, and MiB of memory after each."""
    memory: list[float] = []

    def work(client: httpx.Client, own: range) -> list[Answer]:
        answers = []
        for job in own:
            answers.append(ask(client, job, body))
            with contextlib.suppress(httpx.TransportError):             # the server may have ended
                memory.append(resident_mib(client))
        return answers

    connections = [httpx.Client(base_url=address, timeout=None) for _ in range(clients)]
    try:
        with ThreadPoolExecutor(clients) as pool:
            running = [pool.submit(work, client, range(i, jobs, clients)) for i, client in enumerate(connections)]
            answers = [answer for one in running for answer in one.result()]
    finally:
        for client in connections:
            client.close()
    return answers, memory


def row(answers: list[Answer], memory: list[float]) -> dict[str, Any]:
    """The figures of a load."""
    at = {share: memory[max(round(len(memory) * share / 100) - 1, 0)] for share in (10, 50, 100)}
    return {"jobs": len(answers), "lost": sum(answer.status != 200 for answer in answers),
            "mixed_up": sum(answer.status == 200 and not answer.right for answer in answers),
            "wait_median_s": median(answer.wait_s for answer in answers),
            "wait_max_s": max(answer.wait_s for answer in answers),
            **{f"resident_{share}_mib": mib for share, mib in at.items()}}
