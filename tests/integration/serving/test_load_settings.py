"""What `load` keeps in memory while versions are published, released, tagged and yanked: make before break."""

import asyncio

import pytest
from semver import Version

from onnx_models import matmul, scaled
from routing_wire import policy, put
from turnout.config import Loading
from turnout.errors import ChangeRefused
from turnout.routing.policy import Policy
from turnout.routing.traffic import ChangeOrigin, Traffic
from turnout.serving.versions.catalog import VersionEntry
from turnout.serving.versions.lifecycle import LifecycleState
from wire import X, request, stub_of

S = LifecycleState
LATEST_ONE = {"m": {"load": "latest:1"}}
NOW = ChangeOrigin("test", "now")


def _entries(server) -> dict[str, VersionEntry]:
    return {str(v): e for v, e in server.services.catalog.snapshot.models["m"].versions.items()}


def _states(server) -> dict[str, str]:
    return {version: str(entry.state) for version, entry in _entries(server).items()}


async def _until(server, condition) -> None:
    async with asyncio.timeout(120):
        await server.services.catalog.wait_for(lambda _: condition())


async def _publish(server, publish_model, *versions: str) -> None:
    """Publishes and releases versions one after another, each once the one before it has loaded."""
    for version in versions:
        publish_model("m", version, scaled(1))
        await _until(server, lambda version=version: _states(server).get(version) == S.READY)
        await _until(server, lambda version=version: _entries(server)[version].release_status == "released")


async def _answering(server, selector: str = "") -> str:
    async with stub_of(server) as stub:
        return (await stub.Predict(request("m", selector, x=X))).route.version


class Watch:
    """Sends requests on end and remembers what answered, and each refusal."""

    def __init__(self, server, *selectors: str) -> None:
        self._server, self._selectors = server, selectors
        self.refused: list[str] = []
        self.answered: list[str] = []

    async def __aenter__(self) -> "Watch":
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await self._task

    async def _run(self) -> None:
        async with stub_of(self._server) as stub:
            while not self._stop.is_set():
                for selector in self._selectors:
                    try:
                        self.answered.append((await stub.Predict(request("m", selector, x=X))).route.version)
                    except Exception as error:  # noqa: BLE001 - it is what the test is about
                        self.refused.append(f"{selector!r}: {error}")
                    await asyncio.sleep(0.004)  # loads wait for a moment without a request


