"""SIGHUP: changed settings of a shadow hold at once, and never for what may not be stored any more."""

import numpy as np
import pytest

from onnx_models import scaled
from routing_wire import policy, put
from shadow_wire import PATIENT, numbered, predict, settled
from started_servers import make_settings
from turnout.app.server import running
from turnout.telemetry.logging import make_logger
from turnout_proto import tensors

X = np.ones((1, 4), np.float32)

HOOK = """
def times(model, inputs):
    return {{name: array * {factor} for name, array in inputs.items()}}
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def reconfigured(models, publish_model):
    """Runs a server whose shadow 1.1.0 disagrees with the baseline; sends five requests under each of the settings.

    Returns the report after each five requests. With `all_kept`, waits until each disagreement is kept.
    """

    async def run(*settings, again: bool = False, all_kept: bool = False):
        publish_model("m", "1.0.0", scaled(1))
        publish_model("m", "1.1.0", scaled(1.5), release=False)
        made = [
            make_settings(models, shadow=PATIENT | {"noise_rate": 0.0}, model={"m": {"shadow": one}})
            for one in settings
        ]
        reports = []
        async with running(made[0], make_logger("json", "warning")) as server:
            await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
            await put(server, policy("1.0.0", {"1.1.0": 1.0}))
            for number, after in enumerate(made):
                if number:
                    await server.reloader.reload(lambda after=after: after)
                if number and again:
                    await put(server, policy("1.0.0"))
                    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
                assert (await predict(server, numbered(5, 5 * number, x=X))).errors == []
                copies = 5 * number + 5
                most = min(copies, after.shadow.keep_worst) if all_kept else 0
                reports.append(await settled(server, "1.1.0", copies, worst=100, kept=most))
        return reports

    return run


@pytest.fixture
def hooks(tmp_path, monkeypatch) -> None:
    for factor in (2, 3):
        (tmp_path / f"times_{factor}_under_test.py").write_text(HOOK.format(factor=factor))
    monkeypatch.syspath_prepend(str(tmp_path))


def kept(report) -> list[list[float]]:
    """The first value of each input that is kept, by disagreement."""
    return sorted([float(tensors.decode(tensor).ravel()[0]) for tensor in one.inputs] for one in report.worst)


@pytest.mark.parametrize("again", [False, True])
async def test_tolerances_and_what_runs_the_copies(reconfigured, again: bool) -> None:
    within = {"tolerances": {"y": {"atol": 9, "rtol": 0}}}
    reports = await reconfigured({}, within, within | {"isolation": "thread"}, {}, again=again)
    met = [(one.outcomes["agreed"], one.outcomes["disagreed"]) for one in reports]
    assert met == [(0, 5), (5, 5), (10, 5), (10, 10)]
    assert {one.state for one in reports} == {"open"}


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.usefixtures("hooks")
async def test_what_may_be_stored(reconfigured, again: bool) -> None:
    reports = await reconfigured(
        {"keep_inputs": True, "redact": "times_2_under_test:times"},
        {"keep_inputs": True, "redact": "times_3_under_test:times"},
        {"keep_inputs": True, "redact": "no_such_module_under_test:times"},
        {"keep_inputs": True},
        {},
        again=again,
        all_kept=True,
    )
    nothing = [[]] * 5
    assert [kept(one) for one in reports] == [
        [[2.0]] * 5, nothing + [[3.0]] * 5, nothing * 3, nothing * 3 + [[1.0]] * 5, nothing * 4,
    ]  # fmt: skip


async def test_how_many_of_the_worst_are_kept(reconfigured) -> None:
    reports = await reconfigured({}, {"keep_worst": 2}, {"keep_worst": 6})
    assert [len(one.worst) for one in reports] == [5, 2, 6]
