"""What `turnout top` makes of two readings, and how it fits a terminal."""

import json

import pytest
from rich.cells import cell_len
from rich.console import Console

from turnout.cli.top.live import Screen
from turnout.cli.top.rates import body, picture
from turnout.cli.top.view import view
from turnout.telemetry.histogram import LATENCY_BOUNDS, Histogram
from turnout_proto.v1 import activity_pb2 as pb
from turnout_proto.v1.catalog_pb2 import VersionState
from turnout_proto.v1.rollout_pb2 import Rollout


def role(name="baseline", requests=0, failures=0, seconds=0.001, weight=0.0):
    histogram = Histogram(LATENCY_BOUNDS)
    for _ in range(requests):
        histogram.observe(seconds)
    return pb.RoleActivity(role=name, requests=requests, failures=failures, latency=histogram.counts, weight=weight)


def version(number="1.0.0", *roles, model="m", state=VersionState.VERSION_STATE_READY, **more):
    return pb.VersionActivity(model=model, version=number, state=state, standing=2, roles=roles, **more)


def activity(seconds, *versions, process="a", **more):
    return pb.GetActivityResponse(
        process=process, seconds=seconds, versions=versions, latency_bounds=LATENCY_BOUNDS, **more
    )


def lines(screen, columns=120, rows=None, notice=""):
    console = Console(width=columns, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(view(screen, "127.0.0.1:8003", notice, columns, rows))
    return [line.rstrip() for line in capture.get().splitlines()]


def cells(screen, columns=120):
    """The table by version, as columns by heading."""
    text = lines(screen, columns)
    start = next(i for i, line in enumerate(text) if line.startswith("MODEL"))
    heads = text[start].split()
    rows = [line.split("   ") for line in text[start + 1 :] if line]
    return heads, [[cell.strip() for cell in row if cell.strip()] for row in rows]


def test_rates_are_what_came_between_two_tellings():
    screen = picture(
        activity(10.0, version("1.0.0", role(requests=100, failures=10)), unrouted=5),
        activity(12.0, version("1.0.0", role(requests=300, failures=30)), unrouted=9),
    )
    (row,) = screen.rows
    assert (row.rate, row.failures, row.failed_share) == (100, 10, 0.1)
    assert (screen.seconds, screen.rate, screen.failures, screen.unrouted) == (2, 100, 10, 2)


def test_latencies_are_those_of_the_requests_in_between():
    screen = picture(
        activity(1.0, version("1.0.0", role(requests=1000, seconds=0.001))),
        activity(
            2.0,
            version(
                "1.0.0",
                pb.RoleActivity(
                    role="baseline",
                    requests=1100,
                    latency=[
                        a + b
                        for a, b in zip(
                            role(requests=1000, seconds=0.001).latency,
                            role(requests=100, seconds=0.1).latency,
                            strict=True,
                        )
                    ],
                ),
            ),
        ),
    )
    (row,) = screen.rows
    assert row.p50 == pytest.approx(0.1, rel=0.5)
    assert row.p99 == pytest.approx(0.1, rel=0.5)


def test_roles_are_added_up_and_told_apart():
    screen = picture(
        activity(1.0, version("1.0.0", role("canary"), role("pinned"))),
        activity(2.0, version("1.0.0", role("canary", 30, weight=0.1), role("pinned", 10), role("shadow", weight=0.5))),
    )
    (row,) = screen.rows
    assert row.rate == 40
    assert [(p.role, p.weight, p.rate) for p in row.parts] == [
        ("canary", 0.1, 30),
        ("pinned", 0.0, 10),
        ("shadow", 0.5, None),
    ]


def test_one_telling_knows_no_rates():
    screen = picture(None, activity(5.0, version("1.0.0", role(requests=100))))
    (row,) = screen.rows
    assert (row.rate, row.failures, row.p50, row.p99, screen.rate, screen.unrouted) == (None,) * 6


def test_a_server_that_was_started_anew_knows_no_rates_at_first():
    before = activity(5.0, version("1.0.0", role(requests=100)))
    for after in (
        activity(6.0, version("1.0.0", role(requests=150)), process="b"),
        activity(1.0, version("1.0.0", role())),
    ):
        assert picture(before, after).rate is None


def test_a_version_that_was_loaded_anew_has_counted_from_0():
    screen = picture(
        activity(1.0, version("1.0.0", role(requests=100))), activity(2.0, version("1.0.0", role(requests=7)))
    )
    assert screen.rate == 7


def test_a_version_that_came_in_between_is_counted_whole():
    assert picture(activity(1.0), activity(3.0, version("1.0.0", role(requests=10)))).rate == 5


def test_the_busiest_stand_first_and_what_is_not_in_service_last():
    quiet, busy = version("1.0.0", role(requests=1)), version("2.0.0", role(requests=9))
    gone = version("9.0.0", state=VersionState.VERSION_STATE_UNLOADED)
    idle = version("0.1.0")
    screen = picture(activity(1.0), activity(2.0, gone, quiet, idle, busy))
    assert [row.version for row in screen.rows] == ["2.0.0", "1.0.0", "0.1.0", "9.0.0"]


def test_every_fact_has_its_column():
    screen = picture(
        activity(1.0, version("1.2.0", role("canary"))),
        activity(2.0, version("1.2.0", role("canary", 250, 5, weight=0.05), inflight=9, queue_depth=6, queue_fill=0.2)),
    )
    heads, (row,) = cells(screen)
    assert dict(zip(heads, row, strict=True)) == {
        "MODEL": "m", "VERSION": "1.2.0", "STATE": "ready", "TRAFFIC": "canary 5%", "REQ/S": "250",
        "P50": row[5], "P99": row[6], "FAILED": "2.0%", "QUEUE": "6", "RUNNING": "3",
    }  # fmt: skip
    assert row[5].endswith("ms")
    assert row[6].endswith("ms")


BUSY = picture(
    activity(1.0),
    activity(
        2.0,
        *(
            version(f"1.{n}.0-rc.1+build.{n}", role("baseline", n, weight=0.5), model=f"a-model-of-a-long-name-{n}")
            for n in range(40)
        ),
        unrouted=3,
        rollouts=[
            Rollout(
                model=f"m{n}", candidate="1.1.0", previous="1.0.0", state="soaking", step=1, steps=4, weight=0.05,
                e_value=3.5, threshold=100, pauses=["lunch (bob)"],
            )
            for n in range(9)
        ],
    ),
)  # fmt: skip


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 132, 250])
@pytest.mark.parametrize("rows", [8, 24, 60])
def test_a_picture_fits_every_terminal(columns, rows):
    text = lines(BUSY, columns, rows, "no answer")
    assert len(text) <= rows
    assert max(map(cell_len, text)) <= columns
    assert "REQ/S" in "".join(text)
    assert text[-1] == "no answer"


