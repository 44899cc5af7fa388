import json
import os
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from semver import Version

import onnx_models
from turnout.errors import DigestMismatch, InvalidRequest, ModelNotFound, VersionNotFound
from turnout.registry.manifest.digest import canonical_bytes
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage import attestations
from turnout.registry.storage.repository import Repository
from turnout.registry.storage.staging import locked, staged

V1, V2 = Version(1), Version(2)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


def put(repository: Repository, model: str = "m", version: str = "1.0.0", *, seed: int = 0):
    """Publishes a version of three files: model.onnx, deep/weights.data and golden/case.npz."""
    work = repository.root.parent / f"work-{model}-{version}-{seed}"
    source = onnx_models.save_external(work, location="deep/weights.data", seed=seed)
    np.savez(work / "case.npz", **{"inputs/x": np.ones((1, 64), np.float32)})
    request = PublishRequest(model, Version.parse(version), source, golden=(work / "case.npz",))
    return publish(repository, request)


def unseal(path: Path) -> Path:
    path.chmod(0o644)
    return path


def test_a_root_that_does_not_exist_holds_nothing(repository):
    listing = repository.scan()
    assert (listing.published, listing.problems, listing.models) == ((), (), ())
    assert repository.sweep() == ()
    assert not repository.root.exists()


def test_versions_are_listed_by_precedence_not_as_strings(repository):
    for version in ("1.10.0", "1.9.0", "2.0.0-rc.1", "1.10.0-rc.2", "1.10.0-rc.10"):
        put(repository, version=version)
    put(repository, model="a")
    listing = repository.scan()
    assert [(p.manifest.model, str(p.manifest.version)) for p in listing.published] == [
        ("a", "1.0.0"),
        ("m", "1.9.0"),
        ("m", "1.10.0-rc.2"),
        ("m", "1.10.0-rc.10"),
        ("m", "1.10.0"),
        ("m", "2.0.0-rc.1"),
    ]
    assert listing.models == ("a", "m")
    assert [str(p.manifest.version) for p in listing.versions("a")] == ["1.0.0"]
    assert listing.versions("b") == ()


def test_what_was_published_is_read_back_the_same(repository):
    result = put(repository)
    (found,) = repository.published()
    assert (found.manifest, found.digest) == (result.manifest, result.digest)
    assert repository.find("m", V1) == found == repository.verify("m", V1, expected=result.digest)


def test_a_version_that_stayed_is_the_same_object_and_its_manifest_is_not_read_again(repository):
    put(repository)
    (before,) = repository.published()
    put(repository, version="2.0.0")
    assert repository.published()[0] is before
    manifest = repository.directory("m", V1) / "manifest.json"
    times = (manifest.stat().st_atime_ns, manifest.stat().st_mtime_ns)
    data = manifest.read_bytes()
    unseal(manifest).write_bytes(data.replace(b'"ir_version":8', b'"ir_version":9'))
    os.utime(manifest, ns=times)
    assert repository.published()[0].manifest.ir_version == 9, "a change that hides behind its old time is seen"


def test_a_version_that_is_gone_is_not_listed(repository):
    put(repository)
    put(repository, version="2.0.0")
    repository.scan()
    repository.directory("m", V1).rename(repository.root.parent / "away")
    assert [p.manifest.version for p in repository.published()] == [V2]


def test_staging_state_and_other_hidden_directories_are_no_models(repository):
    put(repository)
    for name in (".turnout", ".git", ".staging/stray/1.0.0"):
        (repository.root / name).mkdir(parents=True, exist_ok=True)
    (repository.root / "README.md").write_text("")
    (repository.root / "m" / ".DS_Store").write_text("")
    listing = repository.scan()
    assert listing.models == ("m",)
    assert listing.problems == ()


