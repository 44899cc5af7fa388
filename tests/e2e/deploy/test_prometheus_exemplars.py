"""A real Prometheus scrapes a real server that traces, and answers which traces stand for its latencies."""

import time

import numpy as np
import pytest

from onnx_models import scaled
from otlp_receiver import http_collector
from processes import serving
from prometheus_process import needs_prometheus, prometheus
from turnout_client import Client

pytestmark = [pytest.mark.slow, needs_prometheus]

X = np.ones((1, 4), np.float32)
QUERY = 'turnout_request_duration_seconds_bucket{model="m"}'


def test_the_exemplars_that_prometheus_keeps_are_traces_that_a_collector_got(publish_model, models, tmp_path) -> None:
    publish_model("m", "1.0.0", scaled(2))
    with (
        http_collector() as collector,
        serving(
            models,
            TURNOUT_TRACING__ENDPOINT=collector.endpoint,
            TURNOUT_TRACING__SAMPLE_RATIO="1",
            TURNOUT_TRACING__INTERVAL_S="0.1",
        ) as server,
        Client(server.grpc) as client,
    ):
        client.wait_ready("m", timeout=90)
        with prometheus(tmp_path / "prometheus", server.http, "--enable-feature=exemplar-storage") as watch:
            begun = time.time()

            def exemplars() -> list[dict]:
                found = watch.ask("query_exemplars", query=QUERY, start=str(begun - 1), end=str(time.time() + 1))
                return [exemplar for series in found for exemplar in series["exemplars"]]

            def some() -> bool:
                client.predict("m", {"x": X})
                return len(exemplars()) >= 3

            watch.wait("exemplars are kept", some)
            found = exemplars()
            traces = {exemplar["labels"]["trace_id"] for exemplar in found}
            watch.wait("their spans came", lambda: traces <= {span.trace_id for span in collector.server_spans})
            seconds = {
                span.trace_id: (span.message.end_time_unix_nano - span.message.start_time_unix_nano) / 1e9
                for span in collector.server_spans
            }
            for exemplar in found:
                assert exemplar["labels"].keys() == {"trace_id"}
                # The span also holds the encoding, which the histogram does not.
                assert 0 < float(exemplar["value"]) <= seconds[exemplar["labels"]["trace_id"]]
            # The form changes no name: what dashboards and rules ask for is there.
            watch.wait("counters", lambda: watch.now('turnout_requests_total{code="OK"}') != {})
            assert watch.now('turnout_trace_spans_total{outcome="exported"}')
            assert watch.now("process_cpu_seconds_total")
