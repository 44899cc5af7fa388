"""What a parent does when its workers die: real processes that join it and then do what the test is about."""

import asyncio
import errno
import functools
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from ports import free_port
from started_servers import make_settings
from turnout.config import Address, Drain, Settings, SettingsSource
from turnout.errors import ConfigError
from turnout.telemetry.exposition import negotiate
from turnout.telemetry.logging import make_logger
from turnout.workers.member import unpack_answers
from turnout.workers.restarts import Restarts
from turnout.workers.supervisor import Supervisor, supervise

RecordedTick = list[MutableMapping[str, Any]]

JOINS = """
import asyncio, os, signal, sys
from turnout.telemetry.families import Family
from turnout.workers.member import Member
from turnout.workers.snapshot import encode

async def main():
    member = await Member.join(int(sys.argv[-1]))
    index = member.start.index
    async def snapshot(_):
        return await encode([Family("turnout_requests_total", "counter", "", [({"model": "m"}, float(os.getpid()))])])
    member.answers("snapshot", snapshot)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: os._exit(0))
"""
SERVES = """
    await member.listening()
    await member.ready()
"""
UP = """
    while not member.others_ready:  # whoever ends before that ends a server that was never up
        await asyncio.sleep(0.01)
"""
WAITS = """
    await asyncio.Event().wait()
"""
RUNS = """
asyncio.run(main())
"""


def supervisor(models: Path, body: str, restarts=Restarts, **settings) -> tuple[Supervisor, RecordedTick]:
    """Returns a parent of two such workers, and what it logs."""
    program = (sys.executable, "-c", JOINS + body + RUNS)
    chosen: Settings = make_settings(models, workers=2, **settings)
    capture = LogCapture()
    log = structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.make_filtering_bound_logger(20))
    parent = Supervisor(chosen, chosen, SettingsSource(None, {}, False), log, program, restarts)
    return parent, capture.entries


def at_once() -> Restarts:
    return Restarts(first_seconds=0.01)


async def bounded(run) -> int:
    async with asyncio.timeout(100):
        return await run


@pytest.fixture
def early_deaths(monkeypatch) -> int:
    """After so many a worker cannot live. Each takes a process; the count of the product is tested in tests/unit."""
    for module in ("restarts", "supervisor"):
        monkeypatch.setattr(f"turnout.workers.{module}.MOST_EARLY_DEATHS", 2)
    return 2


async def test_a_parent_whose_workers_all_die_at_once_gives_up_in_words(models, early_deaths) -> None:
    parent, recorded_ticks = supervisor(models, SERVES + UP + "    os._exit(3)\n", at_once)
    assert await bounded(parent.run()) == 1
    assert [one["event"] for one in recorded_ticks][-2:] == [
        f"every worker died at once {early_deaths} times in a row: the server gives up",
        "stopped",
    ]
    deaths = [one for one in recorded_ticks if one["event"] == "a worker ended, and is started again"]
    assert {one["how"] for one in deaths} <= {"with exit code 3", "by SIGTERM"}
    assert all(one["seconds"] <= 0.01 * 2**early_deaths for one in deaths)


async def test_clients_and_operators_cannot_have_one_port(models) -> None:
    port = Address("127.0.0.1", free_port())
    settings = make_settings(models, workers=2, grpc=port, control=port)
    with pytest.raises(ConfigError, match=f"{port} cannot be listened on"):
        await supervise(settings, SettingsSource(None, {}, False), make_logger("json", "error"))


async def test_a_worker_that_cannot_live_does_not_take_the_others_along(models, early_deaths) -> None:
    dies = SERVES + UP + "    if index == 1: os._exit(3)\n" + WAITS
    parent, _ = supervisor(models, dies, at_once)
    running = asyncio.create_task(parent.run())

    async def restarted() -> float:
        text = (await parent._scrape(negotiate(""))).decode()
        lines = [line for line in text.splitlines() if line.startswith('turnout_worker_restarts_total{worker="1"}')]
        return float(lines[0].rpartition(" ")[2])

    async with asyncio.timeout(100):
        while await restarted() < early_deaths + 1:
            await asyncio.sleep(0.01)
    assert not running.done()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await bounded(running) == 0


