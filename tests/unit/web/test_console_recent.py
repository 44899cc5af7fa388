"""The console's last hour: of all workers, whichever is asked."""

import time
from collections.abc import Mapping
from types import SimpleNamespace

from turnout.telemetry.metrics.versions import VersionRecorder
from turnout.web.console.recent import Recent


class Beside:
    """The other workers, in this process."""

    def __init__(self) -> None:
        self.others: list[Beside] = []
        self._answers = {}

    def answers(self, topic, answer) -> None:
        self._answers[topic] = answer

    async def ask(self, topic: str, body: bytes = b"") -> Mapping[int, bytes]:
        return {index: await other._answers[topic](body) for index, other in enumerate(self.others)}


def worker(recorder: VersionRecorder) -> tuple[Recent, Beside, SimpleNamespace]:
    entry = SimpleNamespace(version_text="1.0.0", handle=SimpleNamespace(recorder=recorder))
    models = {"m": SimpleNamespace(name="m", versions={"1.0.0": entry})}
    peers = Beside()
    catalog = SimpleNamespace(snapshot=SimpleNamespace(models=models))
    return Recent(catalog, peers), peers, entry


def counted(requests: int) -> VersionRecorder:
    recorder = VersionRecorder("m", "1.0.0", "")
    for _ in range(requests):
        recorder.role("baseline").answered(0.001, 0.0, 0.001)
    return recorder


async def test_a_point_has_the_requests_of_all_workers(monkeypatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("turnout.web.console.recent.time.monotonic", lambda: now)
    first, second = counted(5), counted(7)
    (recent, beside, _), (_, other, _) = worker(first), worker(second)
    beside.others = [other]
    await recent.sample()
    now += 10
    for recorder, more in ((first, 20), (second, 30)):
        for _ in range(more):
            recorder.role("baseline").answered(0.001, 0.0, 0.001)
    second.role("baseline").failed("INTERNAL", 0.001)
    await recent.sample()
    (point,) = recent.of("m")["1.0.0"]
    assert (point.rate, point.failures) == (5.1, 0.1)


async def test_a_worker_that_begins_anew_makes_no_point_of_its_own_beginning(monkeypatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("turnout.web.console.recent.time.monotonic", lambda: now)
    (recent, beside, _), (_, other, entry) = worker(counted(5)), worker(counted(700))
    beside.others = [other]
    await recent.sample()
    now += 10
    entry.handle = SimpleNamespace(recorder=counted(3))
    await recent.sample()
    assert recent.of("m") == {}


async def test_a_worker_that_is_started_later_has_the_hour_of_the_others(monkeypatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("turnout.web.console.recent.time.monotonic", lambda: now)
    recorder = counted(5)
    recent, beside, _ = worker(recorder)
    await recent.sample()
    now += 10
    recorder.role("baseline").answered(0.001, 0.0, 0.001)
    await recent.sample()
    late, other, _ = worker(counted(0))
    other.others = [beside]
    await late.catch_up()
    assert late.of("m") == recent.of("m")
    assert late.of("m")["1.0.0"][0].rate == 0.1