@pytest.mark.parametrize("rows", [24, 30, 46])
def test_what_there_is_no_room_for_is_counted(rows):
    text = lines(BUSY, 120, rows)
    (hidden,) = [int(line.split()[1]) for line in text if line.endswith("more versions")]
    assert hidden + sum(line.startswith("a-model") for line in text) == 40


def test_without_a_terminal_everything_is_shown():
    text = lines(BUSY, 400)
    assert sum(line.startswith("a-model") for line in text) == 40
    assert sum(line.startswith("rollout") for line in text) == 9


def test_80_columns_hold_the_traffic_of_names_of_usual_length():
    screen = picture(activity(1.0), activity(2.0, version("1.10.0", role(requests=123456, weight=1.0), model="magika")))
    heads, _ = cells(screen, 80)
    assert {"MODEL", "VERSION", "STATE", "TRAFFIC", "REQ/S", "P99", "FAILED"} <= set(heads)


def test_a_rollout_is_a_line_that_says_where_it_stands():
    (line, *_) = [line for line in lines(BUSY, 200) if line.startswith("rollout m0")]
    assert line == (
        "rollout m0 1.1.0 soaking, paused   5%, step 1 of 4   evidence 3.5 of 100   over 1.0.0   lunch (bob)"
    )


def test_the_head_tells_what_holds_for_the_whole_server():
    screen = picture(
        activity(60.0, version("1.0.0", role())),
        activity(61.0, version("1.0.0", role(requests=1000, failures=20)), unrouted=4, draining=True),
    )
    head = " ".join(lines(screen, 200)[:2])
    for fact in ("127.0.0.1:8003, draining", "1 model, 1 of 1 version ready", "up 1m1s", "1,000 requests/s",
                 "2.0% failed", "4/s reached no version"):  # fmt: skip
        assert fact in head


def test_few_failures_are_never_none():
    screen = picture(activity(1.0), activity(2.0, version("1.0.0", role(requests=100_000, failures=1))))
    _, (row,) = cells(screen)
    assert "<0.1%" in row


def test_a_server_that_is_gone_is_said_until_it_is_back():
    screen = Screen("127.0.0.1:8003")
    console = Console(width=120)

    def text():
        with console.capture() as capture:
            console.print(screen.render(120, 24))
        return capture.get()

    assert "asking the server at 127.0.0.1:8003" in text()
    screen.take(activity(1.0, version("1.0.0", role(requests=1))), 100.0)
    screen.lose(103.0)
    assert "no answer from 127.0.0.1:8003 for 3s" in text()
    assert "1.0.0" in text()
    screen.take(activity(5.0, version("1.0.0", role(requests=9))), 105.0)
    assert "no answer" not in text()
    assert "2 requests/s" in text()


def test_json_has_the_same_numbers():
    screen = picture(
        activity(1.0, version("1.0.0", role())), activity(3.0, version("1.0.0", role(requests=10, weight=1.0)))
    )
    told_body = json.loads(json.dumps(body(screen)))
    (row,) = told_body["versions"]
    assert told_body["requests_per_second"] == row["requests_per_second"] == 5
    assert row["roles"] == [{"role": "baseline", "weight": 1.0, "requests_per_second": 5}]
    assert row["p99_ms"] == screen.rows[0].p99 * 1e3
