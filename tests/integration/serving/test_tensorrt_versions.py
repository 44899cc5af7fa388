"""Versions that are to run on TensorRT, served: engines that are slow, fail or are damaged, and FP16 by golden cases.

No machine of the tests has TensorRT. Here `TensorrtSession` stands for ONNX Runtime's session on it: it takes the same
arguments, what the provider's options say decides what it does, and the CPU computes, in FP16 with the model as ONNX
Runtime converts it. All that is around it is what serves: loading, the comparison, folders, what is told.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from grpc import StatusCode
from onnxruntime.transformers.float16 import convert_float_to_float16
from semver import Version
from typer.testing import CliRunner

from onnx_models import matmul, model, scaled, tensor
from started_servers import make_settings
from turnout.app.server import running
from turnout.cli.main import application
from turnout.cli.output import CommandOutput
from turnout.cli.serve import load as load_command
from turnout.cli.waiting import progress_notes
from turnout.config import ModelOverrides, Runtime
from turnout.errors import ModelFailure
from turnout.registry.manifest.manifest import Tolerance
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.routing.shadow import service as shadows
from turnout.serving.isolation.session import IsolatedSession
from turnout.serving.loading import loader, version_sessions
from turnout.serving.sessions import providers
from turnout.serving.sessions.cuda_driver import CudaDevice, CudaDriver
from turnout.serving.sessions.providers import CPU, TENSORRT, ProviderReport
from turnout.serving.sessions.runtime_errors import run_failure
from turnout.serving.sessions.session import Session, _with_options
from turnout.serving.sessions.spec import SessionSpec
from turnout.serving.tensorrt import build, engine_cache
from turnout.telemetry.logging import make_logger
from wire import outputs_of, refusal, request, stub_of

BOUND = 60.0
ONE = Version(1)


Shape = tuple[int, ...]


def _ranges(options: Mapping[str, str]) -> Mapping[str, tuple[Shape, Shape]]:
    """Reads the smallest and the largest shape of each input from the provider's options, as ONNX Runtime does."""
    sides = [
        dict(pair.split(":") for pair in options.get(f"trt_profile_{side}_shapes", "").split(",") if pair)
        for side in ("min", "opt", "max")
    ]
    least, usual, most = ({name: tuple(map(int, s.split("x"))) for name, s in side.items()} for side in sides)
    assert least.keys() == usual.keys() == most.keys()
    for name in least:
        assert all(a <= b <= c for a, b, c in zip(least[name], usual[name], most[name], strict=True))
    return {name: (least[name], most[name]) for name in least}


class ProfiledSession(Session):
    """A session on the CPU that refuses shapes outside its profile, with ONNX Runtime's words."""

    ranges: Mapping[str, tuple[Shape, Shape]]

    def run(self, inputs: Any, outputs: Any, stop: Any = None) -> Any:
        for name, array in inputs.items():
            least, most = self.ranges.get(name, (array.shape, array.shape))
            if not all(a <= b <= c for a, b, c in zip(least, array.shape, most, strict=True)):
                call = f"nvinfer1::IExecutionContext::setInputShape() for input '{name}'"
                raise run_failure(
                    RuntimeError(f"[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP failed to call {call}")
                )
        return super().run(inputs, outputs, stop)


