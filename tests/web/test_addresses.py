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
    [{"path": "a.png", "url": "http://example.com/a.png"}]])
def test_addresses_do_not_pass(data: list):
    assert names_address(json.dumps({"data": data}).encode())


def test_an_address_cannot_hide_in_escapes():
    assert names_address(rb'{"data": [{"p\u0061th": "\u0068ttp:\/\/example.com/a.png"}]}')


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[" * 100_000, b"\xff"])
def test_what_is_no_json_is_left_to_gradio(body: bytes):
    assert not names_address(body)


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


def test_a_body_reaches_gradio_as_it_was_and_one_too_long_does_not():
    app = Starlette(routes=[Route("/gradio_api/run", echo, methods=["POST"])],
                    middleware=[Middleware(Guard, body_bytes=20), Middleware(NoAddresses)])
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.post("/gradio_api/run", content=b'{"data": [1]}').text == '{"data": [1]}'
        reply = client.post("/gradio_api/run", content=(b"0123456789" for _ in range(3)))
        assert reply.status_code == 413 and "content-security-policy" in reply.headers
