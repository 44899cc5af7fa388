"""An import refuses what a publish of the same files would refuse, whatever the manifest from elsewhere says."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rfc8785
from semver import Version

import onnx_models
from turnout.errors import InvalidModel
from turnout.registry.manifest.digest import bytes_digest
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.registry.transfer.copying import import_version, only_version

V1 = Version(1)

Import = Callable[..., None]


@pytest.fixture
def imported(tmp_path: Path) -> Import:
    """Imports m 1.0.0, x: float32[batch, 4], with other statements and files than it was published with."""

    def run(files: dict[str, bytes] | None = None, **stated: Any) -> None:
        source = Repository(tmp_path / "source")
        request = PublishRequest("m", V1, onnx_models.save(onnx_models.scaled(2), tmp_path / "m.onnx"))
        body = publish(source, request).manifest.to_json() | stated
        home = source.directory("m", V1)
        for path, data in (files or {}).items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_bytes(data)
            body["files"].append({"path": path, "size": len(data), "digest": bytes_digest(data)})
        body["files"].sort(key=lambda entry: entry["path"])
        (home / "manifest.json").unlink()
        (home / "manifest.json").write_bytes(rfc8785.dumps(body))
        target = Repository(tmp_path / "target")
        try:
            import_version(target, source, only_version(source))
        finally:
            assert [path.name for path in (target.root / ".staging").iterdir()] == [".lock"]

    return run


def case(**arrays: Any) -> bytes:
    file = io.BytesIO()
    named: dict[str, Any] = {name.replace("__", "/"): array for name, array in arrays.items()}
    np.savez(file, **{"inputs/x": np.ones((2, 4), np.float32), **named})
    return file.getvalue()


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"batching": {"enabled": True, "max_rows": None, "axes": {"z": 0}}}, "batching.axes.z: no input or output"),
        ({"batching": {"enabled": True, "max_rows": None, "axes": {"x": 7}}}, "axis 7 is beyond its 2 dimensions"),
        ({"labels": {"y": ["a"]}}, "labels.y: 1 labels for the 4 classes"),
        ({"labels": {"z": ["a"]}}, "labels.z: no output"),
        ({"tolerances": {"z": {"atol": 1, "rtol": 1}}}, "tolerances.z: no output and no dtype"),
        ({"scores": {"z": True}}, "scores.z: no output"),
    ],
)
def test_statements_about_what_the_model_does_not_have_are_refused(
    imported: Import, stated: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidModel) as refused:
        imported(**stated)
    assert reason in refused.value.message


@pytest.mark.parametrize(
    ("path", "data", "reason"),
    [
        ("golden/one.npz", b"no archive", "golden case one.npz is not an .npz archive"),
        ("golden/one.py", case(), "golden case 'golden/one.py': expected a plain name that ends in .npz"),
        ("golden/deep/one.npz", case(), "golden case 'golden/deep/one.npz': expected a plain name"),
        ("golden/one.npz", case(outputs__z=np.ones(2)), "has an output 'z' that the model does not have"),
        ("golden/one.npz", case(labels__z=np.ones(2, np.int64)), "has an output 'z' that the model does not have"),
        ("golden/one.npz", case(labels__y=np.array(["a", "b"])), "labels/y are text, and the metadata declares no"),
        ("golden/one.npz", case(labels__y=np.ones((2, 2), np.int64)), "labels/y have 2 dimensions"),
    ],
)
def test_golden_cases_that_do_not_fit_the_model_are_refused(
    imported: Import, path: str, data: bytes, reason: str
) -> None:
    with pytest.raises(InvalidModel) as refused:
        imported({path: data})
    assert reason in refused.value.message


def test_what_a_publish_would_accept_is_imported(imported: Import) -> None:
    fitting = case(labels__y=np.array(["a", "b"]), outputs__y=np.full((2, 4), 2))
    imported({"golden/one.npz": fitting}, labels={"y": ["a", "b", "c", "d"]}, scores={"y": True})
