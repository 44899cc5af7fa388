"""Lints the .proto files with buf, which reads a descriptor set created here, so that no buf module is needed.

Can be run from any directory: `python protos/lint.py`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from generate import describe

ROOT = Path(__file__).resolve().parent

RULES = {
    "version": "v2",
    "lint": {
        "use": ["STANDARD", "COMMENTS"],
        "except": [
            # The files are in the directory of the Python package that is generated from them (docs/architecture.md).
            "PACKAGE_DIRECTORY_MATCH",
            "DIRECTORY_SAME_PACKAGE",
        ],
        # The names in these files are defined by the Open Inference Protocol, Triton and Google.
        "ignore": ["turnout_proto/oip", "turnout_proto/triton", "google"],
    },
}


def main() -> int:
    """Returns buf's exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "image.binpb"
        config = Path(scratch) / "buf.yaml"
        config.write_text(json.dumps(RULES))
        describe(image, imports=True)
        buf = Path(sys.executable).with_name("buf")
        return subprocess.run([str(buf), "lint", str(image), "--config", str(config)]).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
