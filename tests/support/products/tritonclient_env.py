"""A separate Python environment with tritonclient, which pins grpcio, and the test rules that run in it."""

from pathlib import Path

import made_once

TRITONCLIENT = "2.73.0"
RULES = Path(__file__).parent / "tritonclient_rules"


def tritonclient_python() -> Path:
    """Returns the interpreter of the environment, which is created once per machine."""
    name = f"tritonclient-{TRITONCLIENT}-both"
    home = made_once.environment(name, f"tritonclient[grpc,http]=={TRITONCLIENT}", timeout=600)
    return home / "bin" / "python"
