"""Requests that wait: progress, interrupting, leaving, a full queue, a server that stops."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest
from exchange import TINY, decoded
from fastapi import FastAPI

from ldm.web.jobs import Job, Queue
from ldm.web.server import build_app
from ldm.web.studio import Studio

LONG = {**TINY, "steps": 150, "n_iter": 50}


def until(true: Callable[[], object]) -> None:
    """Wait, up to 60 s."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def ask(app: FastAPI, serving: Callable[[FastAPI], str]) -> Iterator[Callable[..., Future[httpx.Response]]]:
    """ask(path, body, host) -> the reply to come of a POST from an address of the loopback."""
    base = serving(app)
    with ThreadPoolExecutor(40) as pool:
        def post(path: str, body: dict, host: str = "127.0.0.1") -> httpx.Response:
            with httpx.Client(base_url=base, timeout=120, transport=httpx.HTTPTransport(local_address=host)) as client:
                return client.post(f"/sdapi/v1/{path}", json=body)

        yield lambda path, body, host="127.0.0.1": pool.submit(post, path, body, host)


@pytest.fixture
def held(queue: Queue) -> Iterator[threading.Event]:
    """The queue is busy until this is set."""
    free = threading.Event()
    job = queue.submit(lambda job: free.wait(60))
    until(lambda: queue.current is job)
    yield free
    free.set()


def test_progress_shows_the_picture_and_interrupt_gives_what_is_finished(ask, queue: Queue, app: FastAPI):
    base = str(ask("interrupt", {}).result().url).removesuffix("/sdapi/v1/interrupt")
    reply = ask("txt2img", {**TINY, "steps": 20, "n_iter": 50})
    until(lambda: queue.current and queue.current.passed >= 1 and queue.current.preview is not None)
    told = httpx.get(f"{base}/sdapi/v1/progress").json()
    assert 0 < told["progress"] < 1 and told["state"]["job_count"] == 1 and told["state"]["sampling_steps"] == 20
    assert decoded(told["current_image"]).size == (8, 8)
    assert httpx.get(f"{base}/sdapi/v1/progress?skip_current_image=true").json()["current_image"] is None
    assert ask("interrupt", {}).result().status_code == 200
    info = json.loads(reply.result().json()["info"])
    assert info["interrupted"] and 1 <= len(reply.result().json()["images"]) < 50
    until(lambda: queue.current is None)
    idle = httpx.get(f"{base}/sdapi/v1/progress").json()
    assert idle["progress"] == 0 and idle["state"]["job_count"] == 0


def test_addresses_take_turns(ask, queue: Queue, held: threading.Event, studio: Studio, monkeypatch):
    ended: list[str] = []
    draw = studio.draw

    def told(order, job: Job):
        ended.append(order.prompt)
        return draw(order, job)

    monkeypatch.setattr(studio, "draw", told)
    replies = []
    for prompt, host in (("a1", "127.0.0.1"), ("a2", "127.0.0.1"), ("a3", "127.0.0.1"), ("b1", "127.0.0.2")):
        replies.append(ask("txt2img", {"prompt": prompt, **TINY}, host))
        until(lambda: len(queue.waiting) == len(replies))
    held.set()
    assert all(reply.result().status_code == 200 for reply in replies)
    assert ended == ["a1", "b1", "a2", "a3"]


def test_a_full_queue_is_a_503_that_says_when_to_come_again(ask, queue: Queue, held: threading.Event):
    replies = [ask("txt2img", {**TINY, "send_images": False}) for _ in range(queue.limit)]
    until(lambda: len(queue.waiting) == queue.limit)
    refused = ask("txt2img", TINY).result()
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
    assert "20 jobs are waiting" in refused.json()["detail"]
    held.set()
    assert {reply.result().status_code for reply in replies} == {200}


def test_who_goes_away_draws_nothing(ask, queue: Queue, held: threading.Event, studio: Studio):
    base = str(ask("interrupt", {}).result().url).removesuffix("/sdapi/v1/interrupt")
    until(lambda: queue.current is not None)
    before = queue.finished["cancelled"]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{base}/sdapi/v1/txt2img", json=LONG, timeout=httpx.Timeout(30, read=0.5))
    until(lambda: queue.finished["cancelled"] > before)
    assert not queue.waiting


def test_who_goes_away_stops_the_drawing(ask, queue: Queue):
    base = str(ask("interrupt", {}).result().url).removesuffix("/sdapi/v1/interrupt")
    gone = threading.Event()

    def leave() -> None:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{base}/sdapi/v1/txt2img", json=LONG, timeout=httpx.Timeout(60, read=3))
        gone.set()

    threading.Thread(target=leave).start()
    until(lambda: queue.current is not None and queue.current.step)
    job = queue.current
    assert gone.wait(60)
    assert job is not None and job.wait(60) and job.state == "cancelled"


def test_a_server_that_stops_refuses_what_waits(studio: Studio, serving):
    queue = Queue()
    base = serving(build_app(studio, queue, page=False))
    with ThreadPoolExecutor(3) as pool:
        replies = [pool.submit(httpx.post, f"{base}sdapi/v1/txt2img", json=LONG, timeout=60) for _ in range(3)]
        until(lambda: len(queue.waiting) == 2 and queue.current is not None and queue.current.step)
        queue.close(0)
        assert [reply.result().status_code for reply in replies] == [503] * 3
        assert "stopping" in replies[0].result().json()["detail"]
    assert httpx.get(f"{base}health").json()["status"] == "stopping"
    assert httpx.post(f"{base}sdapi/v1/txt2img", json=TINY).status_code == 503
