"""No addresses: what stands before Gradio, which would fetch the file that an address in a request means."""

import json
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = "/gradio_api/"
REFUSED = JSONResponse({"detail": "a file is given by an address, and nothing is fetched; upload the file itself"}, 422)


class NoAddresses:
    """ASGI middleware that refuses (422) an address in a path of Gradio's, or in JSON as the "path" or "url" of a file.

    The page itself uploads files first, and then names them by where they were put.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["path"].startswith(PREFIX)
        if asked and "://" in scope["path"]:            # Gradio would fetch "file=http://..." and pass it on
            await REFUSED(scope, receive, send)
            return
        if not asked or scope["method"] != "POST" or is_form(scope):
            await self.app(scope, receive, send)
            return
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:                        # there is nobody to reply to
            return
        if names_address(body):
            await REFUSED(scope, receive, send)
        else:
            await self.app(scope, replayed(body, receive), send)


def is_form(scope: Scope) -> bool:
    """Whether the body is an upload, whose parts are files.  Of several types the first counts, as it does later on."""
    return Headers(scope=scope).get("content-type", "").startswith("multipart/")


def names_address(body: bytes) -> bool:
    """Whether JSON has an address in the place of a file, or is too deep to say; what is no JSON Gradio refuses."""
    try:
        return any_address(json.loads(body or b"null"))
    except ValueError:
        return False
    except RecursionError:
        return True


def any_address(value: Any) -> bool:
    """Whether anywhere in this a "path" is an address, or a "url" is one of another place than Gradio's own files.

    A picture within its "url" is none of these either: Gradio would decode it, whatever its size.
    """
    if isinstance(value, list):
        return any(map(any_address, value))
    if not isinstance(value, dict):
        return False
    path, url = (str(value.get(name) or "").strip().casefold() for name in ("path", "url"))
    elsewhere = url.startswith("data:") or "://" in url and f"{PREFIX}file=" not in url
    return "://" in path or elsewhere or any(map(any_address, value.values()))


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
