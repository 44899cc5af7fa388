"""TensorRT where it is not there, and where its caches would lie where it is."""

import os
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
from semver import Version

from onnx_models import identity, matmul
from turnout.config import Runtime, Settings
from turnout.errors import ConfigError, ModelFailure
from turnout.host import memory
from turnout.registry.manifest.digest import manifest_digest
from turnout.registry.manifest.manifest import MODEL_FILE, FileEntry, Manifest
from turnout.registry.manifest.signature import Signature
from turnout.registry.onnx.graph_reader import read_structure
from turnout.registry.onnx.model import read_model
from turnout.serving.inputs.attempts import RunAttempts
from turnout.serving.sandbox import request, trial_session
from turnout.serving.sandbox.request import SandboxRequest
from turnout.serving.sandbox.sandbox import ProcessSandbox
from turnout.serving.sessions import providers
from turnout.serving.sessions.cuda_driver import CudaDevice, CudaDriver
from turnout.serving.sessions.providers import ProviderReport
from turnout.serving.sessions.session import Session, _with_options
from turnout.serving.sessions.spec import SessionSpec
from turnout.serving.tensorrt import engine_cache
from turnout.serving.tensorrt.engine_cache import (
    TensorrtCache,
    clear,
    forget,
    keep_within,
    open_cache,
    provider_options,
)
from turnout.serving.tensorrt.shapes import NO_PROFILE, ShapeProfile

DIGEST = "sha256:" + "ab" * 32
CACHE = "/var/cache/turnout"
H200 = CudaDevice(0, "NVIDIA H200", 1 << 37, "9.0")
PROFILE = ShapeProfile(options={f"trt_profile_{which}_shapes": "x:1x64" for which in ("min", "opt", "max")})
LIBRARY = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"


def _of(**other: str) -> TensorrtCache:
    message = {
        "digest": DIGEST,
        "gpu": "NVIDIA H200",
        "capability": "9.0",
        "runtime": "1.31.1",
        "tensorrt": "10.8.0",
        "shapes": "fixed",
    } | other
    return TensorrtCache.of(CACHE, **message)


def test_engines_lie_by_digest_gpu_and_runtime_and_timings_are_shared() -> None:
    cache = _of()
    assert cache.engines == f"{CACHE}/tensorrt/engines/{'ab' * 32}/nvidia-h200-sm90/ort-1.31.1-trt-10.8.0/fixed"
    assert cache.timings == f"{CACHE}/tensorrt/timings/nvidia-h200-sm90/ort-1.31.1-trt-10.8.0"
    assert _of(digest="sha256:" + "cd" * 32).timings == cache.timings


@pytest.mark.parametrize(
    "other",
    [
        {"digest": "sha256:" + "cd" * 32},
        {"gpu": "NVIDIA A100"},
        {"capability": "8.0"},
        {"runtime": "1.32.0"},
        {"tensorrt": "10.9.0"},
        {"shapes": "0123456789abcdef"},
    ],
)
def test_what_an_engine_depends_on_gives_it_another_folder(other) -> None:
    assert _of(**other).engines != _of().engines


@pytest.mark.parametrize("gpu", ["../../etc", "a/b", "Tesla T4\n", "NVIDIA RTX 6000 Ada (48 GB)"])
def test_a_device_s_name_leads_nowhere_else(gpu) -> None:
    engines = Path(_of(gpu=gpu).engines)
    assert len(engines.relative_to(CACHE).parts) == 6
    assert ".." not in engines.parts


@pytest.mark.parametrize("other", [{"digest": "sha256:../.."}, {"digest": ""}, {"gpu": ""}, {"gpu": "//"}])
def test_what_is_no_digest_or_device_is_refused(other) -> None:
    with pytest.raises(ValueError, match="expected a digest and a device"):
        _of(**other)


@pytest.mark.skipif(not LIBRARY.exists(), reason="this build of ONNX Runtime has no TensorRT provider")
def test_the_provider_knows_each_option(tmp_path) -> None:
    names, known = (
        provider_options(open_cache(str(tmp_path), DIGEST, H200, "fixed"), PROFILE, fp16=True),
        LIBRARY.read_bytes(),
    )
    assert [name for name in names if b"\0" + name.encode() + b"\0" not in known] == []


def _missing(monkeypatch, *names: str) -> str:
    """Returns what is said where these libraries cannot be loaded, and all others can."""
    monkeypatch.setattr(providers, "shared_library", lambda name: None if name in names else object())
    monkeypatch.setattr(providers, "_needed_by_tensorrt", lambda: ("libcudart.so.13", "libnvinfer.so.10"))
    return providers._missing_reason(providers.TENSORRT)


def test_what_is_missing_is_named_and_how_to_get_it(monkeypatch) -> None:
    message = _missing(monkeypatch, "libnvinfer.so.10")
    assert message.startswith("not found: libnvinfer.so.10;")
    assert "pip install 'tensorrt-cu13==10.*'" in message
    assert "LD_LIBRARY_PATH" in message
    assert "turnout[gpu]" not in message
    message = _missing(monkeypatch, "libcudart.so.13", "libnvinfer.so.10")
    assert message.startswith("not found: libcudart.so.13, libnvinfer.so.10;")
    assert "turnout[gpu]" in message
    assert "no NVIDIA device" in _missing(monkeypatch)


