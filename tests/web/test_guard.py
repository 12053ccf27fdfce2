"""Who may ask: hosts, origins, passwords, sizes.  The application behind the guard tells what reached it."""

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ldm.web.guard import Guard, is_loopback

OURS = "127.0.0.1:7860"


async def echo(request: Request) -> JSONResponse:
    return JSONResponse({"bytes": len(await request.body())}, headers={"Access-Control-Allow-Origin": "*"})


def guarded(**options: Any) -> Starlette:
    """An application that counts bytes, behind a guard."""
    return Starlette(routes=[Route("/", echo, methods=["GET", "POST"])], middleware=[Middleware(Guard, **options)])


def ask(app: Starlette, method: str = "GET", host: str | None = OURS, body: tuple[bytes, ...] = (),
        kind: str = "http", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the reply to a request that comes in pieces; for a websocket, its closing code."""
    told = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {"type": kind, "method": method, "path": "/", "query_string": b"", "root_path": "",
             "headers": [(name.encode(), value.encode()) for name, value in told.items() if value is not None]}
    pieces: Iterator[bytes] = iter(body or (b"",))
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        piece = next(pieces, None)
        return {"type": "http.disconnect"} if piece is None else {"type": "http.request", "body": piece,
                                                                  "more_body": piece is not (body or (b"",))[-1]}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    if kind == "websocket":
        return sent[0]["code"], {}, b""
    answer = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answer, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize("host", [OURS, "localhost", "LOCALHOST:80", "[::1]:7860", "127.0.0.2"])
def test_loopback_hosts_are_taken(host: str):
    assert ask(guarded(), host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "localhost.evil.example", "192.168.0.7", "", "[",
                                  "127.0.0.1.evil.example", "2130706433", None, "0.0.0.0:7860"])
def test_other_hosts_are_refused(host: str | None):
    status, _, body = ask(guarded(), host=host)
    assert status == 400 and b"Host" in body


def test_a_host_that_is_listened_on_is_taken():
    app = guarded(hosts={"192.168.0.7", "Studio.local"})
    assert ask(app, host="192.168.0.7:7860")[0] == ask(app, host="studio.LOCAL")[0] == 200
    assert ask(app, host="192.168.0.8")[0] == 400


def test_listening_everywhere_takes_addresses_but_no_names():
    app = guarded(hosts={"0.0.0.0"})
    assert ask(app, host="192.168.0.7:7860")[0] == 200
    assert ask(app, host="evil.example")[0] == 400


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://[", "http://localhost:7860"])
def test_other_origins_are_refused_where_something_changes(origin: str):
    assert ask(guarded(), "POST", origin=origin)[0] == 403
    assert ask(guarded(), "DELETE", origin=origin)[0] == 403
    assert ask(guarded(), kind="websocket", origin=origin)[0] == 1008


def test_the_own_origin_and_clients_without_one_are_taken():
    assert ask(guarded(), "POST", origin=f"http://{OURS}")[0] == ask(guarded(), "POST")[0] == 200


def test_a_websocket_to_another_host_is_closed():
    assert ask(guarded(), kind="websocket", host="evil.example")[0] == 1008


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize("given", ["", "Basic", "Basic !!!", basic("me:wrong"), basic("me:pässwort2"), basic("me"),
                                   "Bearer " + basic("me:pässwort")[6:]])
def test_wrong_passwords_are_refused(given: str):
    status, headers, _ = ask(guarded(auth=("me", "pässwort")), authorization=given)
    assert status == 401 and headers["www-authenticate"].startswith("Basic")


def test_the_password_opens():
    assert ask(guarded(auth=("me", "pässwort")), authorization=basic("me:pässwort"))[0] == 200


def test_a_body_that_says_to_be_too_long_is_refused():
    app = guarded(body_bytes=10)
    assert ask(app, "POST", content_length="11")[0] == 413
    assert ask(app, "POST", content_length="-1")[0] == ask(app, "POST", content_length="x")[0] == 413


def test_a_body_that_gets_too_long_is_refused():
    app = guarded(body_bytes=10)
    assert ask(app, "POST", body=(b"12345", b"67890"))[0] == 200
    assert ask(app, "POST", body=(b"12345", b"67890", b"1"))[0] == 413


@pytest.mark.parametrize("host", [OURS, "evil.example"])
def test_every_reply_keeps_the_browser_from_other_hosts(host: str):
    headers = ask(guarded(), host=host)[1]
    assert headers["x-content-type-options"] == "nosniff"
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
    assert not any("http" in sources or "*" in sources for sources in policy.values())


def test_no_reply_lets_other_sites_read_it():
    assert not [name for name in ask(guarded())[1] if name.startswith("access-control")]


@pytest.mark.parametrize(("address", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True),
                                                   ("0.0.0.0", False), ("192.168.0.7", False), ("studio.local", False)])
def test_what_is_loopback(address: str, loopback: bool):
    assert is_loopback(address) == loopback
