"""Takes the screenshots of docs/console.md (`make pictures`), with a real server, clients, rollouts and browser.

Two things are faster than in service: rollouts tick ten times a second, and the charts of the last hour take a sample
each second, so that two minutes of traffic fill them.
"""

import asyncio
import itertools
import math
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from pathlib import Path

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from playwright.async_api import Browser
from semver import Version

sys.path.extend(map(str, Path(__file__).parents[1].iterdir()))

import onnx_models
from console_wire import TOKEN, Tab, chromium, tab
from rollout_wire import FINAL, TICK, in_state, start, until
from routing_wire import policy, put
from turnout.app.server import Running, running
from turnout.config import Address, Settings
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.releases.release import ReleaseStateWriter
from turnout.state.store import StateStore
from turnout.telemetry.logging import make_logger
from turnout.web.console import recent
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import request

PICTURES = Path(__file__).parents[3] / "docs" / "images" / "console"
DESK = {"viewport": {"width": 1280, "height": 800}, "device_scale_factor": 1.25}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 1.5, "has_touch": True}
HIGHEST = 1480
"""Maximum height of a screenshot in CSS pixels. The rest of a page shows nothing new."""

FILL_SECONDS = 100.0
COLOURS = 256
BAD = {
    "steps": [{"weight": 0.05, "soak_s": 12}, {"weight": 0.25, "soak_s": 12}], "metrics": ["errors", "p99", "p90"],
    "min_requests": 40, "watch_s": 5, "threshold_samples": 50,
}  # fmt: skip
_LATER = [{"weight": weight, "soak_s": 900} for weight in (0.25, 0.5)]
GOOD = BAD | {"steps": [{"weight": 0.05, "soak_s": 15}, *_LATER]}