async def test_workers_that_died_early_once_do_not_end_a_server_in_which_one_serves(
    models, early_deaths, tmp_path
) -> None:
    """Worker 0 dies as often as may be and then lives; after that worker 1 dies again and again."""
    dies = f"    path = {str(tmp_path)!r}\n" + SERVES + UP
    dies += f"""
    if index == 0 and len(os.listdir(path)) < {early_deaths}:
        open(f"{{path}}/{{os.getpid()}}", "x").close()
        os._exit(3)
    if index == 0:
        open(f"{{path}}/serves", "x").close()  # the parent knows it
    while index == 1:
        await asyncio.sleep(0.01)
        if os.path.exists(f"{{path}}/serves"):
            os._exit(3)
"""
    parent, _ = supervisor(models, dies + WAITS, at_once)
    running = asyncio.create_task(parent.run())
    first, second = parent._workers
    async with asyncio.timeout(100):
        while second.restarts.early < early_deaths + 1:
            assert not running.done()
            await asyncio.sleep(0.01)
    assert first.restarts.hopeless
    assert second.restarts.hopeless
    assert not running.done()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await bounded(running) == 0


async def test_a_worker_that_hangs_is_not_up_and_is_started_again(models, monkeypatch) -> None:
    monkeypatch.setattr("turnout.workers.supervisor.SNAPSHOT_SECONDS", 0.3)
    parent, recorded_ticks = supervisor(models, SERVES + WAITS, at_once)
    running = asyncio.create_task(parent.run())

    async def up() -> list[str]:
        text = (await parent._scrape(negotiate(""))).decode()
        return [line for line in text.splitlines() if line.startswith("turnout_worker_up{")]

    async with asyncio.timeout(100):
        while not parent.serves:
            await asyncio.sleep(0.01)
        worker = parent._workers[1]
        os.kill(worker.process.pid, signal.SIGSTOP)
        while await up() != ['turnout_worker_up{worker="0"} 1.0', 'turnout_worker_up{worker="1"} 0.0']:
            await asyncio.sleep(0.01)
        assert worker.restarts.count == 0
        monkeypatch.setattr("turnout.workers.supervisor._PING_SECONDS", 0.05)
        monkeypatch.setattr("turnout.workers.supervisor._HUNG_SECONDS", 0.5)
        while not (worker.restarts.count and parent.serves):
            await asyncio.sleep(0.01)
        while await up() != ['turnout_worker_up{worker="0"} 1.0', 'turnout_worker_up{worker="1"} 1.0']:
            await asyncio.sleep(0.01)
    assert "a worker hangs, and is killed" in [one["event"] for one in recorded_ticks]
    os.kill(os.getpid(), signal.SIGTERM)
    assert await bounded(running) == 0


async def test_scrapes_during_a_count_share_the_next_one_and_none_waits_for_a_worker_that_hangs_again_and_again(
    models, monkeypatch
) -> None:
    """Prometheus gives up after 10 s; with a count of 3 s for each, the third of several at once would fail."""
    monkeypatch.setattr("turnout.workers.supervisor.SNAPSHOT_SECONDS", 1.0)
    parent, _ = supervisor(models, SERVES + WAITS)
    running = asyncio.create_task(parent.run())
    count, counts = parent._count, []

    def counted():
        counts.append(parent)
        return count()

    monkeypatch.setattr(parent, "_count", counted)
    async with asyncio.timeout(100):
        while not parent.serves:
            await asyncio.sleep(0.01)
        hangs = parent._workers[1].process.pid
        os.kill(hangs, signal.SIGSTOP)
        first = asyncio.create_task(parent._scrape(negotiate("")))
        while not counts:
            await asyncio.sleep(0)
        others = await asyncio.gather(*(parent._scrape(negotiate("")) for _ in range(8)))
        assert len(counts) == 2
        assert all(b'turnout_worker_up{worker="1"} 0.0' in one for one in [await first, *others])
    os.kill(hangs, signal.SIGCONT)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await bounded(running) == 0


