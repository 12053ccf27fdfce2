"""The page in a headless browser, as a new user meets it."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from web.conftest import served

from ldm.web.jobs import Queue
from ldm.web.studio import Studio

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Headless Chromium of the system; Playwright's own would be a download.  While it lives, asyncio.run fails."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra [dev]")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"needs one of {', '.join(NAMES)} on the path, such as Debian's package chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def page_queue() -> Queue:
    return Queue(limit=3)


@pytest.fixture(scope="session")
def page_address(studio: Studio, page_queue: Queue) -> Iterator[str]:
    """Of a server with the page and the tiny model."""
    async def build() -> FastAPI:                       # where no loop runs, Gradio opens some and leaves them open
        from ldm.web.server import build_app

        return build_app(studio, page_queue)

    with ThreadPoolExecutor(1) as thread:               # Playwright may have a loop running in this one
        app = thread.submit(lambda: asyncio.run(build())).result()
    with served(app) as address:
        yield address


@pytest.fixture
def visit(browser, page_address: str) -> Iterator[Callable]:
    """visit(locale, width) -> the page, opened by a new user.  No request may leave for another host."""
    contexts, urls, errors = [], [], []

    def open_page(locale: str = "en-US", width: int = 1280, height: int = 900):
        context = browser.new_context(locale=locale, viewport={"width": width, "height": height})
        context.set_default_timeout(90_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: urls.append(request.url))
        page.on("websocket", lambda socket: urls.append(socket.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(page_address)
        page.wait_for_selector("#prompt textarea")
        return page

    yield open_page
    for context in contexts:
        context.close()
    hosts = {urlsplit(url).netloc for url in urls if urlsplit(url).scheme not in ("data", "blob")}
    assert hosts == {urlsplit(page_address).netloc}
    assert not errors
