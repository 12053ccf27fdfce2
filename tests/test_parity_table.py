"""docs/parity.md is of this code, and complete; and what tells so, on a small tree."""

from pathlib import Path

import digests
import parity
import pytest

from ldm.samplers import SAMPLERS

FAMILIES = ["sd1", "sd1_inpaint", "sd2", "sd2_inpaint", "x4"]
ADDONS = ["LoRA", "LoHa", "LoKr", "textual inversion", "ControlNet", "TAESD", "guidance rescale"]
PARTS = ["UNet", "VAE", "text encoder", "text encoder of SD 2", "token ids", "schedule", "inpainting", "x4 upscaler"]
SPEAKS_OF = [*PARTS, *FAMILIES, *ADDONS, *(f"sampler {name}" for name in SAMPLERS)]


@pytest.fixture(scope="module")
def page() -> str:
    return (digests.ROOT / parity.PAGE).read_text(encoding="utf-8")


def measured_code(page: str) -> dict[str, str]:
    """By test file."""
    return {line[1]: line[0].split(" | ")[0].removeprefix("| ") for line in parity.LINE.finditer(page) if not line[2]}


@pytest.mark.parametrize("file", digests.taking("parity"))
def test_parity_figures_are_not_older_than_their_code(file, page):
    measured = measured_code(page).get(file)
    assert measured == digests.digest(file), f"run: make parity (or, for these alone, python -m pytest --parity {file})"


def test_parity_page_speaks_of_all_files_that_take_the_fixture_and_of_no_other(page):
    of_figures = {line[1] for line in parity.LINE.finditer(page) if line[2]}
    assert set(measured_code(page)) == of_figures == set(digests.taking("parity"))


@pytest.mark.parametrize("what", SPEAKS_OF)
def test_parity_page_has_a_figure_of_every_part(what, page):
    assert f"\n| {what}, " in page or f"\n| {what} |" in page


TREE = {
    "ldm/unet/__init__.py": '"""The network."""\n\nfrom ldm.unet.blocks import block\n',
    "ldm/unet/blocks.py": 'import ldm.kernels\n\n\ndef block(x):\n    """Double."""\n    return 2 * x  # twice\n',
    "ldm/kernels/__init__.py": "",
    "ldm/kernels/fast.cpp": "int x;\n",
    "ldm/vae.py": "x = 1\n",
    "tests/helper.py": "y = 1\n",
    "tests/conftest.py": "def model():\n    from helper import y\n    return y\n",
    "tests/unet/conftest.py": "def small(model):\n    return model\n",
    "tests/unet/test_unet.py": "from ldm.unet import block\n\ndef test_a(small, parity):\n    assert block(2) == 4\n",
    "tests/unet/test_other.py": "def test_other():\n    pass\n",
}
TEST = "tests/unet/test_unet.py"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one test file that takes the fixture."""
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(digests, "ROOT", tmp_path)
    return tmp_path


def test_sources_are_followed_through_imports_and_fixtures(tree):
    assert digests.taking("parity") == [TEST]
    found = {path.relative_to(tree).as_posix() for path in digests.sources(tree / TEST)}
    assert found == set(TREE) - {"ldm/vae.py", "tests/unet/test_other.py"}


@pytest.mark.parametrize("name, old, new", [
    ("ldm/unet/blocks.py", "  # twice", ""), ("ldm/unet/blocks.py", "Double.", "Twice as much."),
    ("ldm/unet/blocks.py", "2 * x", "(2\n            * x)"), ("ldm/unet/__init__.py", '"""The network."""', ""),
    ("ldm/vae.py", "1", "2"), ("tests/unet/test_other.py", "pass", "assert False"),
])
def test_digest_stays_where_nothing_of_its_code_changes(tree, name, old, new):
    before = digests.digest(TEST)
    (tree / name).write_text(TREE[name].replace(old, new))
    assert digests.digest(TEST) == before


@pytest.mark.parametrize("name, old, new", [
    (TEST, "== 4", "<= 4"), ("ldm/unet/blocks.py", "2 * x", "3 * x"), ("ldm/unet/blocks.py", "2 * x", "2.0 * x"),
    ("ldm/kernels/fast.cpp", "int", "float"), ("tests/conftest.py", "return y", "return -y"),
    ("tests/helper.py", "1", "2"), ("tests/unet/conftest.py", "return model", "return None"),
])
def test_digest_changes_with_its_code(tree, name, old, new):
    before = digests.digest(TEST)
    (tree / name).write_text(TREE[name].replace(old, new))
    assert digests.digest(TEST) != before


MEASURED = """
import pytest

