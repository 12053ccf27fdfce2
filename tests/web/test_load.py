"""Many clients at once, and servers that end in the middle of it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from ldm.images import read_metadata
from ldm.web.history import pictures

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from web_load import Answer, load, prompt, row  # noqa: E402

BODY = {"steps": 2, "width": 64, "height": 64}
SERVER = """
import sys
from pathlib import Path
from ldm.web.jobs import Queue
from ldm.web.server import address_of, bind, build_app, serve
from ldm.web.studio import Studio
out, models_dir = map(Path, sys.argv[1:])
listening = bind("127.0.0.1", 0)
print(address_of(listening), flush=True)
app = build_app(Studio(out, models_dir, "tiny", "cpu", "float32"), Queue(), page=False)
serve(app, listening)
"""


@pytest.mark.parametrize(("clients", "jobs"), [(8, 40)])
def test_no_picture_is_lost_or_mixed_up(address: str, clients: int, jobs: int):
    answers, memory = load(address, clients, jobs, {**BODY, "steps": 1})
    figures = row(answers, memory)
    assert sorted(answer.job for answer in answers) == [*range(jobs)]
    assert figures["lost"] == figures["mixed_up"] == 0
    assert all(answer.right for answer in answers)


@pytest.fixture
def start(models_dir: Path, tmp_path: Path) -> Iterator:
    """start() -> a server in a process of its own, and its address; all write into one folder."""
    processes: list[subprocess.Popen[str]] = []

    def run() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path / "out"), str(models_dir)], text=True,
                                   stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "2"})
        processes.append(process)
        assert process.stdout
        address = process.stdout.readline().strip()
        httpx.get(f"{address}health", timeout=60)       # the socket listens already, so this waits for the server
        return process, address

    yield run
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def figure(address: str, name: str, **labels: str) -> float:
    """One of the server's metrics."""
    families = text_string_to_metric_families(httpx.get(f"{address}metrics").text)
    [value] = [s.value for family in families for s in family.samples if s.name == name and s.labels == labels]
    return value


def ended_under_load(process: subprocess.Popen[str], address: str, how: signal.Signals) -> list[Answer]:
    """What eight clients are answered by a server that gets a signal when some pictures are there."""
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.extend(load(address, 8, 600, BODY)[0]))
    thread.start()
    while figure(address, "ldm_jobs_total", state="done") < 6:
        time.sleep(0.05)
    process.send_signal(how)
    thread.join(120)
    process.wait(30)
    return answers


def check_pictures(out: Path, answers: list[Answer]) -> None:
    """Every picture on the disk is whole, and those of all answers are among them."""
    drawn = pictures(out, count=1000)
    for path in drawn:
        with Image.open(path) as image:
            image.load()
    kept = {read_metadata(path)["prompt"] for path in drawn}
    finished = [answer for answer in answers if answer.status == 200]
    assert finished and all(answer.right for answer in finished)
    assert {prompt(answer.job) for answer in finished} <= kept


@pytest.mark.slow
def test_a_killed_server_leaves_whole_pictures_and_the_next_one_goes_on(start, tmp_path: Path):
    process, address = start()
    answers = ended_under_load(process, address, signal.SIGKILL)
    assert {answer.status for answer in answers} == {0, 200}
    check_pictures(tmp_path / "out", answers)
    process, address = start()
    again, _ = load(address, 3, 6, BODY)
    assert all(answer.right for answer in again)
    check_pictures(tmp_path / "out", [*answers, *again])


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_stop_refuses_what_waits(start, tmp_path: Path, how: signal.Signals):
    process, address = start()
    answers = ended_under_load(process, address, how)
    assert process.returncode is not None
    assert [answer.status for answer in answers].count(503) >= 5        # one was drawn, some were between two jobs
    assert {answer.status for answer in answers} == {0, 200, 503}       # 0: there was nobody any more to ask
    check_pictures(tmp_path / "out", answers)