async def test_a_worker_is_started_again_once_there_are_files_for_it(models, monkeypatch) -> None:
    parent, recorded_ticks = supervisor(models, SERVES + WAITS, at_once)
    running = asyncio.create_task(parent.run())
    worker = parent._workers[1]
    async with asyncio.timeout(100):
        while not parent.serves:
            await asyncio.sleep(0.01)
        with monkeypatch.context() as patch:
            patch.setattr("socket.socketpair", _no_files)
            os.kill(worker.process.pid, signal.SIGKILL)
            while worker.restarts.count < 3:
                assert not running.done()
                await asyncio.sleep(0.01)
        while not parent.serves:
            await asyncio.sleep(0.01)
    assert {"event": "a worker could not be started", "worker": 1, "reason": "Too many open files"}.items() <= {
        key: value for one in recorded_ticks if "reason" in one for key, value in one.items()
    }.items()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await bounded(running) == 0


def _no_files(*_: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("meanwhile", ["starts", "dies"])
async def test_what_a_worker_cannot_be_told_now_it_finds_when_it_has_started(models, tmp_path, meanwhile) -> None:
    """An operator's load neither fails for a worker that starts or dies just then, nor is it lost there."""
    told = tmp_path / "told"
    body = f"    path = {str(tmp_path)!r}\n"
    body += """
    async def load(_):
        os._exit(3)
    if index == 1:
        while not os.path.exists(path + "/go"):
            await asyncio.sleep(0.01)
        member.answers("load", load)
        asked = await member.asked()
        if asked:
            open(path + "/told", "w").write(f"{asked}\\n")
"""
    parent, _ = supervisor(models, body + SERVES + WAITS, at_once)
    running = asyncio.create_task(parent.run())
    request = struct.pack(">d16s", 60.0, b"load") + json.dumps(["m", "1.0.0", True]).encode()
    first, second = parent._workers
    async with asyncio.timeout(100):
        if meanwhile == "dies":
            (tmp_path / "go").touch()
            while not parent.serves:
                await asyncio.sleep(0.01)
        while not (first.joined and second.joined):
            await asyncio.sleep(0.01)
        assert dict(unpack_answers(await parent._gather(first, request))) == {}
        (tmp_path / "go").touch()
        while not told.exists() or not told.read_text().endswith("\n"):
            await asyncio.sleep(0.01)
    assert told.read_text() == "[('m', '1.0.0', True)]\n"
    os.kill(os.getpid(), signal.SIGTERM)
    assert await bounded(running) == 0


async def test_a_worker_that_ends_before_the_server_was_up_ends_the_server_with_its_code(models) -> None:
    parent, recorded_ticks = supervisor(models, "    if index == 1: os._exit(7)\n" + SERVES + WAITS)
    assert await bounded(parent.run()) == 7
    assert "worker 1 could not start, and the server stops" in [one["event"] for one in recorded_ticks]


async def test_a_worker_whose_parent_ends_before_it_has_joined_ends_quietly() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "turnout.worker", str(theirs.fileno()),
            pass_fds=[theirs.fileno()], stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    ours.close()
    _, written = await bounded(worker.communicate())
    assert (worker.returncode, written) == (1, b"")


async def test_a_worker_that_does_not_drain_in_time_is_killed(models, monkeypatch) -> None:
    monkeypatch.setattr("turnout.workers.supervisor._LAST_SECONDS", 0.2)
    stubborn = "    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)\n" + SERVES + WAITS
    parent, recorded_ticks = supervisor(models, stubborn, drain=Drain(delay_s=0.0, timeout_s=0.1))
    running = asyncio.create_task(parent.run())
    async with asyncio.timeout(100):
        while not parent.serves:
            await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await bounded(running) == 1
    assert "a worker did not end in time, and is killed" in [one["event"] for one in recorded_ticks]


async def test_sighup_is_passed_on_and_ends_nobody(models, tmp_path) -> None:
    notes = "    path = " + repr(str(tmp_path)) + " + f'/{index}'\n"
    notes += "    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: open(path, 'x').close())\n"
    parent, _ = supervisor(models, notes + SERVES + WAITS)
    running = asyncio.create_task(parent.run())
    async with asyncio.timeout(100):
        while not parent.serves:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGHUP)
        while {path.name for path in tmp_path.iterdir()} & {"0", "1"} != {"0", "1"}:
            await asyncio.sleep(0.01)
    assert not running.done()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await bounded(running) == 0