@pytest.mark.parametrize("x", [3e-6, 4.2e-6, 1e-7])
def test_a(x, parity):
    parity("UNet", "pytest", x, 1e-5)

def test_b(parity):
    parity("ids", "closed form", 0, 0)

def test_without():
    assert False
"""
OLD = """
| VAE | words | 0.25 | 0.5 | `tests/test_c.py::test_c` |
| VAE | words | 0.25 | 0.5 | `tests/test_gone.py::test_c` |
| 0123456789ab | 2.0 | `tests/test_c.py` |
| 0123456789ab | 2.0 | `tests/test_gone.py` |
"""


@pytest.fixture
def repository(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Two test files that take the fixture, and a page with a figure of the second and of one that is gone."""
    monkeypatch.setattr(digests, "ROOT", pytester.path)
    for folder in ("tests", "docs"):
        pytester.mkdir(folder)
    (pytester.path / "tests/test_a.py").write_text(MEASURED)
    (pytester.path / "tests/test_c.py").write_text("def test_c(parity):\n    parity('VAE', 'pytest', 1, 0.15)\n")
    (pytester.path / "docs/parity.md").write_text(OLD)
    return pytester


def measure(repository: pytest.Pytester, *args: str) -> pytest.RunResult:
    return repository.runpytest_inprocess("-p", "parity", "--import-mode=importlib", "--parity", *args)


def test_parity_option_writes_the_largest_differences_and_keeps_the_rest(repository):
    measure(repository, "tests/test_a.py").assert_outcomes(passed=4, deselected=1)
    lines = [line[0] for line in parity.LINE.finditer((repository.path / "docs/parity.md").read_text())]
    assert lines == [
        "| ids | closed form | 0 | 0 | `tests/test_a.py::test_b` |",
        f"| UNet | pytest {pytest.__version__} | 4.2e-6 | 1e-5 | `tests/test_a.py::test_a` |",
        "| VAE | words | 0.25 | 0.5 | `tests/test_c.py::test_c` |",
        f"| {digests.digest('tests/test_a.py')} | {parity.version('torch')} | `tests/test_a.py` |",
        "| 0123456789ab | 2.0 | `tests/test_c.py` |"]


@pytest.mark.parametrize("difference", ["1.1e-5", "float('nan')"])
def test_parity_fails_beyond_the_tolerance_and_leaves_the_page(repository, difference):
    (repository.path / "tests/test_a.py").write_text(MEASURED.replace("x, 1e-5", f"{difference}, 1e-5"))
    before = (repository.path / "docs/parity.md").read_bytes()
    result = measure(repository, "tests/test_a.py")
    result.assert_outcomes(passed=1, failed=3, deselected=1)
    result.stdout.fnmatch_lines(["*UNet is * from pytest, not within 1e-5*"])
    assert (repository.path / "docs/parity.md").read_bytes() == before


@pytest.mark.parametrize("chosen", [["-k", "test_a"], ["-m", "not slow"], ["tests/test_a.py::test_a"]])
def test_parity_option_refuses_parts_of_files(repository, chosen):
    result = measure(repository, *chosen)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--parity measures whole test files; leave out -k, -m and ::test"])
