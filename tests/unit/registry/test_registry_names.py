import pytest

from turnout.errors import InvalidRequest
from turnout.registry.manifest.names import check_model_name, differing_in_case, parse_version


@pytest.mark.parametrize(
    "name", ["magika", "a", "0", "resnet-50_v2", "ResNet-50", "yolov8.1", "a..b", "CON", "x.", "1.0.0", "x" * 128]
)
def test_a_model_name_is_taken_as_it_is(name):
    assert check_model_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "-x",
        "_x",
        ".x",
        "x" * 129,
        "x\n",
        "x y",
        ".staging",
        "é",
        "a\0",
        "a\\b",
        "a%2fb",
        "a:b",
        "a@b",
        "\u212a",
        "gates.toml",
        "Gates.TOML",
    ],
)
def test_what_could_be_a_path_or_no_name_is_refused(name):
    with pytest.raises(InvalidRequest, match=r"^model: ") as refused:
        check_model_name(name)
    assert refused.value.violations[0].field == "model"


def test_of_names_that_differ_in_case_the_one_in_lower_case_is_kept():
    names = ["ResNet", "resnet", "RESNET", "bert", "A.b", "a.B"]
    assert differing_in_case(names) == {"ResNet": "resnet", "RESNET": "resnet", "A.b": "a.B"}


@pytest.mark.parametrize("text", ["3.2.0", "0.0.0", "3.3.0-rc.1", "1.0.0-alpha+001", "1.0.0+20130313144700"])
def test_a_version_is_read_and_written_back_the_same(text):
    assert str(parse_version(text)) == text


def test_a_leading_v_is_left_out():
    assert str(parse_version("v3.2.0")) == "3.2.0"


@pytest.mark.parametrize(
    "text",
    [
        "", "3", "3.2", "v", "vv3.2.0", "V3.2.0", "3.2.0.0", "03.2.0", "3.2.0-01", "3.2.0-", "3.2.0+", " 3.2.0",
        "3.2.0\n", "3.٢.0", "3.2.0/..", "^3.2.0", "latest", "3.2.0-" + "a" * 128, "1" * 5000 + ".0.0",
    ],
)  # fmt: skip
def test_what_is_no_exact_version_is_never_guessed_at(text):
    with pytest.raises(InvalidRequest, match=r"^version: ") as refused:
        parse_version(text)
    assert len(refused.value.message) < 400
