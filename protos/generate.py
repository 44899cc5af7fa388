"""Generates Python code from all .proto files in this directory. `--check` verifies that the committed code is current.

Can be run from any directory: `python protos/generate.py [--check | --describe FILE]`. Needs grpcio-tools and
mypy-protobuf (the `dev` extra).
"""

import argparse
import filecmp
import importlib.resources
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def include_paths(root: Path = ROOT) -> list[Path]:
    """Returns the import paths of the .proto files: `root`, grpcio-tools and googleapis-common-protos."""
    import google.rpc
    import grpc_tools

    bundled = Path(str(importlib.resources.files(grpc_tools) / "_proto"))
    return [root, bundled, *(Path(entry).parent.parent for entry in google.rpc.__path__)]


def proto_files(root: Path = ROOT) -> list[Path]:
    """Returns the .proto files, relative to `root`."""
    return sorted(path.relative_to(root) for path in root.rglob("*.proto"))


def generate(out: Path) -> list[Path]:
    """Writes the generated code under `out`, in the same layout as under ROOT. Returns the files' relative paths."""
    scripts = Path(sys.executable).parent
    done = subprocess.run(  # noqa: S603 - fixed arguments
        [
            sys.executable, "-m", "grpc_tools.protoc",
            *(f"-I{include}" for include in include_paths()),
            f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
            f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}", f"--mypy_grpc_out={out}",
            *map(str, proto_files()),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return sorted(path.relative_to(out) for path in out.rglob("*") if path.name.endswith(GENERATED))


def describe(image: Path, *, imports: bool = False, root: Path = ROOT) -> None:
    """Writes a descriptor set of all .proto files to `image`, including comments.

    Args:
        image: File to write.
        imports: Whether to include imported files.
        root: Directory of the .proto files.
    """
    subprocess.run(  # noqa: S603 - fixed arguments
        [
            sys.executable, "-m", "grpc_tools.protoc", *(f"-I{path}" for path in include_paths(root)),
            *(["--include_imports"] if imports else []), "--include_source_info", f"--descriptor_set_out={image}",
            *map(str, proto_files(root)),
        ],
        check=True,
    )  # fmt: skip


def main() -> int:
    """Returns 1 if `--check` finds that the committed code is not current."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the committed code differs")
    parser.add_argument("--describe", metavar="FILE", type=Path, help="only write a descriptor set, comments included")
    arguments = parser.parse_args()
    check = arguments.check
    if arguments.describe is not None:
        describe(arguments.describe)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        wanted = generate(out)
        present = {path.relative_to(ROOT) for path in ROOT.rglob("*") if path.name.endswith(GENERATED)}
        stale = [p for p in wanted if p not in present or not filecmp.cmp(out / p, ROOT / p, shallow=False)]
        stale += sorted(present - set(wanted))
        if check:
            for path in stale:
                print(f"{path} is not what `make protos` generates", file=sys.stderr)  # noqa: T201
            return 1 if stale else 0
        for path in wanted:
            shutil.copyfile(out / path, ROOT / path)
        for path in present - set(wanted):
            (ROOT / path).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
