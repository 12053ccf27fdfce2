"""The queue: turns, bounds, cancelling."""

import threading
import time
import weakref

import pytest

from ldm.web.jobs import Job, Queue, QueueFull


@pytest.fixture
def held(queue: Queue):
    """A queue that is busy until the event is set."""
    free = threading.Event()
    job = queue.submit(lambda job: free.wait(10))
    while queue.current is not job:
        time.sleep(0.001)
    yield free
    free.set()
    job.wait(10)


def test_clients_take_turns(queue: Queue, held: threading.Event):
    order: list[str] = []
    jobs = [queue.submit(lambda job, name=name: order.append(name), name[0]) for name in ("a1", "a2", "a3", "b1", "c1")]
    assert [job.client for job in queue.waiting] == ["a", "b", "c", "a", "a"]
    held.set()
    assert all(job.wait(10) for job in jobs)
    assert order == ["a1", "b1", "c1", "a2", "a3"]


def test_a_full_queue_refuses(held: threading.Event, queue: Queue):
    for _ in range(queue.limit):
        queue.submit(lambda job: None)
    with pytest.raises(QueueFull, match="20 jobs are waiting"):
        queue.submit(lambda job: None)


def test_a_waiting_job_that_is_cancelled_never_runs(queue: Queue, held: threading.Event):
    ran: list[Job] = []
    job = queue.submit(ran.append)
    queue.cancel(job)
    held.set()
    assert job.wait(10) and job.state == "cancelled" and not ran


def test_a_running_job_stops_at_its_next_report(queue: Queue):
    reached = threading.Event()

    def work(job: Job) -> None:
        for i in range(10_000):
            job.report(i, 10_000)
            reached.set()
            time.sleep(0.001)

    job = queue.submit(work)
    assert reached.wait(10)
    queue.interrupt()
    assert job.wait(10) and job.state == "cancelled" and job.step < 9_999


def test_an_error_is_kept_and_the_next_job_runs(queue: Queue):
    def fail(job: Job) -> None:
        raise ZeroDivisionError("no")

    first, second = queue.submit(fail), queue.submit(lambda job: 7)
    assert second.wait(10) and second.result == 7
    assert first.state == "failed" and isinstance(first.error, ZeroDivisionError)
    assert queue.finished == {"done": 1, "failed": 1, "cancelled": 0}


def test_errors_that_are_no_mistakes_of_who_asks_are_logged(queue: Queue, caplog: pytest.LogCaptureFixture):
    for error in (ValueError("width 500"), KeyError("bug")):
        def fail(job: Job, error: Exception = error) -> None:
            raise error

        assert queue.submit(fail).wait(10)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError]


def test_an_error_does_not_hold_what_its_frames_held(queue: Queue):
    class Latents:
        pass

    held: list[weakref.ref[Latents]] = []

    def fail(job: Job) -> None:
        latents = Latents()
        held.append(weakref.ref(latents))
        raise MemoryError("too much")

    job = queue.submit(fail)
    assert job.wait(10) and isinstance(job.error, MemoryError) and job.error.__traceback__
    assert held[0]() is None


def test_when_ended_calls_later_and_at_once(queue: Queue, held: threading.Event):
    calls: list[str] = []
    job = queue.submit(lambda job: None)
    job.when_ended(lambda: calls.append("later"))
    assert not calls
    held.set()
    assert job.wait(10)
    while not calls:
        time.sleep(0.001)
    job.when_ended(lambda: calls.append("at once"))
    assert calls == ["later", "at once"]


def test_close_cancels_what_waits_and_refuses_more(queue: Queue, held: threading.Event):
    job = queue.submit(lambda job: None)
    queue.close(0)
    assert job.state == "cancelled"
    with pytest.raises(QueueFull, match="stopping"):
        queue.submit(lambda job: None)


def test_seconds_of_work_add_up(queue: Queue):
    job = queue.submit(lambda job: time.sleep(0.05))
    assert job.wait(10)
    assert 0.05 <= queue.worked_s < 5
