"""Scenes: a new version is compared as a shadow, and then gets a part of the traffic."""

import math
import time
from collections import Counter

from rich.table import Table

from magika.features import features_v3
from magika.metrics import Scrape
from magika.process import Server, console, steer
from magika.samples import excerpts
from turnout_client import Client

BASELINE, CANDIDATE = "3.2.0", "3.3.0"
FILES = 120
USERS, CALLS = 250, 2


def shadow(server: Server) -> int:
    """Compares the candidate with the baseline on real files. Returns the number of claims that did not hold."""
    steer(server, "traffic", "set", "magika", "--baseline", BASELINE, "--shadow", f"{CANDIDATE}=100%")
    files = excerpts(FILES)
    with Client(server.grpc) as client:
        answered = Counter(client.predict("magika", {"bytes": features_v3(file)}).version for file in files)
        seen = _compared(server, FILES)
    outcomes = seen.by("turnout_shadow_requests_total", "outcome", version=CANDIDATE)
    compared = outcomes.get("agreed", 0.0) + outcomes.get("disagreed", 0.0)
    dropped = seen.sum("turnout_shadow_dropped_total", version=CANDIDATE)
    difference = "turnout_shadow_abs_difference"
    table = Table(title=f"{CANDIDATE} beside {BASELINE}, from /metrics", title_justify="left", show_header=False)
    table.add_row("answered live, all by the baseline", f"{answered[BASELINE]:,}")
    table.add_row("copies compared", f"{compared:,.0f}")
    table.add_row("dropped, since live requests come first", f"{dropped:,.0f}")
    table.add_row("agreement", f"{seen.sum('turnout_shadow_agreement_ratio', version=CANDIDATE):.1%}")
    table.add_row("another first choice", f"{seen.sum('turnout_shadow_mismatch_total', kind='top1'):,.0f}")
    mean = seen.sum(f"{difference}_sum", version=CANDIDATE) / max(seen.sum(f"{difference}_count"), 1.0)
    table.add_row("largest difference of a score, mean over the files", f"{mean:.3f}")
    table.add_row(
        "from the answer to the comparison, p50", f"{seen.quantile('turnout_shadow_lag_seconds', 0.5) * 1e3:.1f} ms"
    )
    console.print(table)
    steer(server, "shadow", "magika", "--worst", "3")
    return sum((answered != {BASELINE: FILES}, compared + dropped != FILES, compared == 0))


def canary(server: Server) -> int:
    """Gives the candidate a fifth of the users. Returns the number of claims that did not hold."""
    before = Scrape(server.http)
    steer(server, "traffic", "set", "magika", "--baseline", BASELINE, "--canary", f"{CANDIDATE}=20%")
    features = features_v3(b"import turnout\n")
    met: dict[str, set[str]] = {}
    with Client(server.grpc) as client:
        for call in range(USERS * CALLS):
            user = f"user-{call % USERS}"
            met.setdefault(user, set()).add(client.predict("magika", {"bytes": features}, routing_key=user).version)
    seen = Scrape(server.http)
    table = Table(title=f"{USERS} users, {CALLS} calls each, from /metrics", title_justify="left")
    for heading in ("version", "role", "weight", "requests", "share"):
        table.add_column(heading, justify="right" if heading not in ("version", "role") else "left")
    shares = {}
    for version, role in ((BASELINE, "baseline"), (CANDIDATE, "canary")):
        labels = {"version": version, "role": role}
        weight = seen.sum("turnout_traffic_weight", kind="applied", **labels)
        decisions = "turnout_route_decisions_total"
        requests = seen.sum(decisions, **labels) - before.sum(decisions, **labels)
        shares[role] = seen.sum("turnout_traffic_share", **labels)
        table.add_row(version, role, f"{weight:.0%}", f"{requests:,.0f}", f"{shares[role]:.1%}")
    console.print(table)
    both = sum(len(versions) > 1 for versions in met.values())
    console.print(f"users that met both versions: {both}")
    steer(server, "traffic", "explain", "magika", "--key", "user-7")
    steer(server, "traffic", "show", "magika")
    off = abs(shares["canary"] - 0.2) > 5 * math.sqrt(0.2 * 0.8 / USERS)
    return sum((both > 0, off))


def _compared(server: Server, count: int) -> Scrape:
    """Waits until `count` copies have an outcome, and returns the metrics."""
    deadline = time.monotonic() + 60
    while True:
        seen = Scrape(server.http)
        names = ("turnout_shadow_requests_total", "turnout_shadow_dropped_total")
        if sum(seen.sum(name, version=CANDIDATE) for name in names) >= count or time.monotonic() > deadline:
            return seen
        time.sleep(0.1)