def test_a_directory_without_a_manifest_is_reported_with_the_command_that_publishes_it(repository):
    onnx_models.save(onnx_models.matmul(), repository.root / "m" / "1.0.0" / "model.onnx")
    (problem,) = repository.scan().problems
    path = repository.root / "m/1.0.0/model.onnx"
    assert (problem.model, problem.version) == ("m", "1.0.0")
    assert problem.reason == "m 1.0.0 has no manifest and is not served"
    assert shlex.split(problem.command) == ["turnout", "publish", "m", "1.0.0", str(path)]
    assert str(problem) == f"m 1.0.0 has no manifest and is not served; publish it with: {problem.command}"
    publish(repository, PublishRequest("m", V1, path))
    listing = repository.scan()
    assert (len(listing.published), listing.problems) == (1, ())


def test_a_model_file_of_another_name_is_reported_with_what_to_do_first(repository):
    path = onnx_models.save(onnx_models.matmul(), repository.root / "m" / "1.0.0" / "net.onnx")
    (problem,) = repository.scan().problems
    target = path.with_name("model.onnx")
    assert problem.command == f"mv {path} {target} && turnout publish m 1.0.0 {target}"


def test_a_numbered_directory_of_another_server_is_reported_with_a_version_for_it(repository):
    path = onnx_models.save(onnx_models.matmul(), repository.root / "m" / "7" / "net.onnx")
    (problem,) = repository.scan().problems
    assert problem.command == f"turnout publish m 7.0.0 {path}"


def test_a_triton_model_is_reported_with_the_command_that_imports_it(repository):
    path = onnx_models.save(onnx_models.matmul(), repository.root / "m" / "7" / "model.onnx")
    (problem,) = repository.scan().problems
    assert problem.command == f"turnout import triton {repository.root} --models {repository.root}"
    publish(repository, PublishRequest("m", Version(7), path))
    assert repository.scan().problems == ()


def test_a_directory_that_no_command_can_publish_is_reported_without_one(repository):
    (repository.root / "m" / "notes").mkdir(parents=True)
    assert repository.scan().problems == ()
    (repository.root / "m" / "notes" / "a.txt").write_text("")
    (problem,) = repository.scan().problems
    assert (problem.command, str(problem)) == ("", "m notes has no manifest and is not served; it holds no ONNX file")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: b"", "m 1.0.0: manifest.json is not JSON"),
        (lambda b: b"\xff", "m 1.0.0: manifest.json is not JSON"),
        (lambda b: b"[" * 100_000, "m 1.0.0: manifest.json is not JSON"),
        (
            lambda b: b"[]",
            "m 1.0.0: manifest.json is not a manifest that this release reads: not a manifest: TypeError",
        ),
        (
            lambda b: b + b"\n",
            "m 1.0.0: manifest.json is not in its canonical form, or a later release of Turnout wrote",
        ),
        (lambda b: b[:-1] + b',"x":1}', "m 1.0.0: manifest.json is not in its canonical form, or a later release"),
        (
            lambda b: b.replace(b'"schema":1', b'"schema":2'),
            "m 1.0.0: manifest.json is not a manifest that this release",
        ),
        (lambda b: b.replace(b'"m"', b'"n"'), "m 1.0.0: manifest.json is that of n 1.0.0"),
        (lambda b: b.replace(b'"1.0.0"', b'"1.0.1"'), "m 1.0.0: manifest.json is that of m 1.0.1"),
        (lambda b: b.replace(b"deep/weights", b"../weights.."), "m 1.0.0: manifest.json is not a manifest that this"),
        (lambda b: b" " * ((16 << 20) + 1), "m 1.0.0: manifest.json is larger than 16777216 bytes"),
    ],
)
def test_a_manifest_that_is_none_is_reported_and_not_served(repository, change, reason):
    put(repository)
    manifest = unseal(repository.directory("m", V1) / "manifest.json")
    manifest.write_bytes(change(manifest.read_bytes()))
    listing = repository.scan()
    assert listing.published == ()
    (problem,) = listing.problems
    assert problem.reason.startswith(reason)
    with pytest.raises(DigestMismatch) as mismatch:
        repository.verify("m", V1)
    assert mismatch.value.message == problem.reason


def test_a_manifest_under_another_versions_directory_is_reported(repository):
    put(repository)
    repository.directory("m", V1).rename(repository.directory("m", V2))
    (problem,) = repository.scan().problems
    assert problem.reason == "m 2.0.0: manifest.json is that of m 1.0.0"


