"""Runs every rule of one module here, inside tritonclient's own environment, and prints what became of each as JSON.

`python run_rules.py MODULE DATA_ADDRESS CONTROL_ADDRESS HTTP_ADDRESS`. A rule is a function `test_*`, async or not,
that takes `Addresses`.
"""

import asyncio
import importlib
import inspect
import json
import sys
import traceback
from dataclasses import dataclass


@dataclass(frozen=True)
class Addresses:
    """Where the server listens.

    Attributes:
        data: For clients.
        control: For operators.
        http: For clients that speak HTTP.
    """

    data: str
    control: str
    http: str


def broken(rule, addresses: Addresses) -> str:
    """Returns how the rule is broken; "" where it holds."""
    try:
        outcome = rule(addresses)
        if inspect.iscoroutine(outcome):
            asyncio.run(outcome)
    except Exception:  # noqa: BLE001 - whatever it is, it is what the rule's test shows
        return traceback.format_exc()
    return ""


def main() -> None:
    module, data, control, http = sys.argv[1:]
    rules = inspect.getmembers(importlib.import_module(module), inspect.isfunction)
    addresses = Addresses(data, control, http)
    sys.stdout.write(json.dumps({name: broken(rule, addresses) for name, rule in rules if name.startswith("test_")}))


if __name__ == "__main__":
    main()
