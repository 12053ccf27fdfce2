"""The program that starts the web server, and what a double click runs."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
LAUNCHERS = ("webui.sh", "webui.command", "webui.bat")


@pytest.mark.parametrize(("flags", "said"), [
    (["--listen", "0.0.0.0"], "--auth user:password"), (["--auth", "nobody"], "'nobody' is not user:password"),
    (["--ckpt", "../secret"], "there is no model '../secret'; there is bundled"), (["--queue", "0"], "1 or more"),
    (["--out", "pyproject.toml/web"], "can be written to")])
def test_mistakes_are_said_in_a_line_before_anything_starts(run_script, flags: list[str], said: str, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    result = run_script("webui.py", *flags)
    assert result.returncode == 2 and said in result.stderr and result.stderr.count("\n") == 1
    assert not result.stdout


def test_a_port_that_is_taken_is_said(run_script, tmp_path: Path, monkeypatch):
    from ldm.web.server import bind

    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    with bind("127.0.0.1", 0) as taken:
        result = run_script("webui.py", "--port", taken.getsockname()[1], "--out", tmp_path)
    assert result.returncode == 2 and "give another --port" in result.stderr


@pytest.mark.slow
def test_it_starts_serves_and_stops(tmp_path: Path):
    process = subprocess.Popen([sys.executable, ROOT / "scripts" / "webui.py", "--no-browser", "--port", "0", "--out",
                                tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        address = process.stdout.readline().split()[2].rstrip(";")
        assert "gradio" in httpx.get(address, timeout=120).text
        assert process.stdout.readline() == f"ready: {address}\n"
        body = {"prompt": "3d render of a fox", "steps": 2, "width": 64, "height": 64}
        reply = httpx.post(f"{address}sdapi/v1/txt2img", json=body, timeout=120)
        assert reply.status_code == 200 and len([*tmp_path.rglob("*.png")]) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (130, -signal.SIGINT)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_launchers_may_be_run_and_start_the_program():
    for name in LAUNCHERS[:2]:
        assert (ROOT / name).stat().st_mode & stat.S_IXUSR
        assert subprocess.run(["sh", "-n", ROOT / name]).returncode == 0
    assert "webui.sh" in (ROOT / "webui.command").read_text()
    bat = (ROOT / "webui.bat").read_bytes()
    assert b"scripts\\webui.py %*" in bat and bat.count(b"\r\n") == bat.count(b"\n")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with a space in its name that holds the launchers, and a program that tells its arguments."""
    folder = tmp_path / "a folder"
    (folder / "scripts").mkdir(parents=True)
    for name in LAUNCHERS:
        shutil.copy(ROOT / name, folder)
    program = "import os, sys\nprint(sys.prefix, os.getcwd(), *sys.argv[1:], sep='|')"
    (folder / "scripts" / "webui.py").write_text(program)
    return folder


def test_a_second_start_passes_its_arguments_on(copied: Path, tmp_path: Path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", copied / ".venv-web"], check=True)
    (copied / ".venv-web" / "ready").touch()
    for name in LAUNCHERS[:2]:
        command = [copied / name, "--models-dir", "my models"]
        told = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert told.stdout.strip().split("|") == [str(copied / ".venv-web"), str(copied), "--models-dir", "my models"]


def test_without_python_it_says_what_is_missing(copied: Path, tmp_path: Path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("sh", "dirname"):
        (tools / tool).symlink_to(shutil.which(tool) or "")
    told = subprocess.run([copied / "webui.sh"], env={"PATH": str(tools)}, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)
    assert told.returncode == 1 and "Python 3.10 or newer is needed" in told.stderr


@pytest.mark.slow
def test_webui_sh_sets_up_and_starts_from_an_empty_folder(tmp_path: Path):
    """A copy of the files that git knows, or would; the packages come from where pip gets them."""
    files = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True,
                           capture_output=True, check=True).stdout.splitlines()
    for file in files:
        if not file.startswith(("tests/", "docs/", "benchmarks/")) and (ROOT / file).is_file():
            (tmp_path / "ldm" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, tmp_path / "ldm" / file)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    process = subprocess.Popen([tmp_path / "ldm" / "webui.sh", "--no-browser", "--port", "0"], stdout=subprocess.PIPE,
                               text=True, env=environment)
    assert process.stdout
    try:
        said = [process.stdout.readline(), process.stdout.readline()]
        assert "first start" in said[0]
        assert httpx.get(said[1].split()[2].rstrip(";"), timeout=120).status_code == 200
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        shutil.rmtree(tmp_path / "ldm" / ".venv-web", ignore_errors=True)        # gigabytes
