"""docs/tritonclient.md says what becomes of every method of tritonclient's clients; here each of them is called."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from onnx_models import scaled
from otlp_receiver import http_collector
from processes import Server, serving_in_thread
from published import Publish
from started_servers import TRANSPORTS
from tritonclient_env import RULES, TRITONCLIENT, tritonclient_python
from turnout.config import Log, Oip, Tracing, TransportSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first run on a machine installs tritonclient

PAGE = Path(__file__).parents[3] / "docs" / "tritonclient.md"
NOTHING = "-"


class Row(NamedTuple):
    """One method, as the page has it."""

    grpc: str
    http: str
    here: str

    def expected(self, client: str) -> str:
        """What is to become of it with one of the clients."""
        if self.here in ("yes", "client only"):
            return self.here
        grpc, http = self.here.split(", ")
        return f"refused {grpc if '.grpc' in client else http}"


ROWS = {
    method: Row(*cells)
    for method, *cells in re.findall(
        r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|[^|]*\|$", PAGE.read_text(), re.MULTILINE
    )
}

Outcomes = dict[str, dict[str, str]]


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(module_models: Path, publish_for_module: Publish, request: pytest.FixtureRequest) -> Iterator[Server]:
    publish_for_module("scale", "1.9.0", scaled(2))
    publish_for_module("scale", "1.10.0", scaled(3))
    with http_collector() as collector, serving_in_thread(
        module_models,
        wait=True,
        oip=Oip(allow_repository_control=True, allow_settings_changes=True, system_shared_memory=True),
        tracing=Tracing(endpoint=collector.endpoint, sample_ratio=1.0),
        transport=TransportSettings(data=request.param),
        log=Log(format="json", level="info"),
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module")
def outcomes(server: Server) -> Outcomes:
    """What became of each method, by client."""
    command = [tritonclient_python(), RULES / "walk.py", server.grpc, server.http]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    found: Outcomes = json.loads(done.stdout)
    return found


def test_every_method_of_every_client_stands_in_the_table_and_nothing_else_does(outcomes: Outcomes) -> None:
    assert {method for methods in outcomes.values() for method in methods} == set(ROWS)
    for method, row in ROWS.items():
        for column, transport in ((row.grpc, ".grpc"), (row.http, ".http")):
            has = any(method in methods for client, methods in outcomes.items() if transport in client)
            assert has == (column != NOTHING), f"{method} over {transport}"


def test_the_page_names_the_release_that_it_tells_of() -> None:
    release = TRITONCLIENT.rpartition(".")[0]
    assert f"`.http` and `.http.aio`, {release})" in " ".join(PAGE.read_text().split())


@pytest.mark.parametrize("method", ROWS)
def test_a_method_does_what_its_row_says(outcomes: Outcomes, method: str) -> None:
    found = {client: methods[method] for client, methods in outcomes.items() if method in methods}
    assert found == {client: ROWS[method].expected(client) for client in found}