async def test_publishing_a_candidate_unloads_nothing_where_the_latest_release_is_loaded(
    publish_model, start_server
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server(model=LATEST_ONE)
    async with Watch(server, "", "1.0.0", "latest", "^1") as watch:
        for version in ("1.1.0", "2.0.0-rc.1", "2.0.0"):
            publish_model("m", version, scaled(2), release=False)
            await _until(server, lambda version=version: _states(server).get(version) == S.READY)
    assert watch.refused == []
    assert set(watch.answered) == {"1.0.0"}
    assert set(_states(server).values()) == {S.READY}


async def test_a_release_unloads_the_one_before_only_once_it_is_ready(publish_model, start_server) -> None:
    publish_model("m", "0.9.0", scaled(1))
    server = await start_server(model=LATEST_ONE, loading=Loading(concurrency=1, warmup_runs=300))
    await _publish(server, publish_model, "1.0.0")
    async with Watch(server, "", "latest", ">=1") as watch:
        publish_model("m", "2.0.0", matmul(4))
        await _until(server, lambda: _states(server) == {"2.0.0": S.READY, "1.0.0": S.READY, "0.9.0": S.UNLOADED})
    assert watch.refused == []
    assert await _answering(server) == "2.0.0"


async def test_a_release_that_cannot_be_loaded_leaves_what_served_before_and_after_a_restart_too(
    publish_model, start_server, models
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server(model=LATEST_ONE)
    publish_model("m", "2.0.0", scaled(2), release=False)
    path = models / "m" / "2.0.0" / "model.onnx"
    await _until(server, lambda: _states(server).get("2.0.0") == S.READY)
    await server.parts.serving.manager.unload("m", Version(2))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    await asyncio.to_thread(server.parts.base.store.release, "m", Version(2), actor="test", reason="")
    with pytest.raises(Exception, match="could not be loaded"):
        await server.parts.serving.manager.load("m", Version(2))
    await server.parts.serving.manager.refresh()
    assert _states(server) == {"2.0.0": S.FAILED, "1.0.0": S.READY}
    assert await _answering(server) == "1.0.0"
    again = await start_server(model=LATEST_ONE)
    await _until(again, lambda: _states(again) == {"2.0.0": S.FAILED, "1.0.0": S.READY})
    assert await _answering(again) == "1.0.0"


@pytest.mark.parametrize("load", ["latest:1", ["stable"]])
async def test_a_tag_that_moves_to_a_version_not_loaded_fails_no_request(publish_model, start_server, load) -> None:
    for version in ("1.0.0", "1.1.0", "2.0.0"):
        publish_model("m", version, scaled(1))
    server = await start_server(model={"m": {"load": load}})
    tag = server.parts.rollouts.release_writer.set_tag
    await asyncio.to_thread(tag, "m", "stable", Version(1), actor="test", reason="")
    await server.parts.serving.manager.refresh()
    await _until(server, lambda: _states(server)["1.0.0"] == S.READY)
    async with Watch(server, "stable") as watch:
        await asyncio.to_thread(tag, "m", "stable", Version(1, 1), actor="test", reason="")
        await _until(server, lambda: _states(server)["1.1.0"] == S.READY and _states(server)["1.0.0"] == S.UNLOADED)
    assert watch.refused == []
    assert await _answering(server, "stable") == "1.1.0"


async def test_what_a_rollback_goes_back_to_stays_loaded_and_a_restart_loads_it(publish_model, start_server) -> None:
    for major in (1, 2, 3):
        publish_model("m", f"{major}.0.0", scaled(major))
    first = await start_server()
    await put(first, policy("1.0.0"))
    await put(first, policy("2.0.0"))
    for setting in ("latest:1", ["latest"], ["3"]):
        server = await start_server(model={"m": {"load": setting}})
        await _until(server, lambda server=server: set(_states(server).values()) == {S.READY})
        assert set(_states(server)) == {"1.0.0", "2.0.0", "3.0.0"}
    done = await server.parts.rollouts.releases.rollback("m", None, "ada", "worse")
    assert done.baseline == Version(1)
    assert server.parts.serving.policies.current["m"].state.policy == Policy(Version(1))


async def test_a_rollback_is_a_swap_where_nobody_ever_set_a_policy(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server(model=LATEST_ONE)
    await _publish(server, publish_model, "1.1.0", "1.2.0")
    await _until(server, lambda: _states(server) == {"1.2.0": S.READY, "1.1.0": S.READY, "1.0.0": S.UNLOADED})
    async with Watch(server, "", "latest") as watch:
        done = await server.parts.rollouts.releases.rollback("m", None, "ada", "worse")
        assert (str(done.baseline), await _answering(server)) == ("1.1.0", "1.1.0")
        with pytest.raises(ChangeRefused, match=r"1\.0\.0 cannot answer: .*turnout load m@1\.0\.0"):
            await server.parts.rollouts.releases.rollback("m", None, "ada", "worse")
        await server.parts.serving.manager.load("m", Version(1))
        done = await server.parts.rollouts.releases.rollback("m", None, "ada", "worse")
        assert (str(done.baseline), await _answering(server)) == ("1.0.0", "1.0.0")
    assert watch.refused == []


async def test_a_server_that_starts_loads_no_more_than_it_is_told_to(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    server = await start_server(model=LATEST_ONE)
    await server.parts.serving.manager.refresh()
    assert _states(server) == {"2.0.0": S.READY, "1.0.0": S.NEW}


@pytest.mark.parametrize("between", [False, True], ids=["the only one below", "the highest of two below"])
async def test_a_yank_fails_no_request_and_takes_effect_at_once(publish_model, start_server, between) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server(model=LATEST_ONE, loading=Loading(warmup_runs=300))
    await _publish(server, publish_model, *(["1.5.0", "2.0.0"] if between else ["2.0.0"]))
    below = "1.5.0" if between else "1.0.0"
    assert _states(server)[below] == S.READY
    async with Watch(server, "", "latest") as watch:
        await asyncio.to_thread(
            server.parts.rollouts.release_writer.yank, "m", Version(2), actor="test", reason="it leaks"
        )
        await _until(server, lambda: _states(server)["2.0.0"] == S.UNLOADED)
    assert watch.refused == []
    assert await _answering(server) == below


async def test_a_yank_fails_no_request_although_its_release_was_not_followed_yet(
    publish_model, start_server, monkeypatch
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server(model=LATEST_ONE, loading=Loading(warmup_runs=300))

    async def not_yet(_: Traffic) -> None:
        """As if the release came between this look at the store and the manager's."""

    monkeypatch.setattr(Traffic, "_find_fallbacks", not_yet)
    await _publish(server, publish_model, "2.0.0")
    await server.parts.serving.manager.refresh()
    async with Watch(server, "", "latest") as watch:
        await asyncio.to_thread(
            server.parts.rollouts.release_writer.yank, "m", Version(2), actor="test", reason="it leaks"
        )
        await _until(server, lambda: _states(server)["2.0.0"] == S.UNLOADED)
    assert watch.refused == []
    assert await _answering(server) == "1.0.0"


async def test_what_an_operator_unloads_stays_out_whatever_names_it(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    server = await start_server(model=LATEST_ONE)
    await asyncio.to_thread(
        server.parts.rollouts.release_writer.set_tag, "m", "old", Version(1), actor="test", reason=""
    )
    await _until(server, lambda: _states(server)["1.0.0"] == S.READY)
    await server.parts.serving.manager.unload("m", Version(1))
    publish_model("m", "3.0.0", scaled(3), release=False)
    await _until(server, lambda: _states(server).get("3.0.0") == S.READY)
    assert _states(server)["1.0.0"] == S.UNLOADED
