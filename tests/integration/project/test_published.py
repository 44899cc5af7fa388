"""What tests begin with: a repository that is copied is the one that was published, and nobody's changes get lost."""

from pathlib import Path

from semver import Version

from onnx_models import scaled
from published import PublishedRepositories
from turnout.config import Settings
from turnout.registry.storage.repository import Repository
from turnout.state.store import StateStore


def contents(models: Path) -> dict[str, bytes]:
    return {str(path.relative_to(models)): path.read_bytes() for path in models.rglob("*") if path.is_file()}


def test_a_repository_that_is_copied_is_the_one_that_was_published(published, empty_state, tmp_path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    made = []
    for kept in (published, published, PublishedRepositories(fresh, empty_state)):
        root = tmp_path / str(len(made))
        root.mkdir()
        publish = kept.publisher(root / "models", root)
        digests = [publish("copied", "1.0.0", scaled(7)), publish("copied", "1.1.0", scaled(8), release=False)]
        for version, digest in zip((Version(1), Version(1, 1)), digests, strict=True):
            assert Repository(root / "models").verify("copied", version, expected=digest)
        with StateStore.open(Settings(models=root / "models").state_url) as store:
            made.append((digests, store.release_state().of("copied"), store.audit().differences))
        assert not list((root / "models").rglob("state.db-*"))
    assert made[0] == made[1] == made[2]
    one, two = (contents(tmp_path / str(number) / "models") for number in (0, 1))
    assert one == two


def test_what_somebody_changed_between_two_publishes_stays(published, tmp_path) -> None:
    for number in range(2):
        models = tmp_path / str(number) / "models"
        models.parent.mkdir()
        publish = published.publisher(models, models.parent)
        publish("changed", "1.0.0", scaled(7))
        if number:
            with StateStore.open(Settings(models=models).state_url) as store:
                store.set_tag("changed", "stable", Version(1), actor="ann", reason="")
        publish("changed", "1.1.0", scaled(8))
    with StateStore.open(Settings(models=models).state_url) as store:
        assert store.release_state().of("changed").tags == {"stable": Version(1)}
        assert set(store.release_state().of("changed").release_statuses) == {Version(1), Version(1, 1)}
