"""What may be named as a repository that lives elsewhere, and what its documents may be called."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.repository_url import RepositoryUrl, parse_models
from turnout.errors import ConfigError
from turnout.registry.manifest.versions import known_version
from turnout.registry.remote import keys, objects
from turnout.registry.remote.cache import Cache
from turnout.registry.remote.keys import EvidenceRecordKey, ManifestKey, PlanKey, parse_key
from turnout.registry.remote.oci_artifacts import document_tag, parse_version_tag, version_tag


@pytest.mark.parametrize(
    "text",
    ["s3://bucket", "s3://bucket/a/b", "gs://bucket/p", "oci://host.example:5000/team/models", "oci://[::1]:5000/m"],
)
def test_a_url_is_read_and_written_alike(text: str) -> None:
    assert str(RepositoryUrl.parse(text)) == text
    assert parse_models(text) == RepositoryUrl.parse(text)
    assert parse_models(Path(text)) == RepositoryUrl.parse(text), "a path has lost one of two slashes"
    assert str(RepositoryUrl.parse(f"{text}/")) == text


@pytest.mark.parametrize(
    "text",
    [
        "s3://key:sEcret@bucket/p", "s3://bucket/sEcret@x", "gs://sEcret@bucket", "oci://u:sEcret@host/name",
        "s3://bucket/p?secret=sEcret", "s3://bucket/p#sEcret", "oci://host/name:sEcret", "oci://host/sEcret",
        "s3://", "s3://b", "s3:///p", "s3://bucket/a//b", "s3://bucket/../other", "s3://bucket/./p", "s3://bucket/a\\b",
        "s3://bucket/a*", "s3://bucket/a\n", "s3://bucket/" + "a" * 600, "oci://host", "oci://host/", "oci://host/A/b",
        "http://host/p", "az://container/p", "s3://bücket/p",
    ],
)  # fmt: skip
def test_what_is_no_such_url_is_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        parse_models(text)
    assert "sEcret" not in str(caught.value)


@pytest.mark.parametrize("text", ["models", "/mnt/models", "c:/models", "./s3/models", "a:b"])
def test_a_directory_stays_one(text: str) -> None:
    assert parse_models(text) == Path(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m/1.0.0/manifest.json", ManifestKey("m", known_version("1.0.0"))),
        ("M.x/1.0.0-rc.1+b/manifest.json", ManifestKey("M.x", known_version("1.0.0-rc.1+b"))),
        ("m/.attestations/1.0.0/gates-1.json", EvidenceRecordKey("m", known_version("1.0.0"), "gates-1.json")),
        ("gates.toml", PlanKey("")),
        ("m/gates.toml", PlanKey("m")),
    ],
)
def test_documents_are_known_by_their_names(text: str, expected: keys.Key) -> None:
    assert parse_key(text) == expected


@given(
    st.text()
    | st.lists(st.sampled_from(["m", "..", ".", "", "1.0.0", ".attestations", "manifest.json", "a"])).map("/".join)
)
def test_no_name_of_a_document_leads_out_of_the_cache(text: str) -> None:
    key = parse_key(text)
    if key is not None:
        inside = Path("/root") / text
        assert inside.is_relative_to("/root")
        assert ".." not in text.split("/")
        assert "" not in text.split("/")
        assert "\\" not in text
        assert "\0" not in text


@pytest.mark.parametrize("model", ["m", "m__x", "m_", "a.b-c", "M__1.0.0"])
@pytest.mark.parametrize("version", ["1.0.0", "1.0.0-rc.1", "1.0.0+build.5", "1.0.0-a--b+c-d"])
def test_a_tag_says_which_version_it_is_of(model: str, version: str) -> None:
    tag = version_tag(ManifestKey(model, known_version(version)))
    assert set(tag) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    named = parse_version_tag(tag)
    assert named is not None
    assert (named[0], str(named[1])) == (model, version)


def test_tags_fit_what_registries_take() -> None:
    assert len(document_tag("m" * 400, b"x")) <= 128
    with pytest.raises(OSError, match="128"):
        version_tag(ManifestKey("m" * 128, known_version("1.0.0")))


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from turnout.registry.remote.oci import OciStore

    for module in ("s3fs", "gcsfs", "gcsfs.core", "oras", "oras.auth.token"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    for text, extra in (("s3://bucket", "s3"), ("gs://bucket", "gs")):
        with pytest.raises(ConfigError, match=rf"pip install 'turnout\[{extra}\]'"):
            objects.ObjectStore(RepositoryUrl.parse(text), "", 1.0, 10)
    with pytest.raises(ConfigError, match=r"pip install 'turnout\[oci\]'"):
        OciStore(RepositoryUrl.parse("oci://host/name"), "", 1.0, 10, 1.0)


def test_a_cache_that_cannot_be_made_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"repository\.cache"):
        Cache.open(tmp_path / "file" / "cache", RepositoryUrl.parse("s3://bucket"), "", 10)
