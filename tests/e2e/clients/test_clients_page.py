"""The light client as its users get it: built as a wheel, and installed without the server. The page's examples run."""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import made_once
import node as node_packages
from debian import needs, program
from onnx_models import save, scaled
from processes import Server
from turnout.testing import serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first run on a machine installs Node and compiles

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "clients.md").read_text()
FENCES = re.findall(r"^```([^\n]*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TITLES = [re.search(r'title="([^"]+)"', head) for head, _ in FENCES]
FILES = {title[1]: body for title, (_, body) in zip(TITLES, FENCES, strict=True) if title}
SHOWN = {title[1]: after for title, (head, after) in zip(TITLES, FENCES[1:], strict=False) if title and head == "text"}
GO = program(
    "golang-go golang-google-grpc-dev golang-github-golang-protobuf-1-5-dev protoc-gen-go protoc-gen-go-grpc", "go"
)
COMPILER = program("protobuf-compiler-grpc libgrpc++-dev libprotobuf-dev pkg-config g++", "grpc_cpp_plugin")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-build-isolation"]
    subprocess.run([*pip, "--no-deps", "--wheel-dir", folder, ROOT / "client"], check=True, timeout=240)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the wheel, and the distributions that it says it needs: links to those installed here."""
    home = tmp_path_factory.mktemp("light")
    venv.create(home, with_pip=False)
    executable = home / "bin" / "python"
    (site,) = home.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", executable, "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True, timeout=240)
    for distribution in needed(wheel):
        for file in distribution.files or ():
            parts = file.parts[:2] if file.parts[0] == "google" else file.parts[:1]
            link, target = site.joinpath(*parts), Path(str(distribution.locate_file(Path(*parts))))
            if parts[0] != ".." and target.exists() and not link.exists():
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(target)
    return executable


def needed(wheel: Path) -> list[importlib.metadata.Distribution]:
    """Returns the installed distributions that a wheel needs, and those that these need."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = requirements(wheel)
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found[name] = importlib.metadata.distribution(name)
            assert requirement.specifier.contains(found[name].version), requirement
            waiting += found[name].requires or []
    return list(found.values())


def requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as packed:
        (name,) = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
        lines = packed.read(name).decode().partition("\n\n")[0].splitlines()
    return [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve({"scale@1.0.0": save(scaled(2), tmp_path_factory.mktemp("clients") / "scale.onnx")}) as running:
        yield running


def write(name: str, folder: Path, server: Server) -> Path:
    """Writes a file of the page, for the server that runs."""
    text = FILES[name]
    assert "127.0.0.1:8001" in text
    path = folder / name
    path.write_text(text.replace("127.0.0.1:8001", server.grpc))
    return path


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_wheel_holds_the_client_the_protocol_and_nothing_of_the_server(wheel: Path) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert wheel.name == f"turnout_client-{settings['version']}-py3-none-any.whl"
    assert wheel.stat().st_size < 500_000
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"turnout_client", "turnout_proto"}
    ours = [path for folder in ("client/turnout_client", "protos/turnout_proto") for path in (ROOT / folder).rglob("*")]
    wanted = {
        Path(*path.relative_to(ROOT).parts[1:]).as_posix()
        for path in ours
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= set(names)
    of_server = {canonicalize_name(Requirement(text).name): Requirement(text) for text in settings["dependencies"]}
    for text in requirements(wheel):
        mine = Requirement(text)
        theirs = of_server[canonicalize_name(mine.name)]
        assert mine.specifier == theirs.specifier, f"{mine} here, {theirs} in pyproject.toml"


def test_it_needs_no_more_than_it_says(python: Path, tmp_path: Path) -> None:
    program = (
        "import sys, importlib.util, turnout_client, turnout_client.testing; "
        "print([name for name in ('turnout', 'onnxruntime', 'onnx', 'sqlalchemy', 'cryptography', 'starlette')"
        " if importlib.util.find_spec(name)])"
    )
    assert run(python, "-W", "error", "-c", program, cwd=tmp_path) == "[]\n"


@pytest.mark.parametrize("name", ["blocking.py", "on_asyncio.py", "over_a_stream.py"])
def test_the_python_examples(name: str, python: Path, server: Server, tmp_path: Path) -> None:
    assert run(python, "-W", "error", write(name, tmp_path, server), cwd=tmp_path) == SHOWN[name]


@pytest.fixture(scope="module")
def protos(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    written = run(python, "-m", "turnout_proto", "protos", cwd=folder).splitlines()
    files = sorted(path.relative_to(folder / "protos").as_posix() for path in (folder / "protos").rglob("*.proto"))
    assert written == files
    assert "google/rpc/status.proto" in files
    return folder / "protos"


def test_the_node_example(protos: Path, server: Server, tmp_path: Path) -> None:
    node = node_packages.environment("@grpc/grpc-js@1.14.7", "@grpc/proto-loader@0.8.1")  # as test_grpc_js.py
    script = write("client.mjs", tmp_path, server)
    (tmp_path / "node_modules").symlink_to(node / "node_modules")
    (tmp_path / "protos").symlink_to(protos)
    assert run(node / "bin" / "node", script, cwd=tmp_path) == SHOWN["client.mjs"]


@needs(COMPILER, "libgrpc++-dev protobuf-compiler-grpc")
def test_the_cpp_example(protos: Path, server: Server, tmp_path: Path) -> None:
    """Compiled once on a machine: that takes half a minute."""
    section = PAGE[PAGE.index("## C++") :]
    commands = re.findall(r"^\$ (.*)$", section[section.index("```console") : section.index("## Go")], re.MULTILINE)
    *build, show = commands
    assert show == "./client"
    source = (
        FILES["client.cc"]
        .replace('"127.0.0.1:8001"', 'std::getenv("TARGET")')
        .replace("<cstring>", "<cstdlib>\n#include <cstring>")
    )
    sources = [source, *build, *(path.read_text() for path in sorted(protos.glob("*/*/prediction.proto")))]
    name = f"cpp-example-{hashlib.sha256(''.join(sources).encode()).hexdigest()[:16]}"

    def compile_(home: Path) -> None:
        shutil.copytree(protos, home / "protos")
        (home / "client.cc").write_text(source)
        for command in build:
            subprocess.run(command, shell=True, check=True, cwd=home, timeout=400)

    home = made_once.folder(name, compile_)
    done = subprocess.run([home / "client"], env={"TARGET": server.grpc}, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("2 8 1.0.0\n", "")


@needs(GO, "golang-go")
def test_the_go_example(protos: Path, server: Server, tmp_path: Path) -> None:
    """Compiled once on a machine: that takes 14 seconds of a core."""
    section = PAGE[PAGE.index("## Go") :]
    *build, show = re.findall(r"^\$ (.*)$", section[section.index("```console") :], re.MULTILINE)
    assert show == "./client"
    source = FILES["client.go"].replace('"127.0.0.1:8001"', 'os.Getenv("TARGET")').replace('"math"', '"math"\n\t"os"')
    sources = [source, *build, *(path.read_text() for path in sorted(protos.glob("*/*/prediction.proto")))]
    name = f"go-example-{hashlib.sha256(''.join(sources).encode()).hexdigest()[:16]}"

    def compile_(home: Path) -> None:
        shutil.copytree(protos, home / "protos")
        (home / "client.go").write_text(source)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GO")}
        environment |= {"GOCACHE": str(home / "cache"), "GOTOOLCHAIN": "local", "GOPROXY": "off"}
        for command in build:
            subprocess.run(command, shell=True, check=True, cwd=home, env=environment, timeout=400)
        shutil.rmtree(home / "cache")

    home = made_once.folder(name, compile_)
    done = subprocess.run([home / "client"], env={"TARGET": server.grpc}, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("2 8 1.0.0\n", "")
