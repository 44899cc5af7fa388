"""Runs every rule of modules here, inside tritonclient's own environment, and prints what became of each as JSON.

`python run_rules.py DATA_ADDRESS CONTROL_ADDRESS HTTP_ADDRESS MODULE...`. A rule is a function `test_*`, async or not,
that takes `Addresses`. Each module runs in a fork of a process that has imported tritonclient, half a second of CPU,
and called nothing of it.
"""

import asyncio
import importlib
import inspect
import json
import os
import sys
import traceback
from dataclasses import dataclass
from types import ModuleType


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
    data, control, http, *modules = sys.argv[1:]
    addresses = Addresses(data, control, http)
    imported = {module: importlib.import_module(module) for module in modules}
    sys.stdout.write(json.dumps({name: in_child(module, addresses) for name, module in imported.items()}))


def in_child(module: ModuleType, addresses: Addresses) -> dict[str, str]:
    """Returns what became of each rule of a module, by the rule's name."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        rules = inspect.getmembers(module, inspect.isfunction)
        found = {name: broken(rule, addresses) for name, rule in rules if name.startswith("test_")}
        with os.fdopen(writer, "w") as pipe:
            json.dump(found, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(text)


if __name__ == "__main__":
    main()