def clipped(factor: float, most: float) -> onnx.ModelProto:
    """Returns a model with the signature of `scaled`, whose answers are clipped to `most`."""
    nodes = [helper.make_node("Mul", ["x", "factor"], ["z"]), helper.make_node("Min", ["z", "most"], ["y"])]
    values = {"factor": factor, "most": most}
    return onnx_models.model(
        nodes,
        [onnx_models.tensor("x", TensorProto.FLOAT, ["batch", 4])],
        [onnx_models.tensor("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in values.items()],
    )


VERSIONS: Sequence[tuple[str, str, onnx.ModelProto, bool, str]] = (
    ("fraud", "3.1.0", onnx_models.look_up_safely(), True, "Trained on the first half of the year."),
    ("fraud", "3.2.0", onnx_models.look_up_safely(), True, "Trained on three quarters of the year."),
    ("fraud", "3.3.0", onnx_models.look_up(), False, "Trained on the whole year; merchants beyond 300 have no place."),
    ("fraud", "3.4.0", onnx_models.look_up_safely(), False, "3.3.0 with a place for every merchant."),
    ("fraud", "4.0.0-rc.1", onnx_models.slow(), False, "Takes the number of rounds as an input."),
    ("ranker", "1.4.0", onnx_models.scaled(2.0), True, "Ranks offers."),
    ("ranker", "1.5.0", clipped(2.0, 9.0), False, "Ranks offers, scores bounded."),
    ("speech", "2.0.0", onnx_models.slow(), True, "Words out of sound."),
    ("speech", "2.0.1", onnx_models.slow(), True, "Words out of sound, without the stutter."),
)


def publish_all(root: Path) -> None:
    """Publishes the models, and damages one of them."""
    repository = Repository(root)
    with StateStore.open(Settings(models=root).state_url) as store:
        for number, (name, version, proto, release, description) in enumerate(VERSIONS):
            path = root.parent / f"{name}.onnx"
            proto.doc_string = f"{name} {version}"  # so that no two versions have the same bytes
            onnx.save(proto, path)
            free = {"trained on": f"2026-0{1 + number}-01", "auc": round(0.91 + number / 200, 4)}
            metadata = VersionMetadata(description=description, authors=("Risk ML",), licence="Apache-2.0", free=free)
            publish(repository, PublishRequest(name, Version.parse(version), path, metadata))
            if release:
                store.release(name, Version.parse(version), actor="ann", reason="offline AUC")
        ReleaseStateWriter(repository, store).set_tag("fraud", "stable", Version.parse("3.1.0"), actor="ann", reason="")
    damaged = root / "speech" / "2.0.1" / "model.onnx"
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")


@asynccontextmanager
async def traffic(server: Running) -> AsyncIterator[None]:
    """Sends a day's traffic in a minute: some requests pin a version, most do not, and there are more at noon."""
    numbers, stop = itertools.count(), asyncio.Event()
    random = np.random.default_rng(7)

    def fraud(version: str) -> object:
        index = 1000 if next(numbers) % 12 == 0 else int(random.integers(300))
        return request("fraud", version, index=np.array([index]))

    def ranker() -> object:
        return request(
            "ranker", request_id=f"req-{random.integers(1 << 32):08x}",
            x=(random.integers(0, 49, (1, 4)) / 10).astype(np.float32),
        )  # fmt: skip

    def speech() -> object:
        rounds = np.array(int(random.integers(4, 30)))
        return request("speech", x=np.ones((1, 4), np.float32), n=rounds)

    async def client(stub: PredictionServiceStub, make: object, pause: float) -> None:
        while not stop.is_set():
            with suppress(grpc.aio.AioRpcError):
                await stub.Predict(make(), timeout=30)
            await asyncio.sleep(pause * (1.6 + math.sin(time.monotonic() / 9)))

    kinds = [
        *[(lambda: fraud(""), 0.012)] * 3, (lambda: fraud("~3.1"), 0.06), (lambda: fraud("stable"), 0.09),
        *[(ranker, 0.03)] * 2, (speech, 0.08),
    ]  # fmt: skip
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        stub = PredictionServiceStub(channel)
        tasks = [asyncio.create_task(client(stub, make, pause)) for make, pause in kinds]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)


async def take(here: Tab, name: str, path: str = "", highest: int = HIGHEST) -> None:
    """Takes a screenshot of a page, and saves it as small as its colours allow."""
    if path:
        await here.open(path)
    await here.page.wait_for_timeout(2500)  # until charts are fetched and drawn
    size = here.page.viewport_size
    whole = await here.page.evaluate("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": size["width"], "height": min(max(whole, size["height"]), highest)}
    shot = await here.page.screenshot(full_page=True, clip=clip, animations="disabled", caret="hide")
    image = Image.open(BytesIO(shot)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    PICTURES.mkdir(parents=True, exist_ok=True)
    image.save(PICTURES / f"{name}.png", optimize=True)
    print(f"{name}.png  {(PICTURES / f'{name}.png').stat().st_size // 1024} KiB", flush=True)


FRAUD, RANKER = "/console/models/fraud", "/console/models/ranker"


async def pictures(browser: Browser, server: Running) -> None:
    """Takes all screenshots."""
    async with traffic(server):
        await put(server, policy("1.4.0", {"1.5.0": 0.5}), model="ranker", actor="ben", reason="bounded scores")
        await put(server, policy("3.2.0"), model="fraud", actor="ann", reason="3.2.0 is the champion")
        begun = time.monotonic()
        await asyncio.sleep(10)
        await start(server, "3.3.0", BAD, model="fraud", actor="ann", reason="a whole year of data")
        await until(server, in_state(*FINAL), limit=300, model="fraud")
        await start(server, "3.4.0", GOOD, model="fraud", actor="ann", reason="with a place for every merchant")
        await until(server, lambda r: r.weight > 0.2, limit=300, model="fraud")
        await asyncio.sleep(max(0.0, begun + FILL_SECONDS - time.monotonic()))
        for theme in ("light", "dark"):
            async with tab(browser, server, color_scheme=theme, **DESK) as here:
                await take(here, f"overview-{theme}", "/console")
                await take(here, f"model-{theme}", FRAUD)
                await take(here, f"rollout-rolled-back-{theme}", f"{FRAUD}/rollouts/1")
                if theme == "light":
                    await take(here, "route", f"{FRAUD}/route?selector=%5E3&key=customer-17")
                    await take(here, "version", f"{FRAUD}/versions/3.4.0?with=3.2.0")
                    await take(here, "shadow", f"{RANKER}/shadow", 800)
                await here.open(f"{FRAUD}/rollouts/2")
                await here.sign_in("ann")
                await take(here, f"rollout-under-way-{theme}")
        async with tab(browser, server, color_scheme="dark", is_mobile=True, **PHONE) as here:
            await take(here, "overview-phone", "/console", 1300)
            await take(here, "model-phone", FRAUD, 1300)
            await take(here, "shadow-phone", f"{RANKER}/shadow", 900)
            await here.open(f"{FRAUD}/rollouts/2")
            await here.sign_in("ann")
            await take(here, "rollout-phone", highest=1300)


async def main() -> None:
    """Runs the server and takes the screenshots."""
    recent.SAMPLE_SECONDS = 1.0
    loopback = Address("127.0.0.1", 0)
    with tempfile.TemporaryDirectory() as directory:
        models = Path(directory) / "models"
        publish_all(models)
        settings = Settings(
            models=models, grpc=loopback, http=loopback, control=loopback, rollout=TICK, console={"token": TOKEN},
            shadow={"isolation": "thread", "max_lag_s": 60},
        )  # fmt: skip
        async with running(settings, make_logger("json", "error")) as server, chromium() as browser:
            await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
            await pictures(browser, server)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
