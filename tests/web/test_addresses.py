"""Requests to Gradio that name an address where a file should be."""

import json

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ldm.web.addresses import NoAddresses, names_address
from ldm.web.guard import Guard

FILE = {"path": "/tmp/gradio/1/a.png", "url": "http://127.0.0.1:7860/gradio_api/file=/tmp/gradio/1/a.png",
        "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize("data", [["a fox", 4, None], [FILE], [{"background": FILE, "layers": [FILE]}],
                                  ["see http://example.com"], [{"url": None, "path": "a.png"}]])
def test_uploaded_files_and_words_pass(data: list):
    assert not names_address(json.dumps({"data": data, "fn_index": 1}).encode())


@pytest.mark.parametrize("data", [
    [{"path": "http://example.com/a.png"}], [{"path": "HTTPS://example.com/a.png"}], [{"path": "file:///etc/passwd"}],
    [{"background": None, "layers": [{**FILE, "path": " http://example.com/a.png"}]}],
    [{"path": "a.png", "url": "http://example.com/a.png"}], [{"path": "a.png", "url": "data:image/png;base64,AAAA"}]])
def test_addresses_do_not_pass(data: list):
    assert names_address(json.dumps({"data": data}).encode())


def test_an_address_cannot_hide_in_escapes():
    assert names_address(rb'{"data": [{"p\u0061th": "\u0068ttp:\/\/example.com/a.png"}]}')


@pytest.mark.parametrize("depth", [400, 600, 900, 5000, 100_000])
def test_an_address_cannot_hide_behind_what_is_deep(depth: int):
    deep = b"[" * depth + b"]" * depth
    assert names_address(b'{"deep": ' + deep + b', "data": [{"path": "http://example.com/a.png"}]}')


@pytest.mark.parametrize("body", [b"", b"no JSON", b"\xff"])
def test_what_is_no_json_is_left_to_gradio(body: bytes):
    assert not names_address(body)


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


@pytest.mark.parametrize("path", ["file=http://example.com/a.png", "file=https%3A//example.com/a.png",
                                  "file/http://example.com/a.png", "proxy=https://a.hf.space/file"])
def test_an_address_in_a_path_is_refused(path: str):
    app = Starlette(routes=[Route("/gradio_api/{path:path}", echo, methods=["GET"])],
                    middleware=[Middleware(NoAddresses)])
    with TestClient(app) as client:
        assert client.get(f"/gradio_api/{path}").status_code == client.head(f"/gradio_api/{path}").status_code == 422
        assert client.get("/gradio_api/file=/tmp/gradio/a.png").status_code == 200


def test_json_is_looked_at_though_it_calls_itself_a_form_too():
    app = Starlette(routes=[Route("/gradio_api/run", echo, methods=["POST"])], middleware=[Middleware(NoAddresses)])
    headers = [("Content-Type", "application/json"), ("Content-Type", "multipart/form-data; boundary=x")]
    body = json.dumps({"data": [{"path": "http://example.com/a.png"}]})
    with TestClient(app) as client:
        assert client.post("/gradio_api/run", content=body, headers=headers).status_code == 422


def test_a_body_reaches_gradio_as_it_was_and_one_too_long_does_not():
    app = Starlette(routes=[Route("/gradio_api/run", echo, methods=["POST"])],
                    middleware=[Middleware(Guard, body_bytes=20), Middleware(NoAddresses)])
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.post("/gradio_api/run", content=b'{"data": [1]}').text == '{"data": [1]}'
        reply = client.post("/gradio_api/run", content=(b"0123456789" for _ in range(3)))
        assert reply.status_code == 413 and "content-security-policy" in reply.headers
