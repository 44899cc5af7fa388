"""Real files with known types."""

import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000100000001008060000001ff3ff610000001349444154789c63fcffff3f0325806"
    "9d4005d03006a5d05fb2b0cf8b20000000049454e44ae426082"
)
_C = b'#include <stdio.h>\n\nint main(int argc, char **argv) {\n    printf("%d\\n", argc);\n    return 0;\n}\n'


@dataclass(frozen=True, slots=True)
class Sample:
    """A real file, with its name, content and expected type."""

    name: str
    content: bytes
    expected: str


def samples() -> list[Sample]:
    """Returns real files of this repository and this machine."""

    def read(path: str) -> bytes:
        return (REPOSITORY / path).read_bytes()

    header = Path("/usr/include/stdio.h")
    return [
        Sample("server/turnout/app/server.py", read("server/turnout/app/server.py"), "python"),
        Sample("README.md", read("README.md"), "markdown"),
        Sample(".ci/run", read(".ci/run"), "shell"),
        Sample("Makefile", read("Makefile"), "makefile"),
        Sample(*(("stdio.h", header.read_bytes()) if header.exists() else ("main.c", _C)), "c"),
        Sample("a 16x16 PNG", _PNG, "png"),
        Sample("python, the program", Path(sys.executable).resolve().read_bytes(), "elf"),
    ]


def excerpts(count: int) -> list[bytes]:
    """Returns the beginnings of `count` real files, some of them hard to classify, like uploads to a service."""
    found: list[Path] = []
    for root in ("server", "client", "docs", "tests"):
        found += [path for path in sorted((REPOSITORY / root).rglob("*")) if path.is_file() and path.suffix != ".pyc"]
    sizes = (60, 150, 400, 2000)
    return [found[n % len(found)].read_bytes()[: sizes[n // len(found) % len(sizes)]] for n in range(count)]
