"""Guard: what stands before page and API.  It knows who may ask, for what host, and how much."""

import base64
import ipaddress
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_BYTES = 96 * 2**20                                 # of a request: two pictures in base64
SAFE = ("GET", "HEAD", "OPTIONS")
POLICY = ("default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "        # Gradio needs these
          "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
          "media-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; "
          "base-uri 'self'; form-action 'self'; frame-ancestors 'none'")
HEADERS = [(b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff"),
           (b"referrer-policy", b"same-origin")]


class Guard:
    """ASGI middleware around the whole application.

    Refused are: a Host that is no loopback name and none of `hosts` (400; DNS rebinding); an Origin other than the
    Host, on what changes something and on websockets (403); with `auth` (user, password) who does not give it (401); a
    body of more than `body_bytes` (413).  Every reply forbids the browser to fetch anything from another host, and
    none allows another site to read it (CORS).
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = (), auth: tuple[str, str] | None = None,
                 body_bytes: int = BODY_BYTES):
        self.app, self.body_bytes = app, body_bytes
        self.hosts = {host.casefold() for host in hosts}
        self.everywhere = any(map(is_wildcard, hosts))
        self.expected = base64.b64encode(":".join(auth).encode()) if auth else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self.refusal(scope)
        if refusal is None:
            try:
                await self.app(scope, self.counted(receive), guarded(send))
                return
            except HTTPException as error:              # of a body that got too long while it was read
                refusal = error
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": str(refusal.detail)})
        else:
            reply = JSONResponse({"detail": refusal.detail}, refusal.status_code, refusal.headers)
            await reply(scope, receive, guarded(send))

    def refusal(self, scope: Scope) -> HTTPException | None:
        """Why a request is refused before its body is read; None where it is not."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.knows(host):
            return HTTPException(400, f"Host {host!r} is not this server's; open it by the address that it printed")
        unsafe = scope["type"] == "websocket" or scope["method"] not in SAFE
        if unsafe and origin is not None and netloc(origin) != host.casefold():
            return HTTPException(403, f"Origin {origin!r} is another site; use this server's own page")
        if self.expected is not None and not self.admits(headers.get("authorization", "")):
            return HTTPException(401, "user and password are needed", {"WWW-Authenticate": 'Basic realm="ldm"'})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.body_bytes:
            return self.too_large()
        return None

    def knows(self, host: str) -> bool:
        """Whether a Host header means this server.  Where it listens everywhere, any address, but no name, does."""
        name = hostname(host)
        if name in self.hosts or name == "localhost":
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or self.everywhere

    def admits(self, authorization: str) -> bool:
        """Whether an Authorization header has the user and the password; takes equally long either way."""
        scheme, _, credentials = authorization.partition(" ")
        assert self.expected is not None
        return secrets.compare_digest(credentials.strip().encode(), self.expected) and scheme.casefold() == "basic"

    def counted(self, receive: Receive) -> Receive:
        """`receive`, which raises where a body that did not tell its length gets too long."""
        taken = 0

        async def receive_counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.body_bytes:
                raise self.too_large()
            return message

        return receive_counted

    def too_large(self) -> HTTPException:
        return HTTPException(413, f"a request of more than {self.body_bytes:,} bytes is too large; send less")


def guarded(send: Send) -> Send:
    """`send` with the headers that every reply has, and without those that allow other sites to read it."""
    async def send_guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message.get("headers", ())
                    if not name.lower().startswith(b"access-control-")]
            message = {**message, "headers": kept + HEADERS}
        await send(message)

    return send_guarded


def hostname(host: str) -> str:
    """"LocalHost:7860" -> "localhost", "[::1]:7860" -> "::1"; "" for what is no host."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def netloc(origin: str) -> str:
    """The host and port of an Origin; "" for "null"."""
    try:
        return urlsplit(origin).netloc.casefold()
    except ValueError:
        return ""


def is_wildcard(host: str) -> bool:
    """Whether to listen on this means to listen on every address that the machine has."""
    return host in ("0.0.0.0", "::")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address: "localhost", "127.0.0.1", "::1"."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
