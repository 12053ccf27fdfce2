"""Server: page, API and guard in one application, and how it is run and stopped."""

import asyncio
import socket
from collections.abc import Callable, Collection

import uvicorn
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from ldm import __version__
from ldm.web import api, lists
from ldm.web.addresses import NoAddresses
from ldm.web.guard import Guard, is_loopback
from ldm.web.jobs import Queue
from ldm.web.options import Options
from ldm.web.replies import add_refusals
from ldm.web.state import State
from ldm.web.studio import Studio

PORT = 7860                                             # A1111's
PORTS = 20                                              # how many are tried from there on
GRACE_S = 10                                            # that replies have to end when the server stops
ABOUT = "The API of AUTOMATIC1111's web UI, as far as it is supported; docs/web.md says what is refused."


def build_app(studio: Studio, queue: Queue, page: bool = True, hosts: Collection[str] = (),
              auth: tuple[str, str] | None = None) -> FastAPI:
    """The application: API, its description at /docs, /health, /metrics and, unless left out, the page at /.

    `hosts`: names and addresses, beside those of the loopback, by which it may be called; `auth`: user and password.
    """
    app = FastAPIOffline(title="ldm", version=__version__, description=ABOUT, redoc_url=None)
    app.state.web = State(studio, queue, Options(studio.model))
    for router in (api.router, lists.router, lists.watching):
        app.include_router(router)
    add_refusals(app)
    app.add_middleware(NoAddresses)
    app.add_middleware(Guard, hosts=hosts, auth=auth)   # the one added last is the first to see a request
    if page:
        from ldm.web.page import mount_page  # Gradio takes seconds to import

        mount_page(app, studio, queue)
    return app


def check_listen(address: str, auth: tuple[str, str] | None) -> None:
    """Raises ValueError for an address that others reach, without a password."""
    if not is_loopback(address) and auth is None:
        raise ValueError(f"listening on {address} lets others draw on this machine; give a user and a password too: "
                         "--auth user:password")


def bind(address: str, port: int | None = None) -> socket.socket:
    """A socket that listens already: those who come early wait for the server.  Port None: PORT, or the next free one.

    Raises ValueError for what is no port, OSError where none is free.
    """
    family, refused = socket.AF_INET6 if ":" in address else socket.AF_INET, None
    if port is not None and not 0 <= port < 2**16:
        raise ValueError(f"port {port} is not one of 0 to 65535; try {PORT}")
    for candidate in [port] if port is not None else range(PORT, PORT + PORTS):
        try:
            return socket.create_server((address, candidate), family=family, backlog=128)
        except OSError as error:
            refused = error
    tried = port if port is not None else f"{PORT} to {PORT + PORTS - 1}"
    raise OSError(f"{address} port {tried} cannot be listened on ({refused}); give another --port") from refused


def address_of(listening: socket.socket) -> str:
    """What to open in a browser."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, str(host))
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class Server(uvicorn.Server):
    """Uvicorn, which tells when it answers, and refuses what waits when it stops."""

    def __init__(self, app: FastAPI, queue: Queue, ready: Callable[[], None]):
        super().__init__(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False,
                                        proxy_headers=False, timeout_graceful_shutdown=GRACE_S))
        self.queue, self.ready = queue, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer from now on."""
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cancel what is drawn, refuse what waits, and let the replies end."""
        await asyncio.to_thread(self.queue.close, 0)
        await super().shutdown(sockets)


def serve(app: FastAPI, listening: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called once the server answers.

    The model is loaded meanwhile.  Pictures are whole on the disk or not there, however it ends.
    """
    web: State = app.state.web
    web.queue.submit(lambda job: web.studio.use())
    try:
        Server(app, web.queue, ready).run([listening])
    finally:
        web.queue.close()
