"""The server: where it listens, what it refuses, the page that it has."""

import asyncio
import socket

import httpx
import pytest
from fastapi import FastAPI

from ldm.web.jobs import Queue
from ldm.web.server import address_of, bind, build_app, check_listen
from ldm.web.studio import Studio


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.0.7", "::", "studio.local"])
def test_listening_for_others_needs_a_password(address: str):
    with pytest.raises(ValueError, match="--auth user:password"):
        check_listen(address, None)
    check_listen(address, ("me", "secret"))


def test_loopback_needs_none():
    for address in ("127.0.0.1", "localhost", "::1"):
        check_listen(address, None)


def test_the_next_free_port_is_taken_unless_one_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} cannot be listened on .* --port"):
            bind("127.0.0.1", port)
        monkeypatch.setattr("ldm.web.server.PORT", port)
        with bind("127.0.0.1") as second:
            assert port < second.getsockname()[1] < port + 20


def test_addresses_can_be_opened():
    with bind("127.0.0.1", 0) as listening:
        assert address_of(listening) == f"http://127.0.0.1:{listening.getsockname()[1]}/"
    with bind("0.0.0.0", 0) as listening:
        assert address_of(listening).startswith("http://127.0.0.1:")


def test_auth_guards_everything(studio: Studio, queue: Queue, serving):
    base = serving(build_app(studio, queue, page=False, auth=("me", "secret")))
    for path in ("health", "metrics", "docs", "sdapi/v1/options"):
        assert httpx.get(base + path).status_code == 401
        assert httpx.get(base + path, auth=("me", "wrong")).status_code == 401
        assert httpx.get(base + path, auth=("me", "secret")).status_code == 200


def test_foreign_hosts_and_origins_are_refused_over_http(client: httpx.Client):
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 400
    assert client.post("/sdapi/v1/interrupt", headers={"Origin": "http://evil.example"}).status_code == 403
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.options("/sdapi/v1/txt2img", headers=preflight).headers


@pytest.fixture
def with_page(studio: Studio, queue: Queue, serving, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a server that has the page."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")

    async def build() -> FastAPI:                       # where no loop runs, Gradio opens some and leaves them open
        return build_app(studio, queue)

    return serving(asyncio.run(build()))


def test_the_page_stands_beside_the_api_behind_the_guard(with_page: str):
    page = httpx.get(with_page)
    assert page.status_code == 200 and "gradio" in page.text and "content-security-policy" in page.headers
    assert httpx.get(f"{with_page}config").status_code == 200
    assert httpx.get(f"{with_page}sdapi/v1/samplers").status_code == httpx.get(f"{with_page}docs").status_code == 200
    assert httpx.get(with_page, headers={"Host": "evil.example"}).status_code == 400
    origin = {"Origin": "http://evil.example"}
    assert httpx.post(f"{with_page}gradio_api/queue/join", json={}, headers=origin).status_code == 403
    assert "access-control-allow-origin" not in httpx.get(f"{with_page}config", headers=origin).headers


def test_gradio_fetches_nothing(with_page: str):
    fetched = {"data": [{"path": "http://example.com/a.png"}], "fn_index": 0, "session_hash": "a"}
    for route in ("queue/join", "run/predict", "call/predict"):
        reply = httpx.post(f"{with_page}gradio_api/{route}", json=fetched)
        assert reply.status_code == 422 and "nothing is fetched" in reply.json()["detail"]
    words = {"data": ["see http://example.com"], "fn_index": 99, "session_hash": "a"}
    assert "nothing is fetched" not in httpx.post(f"{with_page}gradio_api/queue/join", json=words).text


@pytest.mark.parametrize("path", ["/etc/passwd", "pyproject.toml", "../../../etc/passwd", "http://127.0.0.1:1/a.png"])
def test_the_page_serves_no_other_files(with_page: str, path: str):
    assert httpx.get(f"{with_page}gradio_api/file={path}").status_code in (403, 404, 422)


def test_a_socket_listens_before_the_server_runs():
    with bind("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname(), 5):
        pass


def test_a_port_that_is_none_is_refused():
    with pytest.raises(ValueError, match="port 99999 is not one of 0 to 65535; try 7860"):
        bind("127.0.0.1", 99999)
