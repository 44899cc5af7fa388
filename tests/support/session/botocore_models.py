"""Makes all botocore sessions in a process share the data files of the botocore package, which never change.

Otherwise each session lists 900 folders and reads a megabyte, which takes 0.2 s of CPU before its first request, and
each repository that tests open in S3 has a session.
"""

from typing import Any

import botocore.loaders
import botocore.session

_made = botocore.loaders.Loader.__init__
_read: dict[Any, Any] = {}


def _make(self: botocore.loaders.Loader, *arguments: Any, **more: Any) -> None:
    _made(self, *arguments, **more)
    self._cache = _read


def share() -> None:
    """Enables sharing for all sessions created from now on."""
    botocore.loaders.Loader.__init__ = _make


def read_ahead() -> None:
    """Reads the files that an S3 client needs, for processes forked from this one. Starts no thread."""
    share()
    botocore.session.get_session().create_client("s3", "us-east-1", aws_access_key_id="-", aws_secret_access_key="-")
