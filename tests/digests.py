"""A digest of the code behind a test file: of the file, and of all that it runs of this repository."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def taking(fixture: str) -> list[str]:
    """The test files that take a fixture, as paths from the root: tests/unet/test_unet_parity.py."""
    files = sorted(ROOT.glob("tests/**/test_*.py"))
    return [file.relative_to(ROOT).as_posix() for file in files if fixture in arguments(parse(file))]


def digest(file: str) -> str:
    """Of a test file and all that it imports from this repository; comments, docstrings and layout change nothing."""
    content = [(path.relative_to(ROOT).as_posix(), code(path)) for path in sorted(sources(ROOT / file))]
    return hashlib.sha256(ascii(content).encode()).hexdigest()[:12]


def sources(file: Path) -> set[Path]:
    """The file, what it imports, each conftest.py whose fixtures it takes, what these need in turn, and native code."""
    found: set[Path] = set()
    new = {file}
    while new:
        path = new.pop()
        found |= {path, *path.parent.glob("*.cpp")}
        new |= {*imported(path), *conftests(path)} - found
    return found


def imported(path: Path) -> Iterator[Path]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from modules(alias.name, path.parent)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = list(modules(f"{node.module}.{alias.name}", path.parent))
                yield from submodule or modules(node.module, path.parent)


def modules(name: str, beside: Path) -> Iterator[Path]:
    """The file of this repository by that name, if there is one."""
    for folder in (ROOT, ROOT / "tests", beside):
        module = folder / name.replace(".", "/")
        yield from filter(Path.is_file, (module.with_suffix(".py"), module / "__init__.py"))


def conftests(path: Path) -> Iterator[Path]:
    for folder in path.relative_to(ROOT).parents:
        conftest = ROOT / folder / "conftest.py"
        if conftest.is_file() and arguments(parse(path)) & {f.name for f in functions(parse(conftest))}:
            yield conftest


def parse(path: Path) -> ast.Module:
    return parsed(path.read_text(encoding="utf-8"))


@cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


def code(path: Path) -> str:
    """What a file computes; of one that is not Python, all of it."""
    text = path.read_text(encoding="utf-8")
    return skeleton_text(text) if path.suffix == ".py" else text


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def arguments(tree: ast.AST) -> set[str]:
    """The names of all arguments of all functions, so of the fixtures that a test file takes."""
    return {argument.arg for function in functions(tree) for argument in function.args.args}


@cache
def skeleton_text(text: str) -> str:
    return ascii(skeleton(parsed(text)))


def skeleton(node: object) -> object:
    """A syntax tree without positions, docstrings, and empty fields, which are not the same in every Python."""
    if isinstance(node, list):
        return [skeleton(item) for item in node if not is_docstring(item)]
    if isinstance(node, ast.AST):
        fields = [(name, skeleton(value)) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, *fields]
    return node


def is_docstring(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
