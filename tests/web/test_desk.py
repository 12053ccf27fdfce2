"""The desk: sessions have their own jobs, and nobody's job outlives who wanted it."""

import asyncio
import gc
import threading
import weakref

import pytest

from ldm.web.desk import Desk
from ldm.web.jobs import Job, Queue


@pytest.fixture
def desk():
    queue = Queue()
    yield Desk(queue)
    queue.close()


def endless(job: Job) -> None:
    while True:
        job.report(1, 2)
        threading.Event().wait(0.01)


def test_cancel_ends_all_jobs_of_one_session_and_no_other(desk):
    mine, mine_too = desk.submit(endless, "me"), desk.submit(endless, "me")
    yours = desk.submit(lambda job: "drawn", "you")
    desk.cancel("me")
    assert yours.wait(10) and mine.wait(10) and mine_too.wait(10)
    assert (mine.state, mine_too.state, yours.state) == ("cancelled", "cancelled", "done")
    desk.cancel("nobody")


def test_follow_ends_with_the_job(desk):
    async def watch() -> int:
        job = desk.submit(lambda job: threading.Event().wait(0.3), "me")
        return len([seen async for seen in desk.follow(job)])

    assert asyncio.run(watch()) >= 2


def test_job_is_cancelled_where_nobody_follows_it_any_more(desk):
    async def leave() -> Job:
        job = desk.submit(endless, "me")
        follower = desk.follow(job)
        async for _ in follower:
            break
        await follower.aclose()
        return job

    job = asyncio.run(leave())
    assert job.wait(10) and job.state == "cancelled"


def test_ended_jobs_are_forgotten(desk):
    jobs = [weakref.ref(desk.submit(lambda job: None, f"session {i}")) for i in range(20)]
    desk.submit(lambda job: None, "me").wait(10)
    gc.collect()
    assert [job() for job in jobs] == [None] * 20
