"""The environment that holds tritonclient: one of its own, since it pins grpcio; and the rules that run in it."""

from pathlib import Path

import made_once

TRITONCLIENT = "2.73.0"
RULES = Path(__file__).parent / "tritonclient_rules"


def tritonclient_python() -> Path:
    """Returns its interpreter; made once per machine."""
    name = f"tritonclient-{TRITONCLIENT}-both"
    home = made_once.environment(name, f"tritonclient[grpc,http]=={TRITONCLIENT}", timeout=600)
    return home / "bin" / "python"
