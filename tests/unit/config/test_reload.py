"""What of changed settings holds without a restart."""

import pytest

from turnout.app.reload import Changes, changes
from turnout.config import LoadLatest, Settings


def test_settings_that_are_alike_have_no_changes() -> None:
    model = {"m": {"load": "latest:2", "batching": {"max_rows": 4}}}
    assert changes(Settings(model=model), Settings(model=model)) == Changes((), (), ())


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({"log": {"level": "debug"}}, Changes(("log.level",), (), ())),
        ({"log": {"format": "console"}}, Changes((), (), ("log.format",))),
        ({"model": {"m": {"load": "latest:1"}}}, Changes(("model.m.load",), (), ())),
        ({"model": {"m": {"batching": {"max_rows": 32}}}}, Changes((), ("model.m.batching.max_rows",), ())),
        ({"model": {"m": {"slo_ms": [5]}}}, Changes((), ("model.m.slo_ms",), ())),
        ({"model": {"M.8.x": {"load": "latest:1"}}}, Changes(("model.M.8.x.load",), (), ())),
        ({"model": {"load.m": {"slo_ms": [5]}}}, Changes((), ("model.load.m.slo_ms",), ())),
        ({"limits": {"max_tensors": 3}}, Changes((), (), ("limits.max_tensors",))),
        ({"console": {"token": "0123456789abcdef-new"}}, Changes((), (), ("console.token",))),
    ],
)
def test_each_setting_holds_at_once_or_for_what_is_loaded_or_for_the_next_server(after, expected: Changes) -> None:
    assert changes(Settings(), Settings(**after)) == expected
    assert changes(Settings(**after), Settings()) == expected


def test_no_secret_is_in_what_is_told() -> None:
    before = Settings(console={"token": "0123456789abcdef-old"})
    changed = changes(before, Settings(console={"token": "0123456789abcdef-new"}))
    assert "0123456789" not in repr(changed)
    assert LoadLatest(1) not in changed.at_once
