"""The jobs of each browser session, so that its button, or its leaving, cancels them and no others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from ldm.web.jobs import Job, Queue

LOOK_S = 0.12                                           # how often a job is looked at


class Desk:
    """Takes work for the queue on behalf of browser sessions."""

    def __init__(self, queue: Queue):
        self.queue = queue
        self._sessions: dict[Job, str] = {}             # of the jobs that have not ended

    def submit(self, work: Callable[[Job], Any], client: str) -> Job:
        """Let a job of a session wait for its turn.  Raises QueueFull."""
        job = self.queue.submit(work, client)
        self._sessions[job] = client
        job.when_ended(lambda: self._sessions.pop(job, None))
        return job

    def cancel(self, client: str) -> None:
        """Cancel all that a session has asked for."""
        for job, session in list(self._sessions.items()):
            if session == client:
                self.queue.cancel(job)

    async def follow(self, job: Job) -> AsyncIterator[Job]:
        """Yield the job again and again until it has ended; it is cancelled where nobody looks any more."""
        try:
            while not job.wait(0):
                yield job
                await asyncio.sleep(LOOK_S)
        finally:
            if not job.wait(0):
                self.queue.cancel(job)