@dataclass
class Machine:
    """A machine on which TensorRT is there, and what happens to builds on it.

    Attributes:
        scratch: Where models are converted.
        built: Options of each engine that was built.
        fails: What goes wrong in builds whose options it takes; "" for nothing.
        begun: A build goes on.
        may_go_on: Builds end.
        sessions: All that were made.
        ended_late: A build ended although it might not yet: somebody waited for it.
    """

    scratch: Path
    built: list[Mapping[str, str]] = field(default_factory=list)
    fails: Callable[[Mapping[str, str]], str] = lambda _: ""
    begun: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)
    sessions: list[Session] = field(default_factory=list)
    ended_late: bool = False

    def make(self, spec: SessionSpec, **named: Any) -> Session:
        if spec.providers[0] != TENSORRT:
            return Session(spec, **named)
        given = dict(_with_options(spec, captures=False))[TENSORRT]
        fp16 = given["trt_fp16_enable"] == "True"
        self.begun.set()
        if not self.may_go_on.wait(BOUND):
            self.ended_late = True
        if why := self.fails(given):
            raise ModelFailure(why)
        self.built.append(given)
        model = self.in_half(spec.model) if fp16 else spec.model
        session = ProfiledSession(replace(spec, model=model, providers=[CPU], tensorrt={}))
        session.providers, session.tensorrt = (TENSORRT, CPU), spec.tensorrt
        session.ranges = _ranges(given)
        self.sessions.append(session)
        return session

    def in_half(self, model: Path) -> Path:
        """Converts a model to FP16."""
        half = self.scratch / "half.onnx"
        onnx.save(convert_float_to_float16(onnx.load(model), keep_io_types=True), half)
        return half

    @property
    def precisions(self) -> list[str]:
        """What was built, in order: `full` or `fp16`."""
        return ["fp16" if options["trt_fp16_enable"] == "True" else "full" for options in self.built]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path)
    made.may_go_on.set()
    reports = (ProviderReport(TENSORRT, True, True), ProviderReport(CPU, True, True))
    monkeypatch.setattr(providers, "probe", lambda: reports)
    monkeypatch.setattr(version_sessions, "Session", made.make)
    driver = CudaDriver("13.0", (CudaDevice(0, "NVIDIA H200", 1 << 37, "9.0"),))
    monkeypatch.setattr(engine_cache, "cuda_driver", lambda: driver)
    monkeypatch.setattr(loader, "ENGINE_BUILDS", build.EngineBuilds())  # none of another test is left behind in it
    yield made
    made.may_go_on.set()


def tensorrt(**more: Any) -> Runtime:
    return Runtime(**{"providers": ("tensorrt", "cpu"), **more})


def _entry(server, model: str = "m"):
    return server.services.catalog.snapshot.models[model].versions[ONE]


async def _answer(server, model: str, x: np.ndarray) -> np.ndarray:
    async with stub_of(server) as stub:
        return outputs_of(await stub.Predict(request(model, x=x)))["y"]


async def _wait_for(server, condition) -> None:
    await asyncio.wait_for(server.services.catalog.wait_for(lambda _: condition()), BOUND)


def _case(tmp_path: Path, **arrays: np.ndarray) -> Path:
    path = tmp_path / "one.npz"
    np.savez(path, **{key.replace("__", "/"): array for key, array in arrays.items()})
    return path


def _families(server) -> dict[str, dict[str, float]]:
    return {
        family.name: {labels["model"]: value for labels, value in family.series}
        for family in server.parts.base.metrics.snapshot()
        if family.name.startswith("turnout_version_tensorrt")
    }


X = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)


async def test_fp16_serves_a_version_whose_golden_cases_allow_it_and_no_other(
    publish_model, start_server, tmp_path, machine: Machine
) -> None:
    case = _case(tmp_path, inputs__x=X)
    wide = VersionMetadata(tolerances={"y": Tolerance(0.1, 0.0)})
    publish_model("wide", "1.0.0", matmul(), golden=(case,), metadata=wide)
    publish_model("exact", "1.0.0", matmul(), golden=(case,))
    publish_model("bare", "1.0.0", matmul())
    server = await start_server(runtime=tensorrt(tensorrt_fp16="golden"))
    told = {name: _entry(server, name).tensorrt for name in ("wide", "exact", "bare")}
    assert told.pop("wide") == "used, FP16: 1 golden case answered as expected, within tolerance"
    assert told.pop("exact").startswith("used, full precision: FP16 was tried, and case one: output y is off by ")
    assert told.pop("bare").startswith("used, full precision: it has no golden cases")
    assert _families(server) == {
        "turnout_version_tensorrt": {"wide": 1, "exact": 1, "bare": 1},
        "turnout_version_tensorrt_fp16": {"wide": 1, "exact": 0, "bare": 0},
    }
    exact = X @ onnx.numpy_helper.to_array(matmul().graph.initializer[0])
    assert 1e-4 < np.abs(await _answer(server, "wide", X) - exact).max() < 0.1  # it really is less exact
    for name in ("exact", "bare"):
        np.testing.assert_allclose(await _answer(server, name, X), exact, rtol=1e-4, atol=1e-4)
    done = await asyncio.to_thread(
        CliRunner().invoke, application(), ["show", "wide@1.0.0", "--server", str(server.control), "--json"]
    )
    assert "used, FP16: 1 golden case" in done.output, done.output