def test_a_version_in_a_directory_with_a_leading_v_is_reported(repository):
    put(repository)
    repository.directory("m", V1).rename(repository.root / "m" / "v1.0.0")
    (problem,) = repository.scan().problems
    assert problem.reason == "m 'v1.0.0': the directory's name is not an exact version"


def test_a_directory_that_is_no_model_name_is_reported(repository):
    (repository.root / "-magika" / "1.0.0").mkdir(parents=True)
    (problem,) = repository.scan().problems
    assert problem.reason.startswith("directory '-magika' is not a model name, expected 1 to 128 of A-Z, a-z, 0-9")


def test_links_in_place_of_directories_are_reported_and_not_followed(repository):
    put(repository)
    (repository.root / "linked").symlink_to(repository.root / "m")
    (repository.root / "m" / "2.0.0").symlink_to(repository.directory("m", V1))
    listing = repository.scan()
    assert [str(p.manifest.version) for p in listing.published] == ["1.0.0"]
    assert [p.reason for p in listing.problems] == [
        "directory 'linked' is a link, and links are not followed",
        "m 2.0.0 is a link, and links are not followed",
    ]
    for model, version in (("linked", V1), ("m", V2)):
        with pytest.raises((ModelNotFound, VersionNotFound)):
            repository.find(model, version)


def test_a_manifest_that_is_a_link_is_not_read(repository):
    put(repository)
    manifest = repository.directory("m", V1) / "manifest.json"
    manifest.rename(repository.root.parent / "manifest.json")
    manifest.symlink_to(repository.root.parent / "manifest.json")
    (problem,) = repository.scan().problems
    assert problem.reason == "m 1.0.0: manifest.json is a link, or no regular file"


def test_what_does_not_exist_is_said_with_the_nearest_that_do(repository):
    put(repository, model="magika")
    with pytest.raises(ModelNotFound, match="no model is named 'magica'; there are: magika"):
        repository.find("magica", V1)
    with pytest.raises(VersionNotFound, match=r"no version of magika is '2\.0\.0'; there are: 1\.0\.0"):
        repository.verify("magika", V2)


@pytest.mark.parametrize("model", ["..", "a/b", "", ".staging", "A/"])
def test_a_name_from_outside_never_touches_a_path(repository, model):
    with pytest.raises(InvalidRequest):
        repository.directory(model, V1)


@pytest.mark.parametrize("file", ["model.onnx", "deep/weights.data", "golden/case.npz", "manifest.json"])
def test_one_flipped_bit_in_any_file_is_found_and_named(repository, file):
    digest = put(repository).digest
    path = unseal(repository.directory("m", V1) / file)
    data = bytearray(path.read_bytes())
    # In the manifest, a digit of a file's digest: it stays a manifest.
    at = data.index(b"sha256:") + 7 if file == "manifest.json" else len(data) // 2
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestMismatch) as mismatch:
        repository.verify("m", V1, expected=digest)
    assert mismatch.value.message.startswith(f"m 1.0.0: {file} is not what was published")
    assert str(repository.root) not in mismatch.value.message


def test_another_valid_manifest_is_found_where_the_digest_is_known(repository):
    result = put(repository)
    other = replace(result.manifest, metadata={"notes": "changed"})
    unseal(repository.directory("m", V1) / "manifest.json").write_bytes(canonical_bytes(other))
    assert repository.verify("m", V1).digest != result.digest
    with pytest.raises(DigestMismatch, match=r"manifest\.json is not what was published \(expected sha"):
        repository.verify("m", V1, expected=result.digest)


