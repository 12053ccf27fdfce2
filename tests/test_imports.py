"""Who may import whom: read from the source, and seen in fresh interpreters."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LDM = ROOT / "ldm"

# Component: what it may import beside the standard library and itself
LEAVES = {"ldm.naming", "ldm.files", "ldm.attention", "ldm.native"}
NETWORK = {"torch", "einops", "ldm.attention", "ldm.naming"}
PARTS = {"ldm.vae", "ldm.unet", "ldm.text", "ldm.samplers", "ldm.weights", "ldm.images", "ldm.files"}
ALLOWED = {
    "naming": set(),
    "files": set(),
    "native": {"torch", "ldm.files"},
    "attention": {"torch", "einops", "ldm.native"},
    "vae": NETWORK,
    "unet": NETWORK,
    "text": NETWORK | {"regex"},
    "samplers": {"torch"},
    "weights": {"torch", "safetensors", "ldm.files", "ldm.naming"},
    "metadata": set(),
    "images": {"torch", "numpy", "PIL", "ldm.files", "ldm.metadata"},
    "settings": {"ldm.samplers", "ldm.text"},
    "approximate": {"torch", "ldm.samplers", "ldm.unet"},
    "training": PARTS | {"torch", "numpy", "PIL", "matplotlib", "safetensors", "tqdm", "webdataset",
                         "ldm.pipeline"},
    "packed": {"torch"},
    "prepare": {"torch", "ldm.attention", "ldm.packed", "ldm.unet", "ldm.vae"},
    "loading": PARTS | {"torch", "ldm.attention", "ldm.native", "ldm.prepare"},
    "hints": {"torch"},
    "finite": {"torch"},
    "latents": {"torch", "PIL", "ldm.finite", "ldm.images", "ldm.prepare", "ldm.vae"},
    "preview": {"torch", "PIL", "ldm.images", "ldm.latents", "ldm.vae"},
    "masks": {"torch", "numpy", "PIL", "ldm.images", "ldm.settings"},
    "plan": {"torch", "ldm.masks", "ldm.samplers", "ldm.settings", "ldm.text"},
    "guidance": {"torch", "ldm.approximate", "ldm.plan", "ldm.samplers", "ldm.text"},
    "plugins": PARTS | {"torch", "numpy", "PIL", "safetensors", "ldm.naming", "ldm.packed", "ldm.prepare",
                        "ldm.loading", "ldm.settings", "ldm.plan"},
    "metrics": {"torch", "numpy", "PIL", "safetensors", "open_clip", "ldm.files", "ldm.images"},
    "many": {"PIL", "ldm.files", "ldm.images", "ldm.pipeline", "ldm.settings", "ldm.weights"},
    "tasks": PARTS | {"torch", "numpy", "PIL", "ldm.masks", "ldm.pipeline", "ldm.plan", "ldm.settings"},
    "web": PARTS | {"torch", "numpy", "pandas", "PIL", "gradio", "fastapi", "fastapi_offline", "starlette", "uvicorn",
                    "pydantic", "prometheus_client", "psutil", "ldm.__version__", "ldm.pipeline", "ldm.plan",
                    "ldm.loading", "ldm.tasks", "ldm.plugins", "ldm.metadata", "ldm.settings", "ldm.preview",
                    "ldm.prepare", "ldm.masks"},
    "pipeline": PARTS | {"torch", "PIL", "ldm.settings", "ldm.loading", "ldm.attention", "ldm.approximate",
                         "ldm.__version__", "ldm.finite", "ldm.guidance", "ldm.hints", "ldm.latents", "ldm.masks",
                         "ldm.plan", "ldm.plugins"},
}


def component(module: str) -> str:
    """ldm.vae.blocks -> ldm.vae; torch.nn -> torch."""
    return ".".join(module.split(".")[: 2 if module.startswith("ldm.") else 1])


def imported(path: Path) -> Iterator[str]:
    """Components and packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (component(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}:{node.lineno}: write imports in full"
            if node.module == "ldm":
                yield from (f"ldm.{alias.name}" for alias in node.names)
            else:
                yield component(node.module)


def files(name: str) -> list[Path]:
    return sorted((LDM / name).rglob("*.py")) or [LDM / f"{name}.py"]


def test_every_component_has_a_rule():
    present = {path.stem for path in LDM.glob("*.py")} | {path.parent.name for path in LDM.glob("*/__init__.py")}
    assert present - {"__init__", "bundled"} == set(ALLOWED)


@pytest.mark.parametrize("name", ALLOWED)
def test_component_imports_only_what_it_may(name):
    allowed = ALLOWED[name] | {f"ldm.{name}"} | sys.stdlib_module_names
    found = {(path.name, module) for path in files(name) for module in imported(path) if module not in allowed}
    assert not found


def test_library_imports_no_script():
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")} | {"scripts"}
    assert scripts > {"scripts"}
    assert not {module for path in LDM.rglob("*.py") for module in imported(path)} & scripts


def loaded_by(module: str) -> set[str]:
    """Components and packages in a fresh interpreter that has imported one module."""
    code = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {component(name) for name in json.loads(result.stdout)}


HEAVY = {"torchvision", "open_clip", "transformers", "diffusers", "PIL", "matplotlib"}


@pytest.mark.parametrize("name", ["vae", "unet", "text", "samplers", "weights"])
def test_component_imports_alone(name):
    loaded = loaded_by(f"ldm.{name}")
    assert {module for module in loaded if module.startswith("ldm.")} - LEAVES == {f"ldm.{name}"}
    assert not loaded & HEAVY


def test_import_ldm_costs_nothing():
    loaded = loaded_by("ldm")
    assert not loaded & (HEAVY | {"torch", "numpy"})
    assert {module for module in loaded if module.startswith("ldm.")} == set()
