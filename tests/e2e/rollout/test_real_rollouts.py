"""Rollouts of a real model under real load: each bad candidate is found out.

The scenes of the good one, and of the one made slow, are what the demonstration plays and checks: see test_demo.py.
"""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from forked_commands import turnout_program
from magika import process
from magika.candidates import BEGINNING, CANDIDATES, ORIGINAL, SHORT, session
from magika.features import features_v3
from magika.load import UNANSWERED
from magika.process import serving
from magika.rollouts import ENVIRONMENT, SCENES, Outcome, play, publish_all, uploads
from zoo import fetch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FILE = b"import turnout\n" * 20


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_all(tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def models(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository with its state, so that no scene goes on where another stopped."""
    monkeypatch.setattr(process, "TURNOUT", turnout_program())
    return shutil.copytree(published, tmp_path / "models")


def played(models: Path, name: str) -> Outcome:
    """Plays a scene on a server process of its own.

    Its versions have one runner each, since runs that hang would otherwise take every core from all other tests.
    """
    scene = SCENES[name]
    with serving(models, ENVIRONMENT | {"TURNOUT_RUNTIME__RUNNERS": "1"}, show=False, kill=scene.lasting) as server:
        outcome = play(server, scene)
    assert outcome.rollout.state == scene.ends, outcome.rollout
    assert scene.because in outcome.rollout.verdict, outcome.rollout
    return outcome


def states(outcome: Outcome) -> list[str]:
    return [event.kind for event in outcome.rollout.events]


def test_one_that_raises_is_rolled_back_on_errors_that_a_part_of_its_share_met(models: Path) -> None:
    outcome = played(models, "raises")
    # An index out of bounds, which ONNX Runtime calls the caller's fault: the baseline answers those requests.
    assert set(outcome.harm.errors) == {"INVALID_ARGUMENT"}
    # 10 % of the files, of at most a third of the traffic, and a margin for the run of the draw.
    assert sum(outcome.harm.errors.values()) < 0.1 * outcome.harm.requests
    assert outcome.harm.wrong == 0


def test_one_with_other_answers_is_stopped_in_shadow_and_no_client_meets_it(models: Path) -> None:
    outcome = played(models, "perturbed")
    assert "ramping" not in states(outcome)
    assert (outcome.harm.candidates, outcome.harm.errors, outcome.harm.wrong) == (0, {}, 0)


def test_one_that_hangs_is_rolled_back_although_it_gives_no_answer(models: Path) -> None:
    outcome = played(models, "hangs")
    assert set(outcome.harm.errors) <= {UNANSWERED}
    assert sum(outcome.harm.errors.values()) < 0.4 * outcome.harm.requests
    assert outcome.harm.wrong == 0


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("candidates")
    return {name: candidate.write(directory) for name, candidate in CANDIDATES.items()}


def scores(model: Path, content: bytes) -> np.ndarray:
    (found,) = session(model).run(None, {"bytes": features_v3(content)})
    return found


@pytest.mark.parametrize("name", ["slow", "raises", "hangs"])
def test_candidates_answer_other_files_as_the_original_does(written: dict[str, Path], name: str) -> None:
    np.testing.assert_array_equal(scores(written[name], FILE), scores(fetch("magika", ORIGINAL), FILE))


def test_the_slow_one_runs_its_useless_layers(written: dict[str, Path], tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    opened = ort.InferenceSession(written["slow"], options, providers=["CPUExecutionProvider"])
    opened.run(None, {"bytes": features_v3(FILE)})
    ran = [event["args"].get("op_name") for event in json.loads(Path(opened.end_profiling()).read_text()) if
           event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]  # fmt: skip
    assert sum(name is not None and "Conv" in name for name in ran) == 9


def test_the_one_that_raises_does_so_on_short_files_alone(written: dict[str, Path]) -> None:
    with pytest.raises(Exception, match="out of data bounds"):
        scores(written["raises"], FILE[: SHORT - 1].strip())
    scores(written["raises"], b"x" * SHORT)


def test_the_perturbed_one_has_other_answers_for_some_files(written: dict[str, Path]) -> None:
    opened = session(written["perturbed"])
    winners = [int(opened.run(None, {"bytes": one.features})[0].argmax()) for one in uploads()]
    changed = np.mean([winner != one.right(ORIGINAL) for winner, one in zip(winners, uploads(), strict=True)])
    assert 0.05 < changed < 0.5


def test_the_one_that_hangs_does_so_on_one_beginning_alone(written: dict[str, Path]) -> None:
    opened, options = session(written["hangs"]), ort.RunOptions()
    timer = threading.Timer(0.5, lambda: setattr(options, "terminate", True))
    timer.start()
    with pytest.raises(Exception, match="terminate"):
        opened.run(None, {"bytes": features_v3(BEGINNING + FILE)}, options)
    timer.join()


def test_candidates_come_out_the_same_each_time(written: dict[str, Path], tmp_path: Path) -> None:
    for name, candidate in CANDIDATES.items():
        assert candidate.write(tmp_path).read_bytes() == written[name].read_bytes()
        onnx.checker.check_model(str(written[name]))
