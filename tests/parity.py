"""Figures of agreement with other implementations: asserted by the tests, gathered in docs/parity.md.

A test takes the fixture `parity`; `make parity` runs the tests that do so and writes the page.  The page keeps a digest
of the code behind each test file; tests/test_parity_table.py fails where it is no longer that of the code.
"""

import re
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import digests
import pytest

from ldm.files import write_atomically

PAGE = "docs/parity.md"
LINE = re.compile(r"^\| .*`(tests/[\w/]+\.py)(::\w+)?` \|.*$", re.M)         # of a table; its file, and its test
TEXT = """# Parity

How far this library is from other implementations that are given the same weights, inputs and noise, at random.
Written by `make parity` from the numbers that the tests assert. Differences are the largest over all cases of a test
and, unless a row says otherwise, relative to the largest absolute value, in float32. Where the tolerance is 0, they
count what is not identical; of an order of convergence, the order differs.

| what | against | largest difference | tolerance | test |
|---|---|---|---|---|
{figures}

## Measured on this code

A digest of each test file and of all that it imports from here, comments and docstrings apart. Where it is no longer
that of the code, `tests/test_parity_table.py` fails until the figures are measured anew: `make parity` for all,
`python -m pytest --parity tests/unet` for a folder.

| digest | torch | test file |
|---|---|---|
{sources}
"""


class Row(NamedTuple):
    what: str
    against: str
    difference: float
    tolerance: float
    test: str                                   # tests/unet/test_unet_parity.py::test_unet_equals_diffusers


ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Callable[[str, str, float, float], None]:
    """parity(what, against, difference, tolerance): assert difference <= tolerance, and keep it for docs/parity.md.

    what: the part, then the variant: "UNet, tiny, sd2", "sampler ddim, eta", "LoRA, kohya layout".  Calls that say the
    same in one test, as those of its parameters do, become one row with the largest difference.
    against: the name of an installed distribution ("diffusers", "open_clip_torch"), whose version is then added, or
    what else is the reference ("closed form").
    difference: relative to the largest absolute value (tests/relative_error.py), or `what` says of what kind; things
    that must be identical are counted, and the tolerance is 0.
    """
    def record(what: str, against: str, difference: float, tolerance: float) -> None:
        difference = float(difference)
        assert difference <= tolerance, f"{what} is {figure(difference)} from {against}, not within {figure(tolerance)}"
        test = request.node.nodeid.partition("[")[0]
        request.config.stash[ROWS].append(Row(what, against, difference, tolerance, test))
    return record


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity", action="store_true", help=f"run the tests that take `parity`, and write {PAGE}")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    chosen = config.option.keyword or config.option.markexpr or any("::" in arg for arg in config.args)
    if config.option.parity and chosen:
        raise pytest.UsageError("--parity measures whole test files; leave out -k, -m and ::test")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.parity:
        taking = [item for item in items if "parity" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=[item for item in items if item not in taking])
        items[:] = taking


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.option.parity and exitstatus == pytest.ExitCode.OK:
        path = digests.ROOT / PAGE
        text = page(session.config.stash[ROWS], path.read_text(encoding="utf-8") if path.exists() else "")
        write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def page(rows: Iterable[Row], old: str) -> str:
    """The page with these rows; the lines of other files that still take the fixture are kept as they were."""
    largest = {(row.what, row.against, row.test): row for row in sorted(rows, key=lambda row: row.difference)}
    measured = {row.test.partition("::")[0] for row in largest.values()}
    kept = [line for line in LINE.finditer(old) if line[1] in set(digests.taking("parity")) - measured]
    figures = [line[0] for line in kept if line[2]]
    figures += [f"| {row.what} | {versioned(row.against)} | {figure(row.difference)} | {figure(row.tolerance)} | "
                f"`{row.test}` |" for row in largest.values()]
    sources = [line[0] for line in kept if not line[2]]
    sources += [f"| {digests.digest(file)} | {version('torch')} | `{file}` |" for file in measured]
    return TEXT.format(figures="\n".join(sorted(figures, key=str.lower)),
                       sources="\n".join(sorted(sources, key=lambda line: line.split("|")[3])))


def figure(x: float) -> str:
    """0.0000042 -> 4.2e-6; 0.15 and 0 as they are."""
    return f"{x:.1e}".replace(".0e", "e").replace("e-0", "e-") if 0 < x < 1e-3 else f"{x:.2g}"


def versioned(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:                # no distribution: closed form
        return name
