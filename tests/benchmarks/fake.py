"""Contenders that cost nothing, for tests of the harness."""

import time
from collections.abc import Callable


def sleeper(time_s: float) -> Callable[[], None]:
    """Sleeps; prints, as libraries do."""
    print("this is no answer")
    return lambda: time.sleep(time_s)


def logger(path: str, name: str) -> Callable[[], dict[str, int]]:
    """Writes its name at each call, answers with a figure of its own, and lasts long enough to be called once."""
    def call() -> dict[str, int]:
        time.sleep(0.11)
        with open(path, "a") as file:
            file.write(name)
        return {"figure": 42}
    return call


def failing() -> Callable[[], None]:
    raise ImportError("no such library in /some/folder/lib")


def dying() -> Callable[[], None]:
    raise SystemExit(3)
