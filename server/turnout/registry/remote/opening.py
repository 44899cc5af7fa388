"""Opens a remote repository from settings."""

from pathlib import Path

from turnout.config import RepositorySettings as RepositorySettings
from turnout.config import RepositoryUrl
from turnout.registry.remote.cache import Cache, default_home
from turnout.registry.remote.objects import ObjectStore
from turnout.registry.remote.repository import RemoteRepository
from turnout.registry.remote.store import Store


def open_remote(url: RepositoryUrl, settings: RepositorySettings, *, read_only: bool) -> RemoteRepository:
    """Returns the repository at `url`, without sending a request.

    Raises:
        ConfigError: An extra is not installed, or the cache cannot be used.
    """
    home = Path(settings.cache).absolute() if settings.cache else default_home()
    cache = Cache.open(home, url, settings.endpoint_url, int(settings.cache_max_bytes))
    return RemoteRepository(str(url), _store(url, settings), cache, settings.remote_poll_s, read_only=read_only)


def _store(url: RepositoryUrl, settings: RepositorySettings) -> Store:
    if url.scheme == "oci":
        from turnout.registry.remote.oci import OciStore

        return OciStore(url, settings.endpoint_url, settings.timeout_s, settings.max_objects, settings.oci_settle_s)
    return ObjectStore(url, settings.endpoint_url, settings.timeout_s, settings.max_objects)