def test_missing_extra_linked_and_shortened_files_are_all_named(repository):
    put(repository)
    directory = repository.directory("m", V1)
    weights = (directory / "deep" / "weights.data").rename(repository.root.parent / "weights.data")
    (directory / "deep" / "weights.data").symlink_to(weights)
    (directory / "golden" / "case.npz").unlink()
    (directory / "golden" / "more.npz").write_text("")
    os.truncate(unseal(directory / "model.onnx"), 10)
    with pytest.raises(DigestMismatch) as mismatch:
        repository.verify("m", V1)
    message = mismatch.value.message
    assert "deep/weights.data is a link, or no regular file" in message
    assert "golden/case.npz is missing" in message
    assert "golden/more.npz does not belong to it" in message
    assert "model.onnx is not what was published (expected " in message


def test_a_link_in_place_of_a_directory_is_not_followed_even_to_the_same_bytes(repository):
    put(repository)
    directory = repository.directory("m", V1)
    (directory / "deep").rename(repository.root.parent / "deep")
    (directory / "deep").symlink_to(repository.root.parent / "deep")
    with pytest.raises(DigestMismatch, match=r"deep/weights\.data is a link, or no regular file"):
        repository.verify("m", V1)


def test_a_pipe_in_place_of_a_file_hangs_nobody(repository):
    put(repository)
    path = repository.directory("m", V1) / "model.onnx"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DigestMismatch, match=r"model\.onnx is a FIFO, expected a regular file"):
        repository.verify("m", V1)


def test_a_flood_of_faults_is_cut_short(repository):
    put(repository)
    for index in range(20):
        (repository.directory("m", V1) / f"{index:02}").write_text("")
    with pytest.raises(DigestMismatch, match=r"04 does not belong to it \(and 15 more\)$"):
        repository.verify("m", V1)


def test_progress_tells_of_every_byte(repository):
    result = put(repository)
    blocks: list[int] = []
    repository.verify("m", V1, progress=blocks.append)
    assert sum(blocks) == result.manifest.size


def test_the_manifest_on_disk_is_its_own_canonical_form(repository):
    result = put(repository)
    data = (repository.directory("m", V1) / "manifest.json").read_bytes()
    assert data == canonical_bytes(result.manifest)
    assert json.loads(data) == result.manifest.to_json()


def test_what_nobody_builds_any_more_is_swept(repository):
    put(repository)
    stale = repository.root / ".staging" / ("0" * 32)
    (stale / "version").mkdir(parents=True)
    (stale / "version" / "model.onnx").write_text("half")
    (stale / "owner").write_text("")
    no_owner = repository.root / ".staging" / ("1" * 32)
    no_owner.mkdir()
    others = repository.root / ".staging" / "notes"
    others.mkdir()
    assert repository.sweep() == ("0" * 32, "1" * 32)
    assert not stale.exists()
    assert others.exists()
    assert repository.sweep() == ()


def test_what_a_killed_publish_left_goes_with_the_next_one(repository):
    """A machine that only publishes, as those of CI do, starts no server that would sweep."""
    stale = repository.root / ".staging" / ("0" * 32)
    (stale / "version").mkdir(parents=True)
    (stale / "version" / "model.onnx").write_text("half")
    with staged(repository.root) as another:
        put(repository)
        assert another.is_dir(), "its builder lives"
    assert [path.name for path in (repository.root / ".staging").iterdir()] == [".lock"]


def test_the_beginning_of_a_record_whose_writer_was_killed_is_swept_an_hour_later(repository):
    put(repository)
    home = attestations.directory(repository, "m", V1)
    home.mkdir(parents=True, exist_ok=True)
    begun, fresh, other = (home / name for name in (f".{'0' * 32}", f".{'1' * 32}", ".notes"))
    for path in (begun, fresh, other):
        path.write_text("half")
    for path in (begun, other):
        os.utime(path, (0, 0))
    repository.sweep()
    assert not begun.exists()
    assert fresh.exists()
    assert other.exists()


def test_an_empty_directory_is_nobodys_problem(repository):
    put(repository)
    (repository.root / "empty").mkdir()
    (repository.root / "m" / "9.9.9").mkdir()
    listing = repository.scan()
    assert len(listing.published) == 1
    assert listing.problems == ()


def test_reading_waits_for_no_lock(repository):
    put(repository)
    with locked(repository.root):
        assert len(repository.published()) == 1
        repository.verify("m", V1)
