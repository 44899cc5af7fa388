"""Several servers in one process: all that differs between them is their settings.

    python benchmarks/together.py MODELS SETTINGS...      each a JSON object; prints where they listen, as JSON

Two processes of one program differ by up to a tenth in what a request costs them, for as long as they run: by where
their memory came to lie. One request's tracing is less than that. Servers of one process share its luck.
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
    """Serves `models` by as many servers as there are settings, until it is cancelled."""
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
