"""With thousands of versions known, a change of one costs what it costs with ten: nothing is sorted or looked through
again, on a change or on a request."""

import json
import random
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest
from semver import Version

from onnx_models import scaled
from turnout.app.server import Running
from turnout.errors import VersionNotFound
from turnout.serving.versions.lifecycle import LifecycleState

FEW, MANY = 10, 400


def _multiply(directory: Path, count: int) -> None:
    """Makes `count` more versions of the one in `directory`, of numbers in no order."""
    numbers = random.Random(count).sample(range(100, 1_000_000), count)
    for number in numbers:
        version = f"0.{number}.{number % 7}" + ("-rc.1" if number % 5 == 0 else "")
        copy = directory.parent / version
        copy.mkdir()
        shutil.copyfile(directory / "model.onnx", copy / "model.onnx")
        body = json.loads((directory / "manifest.json").read_text()) | {"version": version}
        (copy / "manifest.json").write_text(json.dumps(body, sort_keys=True, separators=(",", ":")))


def _calls(work: Callable[[], object]) -> int:
    """Counts the Python functions that `work` calls."""
    count = 0

    def note(_: FrameType, event: str, __: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def _change_and_route(server: Running) -> None:
    manager, router = server.parts.serving.manager, server.services.router
    entry = server.services.catalog.snapshot.models["m"].versions[Version(1, 0, 0)]
    manager._inventory.put(entry)
    manager.sample()
    router.route("other", "")


async def test_what_a_change_costs_does_not_grow_with_the_versions_known(publish_model, start_server, models) -> None:
    costs = {}
    publish_model("m", "1.0.0", scaled(2))
    publish_model("other", "1.0.0", scaled(2))
    for count in (FEW, MANY - FEW):
        _multiply(models / "m" / "1.0.0", count)
        server = await start_server(model={"m": {"load": ["1.0.0"]}})
        known = server.services.catalog.snapshot.models["m"].versions
        _change_and_route(server)
        before = server.services.catalog.snapshot
        costs[len(known)] = _calls(lambda server=server: _change_and_route(server))
        after = server.services.catalog.snapshot
        assert after.models["m"] is not before.models["m"]
        assert after.models["other"] is before.models["other"]
        versions = list(known)
        assert versions == sorted(versions, reverse=True)
    few, many = costs.values()
    # A scrape tells of each version of a model that changed, once; everything else is the same.
    assert many - few <= 12 * (MANY - FEW), costs


async def test_a_selector_is_held_against_the_versions_once_a_change_even_where_none_satisfies_it(
    publish_model, start_server, models
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    publish_model("other", "1.0.0", scaled(2))
    _multiply(models / "m" / "1.0.0", 150)
    server = await start_server(model={"m": {"load": ["1.0.0"]}})
    router, manager = server.services.router, server.parts.serving.manager

    def miss() -> None:
        asks = [
            lambda: router.route("m", "^7.1"),
            lambda: router.describe("m", "~0.3.9"),
            lambda: router.route("m", ""),
        ]
        for ask in asks:
            with suppress(VersionNotFound):
                ask()

    with pytest.raises(VersionNotFound, match="nearest"):
        router.route("m", "^7.2")
    first, again = _calls(miss), _calls(miss)
    assert again < 250 < first / 2
    # Another model's change takes nothing of it away; its own does.
    manager._inventory.put(server.services.catalog.snapshot.models["other"].versions[Version(1, 0, 0)])
    assert _calls(miss) < first / 2
    manager._inventory.put(server.services.catalog.snapshot.models["m"].versions[Version(1, 0, 0)])
    assert _calls(miss) > first / 2


async def test_a_swap_without_a_change_wakes_nobody(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server()
    before = server.services.catalog.snapshot
    await server.parts.serving.manager.refresh()
    assert server.services.catalog.snapshot is before


@pytest.mark.parametrize("tries", [3])
async def test_versions_that_come_and_go_keep_their_order(publish_model, start_server, models, tries: int) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(model={"m": {"load": ["1.0.0"]}})
    for number in range(tries):
        _multiply(models / "m" / "1.0.0", 5) if number == 0 else publish_model("m", f"1.{number}.0", scaled(number))
        await server.parts.serving.manager.refresh()
        versions = list(server.services.catalog.snapshot.models["m"].versions)
        assert versions == sorted(versions, reverse=True)
    for gone in versions[-3:]:
        shutil.rmtree(models / "m" / str(gone))
    await server.parts.serving.manager.refresh()
    left = await server.services.catalog.wait_for(lambda s: not set(versions[-3:]) & s.models["m"].versions.keys())
    assert list(left.models["m"].versions) == [v for v in versions if v not in versions[-3:]]
    assert left.models["m"].versions[Version(1, 0, 0)].state is LifecycleState.READY
