"""What the routes of one server share."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from ldm.web.jobs import Queue
from ldm.web.options import Options
from ldm.web.studio import Studio


@dataclass
class State:
    """The studio, the queue before it, and the options that clients have set."""

    studio: Studio
    queue: Queue
    options: Options


def state_of(request: Request) -> State:
    """The state that `build_app` gave the application."""
    return request.app.state.web


Web = Annotated[State, Depends(state_of)]
