"""External data out of the Hugging Face cache, whose snapshots hold links, and links that are not followed."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
from semver import Version

import onnx_models
from turnout.errors import InvalidModel
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.registry.transfer.collect import collect

V1 = Version(1)


def hub_cache(root: Path) -> Path:
    """A model with external data as huggingface_hub keeps it; returns its ONNX file, a link."""
    plain = onnx_models.save_external(root / "plain", location="deep/weights.data")
    home = root / "hub" / "models--org--name"
    snapshot = home / "snapshots" / ("c" * 40) / "onnx"
    (home / "blobs").mkdir(parents=True)
    for path in ("model.onnx", "deep/weights.data"):
        data = (plain.parent / path).read_bytes()
        blob = home / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        link = snapshot / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot / "model.onnx"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return hub_cache(tmp_path)


@pytest.fixture
def weights(source: Path) -> Path:
    return source.parent / "deep" / "weights.data"


def refused(tmp_path: Path, source: Path) -> str:
    messages = []
    for attempt in (
        lambda: publish(Repository(tmp_path / "models"), PublishRequest("m", V1, source)),
        lambda: collect(PublishRequest("m", V1, source)),
    ):
        with pytest.raises(InvalidModel) as caught:
            attempt()
        messages.append(caught.value.message.removeprefix("external data ").replace("'", ""))
    assert messages[0] == messages[1]
    assert Repository(tmp_path / "models").published() == ()
    return messages[0]


def test_links_of_the_hub_cache_are_followed_and_copied(source: Path, weights: Path, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    published = publish(repository, PublishRequest("m", V1, source))
    directory = repository.directory("m", V1)
    copy = directory / "deep" / "weights.data"
    assert copy.read_bytes() == weights.read_bytes()
    assert stat.S_ISREG(copy.lstat().st_mode)
    assert not (directory / "model.onnx").is_symlink()
    repository.verify("m", V1, expected=published.digest)
    assert collect(PublishRequest("m", V1, source)).published(V1).digest == published.digest


def test_the_cache_may_be_reached_over_a_link_and_hold_absolute_links(
    source: Path, weights: Path, tmp_path: Path
) -> None:
    target = weights.resolve()
    weights.unlink()
    weights.symlink_to(target)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "hub")
    seen = tmp_path / "elsewhere" / source.relative_to(tmp_path / "hub")
    publish(Repository(tmp_path / "models"), PublishRequest("m", V1, seen))


def test_a_link_in_a_published_version_is_never_served(source: Path, weights: Path, tmp_path: Path) -> None:
    from turnout.errors import DigestMismatch

    repository = Repository(tmp_path / "models")
    publish(repository, PublishRequest("m", V1, source))
    copy = repository.directory("m", V1) / "deep" / "weights.data"
    copy.unlink()
    copy.symlink_to(weights.resolve())
    with pytest.raises(DigestMismatch, match="is a link"):
        repository.verify("m", V1)


LINKED = "deep/weights.data is a link, or no regular file"


@pytest.mark.parametrize("secret", ["/etc/passwd", "../../../../../../secret", "../../../../blobs/../../../secret"])
def test_a_link_out_of_the_cache_is_refused(source: Path, weights: Path, tmp_path: Path, secret: str) -> None:
    (tmp_path / "secret").write_bytes(weights.read_bytes())
    weights.unlink()
    weights.symlink_to(secret)
    assert refused(tmp_path, source) == LINKED


def test_a_blob_that_is_a_link_is_refused(source: Path, weights: Path, tmp_path: Path) -> None:
    blob = weights.resolve()
    blob.rename(tmp_path / "secret")
    blob.symlink_to(tmp_path / "secret")
    assert refused(tmp_path, source) == LINKED


def test_a_link_to_blobs_that_are_elsewhere_is_refused(source: Path, weights: Path, tmp_path: Path) -> None:
    blobs = weights.resolve().parent
    blobs.rename(tmp_path / "secrets")
    blobs.symlink_to(tmp_path / "secrets")
    assert refused(tmp_path, source) == LINKED


def test_the_blobs_of_another_model_are_not_this_ones(source: Path, weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "hub" / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    blob = weights.resolve().rename(other / weights.resolve().name)
    weights.unlink()
    weights.symlink_to(blob)
    assert refused(tmp_path, source) == LINKED


def test_a_directory_that_is_a_link_is_refused(source: Path, weights: Path, tmp_path: Path) -> None:
    moved = weights.parent.rename(weights.parent.with_name("moved"))
    weights.parent.symlink_to(moved)
    assert refused(tmp_path, source) == LINKED


def test_a_blob_that_is_gone_is_told(source: Path, weights: Path, tmp_path: Path) -> None:
    weights.resolve().unlink()
    assert refused(tmp_path, source) == "deep/weights.data is missing"


def test_a_blob_that_is_a_pipe_is_refused_and_not_waited_for(source: Path, weights: Path, tmp_path: Path) -> None:
    blob = weights.resolve()
    blob.unlink()
    os.mkfifo(blob)
    assert refused(tmp_path, source) == "deep/weights.data is a FIFO, expected a regular file"
