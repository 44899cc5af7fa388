"""Additional environments for tests, created once per machine outside the source tree."""

import fcntl
import shutil
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path


def environment(name: str, *requirements: str, timeout: float, then: Callable[[Path], object] | None = None) -> Path:
    """Returns a separate Python environment, created on first use.

    Args:
        name: Name of its folder, which identifies all its contents.
        requirements: Requirements for pip to install.
        timeout: Time limit for pip in seconds.
        then: Called with the folder to complete the environment.
    """

    def make(home: Path) -> None:
        venv.create(home, clear=True, with_pip=True)
        pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *requirements], check=True, timeout=timeout)
        if then is not None:
            then(home)

    return folder(name, make)


def folder(name: str, make: Callable[[Path], object]) -> Path:
    """Returns a folder, created on first use.

    Args:
        name: Name of the folder, which identifies all its contents.
        make: Fills the folder, which is empty even if an earlier attempt failed.
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
