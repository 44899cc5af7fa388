"""Both clients and both transports, for tests of what holds for all of them."""

import pytest

from turnout_client import AsyncClient, Client


@pytest.fixture(params=[AsyncClient, Client])
def kind(request):
    return request.param


@pytest.fixture(params=["unary", "stream"])
def transport(request):
    return request.param
