"""Which settings `turnout tune` tries, what it concludes, and how it writes that down."""

from pathlib import Path

import pytest

from turnout.cli.tune.editing import model_toml, write_model
from turnout.config import Settings, load_settings
from turnout.errors import ConfigError
from turnout.serving.tuning.candidates import Tuned, batch_sizes, delays, threads_and_runners, untried
from turnout.serving.tuning.comparison import Findings, Improvement, Result, Window

PRESENT = Tuned(threads=1, runners=0, max_rows=32, delay_ms=0.0)
OTHER = Tuned(threads=2, runners=1, max_rows=32, delay_ms=0.0)


def _windows(rate: float, latency: float, count: int = 4) -> list[Window]:
    return [Window(rate, (latency,) * 10)] * count


def _result(tuned: Tuned, rate: float, latency: float) -> Result:
    return Result.compared(tuned, _windows(rate, latency), _windows(100.0, 0.010))


def _findings(*candidates: Result, again: tuple[Result, ...] = ()) -> Findings:
    return Findings(Result(PRESENT, tuple(_windows(100.0, 0.010))), list(candidates), list(again))


def test_threads_and_runners_share_the_cores() -> None:
    tried = list(threads_and_runners(PRESENT, 6, on_gpu=False))
    assert {(t.threads, t.runners) for t in tried} >= {(1, 1), (1, 6), (2, 3), (4, 1), (6, 1)}
    assert all(t.threads * t.runners <= 6 for t in tried)
    assert {(t.threads, t.runners) for t in threads_and_runners(PRESENT, 1, on_gpu=False)} == {(1, 1)}
    assert {t.threads for t in threads_and_runners(PRESENT, 6, on_gpu=True)} == {1}


def test_on_a_gpu_cuda_graphs_are_tried_whose_sessions_take_one_runner() -> None:
    tried = list(threads_and_runners(PRESENT, 6, on_gpu=True))
    assert [(t.runners, t.cuda_graphs) for t in tried] == [*((n, "off") for n in (1, 2, 3, 4)), (0, "auto")]
    assert "CUDA graphs" in str(tried[-1])
    assert "CUDA graphs" not in str(tried[0])
    assert tried[-1].changes(PRESENT) == {"runtime": {"cuda_graphs": "auto"}}
    assert tried[-1].over(Settings().for_model("m")).runtime.cuda_graphs == "auto"
    assert all(t.cuda_graphs == "off" for t in threads_and_runners(PRESENT, 6, on_gpu=False))


def test_batches_are_tried_only_where_requests_may_share_runs() -> None:
    assert [t.max_rows for t in batch_sizes(PRESENT, 20)] == [0, 4, 8, 16]
    assert list(batch_sizes(PRESENT, 0)) == list(delays(PRESENT, 0)) == []
    assert {t.delay_ms for t in delays(PRESENT, 20)} == {0.0, 0.5, 2.0}
    assert list(delays(Tuned(1, 0, 0, 0.0), 20)) == []


def test_nothing_is_tried_twice() -> None:
    assert PRESENT not in untried(delays(PRESENT, 20), [PRESENT])
    assert untried(iter([OTHER, OTHER]), []) == [OTHER]


def test_what_every_machine_has_to_bear_falls_out_of_the_ratio() -> None:
    slow_and_fast = [Window(50.0, (0.02,)), Window(200.0, (0.005,))]
    twice = [Window(100.0, (0.01,)), Window(400.0, (0.0025,))]
    result = Result.compared(OTHER, twice, slow_and_fast)
    assert result.throughput == result.latency == Improvement(2.0, 2.0, 2.0)


def test_what_looks_better_is_chosen_only_if_it_is_so_once_more() -> None:
    looks = _result(OTHER, 150.0, 0.010)
    assert _findings(looks).promising() == [OTHER]
    assert _findings(looks).choice("throughput").tuned == PRESENT
    assert "there was no time" in _findings(looks).choice("throughput").why
    not_again = _findings(looks, again=(_result(OTHER, 101.0, 0.010),))
    assert not_again.choice("throughput").tuned == PRESENT
    assert "when tried again it was 1.01 x" in not_again.choice("throughput").why
    again = _findings(looks, again=(_result(OTHER, 140.0, 0.010),))
    assert again.choice("throughput").tuned == OTHER
    assert again.choice("throughput").why.startswith("1.40 x (1.40-1.40) the requests per second")
    assert again.choice("latency").tuned == PRESENT