async def test_who_does_not_ask_for_fp16_has_none_and_who_does_not_ask_for_tensorrt_has_no_build(
    publish_model, start_server, tmp_path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_model("m", "1.0.0", scaled(2), golden=(_case(tmp_path, inputs__x=np.ones((1, 4), np.float32)),))
    server = await start_server(runtime=tensorrt())
    assert _entry(server).tensorrt == "used, full precision"
    assert machine.precisions == ["full"]
    assert _families(server)["turnout_version_tensorrt_fp16"] == {}

    def never(*_: object) -> None:
        raise AssertionError("nothing is built")

    monkeypatch.setattr(build.EngineBuilds, "within", never)
    server = await start_server(runtime=Runtime(tensorrt_fp16="golden"))
    assert _entry(server).state == "ready"
    assert _entry(server).tensorrt == ""
    assert set(_families(server)["turnout_version_tensorrt"]) == set()
    assert machine.precisions == ["full"]


async def test_engines_and_what_was_found_out_are_kept_for_the_next_load_and_go_with_the_version(
    publish_model, start_server, tmp_path, models, machine: Machine
) -> None:
    cache = tmp_path / "cache"
    publish_model("m", "1.0.0", scaled(2), golden=(_case(tmp_path, inputs__x=np.ones((1, 4), np.float32)),))
    publish_model("stays", "1.0.0", scaled(3))
    server = await start_server(
        model={"m": ModelOverrides(runtime=tensorrt(tensorrt_fp16="golden", tensorrt_cache=str(cache)))}
    )
    manager = server.parts.serving.manager
    assert machine.precisions == ["full", "fp16"]
    assert all(Path(options["trt_engine_cache_path"]).is_dir() for options in machine.built)
    first = _entry(server).tensorrt
    await manager.unload("m", ONE)
    await manager.load("m", ONE)
    assert machine.precisions == ["full", "fp16", "fp16"]
    assert _entry(server).tensorrt == first
    await manager.unload("m", ONE)
    (engines,) = (cache / "tensorrt" / "engines").iterdir()
    directory = models / "m" / "1.0.0"
    directory.chmod(0o755)
    directory.rename(tmp_path / "gone")
    for _ in range(int(BOUND / 0.05)):
        await manager.refresh()
        if not engines.exists():
            break
        await asyncio.sleep(0.05)
    assert not engines.exists()


async def test_a_slow_build_holds_up_nobody_else_and_is_shown_while_it_goes_on(
    publish_model, start_server, machine: Machine
) -> None:
    machine.may_go_on.clear()
    publish_model("m", "1.0.0", scaled(2))
    publish_model("plain", "1.0.0", scaled(3))
    server = await start_server(wait=False, model={"m": ModelOverrides(runtime=tensorrt())}, loading={"concurrency": 1})
    await _wait_for(server, lambda: "plain" in server.services.catalog.snapshot.models)
    await _wait_for(server, lambda: _entry(server, "plain").state == "ready")
    np.testing.assert_array_equal(await _answer(server, "plain", np.ones((1, 4), np.float32)), [[3.0] * 4])
    await _wait_for(server, lambda: _entry(server).reason.startswith("building TensorRT engines, for "))
    first = _entry(server).reason
    await _wait_for(server, lambda: _entry(server).reason != first)  # it tells for how long
    assert _entry(server).state == "loading"
    async with stub_of(server) as stub:
        refused = await refusal(stub.Predict(request("m", x=np.ones((1, 4), np.float32))))
    assert refused.code is StatusCode.UNAVAILABLE
    assert "m 1.0.0 is loading: building TensorRT engines, for " in refused.message
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as http:
        assert "m 1.0.0: building TensorRT engines, for " in (await http.get("/readyz")).text
        assert "building TensorRT engines, for " in (await http.get("/console/models/m")).text
    for command in (["show", "m@1.0.0"], ["models"]):
        done = await asyncio.to_thread(CliRunner().invoke, application(), [*command, "--server", str(server.control)])
        assert "building TensorRT engines, for " in " ".join(done.output.split()), done.output
    machine.may_go_on.set()
    await _wait_for(server, lambda: _entry(server).state == "ready")
    assert _entry(server).reason == ""
    assert server.parts.serving.availability.loads == []
    np.testing.assert_array_equal(await _answer(server, "m", np.ones((1, 4), np.float32)), [[2.0] * 4])


async def test_engines_of_several_versions_are_built_one_after_the_other(
    publish_model, start_server, machine: Machine
) -> None:
    machine.may_go_on.clear()
    for name in ("a", "b"):
        publish_model(name, "1.0.0", scaled(2))
    server = await start_server(wait=False, runtime=tensorrt())
    await _wait_for(server, lambda: server.services.catalog.snapshot.models.keys() == {"a", "b"})

    def stages() -> list[str]:
        return sorted(_entry(server, name).reason.partition(",")[0] for name in ("a", "b"))

    await _wait_for(
        server, lambda: stages() == ["building TensorRT engines", "waiting for its turn to build TensorRT engines"]
    )
    machine.may_go_on.set()
    await _wait_for(server, lambda: all(_entry(server, name).state == "ready" for name in ("a", "b")))


async def test_who_waits_for_a_load_is_told_what_takes_long_in_it(
    publish_model, start_server, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_command, "_LOOK_SECONDS", 0.1)
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(runtime=tensorrt())
    await server.parts.serving.manager.unload("m", ONE)
    machine.may_go_on.clear()
    machine.begun.clear()

    def end_once_it_was_told() -> None:
        for _ in range(int(BOUND / 0.01)):
            if said:
                break
            time.sleep(0.01)
        machine.may_go_on.set()

    said: list[str] = []
    monkeypatch.setattr(CommandOutput, "note", lambda self, sentence: said.append(sentence))
    ending = asyncio.create_task(asyncio.to_thread(end_once_it_was_told))
    done = await asyncio.to_thread(
        CliRunner().invoke, application(), ["load", "m@1.0.0", "--server", str(server.control)]
    )
    await ending
    assert done.exit_code == 0, done.output
    assert said[0].startswith("m 1.0.0: building TensorRT engines, for ")


def test_what_goes_on_is_told_time_and_again_until_it_ends() -> None:
    said, twice = [], threading.Event()

    def say(sentence: str) -> None:
        said.append(sentence)
        if len(said) == 2:
            twice.set()

    with progress_notes(say, "", 0.01):
        pass
    assert said == []
    with progress_notes(say, "it builds", 0.01):
        assert twice.wait(BOUND)
    assert said[:2] == ["it builds, for 0 s"] * 2
    count = len(said)
    assert not [thread for thread in threading.enumerate() if thread.name == "waiting"]
    assert len(said) == count


async def test_a_build_that_fails_has_the_next_provider_serve_and_says_why(
    publish_model, start_server, machine: Machine
) -> None:
    machine.fails = lambda options: "the engine cannot be built"
    publish_model("m", "1.0.0", scaled(2))
    publish_model("only", "1.0.0", scaled(2))
    server = await start_server(
        runtime=tensorrt(), model={"only": ModelOverrides(runtime=Runtime(providers=("tensorrt",)))}
    )
    entry = _entry(server)
    assert entry.state == "ready"
    assert entry.tensorrt == "not used: the engine cannot be built"
    assert entry.providers == (CPU,)
    assert _families(server)["turnout_version_tensorrt"] == {"m": 0}
    np.testing.assert_array_equal(await _answer(server, "m", np.ones((1, 4), np.float32)), [[2.0] * 4])
    assert _entry(server, "only").state == "failed"
    assert _entry(server, "only").reason == "the engine cannot be built"


async def test_a_build_that_takes_too_long_has_the_next_provider_serve_and_is_freed(
    publish_model, start_server, machine: Machine
) -> None:
    machine.may_go_on.clear()
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(runtime=tensorrt(tensorrt_build_timeout_s=0.2))
    assert _entry(server).tensorrt.startswith("not used: its engines were not built within 0.2 s")
    np.testing.assert_array_equal(await _answer(server, "m", np.ones((1, 4), np.float32)), [[2.0] * 4])
    machine.may_go_on.set()
    for _ in range(int(BOUND / 0.02)):
        if machine.sessions and machine.sessions[0]._session is None:
            break
        await asyncio.sleep(0.02)
    assert machine.sessions[0]._session is None
    assert _entry(server).state == "ready"


@asynccontextmanager
async def _serving(models: Path, **settings: Any):
    async with running(make_settings(models, **settings), make_logger("json", "critical")) as server:
        yield server


async def test_a_server_stops_in_time_while_engines_are_built(publish_model, models, machine: Machine) -> None:
    machine.may_go_on.clear()
    publish_model("m", "1.0.0", scaled(2))
    async with _serving(models, runtime=tensorrt()) as server:
        await asyncio.to_thread(machine.begun.wait, BOUND)
        assert _entry(server).state == "loading"
    assert not machine.ended_late  # or the server would have waited for it


async def test_engines_that_are_damaged_are_built_once_more(
    publish_model, start_server, tmp_path, machine: Machine
) -> None:
    def damaged(options: Mapping[str, str]) -> str:
        return "it cannot be read" if list(Path(options["trt_engine_cache_path"]).iterdir()) else ""

    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(runtime=tensorrt(tensorrt_cache=str(tmp_path / "cache")))
    (Path(machine.built[0]["trt_engine_cache_path"]) / "one.engine").write_bytes(b"damaged")
    machine.fails = damaged
    await server.parts.serving.manager.unload("m", ONE)
    await server.parts.serving.manager.load("m", ONE)
    assert _entry(server).tensorrt == "used, full precision"
    assert len(machine.built) == 2


async def test_a_version_that_tensorrt_runs_on_no_input_is_served_by_the_next_provider(
    publish_model, start_server, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Session, *_: object) -> None:
        raise ModelFailure("the engine cannot be built for this shape")

    make = machine.make

    def make_that_fails(*arguments: Any, **named: Any) -> Session:
        session = make(*arguments, **named)
        if session.providers[0] == TENSORRT:
            monkeypatch.setattr(session, "run", fails.__get__(session))
        return session

    monkeypatch.setattr(version_sessions, "Session", make_that_fails)
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(runtime=tensorrt())
    assert _entry(server).providers == (CPU,)
    assert _entry(server).tensorrt.startswith("not used: no inputs were found that it runs on there: ")
    np.testing.assert_array_equal(await _answer(server, "m", np.ones((1, 4), np.float32)), [[2.0] * 4])


@pytest.mark.parametrize("fp16", [True, False])
async def test_a_shadow_runs_as_the_version_itself_does(
    publish_model, start_server, tmp_path, machine: Machine, monkeypatch: pytest.MonkeyPatch, fp16: bool
) -> None:
    started: list[tuple[Any, ...]] = []

    class Child(shadows.IsolatedSession):
        """A child as on a machine with TensorRT, whose session is on the CPU here."""

        def __init__(self, spec: SessionSpec, **named) -> None:
            started.append((spec.providers, spec.tensorrt))
            super().__init__(replace(spec, providers=[CPU]), **named)

    monkeypatch.setattr(shadows, "IsolatedSession", Child)
    publish_model("m", "1.0.0", scaled(2), golden=(_case(tmp_path, inputs__x=np.ones((1, 4), np.float32)),))
    wanted = {"tensorrt_fp16": "golden"} if fp16 else {}
    server = await start_server(runtime=tensorrt(tensorrt_cache=str(tmp_path / "cache"), **wanted))
    service, entry = server.parts.serving.shadows, _entry(server)
    runner = await service.runner(entry.handle, service._settings.for_model("m").shadow, for_shadow=True)
    try:
        (y,) = await runner.run({"x": np.ones((1, 4), np.float32)}, ["y"])
    finally:
        runner.close()
    np.testing.assert_array_equal(y, [[2.0] * 4])
    ((names, options),) = started
    assert names == (TENSORRT, CPU)
    assert options["trt_fp16_enable"] == str(fp16)
    assert options["trt_engine_cache_path"] == machine.built[-1]["trt_engine_cache_path"]


def _steps(batch: Any = "batch", time: Any = "time") -> onnx.ModelProto:
    """y = x + x, of shape (batch, time)."""
    inputs, outputs = ([tensor(name, onnx.TensorProto.FLOAT, [batch, time])] for name in "xy")
    return model([onnx.helper.make_node("Add", ["x", "x"], ["y"])], inputs, outputs)


async def test_engines_are_built_for_the_rows_of_batches_and_other_requests_are_refused(
    publish_model, start_server, machine: Machine
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(runtime=tensorrt(), batching={"max_rows": 8, "only_where_it_pays": False})
    (options,) = machine.built
    shapes = [options[f"trt_profile_{side}_shapes"] for side in ("min", "opt", "max")]
    assert shapes == ["x:1x4", "x:8x4", "x:8x4"]
    assert _entry(server).handle.loaded.plan.max_rows == 8
    for rows in (1, 8):
        x = np.ones((rows, 4), np.float32)
        np.testing.assert_array_equal(await _answer(server, "m", x), 2 * x)
    async with stub_of(server) as stub:
        for rows in (0, 9):
            refused = await refusal(stub.Predict(request("m", x=np.ones((rows, 4), np.float32))))
            assert refused.code is StatusCode.INVALID_ARGUMENT
            assert "inputs.x: expected 1 to 8 along axis 0, for which TensorRT has built engines" in refused.message
    assert len(machine.built) == 1


async def test_a_version_of_unknown_sizes_is_served_by_the_next_provider_until_they_are_given(
    publish_model, start_server, machine: Machine
) -> None:
    publish_model("m", "1.0.0", _steps())
    server = await start_server(runtime=tensorrt())
    told = "not used: the sizes of time are not known, and an engine for one size would be built anew for the next"
    assert _entry(server).tensorrt.startswith(told)
    assert "[model.m.runtime.tensorrt_sizes]" in _entry(server).tensorrt
    assert machine.built == []
    x = np.ones((40, 700), np.float32)
    np.testing.assert_array_equal(await _answer(server, "m", x), 2 * x)  # the CPU takes all sizes
    # None of the sizes that are tried elsewhere is in this range.
    sizes = {"time": {"min": 200, "opt": 250, "max": 300}, "batch": {"max": 4}}
    server = await start_server(runtime=tensorrt(tensorrt_sizes=sizes), batching={"only_where_it_pays": False})
    assert _entry(server).tensorrt == "used, full precision"
    assert _entry(server).handle.loaded.plan.max_rows == 4  # of the 32 that the settings of batches allow
    x = np.ones((4, 200), np.float32)
    np.testing.assert_array_equal(await _answer(server, "m", x), 2 * x)
    async with stub_of(server) as stub:
        for shape in ((5, 200), (1, 199), (1, 301)):
            refused = await refusal(stub.Predict(request("m", x=np.ones(shape, np.float32))))
            assert refused.code is StatusCode.INVALID_ARGUMENT, shape
    assert len(machine.built) == 1


async def test_a_free_dimension_of_which_there_is_never_one_is_no_number_of_rows(
    publish_model, start_server, machine: Machine
) -> None:
    publish_model("m", "1.0.0", _steps(batch=1, time="height"))
    sizes = {"height": {"min": 200, "opt": 250, "max": 300}}
    server = await start_server(runtime=tensorrt(tensorrt_sizes=sizes))
    assert _entry(server).tensorrt == "used, full precision"
    plan = _entry(server).handle.loaded.plan
    assert (plan.max_rows, plan.reason) == (0, "unbatched: its TensorRT engines take no single row")
    x = np.ones((1, 200), np.float32)
    np.testing.assert_array_equal(await _answer(server, "m", x), 2 * x)


@pytest.fixture
def children(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Mapping[str, str]]]:
    """Children as on a machine with TensorRT, whose sessions are on the CPU here; returns who started which."""
    started: list[tuple[str, Mapping[str, str]]] = []

    class Child(IsolatedSession):
        def __init__(self, spec: SessionSpec, **named) -> None:
            model = machine.in_half(spec.model) if spec.tensorrt.get("trt_fp16_enable") == "True" else spec.model
            super().__init__(replace(spec, model=model, providers=[CPU]), **named)
            self.names = tuple(spec.providers)

        def start(self, *given_up: Any, **named: Any) -> None:
            if why := machine.fails(self.tensorrt):
                raise ModelFailure(why)
            started.append(("serves" if given_up else "builds", self.tensorrt))  # a pool may give up a start
            super().start(*given_up, **named)
            self.providers = self.names

    monkeypatch.setattr(version_sessions, "IsolatedSession", Child)
    return started


async def test_a_version_in_child_processes_runs_in_fp16_if_its_golden_cases_allow_it(
    publish_model, start_server, tmp_path, machine: Machine, children
) -> None:
    case = _case(tmp_path, inputs__x=X)
    publish_model(
        "wide", "1.0.0", matmul(), golden=(case,), metadata=VersionMetadata(tolerances={"y": Tolerance(0.1, 0.0)})
    )
    publish_model("exact", "1.0.0", matmul(), golden=(case,))
    runtime = tensorrt(isolation="process", tensorrt_fp16="golden", tensorrt_cache=str(tmp_path / "cache"))
    server = await start_server(runtime=runtime)
    assert _entry(server, "wide").tensorrt == "used, FP16: 1 golden case answered as expected, within tolerance"
    assert _entry(server, "exact").tensorrt.startswith("used, full precision: FP16 was tried, and case one: ")
    precisions = [(who, options["trt_fp16_enable"]) for who, options in children]
    assert sorted(precisions) == sorted(
        [("builds", "False"), ("builds", "True")] * 2 + [("serves", "True"), ("serves", "False")]
    )
    for who, options in children:
        assert options["trt_profile_max_shapes"] == "x:32x64", who
        assert Path(options["trt_engine_cache_path"]).is_dir()
    exact = X @ onnx.numpy_helper.to_array(matmul().graph.initializer[0])
    assert 1e-4 < np.abs(await _answer(server, "wide", X) - exact).max() < 0.1  # it really is less exact
    np.testing.assert_allclose(await _answer(server, "exact", X), exact, rtol=1e-4, atol=1e-4)
    children.clear()
    await server.parts.serving.manager.unload("wide", ONE)
    await server.parts.serving.manager.load("wide", ONE)  # what was found out is not found out again
    assert [(who, options["trt_fp16_enable"]) for who, options in children] == [("builds", "True"), ("serves", "True")]
    assert _families(server)["turnout_version_tensorrt_fp16"] == {"wide": 1, "exact": 0}


async def test_a_version_in_child_processes_needs_a_cache_or_each_child_would_build(
    publish_model, start_server, machine: Machine, children
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(runtime=tensorrt(isolation="process"))
    assert _entry(server).tensorrt.startswith(
        "not used: it runs in child processes, and each would build its own engines"
    )
    assert [who for who, _ in children] == ["serves"]
    np.testing.assert_array_equal(await _answer(server, "m", np.ones((1, 4), np.float32)), [[2.0] * 4])


async def test_engines_that_no_child_can_build_have_the_next_provider_serve(
    publish_model, start_server, tmp_path, machine: Machine, children
) -> None:
    machine.fails = lambda options: "the engine cannot be built" if "trt_engine_cache_path" in options else ""
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(runtime=tensorrt(isolation="process", tensorrt_cache=str(tmp_path / "cache")))
    assert _entry(server).tensorrt == "not used: the engine cannot be built"
    np.testing.assert_array_equal(await _answer(server, "m", np.ones((1, 4), np.float32)), [[2.0] * 4])
