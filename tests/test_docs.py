"""What the pages say: links resolve, the tests and files they name exist, their Python runs."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import torch

from ldm.unet import UNet, UNetConfig

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


def test_all_pages_are_found():
    names = {"architecture", "samplers", "numerics", "weights", "training", "extending"}
    assert {f"docs/{name}.md" for name in names} | {"README.md", "README.zh-CN.md"} <= set(map(relative, PAGES))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_resolve(page):
    prose = re.sub(r"^```.*?^```$|^ {4}.*?$|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", prose)
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_named_tests_exist(page):
    named = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", page.read_text(encoding="utf-8"))
    lacking = [f"{file}::{name}" for file, name in named
               if not (ROOT / file).is_file() or name and name not in functions(ROOT / file)]
    assert not lacking


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_named_files_exist(page):
    named = re.findall(r"`((?:ldm|scripts|tests|docs)/[\w./-]*)`", page.read_text(encoding="utf-8"))
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.name == "docs" and python_blocks(p)], ids=relative)
def test_python_in_docs_runs(page):
    names: dict[str, object] = {}
    for block in python_blocks(page):
        exec(compile(block, relative(page), "exec"), names)


def test_samplers_page_names_a_parity_test_for_every_sampler():
    from ldm.samplers import SAMPLERS

    text = (ROOT / "docs" / "samplers.md").read_text(encoding="utf-8")
    assert not [name for name in SAMPLERS if f"::test_{name}_matches_diffusers" not in text]


def test_unet_norms_have_the_official_epsilons():
    """A trap of docs/numerics.md that no parity test would catch: the difference is about 2e-6 of the output.

    CompVis openaimodel.py and util.py (1e-5), attention.py, Normalize (1e-6).
    """
    with torch.device("meta"):
        unet = UNet(UNetConfig())
    norms = {name: m.eps for name, m in unet.named_modules() if isinstance(m, torch.nn.GroupNorm)}
    of_transformers = {name for name in norms if ".attn" in name}
    assert len(norms) == 22 * 2 + 16 + 1 and len(of_transformers) == 16     # ResBlocks, transformers, the last
    assert all(eps == (1e-6 if name in of_transformers else 1e-5) for name, eps in norms.items())
