import hashlib
import io
import json

import pytest
from semver import Version

from turnout.registry.manifest.digest import BLOCK, canonical_bytes, manifest_digest, stream_digest
from turnout.registry.manifest.manifest import FileEntry, Manifest, Tolerance
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec

ZERO = f"sha256:{'0' * 64}"


def manifest(**changes) -> Manifest:
    fields = {
        "model": "magika",
        "version": Version.parse("3.2.0"),
        "files": (FileEntry("model.onnx", 7, ZERO),),
        "signature": Signature(
            (TensorSpec("x", DataType.INT32, ("n", 4, None)),), (TensorSpec("y", DataType.FLOAT32, ()),)
        ),
        "opset": {"": 17},
        "ir_version": 8,
    }
    return Manifest(**(fields | changes))


def test_the_digest_is_the_sha256_of_the_canonical_form():
    assert manifest_digest(manifest()) == (f"sha256:{hashlib.sha256(canonical_bytes(manifest())).hexdigest()}")


def test_the_canonical_form_has_sorted_keys_and_no_space():
    body = canonical_bytes(manifest())
    assert body == json.dumps(json.loads(body), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_this_digest_never_changes():
    # A change of it would make every published version another.
    assert manifest_digest(manifest()) == "sha256:c7b85d696406dd5fc3879256ae7d8bfeea8cc3714ddd9c18d7a41e84d75ffb2d"


def test_the_order_of_free_metadata_and_the_spelling_of_numbers_do_not_matter():
    one = manifest(metadata={"a": 1, "b": {"c": 1.0, "d": 2}}, tolerances={"y": Tolerance(1.0, 1e-3)})
    other = manifest(metadata={"b": {"d": 2.0, "c": 1}, "a": 1}, tolerances={"y": Tolerance(1, 0.001)})
    assert manifest_digest(one) == manifest_digest(other)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"version": Version.parse("3.2.1")},
        {"version": Version.parse("3.2.0+build")},
        {"files": (FileEntry("model.onnx", 8, ZERO),)},
        {"opset": {"": 18}},
        {"ir_version": 9},
        {"tolerances": {"y": Tolerance(0.0, 0.0)}},
        {"metadata": {"notes": "x"}},
    ],
)
def test_whatever_the_publisher_states_is_covered(change):
    assert manifest_digest(manifest(**change)) != manifest_digest(manifest())


@pytest.mark.parametrize("value", [2**53, float("nan"), float("inf"), "\ud800", object()])
def test_what_has_no_canonical_form_has_no_digest(value):
    with pytest.raises(ValueError):
        manifest_digest(manifest(metadata={"value": value}))


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_a_stream_is_hashed_block_by_block(size):
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    copy, blocks = io.BytesIO(), []
    digest = stream_digest(io.BytesIO(data), copy_to=copy, progress=blocks.append)
    assert digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert copy.getvalue() == data
    assert sum(blocks) == size
    assert all(block <= BLOCK for block in blocks)
