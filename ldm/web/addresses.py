"""No addresses: what stands before Gradio, which would fetch the file that an address in a request means."""

import json
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = "/gradio_api/"
REFUSAL = "a file is given by an address, and nothing is fetched; upload the file itself"


class NoAddresses:
    """ASGI middleware that refuses (422) JSON sent to Gradio in which the "path" or "url" of a file is an address.

    The page itself uploads files first, and then names them by where they were put.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(PREFIX)
        if not asked or is_form(scope):
            await self.app(scope, receive, send)
            return
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:                        # there is nobody to reply to
            return
        if names_address(body):
            await JSONResponse({"detail": REFUSAL}, 422)(scope, receive, send)
        else:
            await self.app(scope, replayed(body, receive), send)


def is_form(scope: Scope) -> bool:
    """Whether the body is an upload, whose parts are files."""
    return any(name == b"content-type" and value.startswith(b"multipart/") for name, value in scope["headers"])


def names_address(body: bytes) -> bool:
    """Whether JSON has an address in the place of a file; what is no JSON, or too deep, Gradio refuses itself."""
    try:
        return any_address(json.loads(body or b"null"))
    except (ValueError, RecursionError):
        return False


def any_address(value: Any) -> bool:
    """Whether anywhere in this a "path" is an address, or a "url" is one of another place than Gradio's own files."""
    if isinstance(value, list):
        return any(map(any_address, value))
    if not isinstance(value, dict):
        return False
    path, url = (str(value.get(name) or "").strip().casefold() for name in ("path", "url"))
    return "://" in path or "://" in url and f"{PREFIX}file=" not in url or any(map(any_address, value.values()))


def replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives a body which was read already, and then goes on."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
