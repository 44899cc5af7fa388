"""What a publisher may say of where a version comes from, and what that does to its digest."""

import json
from dataclasses import replace

import pytest
from semver import Version

from turnout.errors import InvalidRequest
from turnout.registry.manifest.digest import bytes_digest, canonical_bytes, manifest_digest, read_canonical
from turnout.registry.manifest.environment import Environment
from turnout.registry.manifest.manifest import FileEntry, Manifest
from turnout.registry.manifest.provenance import PinnedSource, Provenance, Training
from turnout.registry.manifest.signature import Signature
from turnout.registry.publishing.metadata import parse_metadata, read_metadata

ZEROS = "sha256:" + "0" * 64
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SAID = {
    "parents": ["magika@3.1.0", ZEROS],
    "training": {
        "commit": COMMIT,
        "seed": 0,
        "datasets": [{"name": "files", "digest": ZEROS}],
        "hyperparameters": {"rate": 0.001, "layers": [4, 2], "tied": True},
        "metrics": {"accuracy": 1},
    },
    "dependencies": {"lock": {"name": "uv.lock", "digest": ZEROS}},
    "environment": {"onnxruntime": ">=1.22,<2", "cuda": "13", "cudnn": ">=9", "driver": ">=580", "python": "3.12"},
}
READ = Provenance(
    Training(
        (PinnedSource("files", ZEROS),), COMMIT, {"rate": 0.001, "layers": [4, 2], "tied": True}, 0, {"accuracy": 1.0}
    ),
    PinnedSource("uv.lock", ZEROS),
    Environment(">=1.22,<2", "13", ">=9", ">=580", "3.12"),
    ("magika@3.1.0", ZEROS),
)  # fmt: skip
MANIFEST = Manifest("m", Version(1), (FileEntry("model.onnx", 1, ZEROS),), Signature((), ()), {"": 17}, 8)


def test_provenance_is_read_whole_and_written_as_it_was_read() -> None:
    assert parse_metadata(SAID).provenance == READ
    assert parse_metadata(parse_metadata(SAID).to_meta()) == parse_metadata(SAID)
    assert READ.to_json() == SAID


def test_a_manifest_keeps_provenance_through_its_canonical_form() -> None:
    manifest = replace(MANIFEST, provenance=READ)
    assert read_canonical(canonical_bytes(manifest)) == manifest


def test_the_digest_covers_provenance() -> None:
    digests = {
        manifest_digest(replace(MANIFEST, provenance=provenance))
        for provenance in (Provenance(), READ, replace(READ, parents=()), Provenance(Training(seed=1)))
    }
    assert len(digests) == 4


def test_a_version_that_states_none_has_the_digest_that_it_always_had() -> None:
    assert "provenance" not in json.loads(canonical_bytes(MANIFEST))
    before = "sha256:862815fdd0ce2350f0db5aa733caf2ccf1d5359ee1abf4dd746c68ec73e149ce"  # when there was nothing to say
    assert manifest_digest(MANIFEST) == before
    assert parse_metadata({}).provenance.to_json() == {}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"trainng": {}}, "trainng: unknown; the nearest known is training"),
        ({"training": {"comit": ""}}, "training.comit: unknown; the nearest known is training.commit"),
        (
            {"environment": {"onxruntime": "1"}},
            "environment.onxruntime: unknown; the nearest known is environment.onnxruntime",
        ),
        ({"dependencies": {"locks": {}}}, "dependencies.locks: unknown; the nearest known is dependencies.lock"),
        (
            {"training": {"datasets": [{"nam": "x"}]}},
            "training.datasets[0].nam: unknown; the nearest known is training.datasets[0].name",
        ),
    ],
)  # fmt: skip
def test_an_unknown_key_is_an_error_that_names_the_nearest_known(body, message) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_metadata(body)
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"training": []}, "training"),
        ({"training": {"commit": "0123abc"}}, "training"),
        ({"training": {"seed": 1.5}}, "training.seed"),
        ({"training": {"seed": 2**53}}, "training.seed"),
        ({"training": {"datasets": {}}}, "training.datasets"),
        ({"training": {"datasets": [{"name": "x"}]}}, "training.datasets[0].digest"),
        ({"training": {"datasets": [{"name": "", "digest": ZEROS}]}}, "training.datasets[0]"),
        ({"training": {"datasets": [{"name": "x", "digest": "md5:0"}]}}, "training.datasets[0]"),
        ({"training": {"datasets": [{"name": "x", "digest": ZEROS}] * 2}}, "training"),
        ({"training": {"metrics": {"a": "0.9"}}}, "training.metrics.a"),
        ({"training": {"metrics": {"a": float("nan")}}}, "training.metrics.a"),
        ({"training": {"metrics": {f"m{n}": 0 for n in range(1001)}}}, "training"),
        ({"training": {"hyperparameters": {"a": float("inf")}}}, "training.hyperparameters.a"),
        ({"dependencies": {"lock": ZEROS}}, "dependencies.lock"),
        ({"dependencies": {"lock_file": "x"}}, "dependencies.lock_file"),
        ({"environment": {"cuda": 13}}, "environment.cuda"),
        ({"environment": {"cuda": "~=13"}}, "environment.cuda"),
        ({"environment": {"cuda": "13.x"}}, "environment.cuda"),
        ({"environment": {"cuda": ""}}, "environment.cuda"),
        ({"parents": "m@1.0.0"}, "parents"),
        ({"parents": ["m"]}, "parents"),
        ({"parents": ["../m@1.0.0"]}, "parents"),
        ({"metadata": {"training": {}}}, None),
    ],
)
def test_a_value_that_is_none_is_refused_with_its_place(body, field) -> None:
    if field is None:  # free metadata may go by any name that was free before
        assert parse_metadata(body).free == body["metadata"]
        return
    with pytest.raises(InvalidRequest) as refused:
        parse_metadata(body)
    assert [violation.field for violation in refused.value.violations] == [field]


def test_a_lock_file_beside_the_metadata_is_digested(tmp_path) -> None:
    (tmp_path / "uv.lock").write_bytes(b"locked")
    meta = tmp_path / "meta.toml"
    meta.write_text('[dependencies]\nlock_file = "uv.lock"\n')
    assert read_metadata(meta).provenance.lock == PinnedSource("uv.lock", bytes_digest(b"locked"))
    for text in (
        '[dependencies]\nlock_file = "none.lock"\n',
        f'[dependencies]\nlock_file = "uv.lock"\nlock = {{ name = "x", digest = "{ZEROS}" }}\n',
    ):
        meta.write_text(text)
        with pytest.raises(InvalidRequest) as refused:
            read_metadata(meta)
        assert refused.value.violations[0].field == "dependencies.lock_file"
