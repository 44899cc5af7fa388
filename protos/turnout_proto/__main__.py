"""Writes the .proto files and their imports: `python -m turnout_proto DIR`, for clients in other languages.

`google/protobuf/*.proto` are not included, since every protoc and gRPC library contains them.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import google.rpc

_IMPORT = re.compile(r'^import (?:public )?"([^"]+)";$', re.MULTILINE)
_OURS = Path(__file__).resolve().parent


def proto_files() -> dict[str, Path]:
    """Returns the .proto files and their imports, by import path."""
    found: dict[str, Path] = {}
    waiting = [path.relative_to(_OURS.parent).as_posix() for path in sorted(_OURS.rglob("*.proto"))]
    while waiting:
        name = waiting.pop()
        if name not in found and not name.startswith("google/protobuf/"):
            found[name] = next(path for root in _roots() if (path := root / name).is_file())
            waiting += _IMPORT.findall(found[name].read_text(encoding="utf-8"))
    return dict(sorted(found.items()))


def _roots() -> Iterator[Path]:
    yield _OURS.parent
    yield from (Path(entry).parent.parent for entry in google.rpc.__path__)


def main() -> None:
    """Writes the files and prints their paths."""
    parser = argparse.ArgumentParser(prog="python -m turnout_proto", description=__doc__.partition(":")[0])
    parser.add_argument("directory", type=Path, metavar="DIR", help="made if it is not there")
    directory = parser.parse_args().directory
    for name, path in proto_files().items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        print(name)  # noqa: T201 - a command-line program


if __name__ == "__main__":
    main()
