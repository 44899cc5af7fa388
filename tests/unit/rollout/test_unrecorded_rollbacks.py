"""The files of rollbacks that are not on record, where several servers share a repository."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from semver import Version

from turnout.rollout.changes.model_snapshot import RollbackOrigin
from turnout.rollout.engine.unrecorded_rollbacks import Diversion, DiversionFiles
from turnout.telemetry.logging import make_logger


def test_servers_with_one_process_id_keep_the_same_rollback_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in containers, each of which counts its processes from 1."""
    one, other = (DiversionFiles(tmp_path, "sqlite://", make_logger("json", "error")) for _ in range(2))
    since = RollbackOrigin(3, Version(1, 1))
    diversion = Diversion("m", Version(1), since, 2, "", "it is worse", datetime.now(UTC))
    sync, synced = os.fsync, []

    def slow_disk(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 1:
            other.write(diversion)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow_disk)
    one.write(diversion)
    assert one.read() == other.read() == [diversion]
    (name,) = (path.name for path in tmp_path.rglob("*.*") if path.is_file())
    assert name == "m.json"