async def test_settings_that_cannot_be_read_yet_delay_nothing_else(models, tmp_path) -> None:
    notes = "    path = " + repr(str(tmp_path)) + " + f'/{index}'\n"
    notes += "    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: open(path, 'a').close())\n"
    parent, recorded_ticks = supervisor(models, notes + SERVES + WAITS, at_once)
    file = tmp_path / "turnout.toml"
    os.mkfifo(file)  # whoever opens it waits for a writer
    parent._source = SettingsSource(file, {}, False)
    running = asyncio.create_task(parent.run())
    async with asyncio.timeout(100):
        while not parent.serves:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGHUP)
        while (writer := _writer(file)) is None:
            await asyncio.sleep(0.01)
        os.kill(parent._workers[1].process.pid, signal.SIGKILL)
        while not (parent._workers[1].restarts.count and parent.serves):
            await asyncio.sleep(0.01)
        assert not {path.name for path in tmp_path.iterdir()} & {"0", "1"}
        os.write(writer, b"[model.m]\nslo_ms = [7]\n")
        os.close(writer)
        while {path.name for path in tmp_path.iterdir()} & {"0", "1"} != {"0", "1"}:
            await asyncio.sleep(0.01)
    assert parent._settings.model["m"].slo_ms == (7,)
    with ThreadPoolExecutor(1) as threads:
        written = threads.submit(file.write_text, "nonsense = 1\n")
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(100):
            while "the settings cannot be reloaded; the previous ones stay in force" not in [
                one["event"] for one in recorded_ticks
            ]:
                await asyncio.sleep(0.01)
        written.result()
    assert parent._settings.model["m"].slo_ms == (7,)
    os.kill(os.getpid(), signal.SIGHUP)  # a read that hangs does not delay the end
    os.kill(os.getpid(), signal.SIGTERM)
    assert await bounded(running) == 0


def _writer(fifo: Path) -> int | None:
    """Opens a named pipe for writing; None if nobody has opened it for reading."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


async def test_a_worker_that_is_killed_keeps_its_counts_in_the_sum(models) -> None:
    parent, _ = supervisor(models, SERVES + WAITS, functools.partial(Restarts, first_seconds=0.01))
    running = asyncio.create_task(parent.run())

    async def total() -> float:
        text = (await parent._scrape(negotiate(""))).decode()
        return float(next(line for line in text.splitlines() if line.startswith("turnout_requests_total{")).split()[-1])

    async with asyncio.timeout(100):
        while not parent.serves:
            await asyncio.sleep(0.01)
        first = [worker.process.pid for worker in parent._workers]
        assert await total() == sum(first)  # each counts as many as its process id says
        os.kill(first[0], signal.SIGKILL)
        while not (parent._workers[0].restarts.count and parent.serves):
            assert await total() >= sum(first)
            await asyncio.sleep(0.01)
        assert await total() == sum(first) + parent._workers[0].process.pid
    os.kill(os.getpid(), signal.SIGTERM)
    assert await bounded(running) == 0
