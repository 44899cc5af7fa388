"""Shares that come by the control API: any double may."""

import pytest

from turnout.errors import InvalidRequest
from turnout.routing.policy import UNITS
from turnout.rpc.control.messages import read_share


@pytest.mark.parametrize(("share", "units"), [(0.0, 0), (-0.0, 0), (0.0001, 1), (0.25, UNITS // 4), (1.0, UNITS)])
def test_a_share_is_counted_in_units(share: float, units: int) -> None:
    assert read_share(share, "weight") == units


@pytest.mark.parametrize(
    "share", [1.79e308, -1.79e308, 1e304, float("inf"), float("-inf"), float("nan"), 1.0001, -0.0001, 0.00005]
)
def test_what_is_no_share_is_the_callers(share: float) -> None:
    with pytest.raises(InvalidRequest, match=r"^weight: expected a share of 0 to 1 in steps of 0\.0001"):
        read_share(share, "weight")
