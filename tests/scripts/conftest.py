"""Scripts run as programs, in this process: importing torch anew takes seconds."""

import contextlib
import io
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """run_script("txt2img.py", "a fox", "--steps", 4) -> its exit code, stdout and stderr."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def run(script: str, *args: object) -> subprocess.CompletedProcess[str]:
        out, err, code = io.StringIO(), io.StringIO(), 0
        monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        except SystemExit as error:
            code = error.code or 0
        return subprocess.CompletedProcess(args, int(code), out.getvalue(), err.getvalue())

    return run
