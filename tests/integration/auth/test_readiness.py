"""What the readiness of a server says of its models, and to whom."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from auth_wire import AUTH, bearer, make_token
from onnx_models import scaled
from published import Publish
from started_servers import StartServer
from turnout.app.server import Running

BOUND = 60.0


async def ready(server: Running, token: str) -> tuple[int, dict[str, Any], str]:
    """Returns the status, and both bodies."""
    async with httpx.AsyncClient(base_url=f"http://{server.http}", headers=dict(bearer(token))) as client:
        told = await client.get("/readyz", headers={"accept": "application/json"})
        text = await client.get("/readyz")
    assert told.status_code == text.status_code
    return told.status_code, told.json(), text.text


@pytest.mark.parametrize("why", ["failed", "loading", "repository"])
async def test_only_who_may_read_everything_is_told_which_model_keeps_a_server_from_being_ready(
    models: Path, publish_model: Publish, start_server: StartServer, why: str
) -> None:
    publish_model("secret", "1.0.0", scaled(2.0))
    file = models / "secret" / "1.0.0" / "model.onnx"
    if why == "failed":
        file.chmod(0o644)
        file.write_bytes(b"\0" * file.stat().st_size)
    roles = {"reader": "read", "operator": "operate", "admin": "admin", "runner": "predict"}
    everything = {name: make_token(models, name, [role], ["*"]) for name, role in roles.items()}
    one = make_token(models, "one", ["read"], ["secret"])
    server = await start_server(auth=AUTH)
    if why == "loading":
        server.parts.serving.availability.report_loads(lambda: ["secret 1.0.0: building TensorRT engines, for 2 min"])
    elif why == "repository":
        models.rename(models.with_name("secret"))
        models.write_text("")
        async with asyncio.timeout(BOUND):
            while not (await ready(server, everything["reader"]))[1]["unavailable"]:
                await asyncio.sleep(0.01)
    status, told, text = await ready(server, everything["reader"])
    kinds = {"failed": "unserved", "loading": "notes", "repository": "unavailable"}
    assert told[kinds[why]]
    named = str(told[kinds[why]][0]["reason"] if why == "repository" else told[kinds[why]][0])
    assert named in text
    assert "secret" in named or why == "repository"
    for name, token in {**everything, "one": one, "nobody": "", "wrong": "turnout_x", "ended": one[:-1]}.items():
        their_status, theirs, their_text = await ready(server, token)
        assert their_status == status, "probes have no credential"
        if name in ("reader", "operator", "admin"):
            assert (theirs, their_text) == (told, text)
        else:
            assert named not in str(theirs) + their_text, name
            assert "callers with the role read on * are shown the reason" in str(
                theirs["notes"] + theirs["unavailable"]
            )
            assert "callers with the role read on * are shown the reason" in their_text