def test_a_gain_within_the_spread_is_none() -> None:
    noisy = Result.compared(OTHER, [Window(rate, (0.01,)) for rate in (50.0, 150.0, 150.0, 60.0)], _windows(100, 0.01))
    assert noisy.throughput is not None
    assert noisy.throughput.middle > 1.03
    assert _findings(noisy).promising() == []


def test_what_could_not_be_tried_is_never_chosen() -> None:
    findings = _findings(Result(OTHER, refused="a memory limit was reached"))
    assert findings.choice("throughput").tuned == PRESENT
    assert findings.choice("latency").why == "nothing else was tried"
    assert findings.to_json()["candidates"][0]["refused"] == "a memory limit was reached"


def test_settings_are_made_of_what_was_tried_and_back() -> None:
    settings = Settings().for_model("m")
    for tuned in (PRESENT, OTHER, Tuned(1, 3, 8, 2.0)):
        assert Tuned.of(tuned.over(settings)) == tuned
    assert not Tuned(1, 0, 0, 0.0).over(settings).batching.enabled
    assert OTHER.changes(PRESENT) == {"runtime": {"intra_op_threads": 2, "runners": 1}}
    assert Tuned(1, 0, 0, 0.0).changes(PRESENT) == {"batching": {"enabled": False}}


BEFORE = """# what we agreed on
[runtime]
runners = 2  # four cores, two servers

[model.Fares.batching]
max_rows = 8  # the largest form
"""


def test_a_file_keeps_its_comments_and_all_that_is_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text(BEFORE)
    file.chmod(0o640)
    write_model(file, "fares", {"batching": {"max_delay_ms": 0.5}, "runtime": {"intra_op_threads": 2}})
    text = file.read_text()
    assert text.startswith(BEFORE.rstrip("\n"))
    assert file.stat().st_mode & 0o777 == 0o640
    own = load_settings(file).settings.for_model("fares")
    assert (own.batching.max_rows, own.batching.max_delay_ms) == (8, 0.5)
    assert (own.runtime.runners, own.runtime.intra_op_threads) == (2, 2)


@pytest.mark.parametrize(
    "before", ["", "models = 'm'\n", "[model]\n", "[model.fares]\nload = 'all'\n", "model.x.load = 'all'\n"]
)
def test_a_file_is_changed_whatever_it_held(tmp_path: Path, before: str) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text(before)
    write_model(file, "fares", {"runtime": {"runners": 3}})
    assert load_settings(file).settings.for_model("fares").runtime.runners == 3
    assert [path.name for path in tmp_path.iterdir()] == ["turnout.toml"]


@pytest.mark.parametrize(
    ("before", "tables"),
    [
        ("[model\n", {"runtime": {"runners": 3}}),
        ("model = 3\n", {"runtime": {"runners": 3}}),
        ("", {"runtime": {"runners": -3}}),
        ("[model.fares]\nruntime = 'fast'\n", {"runtime": {"runners": 3}}),
    ],
)
def test_a_file_that_would_be_wrong_stays_as_it_is(tmp_path: Path, before: str, tables) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text(before)
    with pytest.raises(ConfigError):
        write_model(file, "fares", tables)
    assert file.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["turnout.toml"]


def test_settings_are_printed_as_toml(tmp_path: Path) -> None:
    text = model_toml("yolo.v8", {"runtime": {"runners": 3}, "batching": {"enabled": False}})
    file = tmp_path / "turnout.toml"
    file.write_text(text)
    own = load_settings(file).settings.for_model("yolo.v8")
    assert own.runtime.runners == 3
    assert not own.batching.enabled


def test_what_was_tried_again_for_one_end_may_serve_the_other() -> None:
    third = Tuned(threads=1, runners=1, max_rows=32, delay_ms=0.0)
    looks = (_result(OTHER, 150.0, 0.009), _result(third, 100.0, 0.005))
    again = (_result(OTHER, 140.0, 0.008), _result(third, 100.0, 0.010))
    findings = _findings(*looks, again=again)
    assert findings.promising() == [OTHER, third]
    assert findings.choice("latency").tuned == OTHER
