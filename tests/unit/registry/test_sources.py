"""Where a model may come from. The stores' networks are replaced by fsspec's own file system in memory, no more."""

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import onnx_models
from turnout.config import Transfers
from turnout.errors import ConfigError, Exhausted, InvalidModel, InvalidRequest
from turnout.registry.publishing.metadata import VersionMetadata, parse_metadata
from turnout.registry.sources.mlflow_registry import onnx_path
from turnout.registry.sources.source import local_source

WIDE = Transfers(max_file_bytes=1 << 30, max_upload_bytes=1 << 30)


class Hub(MemoryFileSystem):
    """A store whose URLs begin with hf://."""

    protocol = ("hf",)
    store: dict[str, object] = {}  # noqa: RUF012 - fsspec's own is a class attribute too
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("hf://").strip("/")


@pytest.fixture
def hub() -> Iterator[Hub]:
    fsspec.register_implementation("hf", Hub, clobber=True)
    yield Hub()
    Hub.store.clear()


@pytest.fixture
def external(tmp_path: Path) -> Path:
    return onnx_models.save_external(tmp_path / "work", location="deep/weights.data")


def put(hub: Hub, source: Path) -> None:
    hub.pipe("/org/repo/model.onnx", source.read_bytes())
    hub.pipe("/org/repo/deep/weights.data", (source.parent / "deep/weights.data").read_bytes())


@pytest.mark.parametrize("form", ["hf:org/repo/model.onnx", "hf://org/repo/model.onnx"])
def test_external_data_beside_the_model_comes_along_and_goes_again(hub: Hub, external: Path, form: str) -> None:
    put(hub, external)
    with local_source(form, WIDE) as source:
        assert source.path.read_bytes() == external.read_bytes()
        assert (source.path.parent / "deep/weights.data").read_bytes() == (
            external.parent / "deep/weights.data"
        ).read_bytes()
    assert not source.path.exists()


@pytest.mark.parametrize(
    "bounds",
    [
        Transfers(max_file_bytes=1000, max_upload_bytes=1 << 30),
        Transfers(max_file_bytes=1 << 30, max_upload_bytes=1000),
        Transfers(max_file_bytes=10, max_upload_bytes=1 << 30),
    ],
)
def test_no_more_is_copied_than_may_be(hub: Hub, external: Path, bounds: Transfers) -> None:
    put(hub, external)
    with pytest.raises(InvalidRequest, match="is larger than"), local_source("hf:org/repo/model.onnx", bounds):
        pass


def test_a_disk_that_is_full_is_told_as_such_and_not_as_a_file_that_cannot_be_read(hub: Hub, external: Path) -> None:
    put(hub, external)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with (
            pytest.raises(Exhausted, match=r"no room for external data 'deep/weights\.data'; TMPDIR"),
            local_source("hf:org/repo/model.onnx", WIDE),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_missing_is_named(hub: Hub, external: Path) -> None:
    with pytest.raises(InvalidRequest, match="the ONNX file does not exist"), local_source("hf:org/repo/a.onnx", WIDE):
        pass
    hub.pipe("/org/repo/model.onnx", external.read_bytes())
    with pytest.raises(InvalidRequest, match="external data"), local_source("hf:org/repo/model.onnx", WIDE):
        pass
    with pytest.raises(InvalidRequest, match="that of a directory"), local_source("hf:org/repo/", WIDE):
        pass


def test_external_data_cannot_lead_out_of_the_models_directory(hub: Hub, tmp_path: Path) -> None:
    proto = onnx_models.matmul()
    onnx_models.move_out(proto.graph.initializer[0], "../secret")
    hub.pipe("/org/repo/model.onnx", proto.SerializeToString())
    hub.pipe("/org/secret", b"x" * 16384)
    with pytest.raises(InvalidModel), local_source("hf:org/repo/model.onnx", WIDE):
        pass


def test_a_store_whose_extra_is_missing_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ConfigError) as refused, local_source("gs://bucket/model.onnx", WIDE):
        pass
    assert "pip install 'turnout[gs]'" in refused.value.message


def test_paths_and_file_urls_are_taken_where_they_lie(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.scaled(2), tmp_path / "a b.onnx")
    for text in (str(path), path.as_uri()):
        with local_source(text, WIDE) as source:
            assert source.path == path
    (tmp_path / "none").mkdir()
    for text in (str(tmp_path / "no.onnx"), (tmp_path / "no.onnx").as_uri(), "file://elsewhere/m.onnx"):
        with pytest.raises(InvalidRequest), local_source(text, WIDE):
            pass


@pytest.mark.parametrize(
    "text",
    ["http://x/m.onnx", "ssh:m", "mlflow:runs:/1/model", "mlflow:models:/", "mlflow:models:/a", "mlflow:models:/a/1/b",
     "mlflow:models:/a@b@c", "mlflow:/etc/passwd"],
)  # fmt: skip
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused, local_source(text, WIDE):
        pass
    assert refused.value.violations[0].field == "FILE"


@pytest.mark.parametrize(
    "flavors",
    [{}, {"python_function": {"data": "model.onnx"}}, {"onnx": "model.onnx"}, {"onnx": {}}, {"onnx": {"data": 1}}]
    + [{"onnx": {"data": path}} for path in ("", "../m.onnx", "/m.onnx", "a//m.onnx", "a\\m.onnx", "a/./m.onnx")],
)
def test_an_mlflow_model_without_an_onnx_file_of_its_own_is_refused(flavors: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        onnx_path(flavors)


def test_what_the_publisher_says_comes_before_what_the_source_knows() -> None:
    known = parse_metadata({"description": "theirs", "training": {"seed": 1}, "metadata": {"a": 1, "b": 1}})
    message = parse_metadata({"description": "mine", "metadata": {"b": 2}})
    both = message.over(known)
    assert (both.description, both.provenance.training.seed, both.free) == ("mine", 1, {"a": 1, "b": 2})
    assert message.over(VersionMetadata()) is message


@pytest.mark.parametrize("path", ["x" * 300, "a\0b"])
def test_what_is_no_path_is_a_file_that_does_not_exist(path: str) -> None:
    with pytest.raises(InvalidRequest, match="there is no "), local_source(path, WIDE):
        pass
