"""Checks with buf whether the .proto files break clients that were built from the files of another revision.

python protos/breaking.py REVISION      such as v0.1.0 or origin/main; lists breaking changes and exits with 1

Removing a field, method, message or enum value, or changing its number, name or type, is a breaking change. The files
of the Open Inference Protocol and of Triton are not checked, since they are defined elsewhere.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from generate import ROOT, describe

RULES = {"version": "v2", "breaking": {"use": ["PACKAGE"], "ignore": ["turnout_proto/oip", "turnout_proto/triton"]}}
"""buf's configuration. `PACKAGE` checks everything that affects generated code, but not in which file it is defined."""


def extract(revision: str, to: Path) -> Path:
    """Writes the .proto files of a revision under `to`, and returns the root directory for imports.

    Raises:
        SystemExit: The revision does not exist, or contains no .proto files.
    """
    command = ["git", "-C", str(ROOT.parent), "archive", "--format=tar", revision, "--", ROOT.name]
    done = subprocess.run(command, capture_output=True)  # noqa: S603 - fixed except for the revision, a single argument
    if done.returncode:
        raise SystemExit(f"error: {revision}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(to, (m for m in archive if m.name.endswith(".proto")), filter="data")
    return to / ROOT.name


def broken(before: Path, after: Path) -> str:
    """Returns the breaking changes between two directories of .proto files, one per line; "" if there are none.

    Raises:
        subprocess.CalledProcessError: The files of a directory do not compile.
    """
    with tempfile.TemporaryDirectory() as scratch:
        images = [Path(scratch) / f"{name}.binpb" for name in ("before", "after")]
        for image, root in zip(images, (before, after), strict=True):
            describe(image, imports=True, root=root)
        config = Path(scratch) / "buf.yaml"
        config.write_text(json.dumps(RULES))
        buf = Path(sys.executable).with_name("buf")
        command = [buf, "breaking", images[1], "--against", images[0], "--config", config, "--exclude-imports"]
        done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - fixed arguments
    if done.returncode not in (0, 100):  # 100: breaking changes found
        raise SystemExit(f"error: buf: {done.stderr.strip()}")
    return done.stdout


def main() -> int:
    """Returns 1 if there are breaking changes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="what Git calls the other one")
    revision = parser.parse_args().revision
    with tempfile.TemporaryDirectory() as scratch:
        found = broken(extract(revision, Path(scratch)), ROOT)
    print(found or f"nothing that clients of {revision} use has changed", end="\n" if not found else "")  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
