import contextlib
import json
import math
import os
import random
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semver import Version

import onnx_models
from turnout.errors import InvalidModel, InvalidRequest
from turnout.registry.manifest.digest import canonical_bytes, manifest_digest, read_canonical
from turnout.registry.manifest.manifest import BatchingDeclaration, FileEntry, Manifest, Tolerance
from turnout.registry.manifest.names import check_model_name, is_exact_version, parse_version
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.registry.onnx.model import read_model
from turnout.registry.publishing.metadata import VersionMetadata, parse_metadata

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
terms = text.filter(bool)
integers = st.integers(-(2**53) + 1, 2**53 - 1)
numbers = st.floats(0, 1e300)
values = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
digests = st.binary(min_size=32, max_size=32).map(lambda data: f"sha256:{data.hex()}")
identifiers = st.from_regex(r"0|[1-9][0-9]{0,3}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]{0,5}", fullmatch=True)
builds = st.from_regex(r"[0-9a-zA-Z-]{1,6}", fullmatch=True)
versions = st.builds(
    lambda core, pre, build: Version(*core, ".".join(pre) or None, ".".join(build) or None),
    st.tuples(*[st.integers(0, 10**6)] * 3),
    st.lists(identifiers, max_size=3),
    st.lists(builds, max_size=2),
)
dimensions = st.none() | st.integers(0, 2**53 - 1) | terms
specs = st.builds(
    TensorSpec, terms, st.sampled_from(DataType), st.lists(dimensions, max_size=4).map(tuple), st.booleans()
)
sides = st.lists(specs, max_size=3, unique_by=lambda spec: spec.name).map(tuple)
files = st.lists(
    st.builds(
        FileEntry, st.from_regex(r"[a-z]{1,4}(/[a-z]{1,4})?", fullmatch=True), st.integers(0, 2**53 - 1), digests
    ),
    max_size=3,
    unique_by=lambda entry: entry.path,
)
batchings = st.builds(
    BatchingDeclaration,
    st.booleans(),
    st.none() | st.integers(1, 1024),
    st.none() | st.dictionaries(terms, st.integers(0, 8), max_size=3),
)


def described(entries: list[FileEntry], model_digest: str, **fields: Any) -> Manifest:
    entries = sorted([*entries, FileEntry("model.onnx", 1, model_digest)], key=lambda entry: entry.path)
    return Manifest(files=tuple(entries), **fields)


manifests = st.builds(
    described,
    files,
    digests,
    model=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True),
    version=versions,
    signature=st.builds(Signature, sides, sides),
    opset=st.dictionaries(text, st.integers(1, 2**31 - 1), max_size=3),
    ir_version=st.integers(1, 20),
    batching=st.none() | batchings,
    tolerances=st.dictionaries(terms, st.builds(Tolerance, numbers, numbers), max_size=3),
    metadata=st.dictionaries(text, values, max_size=3),
)


def shuffled(value: object, order: random.Random) -> object:
    """The same JSON value with the keys of every object in another order."""
    if isinstance(value, dict):
        items = list(value.items())
        order.shuffle(items)
        return {key: shuffled(item, order) for key, item in items}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@given(manifests)
def test_a_manifest_comes_back_from_its_canonical_form_with_the_same_digest(manifest):
    data = canonical_bytes(manifest)
    back = read_canonical(data)
    assert back == manifest
    assert str(back.version) == str(manifest.version), "equality of versions leaves build metadata out"
    assert canonical_bytes(back) == data


@given(manifests, st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_the_order_of_keys(manifest, order):
    body = json.loads(json.dumps(manifest.to_json()))
    assert manifest_digest(Manifest.from_json(shuffled(body, order))) == manifest_digest(manifest)


@given(manifests, manifests)
def test_other_content_has_another_digest(one, other):
    same = one == other and str(one.version) == str(other.version)
    assert (manifest_digest(one) == manifest_digest(other)) == same


@given(manifests, st.data())
def test_a_flipped_byte_makes_another_manifest_or_none(manifest, data):
    body = bytearray(canonical_bytes(manifest))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        back = read_canonical(bytes(body))
    except ValueError:
        return
    assert manifest_digest(back) != manifest_digest(manifest)


@given(versions)
def test_an_exact_version_is_read_and_written_back_the_same(version):
    assert str(parse_version(str(version))) == str(version)
    assert str(parse_version(f"v{version}")) == str(version)


@given(st.text(max_size=200))
def test_what_is_no_version_is_refused_and_what_is_names_no_other_directory(given_text):
    try:
        version = parse_version(given_text)
    except InvalidRequest:
        assert not is_exact_version(given_text)
        return
    assert str(version) in (given_text, given_text.removeprefix("v"))
    assert PurePosixPath(str(version)).name == str(version)


@given(st.text(max_size=70))
def test_a_model_name_is_one_directory_in_the_root_and_no_hidden_one(name):
    try:
        check_model_name(name)
    except InvalidRequest:
        return
    assert PurePosixPath(name).parts == (name,)
    assert not name.startswith(".")


@given(st.text("ab./\\*\0", max_size=10))
def test_external_data_that_is_accepted_stays_in_the_directory(location):
    proto = onnx_models.matmul(2)
    onnx_models.move_out(proto.graph.initializer[0], location)
    with tempfile.TemporaryDirectory() as directory:
        path = onnx_models.save(proto, Path(directory) / "model.onnx")
        try:
            (file,) = read_model(path).external
        except InvalidModel:
            return
        # Neither form may lead elsewhere: ours is what is copied, the model's own is what ONNX Runtime opens.
        ours, theirs = (os.path.normpath(os.path.join(directory, p)) for p in (file.path, location))
    assert ours == theirs
    assert ours.startswith(f"{directory}/")


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_of_models_fail_but_by_refusing(data):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        path.write_bytes(data)
        with contextlib.suppress(InvalidModel):
            read_model(path)


MATMUL = onnx_models.matmul(2).SerializeToString()


@given(st.integers(0, len(MATMUL) - 1), st.integers(1, 255))
def test_a_damaged_model_is_read_or_refused(position, change):
    data = bytearray(MATMUL)
    data[position] ^= change
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        path.write_bytes(data)
        try:
            facts = read_model(path)
        except InvalidModel:
            return
    assert facts.signature.outputs


@given(st.dictionaries(text, values, max_size=4))
def test_free_metadata_comes_back_as_it_was_given(free):
    taken = {"description", "authors", "licence", "notes"} & free.keys()
    if taken:
        with pytest.raises(InvalidRequest):
            parse_metadata({"metadata": free})
    else:
        assert parse_metadata({"metadata": free}).to_manifest() == free


@given(values)
def test_no_value_makes_the_reader_of_metadata_fail_but_by_refusing(value):
    for body in (value, {"batching": value}, {"tolerances": value}, {"tolerances": {"y": value}}, {"authors": value}):
        try:
            metadata = parse_metadata(body)
        except InvalidRequest:
            continue
        assert isinstance(metadata, VersionMetadata)
        assert all(math.isfinite(t.atol) and math.isfinite(t.rtol) for t in metadata.tolerances.values())
