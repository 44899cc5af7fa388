"""Runs several servers in one process, which differ only in their settings.

    python benchmarks/harness/together.py MODELS SETTINGS...      each a JSON object; prints the addresses as JSON

Two processes of the same program differ by up to a tenth in the cost of a request for as long as they run, because of
their memory layout. That is more than the cost of tracing. Servers in the same process do not differ in this way.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from turnout.app.process import loop_factory
from turnout.app.server import running
from turnout.config import Address, Settings
from turnout.serving.sessions.providers import start_runtime
from turnout.telemetry.logging import make_logger


async def serve(models: Path, all_settings: Sequence[dict[str, object]]) -> None:
    """Runs a server for `models` with each of the settings, until it is cancelled."""
    start_runtime()
    address = Address("127.0.0.1", 0)
    listeners = {"grpc": address, "http": address, "control": address}
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(
                running(
                    Settings.model_validate(settings | listeners | {"models": models}), make_logger("json", "error")
                )
            )
            for settings in all_settings
        ]
        for server in servers:
            await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
        print(json.dumps([{"grpc": str(server.grpc), "http": str(server.http)} for server in servers]), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(gpu=False)) as runner:
        runner.run(serve(Path(sys.argv[1]), [json.loads(text) for text in sys.argv[2:]]))
