"""What jobs leave behind once they have ended: nothing but their files."""

import gc
import threading
from typing import NamedTuple

import psutil
import pytest
from PIL import Image
from torch import Tensor

from ldm.web.desk import Desk
from ldm.web.jobs import Job, Queue
from ldm.web.orders import Order
from ldm.web.studio import Studio

JOBS = 100
MORE_MIB = 16                                           # that the process may grow by: the allocator keeps some
KINDS = (Job, Order, Image.Image, Tensor)
SMALL = {"steps": 1, "width": 32, "height": 32, "sampler": "euler"}
PROMPTS = {3: "swirl", 7: "a fox <lora:strong:1>", 13: "a fox <lora:strong:1> <lora:strong:1>"}


class Held(NamedTuple):
    """What the process holds."""

    objects: dict[str, int]
    threads: int
    files: int
    resident_mib: float


def held() -> Held:
    gc.collect()
    types = [type(found) for found in gc.get_objects()]
    process = psutil.Process()
    return Held({kind.__name__: sum(issubclass(found, kind) for found in types) for kind in KINDS},
                threading.active_count(), len(process.open_files()), process.memory_info().rss / 2**20)


def ask(studio: Studio, desk: Desk, i: int) -> str:
    """One job of a session of its own, of each kind in turn, and how it ended."""
    prompt = PROMPTS.get(i % 20, "a fox")
    task, image = ("img2img", Image.new("RGB", (32, 32))) if i % 3 else ("txt2img", None)
    order = Order(prompt, task, {**SMALL, "seed": i}, image, previews=True)
    job = desk.submit(lambda job: studio.draw(order, job), f"session {i}")
    if i % 10 == 0:
        desk.cancel(f"session {i}")
    assert job.wait(60)
    return job.state


@pytest.mark.slow
def test_a_hundred_jobs_leave_nothing_behind(studio: Studio, queue: Queue):
    desk = Desk(queue)
    for i in PROMPTS:                                   # what is made once is made now
        ask(studio, desk, i)
    before = held()
    states = [ask(studio, desk, i) for i in range(JOBS)]
    after = held()
    assert {state: states.count(state) for state in states} == {"done": 85, "failed": 5, "cancelled": 10}
    assert all(after.objects[kind] <= count + 1 for kind, count in before.objects.items())      # the last job is held
    assert (after.threads, after.files) == (before.threads, before.files)
    assert after.resident_mib < before.resident_mib + MORE_MIB
