"""Environments that tests need beside their own, made once on a machine and kept outside of the tree."""

import fcntl
import shutil
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path


def environment(name: str, *requirements: str, timeout: float, then: Callable[[Path], object] | None = None) -> Path:
    """Returns a Python environment of its own, made now if it was not before.

    Args:
        name: Of its folder; it says all that the environment is made of.
        requirements: That pip installs.
        timeout: Seconds that pip may take.
        then: Does the rest, in the environment's folder.
    """

    def make(home: Path) -> None:
        venv.create(home, clear=True, with_pip=True)
        pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *requirements], check=True, timeout=timeout)
        if then is not None:
            then(home)

    return folder(name, make)


def folder(name: str, make: Callable[[Path], object]) -> Path:
    """Returns a folder, made now if it was not before.

    Args:
        name: Says all that it is made of.
        make: Fills it; what an earlier try left in it is gone.
    """
    home = Path.home() / ".cache" / "turnout" / name
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        complete = home / ".complete"
        if not complete.exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            make(home)
            complete.touch()
    return home
