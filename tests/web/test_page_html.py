"""Pieces of HTML: what a user wrote stays text, and a job's progress is told."""

import base64
import io
import re
import threading
from html.parser import HTMLParser

from PIL import Image

from ldm.web.jobs import Job, Queue
from ldm.web.page_html import ending, figures, line, picture, progress, table

EVIL = '<img src=x onerror="alert(1)">'


class Tags(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


def test_texts_are_escaped():
    small = Image.new("RGB", (2, 2))
    for html in (line(EVIL), line(EVIL, "alert"), table([EVIL], [[EVIL, EVIL]])):
        assert "img" not in Tags(html).tags
        assert "onerror=\"" not in html
    assert Tags(figures([(small, EVIL)], EVIL)).tags.count("img") == 1
    assert Tags(picture(small, EVIL)).tags == ["img"]


def test_pictures_are_in_the_text_itself():
    [data] = re.findall(r'src="data:image/png;base64,([^"]+)"', picture(Image.new("RGB", (3, 2), "red"), "red"))
    assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((2, 1)) == (255, 0, 0)


def test_progress_tells_step_pass_and_preview():
    job = Job(lambda job: None)
    job.state, job.passes, job.preview = "running", 2, Image.new("RGB", (4, 4))
    queue = Queue()
    assert "Preparing" in progress(job, queue, "en")
    job.report(3, 4)
    html = progress(job, queue, "en")
    assert "Step 3 of 4, pass 1 of 2" in html and 'value="0.375"' in html and "<img" in html
    assert "第 3 步，共 4 步" in progress(job, queue, "zh")
    queue.close()


def test_waiting_job_tells_its_place():
    queue, hold = Queue(), threading.Event()
    first = queue.submit(lambda job: hold.wait(10), "a")
    while first.state == "queued":
        threading.Event().wait(0.01)
    second, third = queue.submit(lambda job: None, "b"), queue.submit(lambda job: None, "c")
    assert "2 of 2 in the queue" in progress(third, queue, "en")
    assert second.state == "queued"
    hold.set()
    queue.close()


def test_endings_are_one_line_each():
    job = Job(lambda job: None)
    job.finish("failed", error=ValueError("width 500 is not\na multiple of 8"))
    assert ending(job, "en") == ('<p class="line alert" role="alert">This did not work: width 500 is not a multiple of '
                                 '8</p>')
    job.notes = ["a word will not show"]
    job.finish("cancelled")
    assert re.findall(">(.*?)</p>", ending(job, "en")) == ["Interrupted.", "Note: a word will not show"]
