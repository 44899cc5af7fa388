"""Declares versions released and moves tags, once it is sure that what they name exists."""

from semver import Version

from turnout.registry.repository import Repository
from turnout.routing.selector import tag_name
from turnout.state.store import StateStore


class Declarer:
    """Records declarations in the state store. Blocking; safe to use from several threads."""

    def __init__(self, repository: Repository, store: StateStore) -> None:
        self._repository = repository
        self._store = store

    def release(self, model: str, version: Version, *, actor: str, reason: str) -> bool:
        """Declares a version fit for general traffic.

        Returns:
            False where it was released before.

        Raises:
            ModelNotFound, VersionNotFound: It does not exist.
            InvalidRequest: It was yanked.
            Unavailable: The state store does not answer.
        """
        found = self._repository.find(model, version)
        return self._store.release(model, found.manifest.version, actor=actor, reason=reason)

    def set_tag(self, model: str, tag: str, version: Version, *, actor: str, reason: str) -> Version | None:
        """Makes a tag name a version.

        Returns:
            The version that it named before, or None.

        Raises:
            InvalidRequest: The tag reads as a version or a range, is reserved, or is no tag at all.
            ModelNotFound, VersionNotFound: The version does not exist.
            Unavailable: The state store does not answer.
        """
        name = tag_name(tag)
        found = self._repository.find(model, version)
        return self._store.set_tag(model, name, found.manifest.version, actor=actor, reason=reason)

    def delete_tag(self, model: str, tag: str, *, actor: str, reason: str) -> Version:
        """Removes a tag.

        Returns:
            The version that it named.

        Raises:
            TagNotFound: The model has no such tag.
            Unavailable: The state store does not answer.
        """
        return self._store.delete_tag(model, tag, actor=actor, reason=reason)
