"""One queue: jobs run one at a time, clients take turns, each job can be followed and cancelled."""

import logging
import secrets
import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Literal

log = logging.getLogger(__name__)
MISTAKES = (ValueError, ArithmeticError, OSError)       # of who asks: they are told; others are to be looked into

State = Literal["queued", "running", "done", "failed", "cancelled"]


class QueueFull(RuntimeError):
    """So many jobs wait already that another would wait too long; or the queue is closed."""


class Cancelled(Exception):
    """Raised inside a job's work, by `Job.report`, once somebody cancelled it."""


class Job:
    """Something to do, and how far it is.  `work(job)` runs in the queue's thread; what it returns is `result`.

    The attributes may be read from any thread at any time.
    """

    def __init__(self, work: Callable[["Job"], Any], client: str = ""):
        self.id, self.client, self.work = secrets.token_hex(8), client, work
        self.state: State = "queued"
        self.result: Any = None
        self.error: Exception | None = None
        self.step, self.steps = 0, 0                    # of the present pass
        self.passed, self.passes = 0, 1                 # passes done and in all: a picture enlarged after drawing has 2
        self.preview: Any = None                        # what the last report showed
        self.notes: list[str] = []                      # what the work has to say besides
        self.created = time.monotonic()
        self.started: float | None = None
        self.ended: float | None = None
        self._cancel, self._end = threading.Event(), threading.Event()
        self._lock, self._calls = threading.Lock(), list[Callable[[], Any]]()

    def report(self, step: int, steps: int, preview: Any = None) -> None:
        """Called by the work after each step.  Raises Cancelled where it shall stop."""
        self.step, self.steps = step, steps
        self.preview = self.preview if preview is None else preview
        if self._cancel.is_set():
            raise Cancelled(f"job {self.id} was cancelled at step {step} of {steps}")

    def next_pass(self) -> None:
        """Called by the work where a pass is done and another follows."""
        self.step, self.passed = 0, self.passed + 1

    def cancel(self) -> None:
        """Stop before the next step; where the job still waits, it will not begin."""
        self._cancel.set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled it; it may still be at its last step."""
        return self._cancel.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; whether it came."""
        return self._end.wait(timeout_s)

    def when_ended(self, call: Callable[[], Any]) -> None:
        """Call this once the job has ended, in the thread that ends it; at once where it has already."""
        with self._lock:
            if not self._end.is_set():
                self._calls.append(call)
                return
        call()

    @property
    def progress(self) -> float:
        """The share that is done, 0 to 1."""
        if self.state == "done":
            return 1.0
        return min((self.passed + self.step / max(self.steps, 1)) / max(self.passes, 1), 1.0)

    @property
    def time_left_s(self) -> float | None:
        """Seconds until the end if all steps take equally long; None before the first."""
        if self.started is None or not self.progress:
            return None
        return (time.monotonic() - self.started) * (1 - self.progress) / self.progress

    def finish(self, state: State, result: Any = None, error: Exception | None = None) -> None:
        """Called by the queue: the end, however it came."""
        self.state, self.result, self.error, self.ended = state, result, error, time.monotonic()
        with self._lock:
            self._end.set()
        for call in self._calls:
            call()


class Queue:
    """Jobs wait here for the one thread that works.  Clients take turns: whoever asks for much does not delay others.

    `limit` is how many jobs may wait.
    """

    def __init__(self, limit: int = 100):
        self.limit, self.current, self.closed = limit, None, False
        self.finished: dict[State, int] = {"done": 0, "failed": 0, "cancelled": 0}
        self.worked_s = 0.0                             # seconds that ended jobs ran
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="queue", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Job], Any], client: str = "") -> Job:
        """Let a job wait for its turn.  Raises QueueFull."""
        job = Job(work, client)
        with self._changed:
            if self.closed:
                raise QueueFull("the server is stopping; try again later")
            if len(self.waiting) >= self.limit:
                raise QueueFull(f"{self.limit} jobs are waiting already; try again later")
            self._waiting.setdefault(client, deque()).append(job)
            self._changed.notify_all()
        return job

    @property
    def waiting(self) -> list[Job]:
        """The jobs that wait, in the order in which they will run if no other comes."""
        with self._changed:
            lines = [list(line) for line in self._waiting.values()]
        rounds = range(max(map(len, lines), default=0))
        return [line[i] for i in rounds for line in lines if i < len(line)]

    def interrupt(self) -> None:
        """Cancel the job that runs, if one does."""
        job = self.current
        if job is not None:
            job.cancel()

    def cancel(self, job: Job) -> None:
        """Cancel a job, wherever it is; one that still waits ends at once."""
        job.cancel()
        with self._changed:
            line = self._waiting.get(job.client)
            if line is None or job not in line:
                return
            line.remove(job)
            if not line:
                del self._waiting[job.client]
        self._end(job, "cancelled")

    def close(self, timeout_s: float | None = 30) -> None:
        """Take no more jobs, cancel those that wait or run, and wait for the thread to end."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        for job in self.waiting:
            self.cancel(job)
        self.interrupt()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            if job.cancelled:
                self._end(job, "cancelled")
                continue
            job.state, job.started = "running", time.monotonic()
            try:
                result = job.work(job)
            except Cancelled:
                self._end(job, "cancelled")
            except Exception as error:                  # whatever it is, the next job shall run
                if not isinstance(error, MISTAKES):
                    log.error("job %s failed", job.id, exc_info=error)
                traceback.clear_frames(error.__traceback__)             # they hold latents, as long as the job is held
                self._end(job, "failed", error=error)
            else:
                self._end(job, "done", result)

    def _next(self) -> Job | None:
        """Wait for a job and make it the current one; None once the queue is closed and empty."""
        with self._changed:
            self.current = None
            while not self._waiting and not self.closed:
                self._changed.wait()
            if not self._waiting:
                return None
            client, line = self._waiting.popitem(last=False)
            self.current = job = line.popleft()
            if line:
                self._waiting[client] = line            # at the end of the round
            return job

    def _end(self, job: Job, state: State, result: Any = None, error: Exception | None = None) -> None:
        with self._changed:
            self.finished[state] += 1
            self.worked_s += time.monotonic() - job.started if job.started is not None else 0.0
        job.finish(state, result, error)