@pytest.mark.skipif(
    any(r.name == providers.TENSORRT and r.usable for r in providers.probe()), reason="TensorRT can be used here"
)
def test_who_asks_for_it_where_it_is_not_is_told_what_is_missing_and_what_to_change() -> None:
    with pytest.raises(ConfigError, match=r"'tensorrt' was requested but cannot be used here: ") as refused:
        providers.choose(["tensorrt", "cuda", "cpu"])
    assert "remove it from [runtime] providers" in refused.value.message
    if LIBRARY.exists():
        assert "libnvinfer.so." in refused.value.message


def test_folders_of_a_version_are_made_for_the_server_alone_and_the_provider_is_told_of_them(tmp_path) -> None:
    options = provider_options(open_cache(str(tmp_path / "cache"), DIGEST, H200, "fixed"), PROFILE, fp16=False)
    for key in ("trt_engine_cache_path", "trt_timing_cache_path"):
        folder = Path(options[key])
        assert folder.is_dir()
        assert folder.stat().st_mode & 0o777 == 0o700
    again = open_cache(str(tmp_path / "cache"), DIGEST, H200, "fixed")  # as at the next load
    assert provider_options(again, PROFILE, fp16=False) == options
    names = [providers.TENSORRT, providers.CUDA, providers.CPU]
    given = dict(_with_options(SessionSpec(Path("m"), Signature((), ()), names, 1, Runtime(), options), captures=False))
    assert given[providers.TENSORRT] == {"device_id": "1", **options}
    assert not set(options) & set(given[providers.CUDA])


def test_precisions_share_timings_and_no_engines(tmp_path) -> None:
    cache = open_cache(str(tmp_path), DIGEST, H200, "fixed")
    full, fp16 = (dict(provider_options(cache, PROFILE, fp16=fp16)) for fp16 in (False, True))
    assert (full.pop("trt_fp16_enable"), fp16.pop("trt_fp16_enable")) == ("False", "True")
    assert full.pop("trt_engine_cache_path") != fp16.pop("trt_engine_cache_path")
    assert full == fp16
    assert provider_options(None, NO_PROFILE, fp16=True) == {"trt_fp16_enable": "True"}


@pytest.mark.parametrize("below", [".", "tensorrt", "tensorrt/engines"])
def test_folders_that_others_may_write_to_are_refused_since_engines_are_code(tmp_path, below: str) -> None:
    root = tmp_path / "cache"
    open_cache(str(root), DIGEST, H200, "fixed")
    (root / below).chmod(0o770)
    with pytest.raises(ConfigError, match=f"other users may write to .*{(root / below).name}"):
        open_cache(str(root), DIGEST, H200, "fixed")


def test_a_folder_that_cannot_be_made_is_a_fault_of_the_configuration(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="tensorrt_cache"):
        open_cache(str(tmp_path / "file"), DIGEST, H200, "fixed")


def _digest(number: int) -> str:
    return f"sha256:{number:064x}"


def _kept(root: Path, number: int, size: int, *, loaded: float) -> Path:
    """Keeps an engine of a version that was loaded last at a moment; returns its file."""
    cache = open_cache(str(root), _digest(number), H200, "fixed")
    file = Path(cache.engines_in(fp16=False)) / "one.engine"
    file.write_bytes(bytes(size))
    os.utime(root / "tensorrt" / "engines" / f"{number:064x}", (loaded, loaded))
    return file


def test_engines_of_the_versions_that_were_loaded_least_recently_go_first(tmp_path) -> None:
    files = [_kept(tmp_path, number, 100, loaded=number) for number in range(5)]
    assert keep_within(str(tmp_path), 500, []) == []
    assert keep_within(str(tmp_path), 250, [_digest(0)]) == [_digest(1), _digest(2), _digest(3)]
    assert [file.exists() for file in files] == [True, False, False, False, True]
    assert keep_within(str(tmp_path / "nowhere"), 0, []) == []


def test_a_load_makes_a_version_the_latest(tmp_path) -> None:
    for number in range(2):
        _kept(tmp_path, number, 100, loaded=number)
    open_cache(str(tmp_path), _digest(0), H200, "fixed")
    assert keep_within(str(tmp_path), 100, []) == [_digest(1)]


def test_engines_of_a_version_that_is_gone_go_and_others_stay(tmp_path) -> None:
    gone, stays = (_kept(tmp_path, number, 1, loaded=1) for number in range(2))
    forget(str(tmp_path), _digest(0))
    forget(str(tmp_path), _digest(7))  # of which nothing was kept
    assert not gone.exists()
    assert stays.exists()


def test_what_may_be_damaged_is_removed_at_one_precision(tmp_path) -> None:
    cache = open_cache(str(tmp_path), DIGEST, H200, "fixed")
    for fp16 in (False, True):
        (Path(cache.engines_in(fp16=fp16)) / "one.engine").write_bytes(b"damaged")
    assert clear(cache, fp16=True)
    assert not clear(cache, fp16=True)
    assert list(Path(cache.engines_in(fp16=False)).iterdir())


