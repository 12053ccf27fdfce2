"""One contender in a process of its own.  Started by the harness, which talks to it over stdin and stdout.

    python benchmarks/worker.py MODULE:FUNCTION '{"argument": 1}'

FUNCTION(**arguments) prepares everything and returns what is timed, a callable without arguments.  After a first
call the worker says that it is ready; then it answers every line on stdin.  An answer is a line of JSON: the seconds
of a call, the peak of memory, with the first also the memory held before it, and, where the callable returns a dict,
that.
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

SHORTEST_S = 0.1            # what is quicker is called several times for one timing


def seconds(call: Callable[[], Any], number: int = 1) -> tuple[float, Any]:
    """Mean seconds of `number` calls, and what the last returned."""
    result, start = None, time.perf_counter()
    for _ in range(number):
        result = call()
    return (time.perf_counter() - start) / number, result


def calls_per_timing(call: Callable[[], Any], first_s: float) -> int:
    """How many calls last long enough to be timed together; a call that is long enough alone is not repeated here."""
    number = 1
    while first_s < SHORTEST_S and number * seconds(call, number)[0] < SHORTEST_S:
        number *= 2
    return number


def resident_mib() -> float:
    """Memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def figures(time_s: float, result: Any) -> dict[str, Any]:
    """What an answer holds: seconds, the peak of resident memory so far in MiB, and the callable's own figures."""
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024        # KiB on Linux
    return {"time_s": time_s, "peak_mib": peak_mib, **(result if isinstance(result, dict) else {})}


def serve(target: str, arguments: dict[str, Any], channel: TextIO) -> None:
    """Build, call once, answer until stdin ends."""
    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=channel, flush=True)

    try:
        module, function = target.split(":")
        call = getattr(importlib.import_module(module), function)(**arguments)
        built_mib = resident_mib()
        first_s, result = seconds(call)
        say({**figures(first_s, result), "built_mib": built_mib})
    except Exception as error:                          # any reason not to take part is the harness's to report
        say({"error": f"{type(error).__name__}: {error}"})
        return
    number = calls_per_timing(call, first_s)
    for _ in sys.stdin:
        say(figures(*seconds(call, number)))


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as answers:          # libraries that print must not disturb the answers
        os.dup2(2, 1)
        serve(sys.argv[1], json.loads(sys.argv[2]), answers)
