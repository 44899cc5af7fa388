"""Where one of several workers starts: `turnout.workers.supervisor` runs this module, nobody else does."""

import asyncio
import sys

import typer

from turnout.app.process import loop_factory
from turnout.cli.output import reporting
from turnout.threads import end_process
from turnout.workers.member import Member


def main() -> None:
    """Runs the worker at the end of the socket whose number is the one argument."""
    from turnout.serving.sessions.cuda_driver import cuda_driver

    with asyncio.Runner(loop_factory=loop_factory(gpu=bool(cuda_driver().devices))) as runner:
        code = runner.run(_work(int(sys.argv[1])))
    end_process(code)


async def _work(descriptor: int) -> int:
    from turnout.app.process import run

    member = await Member.join(descriptor)
    try:
        with reporting(as_json=member.start.settings.log.format == "json"):
            return await run(member.start.settings, member.start.read, member)
    except typer.Exit as ended:
        return int(ended.exit_code)


if __name__ == "__main__":
    main()