def _session(tmp_path: Path, *names: str) -> Session:
    onnx.save(matmul(), tmp_path / "model.onnx")
    return Session(
        SessionSpec(tmp_path / "model.onnx", read_model(tmp_path / "model.onnx").signature, names, 0, Runtime())
    )


@pytest.mark.skipif(
    not LIBRARY.exists() or any(r.name == providers.TENSORRT and r.usable for r in providers.probe()),
    reason="this build of ONNX Runtime has no TensorRT provider, or it can be used here",
)
def test_a_session_that_tensorrt_cannot_have_is_refused_and_not_put_elsewhere_without_a_word(tmp_path, capfd) -> None:
    with pytest.raises(ModelFailure, match="TensorRT"):
        _session(tmp_path, providers.TENSORRT, providers.CUDA, providers.CPU)
    assert capfd.readouterr().out == ""  # where ONNX Runtime's Python class says that it goes on with CUDA


def test_gates_keep_engines_where_the_load_of_the_version_finds_them(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_cache, "cuda_driver", lambda: CudaDriver("13.0", (H200,)))
    manifest = Manifest("m", Version(1), (FileEntry(MODEL_FILE, 1, DIGEST),), Signature((), ()), {"": 17}, 8)
    runtime = Runtime(providers=("tensorrt", "cpu"), tensorrt_cache=str(tmp_path / "cache"))
    attempts = RunAttempts(tmp_path, {})
    asked = SandboxRequest("sample", tmp_path, 0, [(tmp_path, manifest)], (), runtime, 32, 0, 0, 0, tmp_path, attempts)
    found = trial_session._kept_engines(asked, 0, PROFILE)
    caches = engine_cache.engine_caches(manifest_digest(manifest), runtime, PROFILE)
    assert found == provider_options(caches[0], PROFILE, fp16=False)
    (tmp_path / "cache").chmod(0o777)  # it cannot be used: the gates go on without
    assert trial_session._kept_engines(asked, 0, PROFILE) == provider_options(None, PROFILE, fp16=False)


@pytest.mark.parametrize(
    ("given", "told"), [({}, "the sizes of time are not known"), ({"time": {"max": 8}}, "the engine cannot be built")]
)
def test_gates_try_a_version_that_tensorrt_cannot_serve_on_the_provider_that_will_serve_it(
    tmp_path, monkeypatch: pytest.MonkeyPatch, given: dict[str, object], told: str
) -> None:
    proto = identity(shape=("batch", "time"))
    onnx.save(proto, tmp_path / MODEL_FILE)
    signature = read_model(tmp_path / MODEL_FILE).signature
    manifest = Manifest("m", Version(1), (FileEntry(MODEL_FILE, 1, DIGEST),), signature, {"": 17}, 8)
    tried: list[str] = []

    def session(spec: SessionSpec, **named: Any) -> Session:
        tried.append(spec.providers[0])
        if spec.providers[0] == providers.TENSORRT:
            raise ModelFailure("the engine cannot be built")
        return Session(spec, **named)

    reports = [ProviderReport(name, True, True) for name in (providers.TENSORRT, providers.CPU)]
    monkeypatch.setattr(providers, "probe", lambda: reports)
    monkeypatch.setattr(trial_session, "Session", session)
    for limit in ("limit_data", "unlimit_data"):
        monkeypatch.setattr(memory, limit, lambda *_: None)  # of this process
    attempts = RunAttempts(tmp_path, {})

    def asked(*names: str) -> SandboxRequest:
        runtime = Runtime(providers=names, tensorrt_sizes=given)
        return SandboxRequest(
            "sample", tmp_path, 0, [(tmp_path, manifest)], (), runtime, 32, 1 << 30, 0, 0, tmp_path, attempts
        )

    read: list[Path] = []
    monkeypatch.setattr(request, "read_structure", lambda path: read.append(path) or read_structure(path))
    question = asked("tensorrt", "cpu")
    question.graph()  # as the trial itself needs it
    assert trial_session.load(question).session.providers == (providers.CPU,)
    assert len(read) == 1
    assert tried == [*([providers.TENSORRT] if given else []), providers.CPU]
    with pytest.raises(ModelFailure, match=told):
        trial_session.load(asked("tensorrt"))


@pytest.mark.parametrize(
    "runtime", [Runtime(), Runtime(providers=("cuda", "tensorrt")), Runtime(providers=("tensorrt",))]
)
def test_trials_have_time_for_engines_where_they_are_built(runtime: Runtime) -> None:
    settings = Settings(runtime=runtime).for_model("m")
    sandbox = ProcessSandbox(settings, None)  # type: ignore[arg-type] # nothing is started
    more = runtime.tensorrt_build_timeout_s if runtime.providers == ("tensorrt",) else 0.0
    assert sandbox._timeout == settings.trials.timeout_s + more
    assert sandbox._run_seconds == settings.trials.run_timeout_s  # engines are built when the session is made
