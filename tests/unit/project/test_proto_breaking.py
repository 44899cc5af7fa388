"""protos/breaking.py: what breaks clients that are built already is found, and what does not is let be."""

import shutil
from pathlib import Path

import pytest

PROTOS = Path(__file__).parents[3] / "protos"
PREDICTION = "turnout_proto/v1/prediction.proto"


@pytest.fixture
def breaking(monkeypatch):
    monkeypatch.syspath_prepend(str(PROTOS))
    import breaking

    return breaking


def changed(folder: Path, before: str, after: str) -> Path:
    """Writes the protos with one text in place of another."""
    for path in PROTOS.rglob("*.proto"):
        to = folder / path.relative_to(PROTOS)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
    file = folder / PREDICTION
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))
    return folder


def test_a_new_field_breaks_nobody(breaking, tmp_path) -> None:
    more = changed(tmp_path, "repeated string outputs = 6;", "repeated string outputs = 6;\n  string hint = 7;")
    assert breaking.broken(PROTOS, more) == ""


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("repeated string outputs = 6;", "", "outputs"),
        ("repeated string outputs = 6;", "repeated string outputs = 9;", "outputs"),
        ("uint64 epoch = 4;", "string epoch = 4;", "epoch"),
        ("rpc Predict(PredictRequest) returns (PredictResponse);", "", "Predict"),
    ],
    ids=["gone", "another number", "another type", "a method gone"],
)
def test_what_breaks_clients_is_named(breaking, tmp_path, before, after, message) -> None:
    assert message in breaking.broken(PROTOS, changed(tmp_path, before, after))


def test_a_revision_is_compared_with_and_an_unknown_one_is_refused(breaking, tmp_path) -> None:
    assert (breaking.extract("HEAD", tmp_path) / PREDICTION).exists()
    with pytest.raises(SystemExit, match="no-such-revision"):
        breaking.extract("no-such-revision", tmp_path)
