"""Entry point of a worker process. Only `turnout.workers.supervisor` runs this module."""

import asyncio
import sys

from turnout.host.garbage import collect_seldom


def main() -> None:
    """Runs a worker. The only command-line argument is the file descriptor of its end of the link to the supervisor."""
    collect_seldom()
    from turnout.app.process import loop_factory
    from turnout.serving.sessions.cuda_driver import cuda_driver
    from turnout.threads import end_process

    with asyncio.Runner(loop_factory=loop_factory(gpu=bool(cuda_driver().devices))) as runner:
        code = runner.run(_work(int(sys.argv[1])))
    end_process(code)


async def _work(descriptor: int) -> int:
    import typer

    from turnout.app.process import run
    from turnout.cli.output import reporting
    from turnout.errors import UnavailableError
    from turnout.workers.member import Member

    try:
        member = await Member.join(descriptor)
    except UnavailableError:  # the supervisor ended while this process started
        return 1
    try:
        with reporting(as_json=member.start.settings.log.format == "json"):
            return await run(member.start.settings, member.start.read, member)
    except typer.Exit as ended:
        return int(ended.exit_code)


if __name__ == "__main__":
    main()
