"""Which requests a shadow gets a copy of."""

import math

import numpy as np

from turnout.routing.policy import UNITS
from turnout.routing.shadow.mirror import material_of, position_of
from turnout.serving.data_plane.inference import InferenceRequest

COUNT = 20_000


def material(request_id: str = "", **inputs: object) -> bytes:
    return material_of(InferenceRequest("m", "", {name: np.asarray(v) for name, v in inputs.items()}, (), request_id))


def test_any_rate_takes_its_share() -> None:
    positions = [position_of(material(f"r{number}", x=[1.0]), "1.1.0") for number in range(COUNT)]
    assert min(positions) >= 0
    assert max(positions) < UNITS
    for rate in (0.01, 0.1, 0.5, 0.9):
        taken = sum(position < rate * UNITS for position in positions)
        assert abs(taken - rate * COUNT) < 4 * math.sqrt(COUNT * rate * (1 - rate))


def test_a_higher_rate_takes_what_a_lower_one_took_and_every_process_decides_alike() -> None:
    # Known values: a change would silently break comparisons across the processes of one deployment.
    assert [position_of(material(f"r{n}", x=np.ones(4, np.float32)), "1.1.0") for n in range(4)] == [
        1907,
        5462,
        2436,
        8448,
    ]


def test_two_shadows_are_sampled_independently() -> None:
    rate = UNITS // 4
    both = first = second = 0
    for number in range(COUNT):
        one = material(f"r{number}", x=[1.0])
        a, b = position_of(one, "1.1.0") < rate, position_of(one, "1.2.0") < rate
        first, second, both = first + a, second + b, both + (a and b)
    expected = first * second / COUNT
    assert abs(both - expected) < 4 * math.sqrt(expected)


def test_ids_that_are_all_alike_leave_it_to_the_inputs_and_the_other_way_round() -> None:
    same_id = {position_of(material("", x=[number]), "1.1.0") for number in range(100)}
    same_input = {position_of(material(f"r{number}", x=[1]), "1.1.0") for number in range(100)}
    texts = [np.array([[text]], object) for number in range(100) for text in (f"text {number}", f"{number}".encode())]
    same_id_of_texts = {position_of(material("", x=text), "1.1.0") for text in texts}
    assert len(same_id) > 90
    assert len(same_id_of_texts) > 180
    assert len(same_input) > 90
    assert position_of(material("r", x=[1]), "1.1.0") == position_of(material("r", x=[1]), "1.1.0")


def test_strings_empty_inputs_and_scalars_are_no_trouble() -> None:
    odd = material("r", s=np.array(["a", "b"], object), e=np.zeros((0, 4)), n=np.int64(3), t=np.ones((4, 4)).T)
    assert 0 <= position_of(odd, "1.1.0") < UNITS


def test_little_of_a_large_input_is_hashed() -> None:
    large = np.zeros(10**7, np.float32)
    assert len(material("r", x=large)) < 200
    assert len(material("r", x=large.reshape(100, -1).T)) < 200
    assert len(material("r", x=np.full(10**6, "a" * 1000, object))) < 400
