"""Nothing that the server or the client reads can run code: there is no pickle in them, under any of its names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

PICKLING = {
    "pickle", "_pickle", "pickletools", "copyreg", "shelve", "marshal", "dill", "cloudpickle", "joblib", "torch",
    "multiprocessing", "ProcessPoolExecutor", "SocketHandler", "DatagramHandler", "PickleType", "read_pickle",
    "to_pickle", "PickleSerializer",
}  # fmt: skip
"""Modules that pickle, and names of others' classes and functions that do."""


def pickles(source: str) -> Iterator[str]:
    """Yields the line and the name of what in a module's source pickles, or may."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                named = {part for alias in names for part in alias.name.split(".")}
            case ast.ImportFrom(module, names):
                named = {*(module or "").split("."), *(alias.name for alias in names)}
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.Constant(value=str(name)):
                named = {name}
            case ast.Call(func, keywords=keywords):
                allowed = next((one.value for one in keywords if one.arg == "allow_pickle"), ast.Constant(False))
                if not (isinstance(allowed, ast.Constant) and allowed.value is False):
                    yield f"{node.lineno}: {ast.unparse(func)} with allow_pickle"
                continue
            case _:
                continue
        for name in sorted(named & PICKLING):
            yield f"{node.lineno}: {name}"


@pytest.mark.parametrize("package", ["server", "client"])
def test_there_is_no_pickle(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = [f"{file.relative_to(ROOT)}:{one}" for file in files for one in pickles(file.read_text())]
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "import a, pickle as p", "from pickle import loads", "from multiprocessing.pool import Pool",
        "import concurrent.futures.process\nconcurrent.futures.ProcessPoolExecutor()", "import torch",
        "importlib.import_module('pickle')", "np.load(file, allow_pickle=True)", "np.load(file, allow_pickle=asked)",
        "sqlalchemy.PickleType()",
    ],
)  # fmt: skip
def test_a_pickle_is_found(source: str) -> None:
    assert list(pickles(source))


@pytest.mark.parametrize(
    "source", ["np.load(file)", "np.load(file, allow_pickle=False)", "json.loads(text)", "'no pickles here'"]
)
def test_what_is_no_pickle_is_not(source: str) -> None:
    assert not list(pickles(source))
