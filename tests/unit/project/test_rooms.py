"""No room, module or constructor is too large to take in, and no two classes have one name (CONTRIBUTING.md)."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("server/turnout", "client/turnout_client")

MOST_MODULES = 15
MOST_LINES = 450
MOST_ARGUMENTS = 6

PUBLIC_OPTIONS = {"AsyncClient", "Client"}
"""Constructors whose arguments are options, each with a default, that users name."""


def modules(*folders: str) -> Iterator[Path]:
    """Yields the modules that people wrote, below some folders."""
    for folder in folders:
        yield from (file for file in (ROOT / folder).rglob("*.py") if not file.stem.endswith(("_pb2", "_pb2_grpc")))


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    """Yields the classes of the packages."""
    for file in modules(*PACKAGES):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                yield file, node


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "benchmarks", "examples"])
def test_a_room_has_few_modules(folder: str) -> None:
    found = Counter(str(file.parent.relative_to(ROOT)) for file in modules(folder))
    assert found
    assert {room: count for room, count in found.items() if count > MOST_MODULES} == {}


@pytest.mark.parametrize("folder", PACKAGES)
def test_a_module_is_not_long(folder: str) -> None:
    found = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in modules(folder)}
    assert found
    assert {name: lines for name, lines in found.items() if lines > MOST_LINES} == {}


def test_no_two_classes_have_one_name() -> None:
    found = Counter(node.name for _, node in classes())
    assert found
    assert [name for name, count in found.items() if count > 1] == []


def test_a_constructor_takes_few_arguments() -> None:
    found = {
        node.name: len(method.args.args) + len(method.args.kwonlyargs) - 1
        for _, node in classes()
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name == "__init__"
    }
    assert set(found) > PUBLIC_OPTIONS
    long = {name: count for name, count in found.items() if count > MOST_ARGUMENTS and name not in PUBLIC_OPTIONS}
    assert long == {}
