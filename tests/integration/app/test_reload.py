"""SIGHUP: changed settings of a server that runs."""

import asyncio
import json
import threading

import httpx
import pytest
from semver import Version

from onnx_models import scaled
from started_servers import make_settings
from turnout.app.server import running
from turnout.config import Settings
from turnout.errors import ConfigError
from turnout.telemetry.logging import Threshold, make_logger

ONE, TWO = Version(1), Version(2)


def loaded(server) -> set[Version]:
    versions = server.services.catalog.snapshot.models["m"].versions.values()
    return {entry.version for entry in versions if entry.state.name == "READY"}


async def test_changed_settings_of_models_hold_at_once_and_others_are_named(models, publish_model, capfd) -> None:
    for version in ("1.0.0", "2.0.0"):
        publish_model("m", version, scaled(2))
    threshold = Threshold("warning")
    settings = make_settings(models, model={"m": {"load": "latest:1"}}, log={"level": "warning"})
    async with running(settings, make_logger("json", threshold), threshold=threshold) as server:
        await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
        assert loaded(server) == {TWO}
        after = make_settings(models, model={"m": {"load": "all"}}, log={"level": "info"}, limits={"max_tensors": 7})
        await server.reloader.reload(lambda: after)
        async with asyncio.timeout(100):
            await server.services.catalog.wait_for(lambda _: loaded(server) == {ONE, TWO})
        await server.reloader.reload(lambda: after)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    first, again = [line for line in lines if line["event"] == "settings reloaded"]
    assert first["at_once"] == ["log.level", "model.m.load"]
    assert first["needs_restart"] == ["limits.max_tensors"]
    assert (again["at_once"], again["needs_restart"]) == ([], ["limits.max_tensors"])


async def test_settings_that_are_wrong_change_nothing(models, publish_model, capfd) -> None:
    publish_model("m", "1.0.0", scaled(2))

    def read() -> Settings:
        raise ConfigError("expected a number")

    async with running(make_settings(models), make_logger("json", "warning")) as server:
        await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
        await server.reloader.reload(read)
        assert loaded(server) == {ONE}
    (line,) = [line for line in map(json.loads, capfd.readouterr().err.splitlines()) if "reloaded" in line["event"]]
    assert line["reason"] == "expected a number"


async def test_secrets_that_changed_in_their_files_are_among_what_needs_a_restart(models, tmp_path, capfd) -> None:
    token, secret = tmp_path / "token", tmp_path / "secret"
    token.write_text("0123456789abcdef-old")
    secret.write_text("old")
    rollout = {"webhook_url": "http://127.0.0.1:9/", "webhook_secret_file": str(secret)}
    settings = make_settings(models, console={"token_file": str(token)}, rollout=rollout)
    async with running(settings, make_logger("json", "info")) as server:
        await server.reloader.reload(lambda: settings)
        token.write_text("0123456789abcdef-new")
        await server.reloader.reload(lambda: settings)
        secret.write_text("new")
        await server.reloader.reload(lambda: settings)
        token.unlink()
        await server.reloader.reload(lambda: settings)
    text = capfd.readouterr().err
    lines = [line for line in map(json.loads, text.splitlines()) if "reloaded" in line["event"]]
    assert [line.get("needs_restart") for line in lines] == [
        [], ["console.token"], ["console.token", "rollout.webhook_secret"], None,
    ]  # fmt: skip
    assert "console.token_file: there is no file" in lines[-1]["reason"]
    assert "0123456789abcdef" not in text


async def test_settings_that_nobody_could_foresee_change_nothing_and_later_ones_hold(models, capfd) -> None:
    hangs = threading.Event()

    def broken() -> Settings:
        raise RecursionError

    def slow() -> Settings:
        assert hangs.wait(60)
        return make_settings(models)

    async with running(make_settings(models), make_logger("json", "info")) as server:
        await server.reloader.reload(broken)
        reloading = asyncio.create_task(server.reloader.reload(slow))
        async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:  # its event loop is not held up
            assert (await client.get("/livez")).status_code == 200
        hangs.set()
        await reloading
    lines = [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()]
    kept = "the settings cannot be reloaded; the previous ones stay in force"
    assert [line for line in lines if "reloaded" in line] == [kept, "settings reloaded"]


@pytest.mark.parametrize(("level", "written"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
async def test_the_level_of_a_log_can_change(capfd, level: str, written: int) -> None:
    threshold = Threshold("error")
    log = make_logger("json", threshold)
    log.warning("dropped")
    threshold.set(level)
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)(name)
    lines: list[str] = []
    async with asyncio.timeout(100):  # another thread writes them
        while not lines or json.loads(lines[-1])["event"] != "error":
            await asyncio.sleep(0.01)
            lines += capfd.readouterr().err.splitlines()
    assert len(lines) == written
