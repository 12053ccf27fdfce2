"""Take the pictures of docs/web.md: the page as a new user sees it, on a desktop and on a phone, in both languages.

    python docs/web/screenshots.py docs/web

Needs the extra [dev] and a Chromium on the path.
"""

import shutil
import sys
import tempfile
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ldm.files import write_atomically
from ldm.web.jobs import Queue
from ldm.web.server import Server, address_of, bind, build_app
from ldm.web.studio import Studio

DESKTOP, PHONE = (1280, 900), (390, 844)
WORDS = {"en-US": ("How it works", "History"), "zh-CN": ("工作原理", "历史")}
PROMPT = "3d render of a fox on a blue background"


def draw(page: Page, prompt: str = PROMPT, seed: int = 7, count: int = 1) -> None:
    """Fill in the form, press, and wait for the pictures."""
    page.fill("#prompt textarea", prompt)
    page.fill("#seed input, #seed textarea", str(seed))
    page.fill("#count input", str(count))
    page.click("#draw")
    page.wait_for_selector("#status img.sketch", timeout=120_000)
    page.wait_for_selector("#status img.sketch", state="detached", timeout=600_000)
    page.wait_for_selector("#draw_gallery img")
    page.wait_for_timeout(1500)


def inpaint(page: Page, picture: Path) -> None:
    """Put a picture into the editor, and brush over a part of it."""
    page.locator("#task label").nth(2).click()
    page.wait_for_selector("#editor canvas")
    page.wait_for_timeout(4000)                             # until it can be used
    page.set_input_files("#editor input[type=file]", picture)
    page.wait_for_timeout(4000)
    box = page.locator("#editor canvas").first.bounding_box()
    assert box
    x, y = box["x"] + box["width"] * 0.45, box["y"] + box["height"] * 0.35
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 10, steps=8)
    page.mouse.up()
    page.wait_for_timeout(1000)


def save(page: Page, out: Path, name: str, whole: bool = False) -> None:
    """What the window shows, or the whole page, as a small WebP: smaller and coarser where it is long."""
    with tempfile.TemporaryDirectory() as folder:
        page.screenshot(path=f"{folder}/shot.png", full_page=whole)
        shot, quality = Image.open(f"{folder}/shot.png").convert("RGB"), 50 if whole else 80
        if whole:
            shot.thumbnail((1024, shot.height))
        write_atomically(out / f"{name}.webp", lambda path: shot.save(path, "WEBP", quality=quality, method=6))


def tour(page: Page, out: Path, name: str, locale: str) -> None:
    """Go through the page once."""
    explain, history = WORDS[locale]
    page.wait_for_selector("#prompt textarea")
    draw(page, count=2)
    if "desktop" in name:
        page.evaluate("scrollTo(0, 0)")                 # pictures that arrive take the focus
    save(page, out, f"draw-{name}")
    page.get_by_role("tab", name=explain).click()
    page.click("#explain")
    page.wait_for_selector("#maps img", timeout=600_000)
    page.wait_for_timeout(1500)
    save(page, out, f"explain-{name}", whole=True)
    page.get_by_role("tab", name=history).click()
    page.locator("#history_gallery button.thumbnail-item").first.wait_for()
    page.wait_for_timeout(1500)
    save(page, out, f"history-{name}")


def main(out: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        studio, queue, ready, listening = Studio(Path(folder)), Queue(), threading.Event(), bind("127.0.0.1", 0)
        server = Server(build_app(studio, queue), queue, ready.set)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        ready.wait()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for locale in WORDS:
            for device, (width, height) in {"desktop": DESKTOP, "phone": PHONE}.items():
                page = browser.new_context(locale=locale, viewport={"width": width, "height": height}).new_page()
                page.goto(address_of(listening))
                tour(page, out, f"{device}-{locale[:2]}", locale)
                page.close()
        page = browser.new_context(locale="en-US", viewport={"width": 1280, "height": 1250}).new_page()
        page.goto(address_of(listening))
        page.fill("#prompt textarea", PROMPT)
        inpaint(page, Path(__file__).parents[1] / "fox.png")
        save(page, out, "inpaint-desktop-en")
        browser.close()
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
